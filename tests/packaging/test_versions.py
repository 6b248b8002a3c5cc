"""The wheel with other Pythons, and with the lowest versions of its dependencies."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.packaging.conftest import (
    ROOT,
    Built,
    Environment,
    MakeEnvironment,
    lowest,
    naming,
    pinned_in,
    run,
    supported_versions,
    tracked,
)
from webapp.database.mongod import find_mongod

pytestmark = pytest.mark.long

# What the chosen tests need. mongomock-motor needs the last one without declaring it.
TOOLS = (
    "pytest",
    "pytest-aiohttp",
    "pytest-timeout",
    "hypothesis",
    "motor",
    "mongomock-motor",
    "typing-extensions",
)
CHOSEN = [f"tests/storage/test_{name}.py" for name in ("values", "sealing", "renewal", "owners")]


# CI runs every test with the lowest and with the highest version.
@pytest.mark.parametrize("version", supported_versions()[1:-1])
def test_storage_passes_its_tests_on_a_python_between(
    version: str, built: Built, make_environment: MakeEnvironment
) -> None:
    """Tests that use every module pass with every driver, if that Python is installed."""
    python = f"python{version}"
    _skip_without(python)
    environment = make_environment(python)
    environment.pip_install_pinned(built.wheel, *TOOLS, pins=pinned_in("dev.txt"))

    assert _passes(environment)


def test_storage_passes_its_tests_with_the_lowest_versions(
    built: Built, make_environment: MakeEnvironment
) -> None:
    """The lowest versions are enough; `make test-lowest` runs the whole suite with them."""
    environment = make_environment()
    lowest_pins, tools = lowest(), pinned_in("dev.txt")
    pins = {name: tools[name] for name in (*TOOLS, "mongomock")} | lowest_pins
    environment.pip_install_pinned(built.wheel, *TOOLS, pins=pins)

    installed = environment.run("-m", "pip", "--disable-pip-version-check", "freeze")

    assert f"aiohttp=={lowest_pins['aiohttp']}\n" in installed
    assert f"pymongo=={lowest_pins['pymongo']}\n" in installed
    assert _passes(environment)


def _passes(environment: Environment) -> bool:
    for name in tracked("tests/storage", "tests/*.py", "webapp", "pyproject.toml"):
        target = environment.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
    mongod = str(find_mongod(os.environ))
    said = environment.run("-m", "pytest", "-q", *CHOSEN, MONGOD=mongod)
    return " passed" in said and "skipped" not in said


def _skip_without(python: str) -> None:
    try:
        said = run(python, "-c", "import venv, ensurepip", cwd=ROOT, **naming(python))
    except (AssertionError, FileNotFoundError, subprocess.TimeoutExpired):
        pytest.skip(f"{python} is not installed")
    assert said == ""
