"""The app processes that the faults happen to, and the table at the end of a run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from storage import generate_secret
from tests.faults.load import Record
from tests.faults.proxy import Proxy
from tests.faults.summary import REMARK, ROW
from tests.processes import LISTENING, Process, free_port, webapp
from webapp.database.mongod import Mongod

# The default of the storage: how long one load or one save waits for MongoDB.
OPERATION_TIMEOUT_SECONDS = 5.0


class App:
    """One process of the app that the faults happen to."""

    def __init__(self, port: int, start: Callable[[], Process]) -> None:
        self.base = f"http://127.0.0.1:{port}"
        self._start = start
        self.process = start()
        self.wait_until_it_serves()

    def wait_until_it_serves(self) -> None:
        """Return when it accepts requests."""
        self.process.wait_for("Running on")

    def restart(self) -> None:
        """Start it again on the same port; it must have stopped."""
        self.process.end()
        self.process = self._start()
        self.wait_until_it_serves()


StartApp = Callable[..., App]
Report = Callable[[str, Record, int], None]
Remark = Callable[[str], None]


@pytest.fixture
def server(mongod_binary: Path, tmp_path: Path) -> Iterator[Mongod]:
    """Run a mongod for this test alone, which the test may break."""
    mongod = Mongod(mongod_binary, tmp_path / "mongod", port=free_port())
    with mongod:
        yield mongod


@pytest.fixture
def proxy(server: Mongod) -> Iterator[Proxy]:
    """Run a proxy in front of the server."""
    with Proxy(server.port) as proxy:
        yield proxy


@contextmanager
def starter() -> Iterator[StartApp]:
    """Yield a function that starts processes of the app; they stop when the context ends."""
    secret = generate_secret()
    with ExitStack() as stack:

        def start(mongo_uri: str, *arguments: str, driver: str = "pymongo") -> App:
            port = free_port()
            command = [sys.executable, "-W", "ignore", "-m", "tests.faults.app"]
            command += ["--port", str(port), "--mongo", mongo_uri, "--database", "faults"]
            command += [f"--secret={secret}", "--driver", driver, *arguments]

            def run() -> Process:
                process = Process(*command, environ={})
                stack.callback(process.end)
                return process

            return App(port, run)

        yield start


@pytest.fixture
def start_app() -> Iterator[StartApp]:
    """Start processes of the app; they stop when the test ends."""
    with starter() as start:
        yield start


@pytest.fixture
def production(mongod: Mongod, database_name: str) -> dict[str, str]:
    """Return the environment of an app behind one router."""
    return {
        "MONGO_URI": mongod.uri,
        "MONGO_DATABASE": database_name,
        "SESSION_SECRET": generate_secret(),
        "TRUSTED_PROXY_HOPS": "1",
        "ALLOWED_HOSTS": "app.example",
        "HOST": "127.0.0.1",
        "PORT": str(free_port()),
    }


@pytest.fixture
def site(production: dict[str, str]) -> Iterator[Process]:
    """Run the app."""
    with webapp(environ=production) as process:
        process.wait_for(LISTENING)
        yield process


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Report:
    """Add a row to the table: the fault, what was recorded, and the number of visitors."""

    def add(fault: str, record: Record, visitors: int) -> None:
        row = (
            f"{fault} | {record.requests} | {visitors} | {record.answered} | {record.refused}"
            f" | {record.unreachable} | {record.silence_seconds:.1f} | {record.sessions}"
            f" | {record.lost} | {record.resurrected} | {record.stale} | {record.overtaken}"
        )
        request.node.user_properties.append((ROW, row))

    return add


@pytest.fixture
def remark(request: pytest.FixtureRequest) -> Remark:
    """Add a line below the table, for what has no column."""

    def add(text: str) -> None:
        request.node.user_properties.append((REMARK, text))

    return add
