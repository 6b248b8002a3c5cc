"""An app that starts without MongoDB: it starts, and creates the indexes later."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from importlib import import_module
from typing import Any

import pytest
from motor.motor_asyncio import AsyncIOMotorClient

from storage import IndexConflict, MongoStorage, StorageUnavailable
from tests.conftest import NewMongod
from tests.processes import free_port
from tests.storage.conftest import MakeStorage, OpenSite, until
from webapp.database.mongod import Mongod

# For the busiest machine; by itself the driver looks for a server for 30 s.
IN_TIME = 15.0


@pytest.fixture
def late_mongod(new_mongod: NewMongod) -> Iterator[Mongod]:
    """Choose a port for a server that has not been started yet."""
    server = new_mongod("--setParameter", "enableTestCommands=1", port=free_port())
    yield server
    server.stop()


@pytest.fixture
async def collection(late_mongod: Mongod) -> AsyncIterator[Any]:
    """Open a collection on that server, with Motor.

    PyMongo 4.20's asynchronous client leaves the sockets of refused connections to the garbage
    collector, whose warnings are errors here.
    """
    uri = f"mongodb://127.0.0.1:{late_mongod.port}"
    client = AsyncIOMotorClient[dict[str, Any]](uri, heartbeatFrequencyMS=500)
    yield client["app"]["sessions"]
    client.close()


@pytest.fixture
def storage_without_mongodb(
    make_storage: MakeStorage, monkeypatch: pytest.MonkeyPatch
) -> MongoStorage:
    """Make a storage with a timeout of 0.2 seconds, which tries the index work again after 0.2."""
    monkeypatch.setattr(import_module("storage.indexes"), "RETRY_SECONDS", 0.2)
    return make_storage(operation_timeout=0.2)


async def fail(collection: Any, command: str, **how: Any) -> None:
    """Let the server refuse or block every command of that name."""
    await collection.database.client.admin.command(
        "configureFailPoint",
        "failCommand",
        mode="alwaysOn",
        data={"failCommands": [command], **how},
    )


async def test_app_starts_without_mongodb_and_creates_the_indexes_later(
    open_site: OpenSite,
    storage_without_mongodb: MongoStorage,
    late_mongod: Mongod,
    collection: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """No restart is needed: sessions work and the indexes exist when MongoDB has started."""
    with caplog.at_level(logging.WARNING, logger="storage.middleware"):
        site = await open_site(storage_without_mongodb)
    visitor = await site.visitor()
    refused = await visitor.do(lambda session: session.update(a=1))
    assert refused.status == 503
    assert "the indexes could not be checked; trying again until they are" in caplog.messages

    await asyncio.to_thread(late_mongod.start)

    async def created() -> bool:
        try:
            return {"expires_at_1", "owner_1"} <= set(await collection.index_information())
        except Exception:  # noqa: BLE001 - not yet
            return False

    await until(created, seconds=30)
    assert (await visitor.do(lambda session: session.update(a=1))).status == 200
    assert await visitor.session() == {"a": 1}


async def test_start_waits_for_the_first_attempt_only(
    open_site: OpenSite, storage_without_mongodb: MongoStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if it has failed: a platform ends an app that starts too slowly."""
    monkeypatch.setattr(import_module("storage.indexes"), "START_WAITS_SECONDS", 3600)

    async with asyncio.timeout(IN_TIME):
        await open_site(storage_without_mongodb)


async def test_stopping_the_app_cancels_the_index_work(
    open_site: OpenSite, storage_without_mongodb: MongoStorage
) -> None:
    """Stopping waits neither for MongoDB nor for the next attempt."""
    site = await open_site(storage_without_mongodb)
    work = storage_without_mongodb._index_work._task
    assert work is not None
    assert not work.done()

    await site.server.close()

    assert work.cancelled()


