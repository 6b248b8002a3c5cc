"""What `--dev` keeps in `.dev/`: the data of MongoDB, secrets, and a lock."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from storage import generate_secret
from webapp.config.settings import ConfigError

FOLDER = Path(".dev")


class DevFolder:
    """The open folder; only one process has it open at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def secret(self) -> str:
        """Return the session secret; it is made the first time."""
        return self.read("secret") or self.write("secret", generate_secret())

    def read(self, name: str) -> str | None:
        """Return the text of a file, None when there is none."""
        path = self.path / name
        return path.read_text().strip() if path.exists() else None

    def write(self, name: str, text: str) -> str:
        """Keep a text in a file that its owner alone can read, and return it."""
        (self.path / name).unlink(missing_ok=True)
        # With its rights from the first byte on.
        descriptor = os.open(self.path / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{text}\n")
        return text


@contextmanager
def opened(path: Path) -> Iterator[DevFolder]:
    """Open the folder for this process alone; raises `ConfigError` while another one has it.

    The lock ends with the process, also with a killed one: nothing is left to clean up.
    """
    path.mkdir(mode=0o700, exist_ok=True)
    with (path / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise ConfigError(
                f"--dev: process {lock.read().strip()} already serves from {path} in this folder;"
                " stop it first, or start this one in another folder"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield DevFolder(path)


def dev_environ(environ: Mapping[str, str], folder: DevFolder) -> dict[str, str]:
    """Return the environment with the defaults of `--dev`; it replaces nothing but the host."""
    return {
        "APP_ENV": "development",
        "SESSION_SECRET": folder.secret(),
        **{name: value for name, value in environ.items() if value.strip()},
        # Some shells export HOST, the name of the machine; --dev must listen on loopback alone.
        "HOST": "127.0.0.1",
    }


def refuse_production(environ: Mapping[str, str]) -> None:
    """Raise `ConfigError` in production, where `--dev` is not allowed."""
    if environ.get("APP_ENV", "").strip().casefold() == "production":
        raise ConfigError("APP_ENV: is production, where --dev is refused; unset one of the two")
