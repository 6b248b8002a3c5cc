"""Starts and stops mongod, redis-server and the processes of the peers.

Everything listens on loopback only, and is stopped by its own process id in any case.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from types import FrameType

from pymongo import MongoClient

from benchmarks.peers import Peer
from webapp.database.mongod import Mongod, find_mongod

START_SECONDS = 20.0
STOP_SECONDS = 30.0
CACHE_MB = 2048  # mongod's default is half of the memory above 1 GB


@dataclass(frozen=True, slots=True)
class Databases:
    """Where the databases of this run listen, and the process ids whose CPU time is measured."""

    mongo: str
    redis: str
    mongod_pid: int


@dataclass(frozen=True, slots=True)
class Running:
    """A peer that accepts requests."""

    peer: Peer
    port: int
    pid: int

    @property
    def url(self) -> str:
        """The address of its root."""
        return f"http://127.0.0.1:{self.port}"


def end_all_on_sigterm() -> None:
    """Let SIGTERM stop all processes that were started, like Ctrl-C does."""

    def leave(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)


@contextmanager
def databases(directory: Path) -> Iterator[Databases]:
    """Run a mongod and, if it is installed, a redis-server that stores nothing on disk."""
    with ExitStack() as stack:
        mongod = stack.enter_context(Mongod(find_mongod(os.environ), directory / "mongod"))
        _widen_cache(mongod.uri)
        redis_port = free_port()
        if shutil.which("redis-server"):
            command = f"redis-server --bind 127.0.0.1 --port {redis_port} --appendonly no --save"
            stack.enter_context(_process([*command.split(), ""], redis_port, directory / "redis"))
        yield Databases(mongod.uri, f"redis://127.0.0.1:{redis_port}", mongod.pid)


@contextmanager
def running(
    peers: Sequence[Peer], where: Databases, directory: Path, *, uvloop: bool = False
) -> Iterator[list[Running]]:
    """Run these peers at the same time; between their turns they are idle."""
    with ExitStack() as stack:
        started = []
        for peer in peers:
            port = free_port()
            command = [*peer.command, "--port", str(port), "--mongo", where.mongo]
            if "node" not in peer.programs:
                command += ["--redis", where.redis, *(["--uvloop"] if uvloop else [])]
            pid = stack.enter_context(_process(command, port, directory / peer.name))
            started.append(Running(peer, port, pid))
        yield started


def free_port() -> int:
    """Return a loopback port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _widen_cache(uri: str) -> None:
    with MongoClient[dict[str, object]](uri) as client:
        client.admin.command(
            "setParameter", 1, wiredTigerEngineRuntimeConfig=f"cache_size={CACHE_MB}MB"
        )


@contextmanager
def _process(command: Sequence[str], port: int, directory: Path) -> Iterator[int]:
    directory.mkdir(parents=True, exist_ok=True)
    log = directory / "output.log"
    environ = {**os.environ, "NODE_ENV": "production"}
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environ
        ) as process,
    ):
        try:
            _wait_until_it_listens(process, port, log)
            yield process.pid
        finally:
            _end(process)


def _wait_until_it_listens(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = monotonic() + START_SECONDS
    while not _listens(port):
        if process.poll() is not None or monotonic() > deadline:
            last = log.read_text(errors="replace")[-2000:]
            raise RuntimeError(f"{process.args!r} did not start; its output ends with:\n{last}")
        sleep(0.05)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
