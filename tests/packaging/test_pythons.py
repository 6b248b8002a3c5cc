"""Which Python make and CI take, and in which environment."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.packaging.conftest import ROOT, pyproject, supported_versions

FIND_PYTHON = ROOT / "requirements" / "find-python"
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture
def pyenv(tmp_path: Path) -> Mapping[str, str]:
    """Put only a python3.13 on PATH that runs where PYENV_VERSION selects it, as pyenv does."""
    program = tmp_path / "python3.13"
    program.write_text(f'#!/bin/sh\n[ "$PYENV_VERSION" = 3.13 ] && exec "{sys.executable}" "$@"\n')
    program.chmod(0o755)
    return {"PATH": str(tmp_path)}


def find_python(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the script."""
    return subprocess.run(
        [FIND_PYTHON, *arguments], env=environ, capture_output=True, text=True, check=False
    )


def interpreter_of(*arguments: str) -> str:
    """Return the interpreter with which ``make types`` runs mypy."""
    environ = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    plan = subprocess.run(
        ["make", "-n", "types", *arguments],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        check=True,
    )
    (line,) = re.findall(r"^(\S+) -m mypy$", plan.stdout, re.MULTILINE)
    return line


def test_named_python_gets_an_environment_of_its_own() -> None:
    """`PYTHON=... make` leaves the environment of the default Python as it is."""
    assert interpreter_of() == ".venv/bin/python"
    assert interpreter_of(f"PYTHON={sys.executable}") == f".venv-{VERSION}/bin/python"


def test_environment_that_is_named_is_used_for_any_python() -> None:
    """VENV decides, whatever PYTHON is."""
    assert interpreter_of("VENV=elsewhere", f"PYTHON={sys.executable}") == "elsewhere/bin/python"


def test_named_python_is_found_where_pyenv_has_not_selected_it(pyenv: Mapping[str, str]) -> None:
    """`PYTHON=python3.13` is enough with pyenv; its path is printed."""
    found = find_python(**pyenv, PYTHON="python3.13")

    assert found.stdout == f"{sys.executable}\n"


def test_python_that_pyenv_has_not_selected_is_not_the_default(pyenv: Mapping[str, str]) -> None:
    """Only a person who names it, or wants all of them, gets it."""
    assert find_python(**pyenv).returncode == 1
    assert find_python("--all", **pyenv).stdout == f"{VERSION}\n"


def test_python_that_does_not_exist_is_reported_by_name() -> None:
    """No other one is used instead."""
    found = find_python(PATH=os.environ["PATH"], PYTHON="/nowhere/python 3")

    assert (found.returncode, found.stdout) == (1, "")
    assert found.stderr.startswith("/nowhere/python 3 does not run; this project needs Python 3.11")


def test_lowest_python_is_the_same_everywhere() -> None:
    """Classifiers, `requires-python`, the types, the style and `.python-version` agree."""
    settings = pyproject()
    lowest = supported_versions()[0]

    assert settings["project"]["requires-python"] == f">={lowest}"
    assert settings["tool"]["mypy"]["python_version"] == lowest
    assert settings["tool"]["ruff"]["target-version"] == "py" + lowest.replace(".", "")
    assert (ROOT / ".python-version").read_text().strip() == lowest