async def test_create_indexes_without_mongodb_raises_storage_unavailable(
    storage_without_mongodb: MongoStorage,
) -> None:
    """Within the operation timeout; the call may be repeated."""
    async with asyncio.timeout(IN_TIME):
        with pytest.raises(StorageUnavailable):
            await storage_without_mongodb.create_indexes()

    assert storage_without_mongodb.counters["unavailable"] == 1


async def test_slow_index_build_delays_neither_start_nor_stop(
    open_site: OpenSite,
    make_storage: MakeStorage,
    late_mongod: Mongod,
    collection: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a large collection it takes minutes; the app serves requests and may be stopped."""
    monkeypatch.setattr(import_module("storage.indexes"), "START_WAITS_SECONDS", 0.1)
    await asyncio.to_thread(late_mongod.start)
    await fail(collection, "createIndexes", blockConnection=True, blockTimeMS=60_000)
    storage = make_storage()
    started = asyncio.get_running_loop().time()

    site = await open_site(storage)
    visitor = await site.visitor()
    await visitor.do(lambda session: session.update(a=1))
    assert await visitor.session() == {"a": 1}
    assert storage._index_work._task is not None
    assert not storage._index_work._task.done()
    await site.server.close()

    assert asyncio.get_running_loop().time() - started < 30


@pytest.mark.long
async def test_app_serves_after_ten_seconds_while_an_index_is_built(
    open_site: OpenSite, make_storage: MakeStorage, late_mongod: Mongod, collection: Any
) -> None:
    """The real ten seconds: no other test waits for them."""
    await asyncio.to_thread(late_mongod.start)
    await fail(collection, "createIndexes", blockConnection=True, blockTimeMS=60_000)
    loop = asyncio.get_running_loop()
    begun_at = loop.time()

    site = await open_site(make_storage(operation_timeout=60))

    assert 9 < loop.time() - begun_at < 14
    visitor = await site.visitor()
    assert (await visitor.do(lambda session: session.update(a=1))).status == 200


@pytest.mark.parametrize(
    ("command", "code", "error"),
    [
        pytest.param("listIndexes", 11600, StorageUnavailable, id="shutting down at listIndexes"),
        pytest.param(
            "createIndexes", 11600, StorageUnavailable, id="shutting down at createIndexes"
        ),
        pytest.param("listIndexes", 96, StorageUnavailable, id="failing at listIndexes"),
        pytest.param("createIndexes", 67, IndexConflict, id="refusing the index"),
    ],
)
async def test_error_of_the_server_is_unavailable_or_an_index_conflict(
    *,
    make_storage: MakeStorage,
    late_mongod: Mongod,
    collection: Any,
    command: str,
    code: int,
    error: type[Exception],
) -> None:
    """A failure is tried again later; a refused index needs an administrator."""
    await asyncio.to_thread(late_mongod.start)
    await fail(collection, command, errorCode=code)

    with pytest.raises(error):
        await make_storage(operation_timeout=2).create_indexes()


async def test_every_code_with_which_a_server_refuses_an_index_is_a_conflict(
    make_storage: MakeStorage, late_mongod: Mongod, collection: Any
) -> None:
    """Also that of Azure Cosmos DB (2): another try would not help."""
    await asyncio.to_thread(late_mongod.start)

    for code in (2, 59, 67, 72, 115, 197):
        await fail(collection, "createIndexes", errorCode=code)
        with pytest.raises(IndexConflict):
            await make_storage(operation_timeout=2).create_indexes()


async def test_index_that_other_processes_change_meanwhile_is_a_conflict_with_the_command(
    make_storage: MakeStorage, late_mongod: Mongod, collection: Any
) -> None:
    """The server says that there is another one (85, 86), and it is not there any more."""
    await asyncio.to_thread(late_mongod.start)

    for code in (85, 86):
        await fail(collection, "createIndexes", errorCode=code)
        with pytest.raises(IndexConflict, match='"createIndexes": "sessions"'):
            await make_storage(operation_timeout=2).create_indexes()
