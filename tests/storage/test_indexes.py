"""The two indexes: created, repaired, or reported as a conflict."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from pymongo import AsyncMongoClient
from pytest_aiohttp.plugin import AiohttpServer

from storage import IndexConflict, MongoStorage, setup
from tests.conftest import NewMongod
from tests.storage.conftest import (
    CommandLog,
    MakeStorage,
    OpenSite,
    every_driver,
    real_drivers,
    until,
)
from tests.storage.direct import visit
from tests.storage.shell_commands import commands_in
from webapp.database.mongod import Mongod

ROOT = Path(__file__).parents[2]


async def indexes_of(collection: Any) -> dict[str, Any]:
    """Return every index but the one of `_id`."""
    return {
        name: dict(index)
        for name, index in (await collection.index_information()).items()
        if name != "_id_"
    }


async def assert_served(open_site: OpenSite, storage: MongoStorage) -> None:
    """Sign in, and read the session with the next request."""
    visitor = await (await open_site(storage)).visitor()
    await visitor.do(lambda session: session.update(user_id=7))
    assert await visitor.session() == {"user_id": 7}


@every_driver
async def test_both_indexes_are_created(storage: MongoStorage, collection: Any) -> None:
    """A TTL index on `expires_at`, and a sparse index on `owner`."""
    await storage.create_indexes()

    indexes = await indexes_of(collection)
    assert set(indexes) == {"expires_at_1", "owner_1"}
    assert indexes["expires_at_1"]["key"] == [("expires_at", 1)]
    assert indexes["expires_at_1"]["expireAfterSeconds"] == 0
    assert indexes["owner_1"]["key"] == [("owner", 1)]
    assert indexes["owner_1"]["sparse"] is True


@real_drivers
async def test_second_call_only_lists_the_indexes(storage: MongoStorage, log: CommandLog) -> None:
    """At every start of a process nothing is changed."""
    await storage.create_indexes()
    log.commands.clear()

    await storage.create_indexes()

    assert set(log.names) == {"listIndexes"}


@every_driver
async def test_starting_an_app_creates_the_indexes_once(
    make_storage: MakeStorage, collection: Any, aiohttp_server: AiohttpServer
) -> None:
    """They exist before the first request; an app and its sub-app create them once."""
    storage = make_storage()
    app, admin = web.Application(), web.Application()
    setup(admin, storage)
    setup(app, storage)
    app.add_subapp("/admin", admin)

    await aiohttp_server(app)

    assert set(await indexes_of(collection)) == {"expires_at_1", "owner_1"}
    assert storage.counters["commands"] <= 4  # list twice, create twice


async def test_requests_do_no_index_work(
    open_site: OpenSite, make_storage: MakeStorage, log: CommandLog
) -> None:
    """They send no command about indexes."""
    visitor = await (await open_site(make_storage())).visitor()
    log.commands.clear()

    await visitor.do(lambda session: session.update(user_id=7))
    await visitor.do(lambda session: session.update(a=1))
    await visitor.do(lambda session: session.invalidate())

    assert not {"createIndexes", "listIndexes", "collMod"} & set(log.names)


REPAIRED = [
    pytest.param({"expireAfterSeconds": 3600}, id="other seconds"),
    pytest.param({}, id="no TTL index"),
    pytest.param({"name": "old_name", "expireAfterSeconds": 60}, id="another name"),
    pytest.param({"sparse": True}, id="sparse, no TTL"),
]


@real_drivers
@pytest.mark.parametrize("options", REPAIRED)
async def test_existing_index_is_repaired(
    make_storage: MakeStorage, collection: Any, options: dict[str, Any]
) -> None:
    """`collMod` changes the TTL of the existing index."""
    await collection.create_index([("expires_at", 1)], **options)

    await make_storage().create_indexes()

    indexes = await indexes_of(collection)
    name = options.get("name", "expires_at_1")
    assert set(indexes) == {name, "owner_1"}
    assert indexes[name]["expireAfterSeconds"] == 0


@real_drivers
@pytest.mark.parametrize(
    ("keys", "options"),
    [
        pytest.param([("expires_at", -1)], {"expireAfterSeconds": 0}, id="descending TTL"),
        pytest.param([("expires_at", 1)], {"expireAfterSeconds": 0, "name": "x"}, id="named x"),
        pytest.param([("owner", -1)], {}, id="descending owner"),
        pytest.param([("owner", 1)], {"name": "x"}, id="owner without sparse"),
    ],
)
async def test_suitable_index_is_left_as_it_is(
    make_storage: MakeStorage, collection: Any, keys: list[Any], options: dict[str, Any]
) -> None:
    """No second index is created."""
    await collection.create_index(keys, **options)
    before = await indexes_of(collection)

    await make_storage().create_indexes()

    after = await indexes_of(collection)
    assert len(after) == 2
    assert before.items() <= after.items()


@pytest.mark.parametrize(
    ("keys", "options"),
    [
        pytest.param([("expires_at", "hashed")], {}, id="hashed on the same field"),
        pytest.param([("expires_at", 1), ("owner", 1)], {}, id="compound"),
        pytest.param([("created_at", 1)], {}, id="another field"),
        pytest.param([("owner", "hashed")], {}, id="hashed owner"),
    ],
)
async def test_index_for_another_purpose_is_left_as_it_is(
    make_storage: MakeStorage, collection: Any, keys: list[Any], options: dict[str, Any]
) -> None:
    """It stays, and both indexes are created besides."""
    await collection.create_index(keys, **options)
    before = await indexes_of(collection)

    await make_storage().create_indexes()

    after = await indexes_of(collection)
    assert before.items() <= after.items()
    assert after.keys() - before.keys() == {"expires_at_1", "owner_1"}


UNSUITABLE = [
    pytest.param("expires_at", [{"unique": True}], id="unique expires_at"),
    pytest.param("expires_at", [{"unique": True, "expireAfterSeconds": 0}], id="unique TTL"),
    pytest.param("owner", [{"unique": True, "sparse": True}], id="unique owner"),
    pytest.param(
        "owner",
        [{"unique": True, "name": "u"}, {"sparse": True}],
        id="in addition to a suitable one",
    ),
    pytest.param(
        "expires_at",
        [{"partialFilterExpression": {"persistent": True}, "expireAfterSeconds": 0}],
        id="partial TTL",
    ),
    pytest.param("owner", [{"partialFilterExpression": {"max_age": 1}}], id="partial owner"),
]


@real_drivers
@pytest.mark.parametrize(("field", "indexes"), UNSUITABLE)
async def test_unsuitable_index_is_a_conflict_with_the_command_that_drops_it(
    make_storage: MakeStorage, collection: Any, field: str, indexes: list[dict[str, Any]]
) -> None:
    """A unique or partial index is not dropped; an administrator has to run the command."""
    for options in indexes:
        await collection.create_index([(field, 1)], **options)
    before = await indexes_of(collection)
    storage = make_storage()

    with pytest.raises(IndexConflict, match="have an administrator run") as conflict:
        await storage.create_indexes()

    assert before.items() <= (await indexes_of(collection)).items()
    for database, command in commands_in(str(conflict.value)):
        assert command["index"] == [indexes[0].get("name", f"{field}_1")]
        assert database == collection.database.name
        await collection.database.command(command)
    await storage.create_indexes()
    assert {"expires_at_1", "owner_1"} == set(await indexes_of(collection))


async def test_app_starts_despite_a_conflict_and_logs_one_line(
    open_site: OpenSite,
    make_storage: MakeStorage,
    collection: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Sessions work: every load checks the dates, the index only deletes documents."""
    await collection.create_index([("expires_at", 1)], partialFilterExpression={"persistent": True})
    storage = make_storage()

    with caplog.at_level(logging.INFO, logger="storage"):
        await assert_served(open_site, storage)

    assert storage._index_work._task is not None
    assert storage._index_work._task.done()  # otherwise it would log it again every five seconds
    (line,) = [line for line in caplog.records if line.levelno >= logging.WARNING]
    assert line.levelno == logging.ERROR
    assert '"dropIndexes": "sessions"' in line.getMessage()
    assert line.exc_info is None


