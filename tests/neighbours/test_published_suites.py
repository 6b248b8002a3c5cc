"""The suites that aiohttp-session and aiohttp-security publish pass with `MongoStorage`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tomllib
from collections import defaultdict
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.conftest import missing
from tests.processes import ROOT

pytestmark = pytest.mark.long

SUITES = {"aiohttp-session": "aiohttp_session_suite", "aiohttp-security": "aiohttp_security_suite"}
SECONDS = 120  # a package index can be slow
# Not run: the first starts Redis in Docker, the second needs PyJWT and uses no session.
LEFT_OUT = ("conftest.py", "test_jwt_identity.py")
Results = dict[str, dict[str, list[str]]]


@pytest.fixture
def suites(tmp_path: Path) -> Path:
    """Download the sources of the two packages, and unpack their tests; nothing is installed."""
    _download(tmp_path)
    for package, suite in SUITES.items():
        (archive,) = tmp_path.glob(f"{package.replace('-', '[-_]')}-*.tar.gz")
        with tarfile.open(archive) as sources:
            for member in sources.getmembers():
                # Not as a package `tests`, which is the name of ours.
                folder, _, name = member.name.partition("/tests/")
                if member.isfile() and folder and name and name not in LEFT_OUT:
                    member.name = f"{suite}/{name}"
                    sources.extract(member, tmp_path, filter="data")
    return tmp_path


def _download(folder: Path) -> None:
    # The versions that are tested here, with the hashes that are pinned.
    pinned = (ROOT / "requirements" / "dev.txt").read_text()
    needed = [
        re.findall(rf"^{package}==.*(?:\n    --hash=.*)+", pinned, re.MULTILINE)
        for package in SUITES
    ]
    (folder / "needed.txt").write_text("\n".join(line for (line,) in needed))
    command = [sys.executable, "-m", "pip", "--no-input", "download", "--quiet"]
    command += ["--require-hashes", "--no-deps", "--no-binary", ":all:", "--no-build-isolation"]
    command += ["--dest", str(folder), "--requirement", str(folder / "needed.txt")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    if done.returncode != 0:
        missing(f"the sources cannot be downloaded: {done.stderr}")


def test_published_suites_pass_except_for_tests_that_cannot_apply(
    suites: Path, mongo_uri: str, database_name: str
) -> None:
    """For each test, expected.toml says whether it passes, and if not, why it cannot."""
    expected = tomllib.loads((Path(__file__).parent / "expected.toml").read_text())

    done = subprocess.run(
        [
            *(sys.executable, "-W", "error", "-m", "pytest", "-q", "--tb=line"),
            *(
                "-p",
                "no:cacheprovider",
                "-c",
                os.devnull,
                "--rootdir",
                ".",
                "-o",
                "asyncio_mode=auto",
            ),
            *("-o", "asyncio_default_fixture_loop_scope=function"),
            *("-p", "tests.neighbours.substitutes"),
            *("-o", "junit_family=xunit1", "--junit-xml", "results.xml", *SUITES.values()),
        ],
        cwd=suites,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "MONGO_URI": mongo_uri,
            "MONGO_DATABASE": database_name,
        },
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )

    assert done.returncode in (0, 1), done.stdout + done.stderr  # 1: tests have failed
    # For a reader of a failure: which ones, and how.
    assert _results(suites / "results.xml") == _as_lists(expected), done.stdout


def test_list_of_expected_results_is_about_the_versions_that_are_installed() -> None:
    """A new version may have other tests."""
    head = (Path(__file__).parent / "expected.toml").read_text()

    for package in SUITES:
        assert f"{package} {metadata.version(package)}" in head


def _results(file: Path) -> Results:
    results: Results = defaultdict(lambda: defaultdict(list))
    for case in ET.parse(file).iter("testcase"):  # noqa: S314 - pytest wrote it
        used = {one.get("name"): one.get("value") for one in case.iter("property")}["used"]
        if {child.tag for child in case} - {"properties"}:
            kind = "cannot_apply"
        else:
            kind = "passes" if used == "True" else "uses_no_storage"
        results[str(case.get("classname"))][kind].append(str(case.get("name")))
    return results


def _as_lists(
    expected: dict[str, dict[str, dict[str, Iterable[str]]]],
) -> dict[str, dict[str, list[str]]]:
    return {
        f"{suite}.{module}": {kind: list(tests) for kind, tests in kinds.items()}
        for suite, modules in expected.items()
        for module, kinds in modules.items()
    }
