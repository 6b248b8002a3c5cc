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
from urllib.parse import urlsplit

from pymongo import MongoClient

from benchmarks.distance import proxy
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
    round_trip_ms: int = 0

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
    peers: Sequence[Peer],
    where: Databases,
    directory: Path,
    *,
    uvloop: bool = False,
    distances: Sequence[int] = (),
) -> Iterator[list[Running]]:
    """Run these peers at the same time; a peer that is not measured is idle.

    Some of them run once more for each distance, with their databases behind a proxy.
    """
    with ExitStack() as stack:
        started = []
        for milliseconds in (0, *distances):
            there = directory / f"{milliseconds}-ms"

            def behind(port: int, milliseconds: int = milliseconds, there: Path = there) -> int:
                return stack.enter_context(delayed(port, milliseconds, there / f"to-{port}"))

            at = where
            if milliseconds:
                mongo, redis = (behind(_port_of(uri)) for uri in (where.mongo, where.redis))
                at = Databases(_with_port(where.mongo, mongo), f"redis://127.0.0.1:{redis}", 0)
            for peer in peers:
                if milliseconds and not peer.distant:
                    continue
                port = free_port()
                command = [*peer.command, "--port", str(port), "--mongo", at.mongo]
                if "node" not in peer.programs:
                    command += ["--redis", at.redis, *(["--uvloop"] if uvloop else [])]
                pid = stack.enter_context(_process(command, port, there / peer.name))
                # Without a database the app itself is behind the proxy: how much passes through it.
                in_front = behind(port) if milliseconds and peer.name == "none" else port
                started.append(Running(peer, in_front, pid, milliseconds))
        yield started


def _port_of(uri: str) -> int:
    port = urlsplit(uri).port
    assert port is not None
    return port


def _with_port(uri: str, port: int) -> str:
    parts = urlsplit(uri)
    return parts._replace(netloc=f"{parts.hostname}:{port}").geturl()


@contextmanager
def delayed(target: int, round_trip_ms: int, directory: Path) -> Iterator[int]:
    """Run the proxy in front of a port; yield its own one."""
    port = free_port()
    directory.mkdir(parents=True, exist_ok=True)
    command = [*proxy(directory), str(port), str(target), str(round_trip_ms * 500)]
    with _process(command, port, directory):
        yield port


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
