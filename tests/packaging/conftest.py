"""The wheel and the sdist, built once from the tracked files, and environments to install in."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
SECONDS = 600  # a package index can be slow


def run(*command: str | Path, cwd: Path, **environ: str) -> str:
    """Run a program with a minimal environment and return its output; it must succeed."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env={
            "PATH": os.environ["PATH"],
            "HOME": os.environ.get("HOME", str(cwd)),
            **_pip_settings(),
            **environ,
        },
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@dataclass(frozen=True)
class Built:
    """The files that `python -m build` creates."""

    wheel: Path
    sdist: Path


@dataclass(frozen=True)
class Environment:
    """A separate virtual environment, which sees nothing of this checkout."""

    folder: Path

    @property
    def python(self) -> Path:
        """The interpreter."""
        return self.folder / "bin" / "python"

    def pip_install(self, *what: str | Path) -> None:
        """Install from PyPI, or from a file."""
        options = ("--disable-pip-version-check", "--no-input", "install", "-q", "--no-compile")
        run(self.python, "-m", "pip", *options, *what, cwd=self.folder)

    def pip_install_pinned(self, *what: str | Path, pins: Mapping[str, str]) -> None:
        """Install with the versions that ``pins`` gives by name."""
        constraints = self.folder / "constraints.txt"
        constraints.write_text("\n".join(f"{name}=={pin}" for name, pin in pins.items()))
        self.pip_install("-c", constraints, *what)

    def run(self, *arguments: str | Path, **environ: str) -> str:
        """Run its interpreter in its own folder."""
        return run(self.python, *arguments, cwd=self.folder, **environ)


MakeEnvironment = Callable[..., Environment]


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Build both from a copy of the tracked files, as for a release."""
    source = tmp_path_factory.mktemp("source")
    for name in tracked():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    run(sys.executable, "-m", "build", cwd=source)
    (wheel,), (sdist,) = (list((source / "dist").glob(f"*.{end}")) for end in ("whl", "tar.gz"))
    return Built(wheel, sdist)


@pytest.fixture(scope="session")
def make_environment(tmp_path_factory: pytest.TempPathFactory) -> MakeEnvironment:
    """Create virtual environments, with another Python if one is named."""

    def make(python: str | None = None) -> Environment:
        folder = tmp_path_factory.mktemp("environment") / "venv"
        if python is None:
            venv.create(folder, with_pip=True)
        else:
            run(python, "-m", "venv", folder, cwd=folder.parent, **naming(python))
        return Environment(folder)

    return make


def tracked(*folders: str) -> Sequence[str]:
    """Return the names of the tracked files that exist."""
    listed = run("git", "ls-files", "--", *folders, cwd=ROOT).splitlines()
    return [name for name in listed if (ROOT / name).is_file()]


def pyproject() -> dict[str, Any]:
    """Return what pyproject.toml says."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def supported_versions() -> list[str]:
    """Return the Python versions that the classifiers name, the lowest first."""
    beginning = "Programming Language :: Python :: 3."
    return [
        classifier.rpartition(" ")[2]
        for classifier in pyproject()["project"]["classifiers"]
        if classifier.startswith(beginning)
    ]


def lowest() -> dict[str, str]:
    """Return the lowest versions that pyproject.toml promises to support, by package name."""
    return dict(
        requirement.split("==") for requirement in pyproject()["dependency-groups"]["lowest"]
    )


def pinned_in(name: str) -> dict[str, str]:
    """Return the versions that a file of requirements/ pins, by package name."""
    locked = (ROOT / "requirements" / name).read_text()
    return dict(re.findall(r"^([\w.-]+)==([^ \n]+)", locked, re.MULTILINE))


def naming(python: str) -> dict[str, str]:
    """Return the variables with which pyenv, if it is there, runs this Python version."""
    return {"PYENV_VERSION": python.removeprefix("python")} | (
        {"PYENV_ROOT": os.environ["PYENV_ROOT"]} if "PYENV_ROOT" in os.environ else {}
    )


def _pip_settings() -> dict[str, str]:
    # How to reach the package index is a setting of this machine.
    return {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
