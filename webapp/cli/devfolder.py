"""What `--dev` keeps in `.dev/`: the data, a secret, the demo account's password, and a lock."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from storage import generate_secret
from webapp.config.settings import ConfigError

FOLDER = Path(".dev")
PORT = "8080"
PASSWORD_BYTES = 15


class DevFolder:
    """An open folder; only one process has it open at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def secret(self) -> str:
        """Return the session secret, made when it is first asked for."""
        return self._kept("secret", generate_secret())

    def demo_password(self, min_length: int) -> str:
        """Return the demo account's password, a new one when the kept one is too short."""
        fresh = secrets.token_urlsafe(max(PASSWORD_BYTES, min_length))
        kept = self._kept("demo-password", fresh)
        if len(kept) >= min_length:
            return kept
        (self.path / "demo-password").unlink()
        return self._kept("demo-password", fresh)

    def _kept(self, name: str, fresh: str) -> str:
        path = self.path / name
        if not path.exists():
            # Readable for its owner alone, from the first byte on.
            with os.fdopen(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600), "w") as file:
                file.write(fresh + "\n")
        return path.read_text().strip()


@contextmanager
def opened(path: Path) -> Iterator[DevFolder]:
    """Open the folder for this process alone; raises `ConfigError` while another one has it.

    The lock goes with the process, also with a killed one: nothing is left to clean up.
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
    """Return the environment with what `--dev` fills in; what is set stays, but for the host."""
    return {
        "APP_ENV": "development",
        "PORT": PORT,
        "SESSION_SECRET": folder.secret(),
        **{name: value for name, value in environ.items() if value.strip()},
        # Some shells export HOST, the name of the machine: --dev must never listen to the world.
        "HOST": "127.0.0.1",
    }


def refuse_production(environ: Mapping[str, str]) -> None:
    """Raise `ConfigError` where `--dev` has no place."""
    if environ.get("APP_ENV", "").strip().casefold() == "production":
        raise ConfigError("APP_ENV: is production, where --dev is refused; unset one of the two")
