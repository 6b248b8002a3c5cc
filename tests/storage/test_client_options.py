"""Options of the client and of the collection: sessions work with any, on the primary."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from bson import SON
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.raw_bson import RawBSONDocument
from pymongo import ReadPreference, WriteConcern

from storage import MongoStorage
from tests.conftest import NewMongod
from tests.storage.command_log import CommandLog
from tests.storage.conftest import (
    SECRET,
    Clock,
    MakeStorage,
    close,
    make_client,
    real_drivers,
    replica_set_of_one,
)
from tests.storage.direct import values, visit

pytestmark = real_drivers

OPTIONS = [
    pytest.param({"tz_aware": True}, id="aware dates"),
    pytest.param({"document_class": SON}, id="another document class"),
    pytest.param({"uuidRepresentation": "standard"}, id="UUIDs"),
    pytest.param({"readPreference": "secondaryPreferred"}, id="reads from secondaries"),
    pytest.param({"readConcernLevel": "majority"}, id="majority reads"),
    pytest.param({"w": "majority", "journal": True}, id="journalled majority writes"),
    pytest.param({"retryWrites": False, "retryReads": False}, id="no retries"),
    pytest.param({"compressors": "zlib"}, id="compressed"),
    pytest.param({"maxPoolSize": 1}, id="one connection"),
    pytest.param({"unicode_decode_error_handler": "ignore"}, id="lenient text"),
]


@pytest.fixture(scope="module")
def replica_set(new_mongod: NewMongod) -> Iterator[str]:
    """Run a replica set of one member: drivers send read preferences to replica sets only."""
    with replica_set_of_one(new_mongod, "one") as server:
        yield f"{server.uri}/?replicaSet=one"


@pytest.fixture
def mongo_uri(replica_set: str) -> str:
    """Use the replica set in this module."""
    return replica_set


async def test_reads_go_to_the_primary_whatever_the_client_prefers(
    make_storage: MakeStorage, collection: Any, log: CommandLog
) -> None:
    """A secondary may not have a login or a logout yet."""
    secondary = collection.with_options(read_preference=ReadPreference.SECONDARY_PREFERRED)
    cookie = await visit(make_storage(secondary), None, lambda session: session.update(a=1))
    log.commands.clear()

    await values(make_storage(secondary), cookie)
    await make_storage(secondary).count()
    await secondary.find_one({})

    asked = [
        (name, command.get("$readPreference", {}).get("mode"))
        for name, command in log.commands
        if name != "ping"
    ]
    # Without a read preference a command goes to the primary.
    assert asked == [("find", None), ("aggregate", None), ("find", "secondaryPreferred")]


async def test_writes_keep_the_write_concern_of_the_collection(
    make_storage: MakeStorage, collection: Any, log: CommandLog
) -> None:
    """An app that chose "majority" gets it for every save."""
    majority = collection.with_options(write_concern=WriteConcern("majority"))

    await visit(make_storage(majority), None, lambda session: session.update(a=1))

    assert log.commands[0][1]["writeConcern"] == {"w": "majority"}


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(CodecOptions(tz_aware=True), id="aware dates"),
        pytest.param(CodecOptions(document_class=SON), id="ordered documents"),
        pytest.param(CodecOptions(document_class=RawBSONDocument), id="raw documents"),
        pytest.param(
            CodecOptions(datetime_conversion=DatetimeConversion.DATETIME_AUTO), id="other dates"
        ),
    ],
)
async def test_sessions_work_with_any_codec_options_of_the_collection(
    make_storage: MakeStorage, collection: Any, options: Any
) -> None:
    """The storage uses codec options of its own, without changing the collection of the app."""
    storage = make_storage(collection.with_options(codec_options=options))
    cookie = await visit(storage, None, lambda session: session.update(a=[1], user_id=7))

    await visit(storage, cookie, lambda session: session["a"].append(2))

    assert await values(storage, cookie) == {"a": [1, 2], "user_id": 7}
    assert len([info async for info in storage.sessions(7)]) == 1


@pytest.mark.parametrize("options", OPTIONS)
async def test_sessions_work_with_any_client_options(
    *,
    mongo_uri: str,
    database_name: str,
    driver: str,
    make_storage: MakeStorage,
    clock: Clock,
    options: dict[str, Any],
) -> None:
    """A session is stored, changed, touched, renewed, listed and counted."""
    client = make_client(driver, mongo_uri, **options)
    storage = make_storage(client[database_name]["sessions"], max_age=1200)
    await storage.create_indexes()

    cookie = await visit(storage, None, lambda session: session.update(user_id=7, cart=[1]))
    await visit(storage, cookie, lambda session: session["cart"].append(2))
    clock.advance(60)
    await visit(storage, cookie, dict)
    renewed = await visit(storage, cookie, lambda session: session.renew())

    assert await values(storage, renewed) == {"user_id": 7, "cart": [1, 2]}
    assert [info.last_seen_at.timestamp() async for info in storage.sessions(7)] == [clock.now]
    assert await storage.count() == 1
    await storage.aclose()
    await close(client)


async def test_index_build_may_take_longer_than_the_timeout_of_the_client(
    mongo_uri: str, database_name: str, driver: str, log: CommandLog
) -> None:
    """On a large collection it takes minutes; timeoutMS is meant for requests."""
    client = make_client(driver, mongo_uri, timeoutMS=5000, event_listeners=[log])
    storage = MongoStorage(client[database_name]["sessions"], SECRET)

    await storage.create_indexes()
    await storage.count()
    await storage.aclose()
    await close(client)

    limits = {name: command.get("maxTimeMS", 0) for name, command in log.commands}
    assert limits["createIndexes"] > 3_600_000
    assert limits["aggregate"] > 3_600_000
    assert limits["listIndexes"] < 5000