@real_drivers
async def test_many_storages_may_create_the_indexes_at_once(
    make_storage: MakeStorage, collection: Any
) -> None:
    """Thirty on an empty database, and thirty on an index that needs repair."""
    await asyncio.gather(*(make_storage().create_indexes() for _ in range(30)))
    assert set(await indexes_of(collection)) == {"expires_at_1", "owner_1"}

    await collection.drop_indexes()
    await collection.create_index([("expires_at", 1)], expireAfterSeconds=60)
    await asyncio.gather(*(make_storage().create_indexes() for _ in range(30)))

    assert (await indexes_of(collection))["expires_at_1"]["expireAfterSeconds"] == 0


def test_many_processes_may_create_the_indexes_at_once(mongo_uri: str, database_name: str) -> None:
    """Four processes, started together: none fails, and each index exists once."""
    program = (
        "import asyncio, sys\n"
        "from pymongo import AsyncMongoClient\n"
        "from storage import MongoStorage, generate_secret\n"
        "async def main():\n"
        "    async with AsyncMongoClient(sys.argv[1]) as client:\n"
        "        await client.admin.command('ping')\n"
        "        storage = MongoStorage(client[sys.argv[2]]['sessions'], generate_secret())\n"
        "        print('ready', flush=True)\n"
        "        sys.stdin.readline()\n"
        "        await storage.create_indexes()\n"
        "        print(sorted(await client[sys.argv[2]]['sessions'].index_information()))\n"
        "asyncio.run(main())\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, mongo_uri, database_name],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"

    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    done = [process.communicate(timeout=60) for process in processes]

    assert {out.strip() for out, _err in done} == {"['_id_', 'expires_at_1', 'owner_1']"}
    assert {err for _out, err in done} == {""}


@pytest.fixture(scope="module")
def ttl_mongod(new_mongod: NewMongod) -> Iterator[Mongod]:
    """Run a second server whose TTL monitor runs every second instead of every minute."""
    with new_mongod("--setParameter", "ttlMonitorSleepSecs=1") as server:
        yield server


@pytest.fixture
async def ttl_collection(ttl_mongod: Mongod) -> AsyncIterator[Any]:
    """Open a collection on that server."""
    async with AsyncMongoClient[dict[str, Any]](ttl_mongod.uri) as client:
        yield client["ttl"]["sessions"]


@pytest.mark.parametrize("driver", ["mongomock"], indirect=True)
async def test_ttl_index_deletes_expired_sessions_only(
    make_storage: MakeStorage, ttl_collection: Any
) -> None:
    """The TTL monitor of a real server deletes by the stored dates."""
    storage = make_storage(ttl_collection, max_age=60)
    storage.clock = time.time
    await visit(storage, None, lambda session: session.update(expired=False))
    storage.clock = lambda: time.time() - 61
    await visit(storage, None, lambda session: session.update(expired=True))
    assert await ttl_collection.count_documents({}) == 2

    await storage.create_indexes()

    async def one_is_left() -> bool:
        return int(await ttl_collection.count_documents({})) == 1

    await until(one_is_left, seconds=30)
    storage.clock = time.time
    assert await storage.count() == 1


async def test_storage_that_is_used_again_waits_for_its_indexes_again(
    storage: MongoStorage, collection: Any
) -> None:
    """An app that is started again may find another database."""
    await storage.start_index_work()
    await storage.aclose()
    await collection.drop()

    storage.reopen()
    await storage.start_index_work()

    assert {"expires_at_1", "owner_1"} <= set(await collection.index_information())


async def test_index_work_under_way_is_not_begun_again(storage: MongoStorage) -> None:
    """However many apps share a storage, its indexes are created once."""
    storage.begin_index_work()
    task = storage._index_work._task
    assert task is not None

    storage.begin_index_work()

    assert storage._index_work._task is task
    await task
