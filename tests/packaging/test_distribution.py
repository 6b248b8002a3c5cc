"""The wheel and the sdist as another user installs them."""

from __future__ import annotations

import os
import shutil
import tarfile
import tomllib
import zipfile
from email import message_from_string
from pathlib import Path

import pytest

from tests.docs.markdown import ROOT, blocks
from tests.docs.test_readme_program import serving
from tests.packaging.conftest import Built, Environment, MakeEnvironment, pinned_in, run, tracked
from tests.processes import free_port

pytestmark = pytest.mark.long

CONSUMER = """
from collections.abc import AsyncGenerator, Mapping
from typing import assert_type

from aiohttp import web
from pymongo import AsyncMongoClient

from storage import MongoStorage, SessionInfo, StorageUnavailable
from storage import generate_secret, renew_session, setup
from storage.testing import give_session


async def use(request: web.Request) -> None:
    client = AsyncMongoClient[dict[str, object]]("mongodb://127.0.0.1")
    storage = MongoStorage(client["app"]["sessions"], [generate_secret()], max_age=3600)
    setup(web.Application(), storage)
    session = await renew_session(request)
    assert_type(storage.handle(session), str | None)
    assert_type(storage.sessions(7), AsyncGenerator[SessionInfo, None])
    assert_type(await storage.revoke("handle", owner=7), bool)
    assert_type(await storage.revoke_owner(7, keep=session), int)
    assert_type(await storage.count(retired=True), int)
    assert_type(storage.counters, Mapping[str, int])
    raise StorageUnavailable(retry_after_seconds=3)
"""


@pytest.fixture(scope="module")
def reader(built: Built, make_environment: MakeEnvironment) -> Environment:
    """Install the wheel alone in an empty virtual environment."""
    environment = make_environment()
    environment.pip_install(built.wheel)
    return environment


def test_wheel_contains_storage_alone(built: Built) -> None:
    """It has every tracked file of storage, also py.typed, and nothing else at the top."""
    with zipfile.ZipFile(built.wheel) as wheel:
        inside = set(wheel.namelist())
    information = {name for name in inside if ".dist-info/" in name}

    assert inside - information == set(tracked("storage"))
    assert "storage/py.typed" in inside
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in information)


def test_sdist_contains_the_sources_of_the_wheel_alone(built: Built) -> None:
    """It has storage, settings, license and README, and no web app or tests."""
    with tarfile.open(built.sdist) as sdist:
        inside = {member.name.partition("/")[2] for member in sdist if member.isfile()}
    generated = {name for name in inside if ".egg-info/" in name} | {"PKG-INFO", "setup.cfg"}

    assert inside - generated == {
        "pyproject.toml",
        "MANIFEST.in",
        "README.md",
        "LICENSE",
        *tracked("storage"),
    }


def test_files_of_a_release_pass_the_check_of_twine(
    built: Built, make_environment: MakeEnvironment
) -> None:
    """PyPI can show README, and no field of the metadata is wrong."""
    environment = make_environment()
    environment.pip_install("--require-hashes", "-r", ROOT / "requirements" / "release.txt")

    said = environment.run("-m", "twine", "check", "--strict", built.wheel, built.sdist)

    assert said.count("PASSED") == 2


def test_metadata_lists_the_dependencies(built: Built) -> None:
    """The dependencies are those of storage; the ones of the web app are an extra."""
    with zipfile.ZipFile(built.wheel) as wheel:
        (name,) = [name for name in wheel.namelist() if name.endswith("/METADATA")]
        metadata = message_from_string(wheel.read(name).decode())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    needed = {line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line}

    assert needed == set(project["dependencies"])
    assert metadata.get_all("Provides-Extra") == ["webapp"]
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert "Typing :: Typed" in metadata.get_all("Classifier", [])


def test_storage_imports_without_motor_and_the_packages_of_the_web_app(
    reader: Environment,
) -> None:
    """`from storage import *` works in an environment with the wheel alone."""
    missing = "motor", "jinja2", "aiohttp_jinja2", "prometheus_client"
    program = (
        "import importlib.util as u; from storage import *; from storage import MongoStorage;"
        f"print([n for n in {missing} if u.find_spec(n)], MongoStorage.__module__)"
    )

    assert reader.run("-c", program) == "[] storage\n"


def test_packages_that_the_wheel_installs_are_compatible(reader: Environment) -> None:
    """`pip check` finds no conflict."""
    assert reader.run("-m", "pip", "check") == "No broken requirements found.\n"


def test_program_of_readme_runs_with_the_wheel_alone(
    reader: Environment, mongo_uri: str, tmp_path: Path
) -> None:
    """The program of README runs in an empty folder with the wheel and curl."""
    port = str(free_port())
    (program,) = blocks(ROOT / "README.md", "python")
    (tmp_path / "shop.py").write_text(program.text.replace("8080", port))
    secret = reader.run("-c", "import storage; print(storage.generate_secret())").strip()
    environ = {"MONGO_URI": mongo_uri, "SESSION_SECRET": secret, "PYTHONUNBUFFERED": "1"}

    with serving([str(reader.python), "shop.py"], environ, tmp_path):
        visits = [
            run("curl", "-s", "-b", "jar", "-c", "jar", f"http://127.0.0.1:{port}/", cwd=tmp_path)
            for _ in range(2)
        ]

    assert visits == ["Visit 1\n", "Visit 2\n"]


def test_types_of_the_wheel_pass_strict_mypy(reader: Environment) -> None:
    """Strict mypy accepts a program that uses the whole public API with the types of the wheel."""
    program = reader.folder / "consumer.py"
    program.write_text(CONSUMER)

    reader.pip_install_pinned("mypy", pins=pinned_in("dev.txt"))
    checked = reader.run("-m", "mypy", "--strict", "--warn-unreachable", "consumer.py")

    assert checked.startswith("Success"), checked


def test_every_type_of_the_package_is_known(reader: Environment) -> None:
    """Pyright reports no unknown and no inferred type in the installed wheel."""
    reader.pip_install("basedpyright==1.40.2")

    # It looks for packages next to the first `python` in PATH.
    path = os.pathsep.join([str(reader.python.parent), os.environ["PATH"]])
    said = reader.run(
        *("-m", "basedpyright", "--verifytypes", "storage", "--ignoreexternal"), PATH=path
    )

    assert "Type completeness score: 100%" in said


def test_web_app_runs_from_a_checkout_with_requirements_txt(
    make_environment: MakeEnvironment,
) -> None:
    """As in the Dockerfile: the pinned packages, and the two folders."""
    environment = make_environment()
    environment.pip_install("--require-hashes", "-r", ROOT / "requirements.txt")
    for name in tracked("storage", "webapp"):
        (environment.folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, environment.folder / name)

    assert len(environment.run("-m", "webapp", "secret").strip()) == 43
