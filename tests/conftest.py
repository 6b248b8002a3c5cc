"""The real mongod that the tests share, and a database of one's own for each test."""

from __future__ import annotations

import asyncio
import gc
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import NoReturn

import pytest
from pymongo import MongoClient

from webapp.database.mongod import Mongod, MongodNotFound, find_mongod

pytest_plugins = ("tests.faults.summary",)

only_in_full = pytest.mark.skipif(
    os.environ.get("FULL") != "1", reason="takes minutes; `FULL=1 make test-long` runs it"
)
SERVERS = {"mongod_binary", "driver"}  # a test that takes one of these fixtures needs a MongoDB
FOLDERS = ("storage", "webapp", "faults")  # in this order, then the others
NewMongod = Callable[..., Mongod]
# A file system in memory, if the machine has one with room for some servers of every process. To
# create a collection with its indexes takes a fifth of the time there, and a start half of it.
MEMORY = Path("/dev/shm")
ROOM_BYTES = 4 * 2**30


def _uvloop() -> asyncio.AbstractEventLoop:
    import uvloop  # only for who asks for it; it does not exist for Windows

    return uvloop.new_event_loop()


def _eager() -> asyncio.AbstractEventLoop:
    if sys.version_info < (3, 12):
        pytest.exit("--loop=eager needs Python 3.12 or newer", returncode=4)
    loop = asyncio.new_event_loop()
    loop.set_task_factory(asyncio.eager_task_factory)
    return loop


LOOPS = {"asyncio": asyncio.new_event_loop, "eager": _eager, "uvloop": _uvloop}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option with which `make test-loops` runs the tests in other event loops."""
    parser.addoption("--loop", choices=LOOPS, default="asyncio", help="the tests' event loop")


def pytest_asyncio_loop_factories(
    config: pytest.Config,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run every asynchronous test in the loop that is asked for."""
    name = config.getoption("--loop")
    return {name: LOOPS[name]}


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """End the process of a test that hangs in uvloop, which no signal interrupts."""
    if config.getoption("--loop") == "uvloop":
        config.option.timeout_method = "thread"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Answer `-n auto`: one process more than there are cores, since tests wait for a third."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_finish() -> None:
    """Let the garbage collector pass over what the collection made: a tenth of the time."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files without a MongoDB first, then those of the storage: what fails, fails early.

    A long test may take ten minutes, one of `FULL=1` any time.
    """
    seconds = 0 if os.environ.get("FULL") == "1" else 600
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(pytest.mark.timeout(seconds))
    with_server = {item.path for item in items if SERVERS & set(getattr(item, "fixturenames", ()))}

    def place(item: pytest.Item) -> tuple[bool, int]:
        folder = item.path.parent.name
        return item.path in with_server, (*FOLDERS, folder).index(folder)

    items.sort(key=place)


def missing(what: str) -> NoReturn:
    """Skip a test because a program is not installed; fail in CI, where none may be missing."""
    if os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(what)


@pytest.fixture(scope="session")
def mongod_binary() -> Path:
    """Find the server."""
    try:
        return find_mongod(os.environ)
    except MongodNotFound as error:
        missing(str(error))


@contextmanager
def folder_of_mongods(factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Make a folder for the data of servers, in memory if there is room; remove it afterwards."""
    in_memory = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= ROOM_BYTES
    parent = MEMORY if in_memory else factory.mktemp("data")
    with TemporaryDirectory(prefix="mongods-", dir=parent) as name:
        yield Path(name)


@pytest.fixture(scope="module")
def new_mongod(
    mongod_binary: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[NewMongod]:
    """Make servers of a module's or a test's own, with more arguments; they are not started.

    Their data goes with the module: each takes 300 MB at once.
    """
    with folder_of_mongods(tmp_path_factory) as parent:

        def make(*arguments: str, port: int | None = None) -> Mongod:
            return Mongod(mongod_binary, Path(mkdtemp(dir=parent)), port=port, arguments=arguments)

        yield make


@pytest.fixture(scope="session")
def mongod(mongod_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mongod]:
    """Run one mongod for all tests of this process."""
    with (
        folder_of_mongods(tmp_path_factory) as folder,
        Mongod(mongod_binary, folder) as server,
    ):
        yield server


@pytest.fixture(scope="session")
def mongo_uri(mongod: Mongod) -> str:
    """Name the address of the shared mongod."""
    return mongod.uri


@pytest.fixture(scope="session")
def shared_client(mongod: Mongod) -> Iterator[MongoClient[dict[str, object]]]:
    """Connect to the shared mongod: a connection costs ten times as much as dropping a database."""
    with MongoClient[dict[str, object]](mongod.uri) as client:
        yield client


@pytest.fixture
def database_name(shared_client: MongoClient[dict[str, object]]) -> Iterator[str]:
    """Name a database that no other test uses, and drop it afterwards.

    A module that runs a server of its own ends the database with its server.
    """
    name = f"test_{secrets.token_hex(8)}"
    yield name
    shared_client.drop_database(name)
