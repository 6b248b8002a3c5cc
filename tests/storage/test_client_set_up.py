"""However the app's own client is set up, sessions are stored and read the same."""

from __future__ import annotations

from typing import Any

import pytest
from bson import SON
from bson.codec_options import CodecOptions
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import AsyncMongoClient, ReadPreference, WriteConcern

from tests.storage.conftest import Clock, MakeStorage, on_a_real_server
from tests.storage.direct import values, visit

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


@on_a_real_server
@pytest.mark.parametrize("options", OPTIONS)
async def test_sessions_do_not_hang_on_the_clients_options(
    *,
    mongo_uri: str,
    database_name: str,
    driver: str,
    make_storage: MakeStorage,
    clock: Clock,
    options: dict[str, Any],
) -> None:
    """Stored, changed, touched, renewed, listed and counted."""
    make: Any = AsyncIOMotorClient if driver == "motor" else AsyncMongoClient
    client = make(mongo_uri, **options)
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
    closing = client.close()
    if closing is not None:
        await closing


@on_a_real_server
async def test_sessions_do_not_hang_on_the_collections_options(
    collection: Any, make_storage: MakeStorage
) -> None:
    """A collection that the app made with options of its own is used with ours."""
    odd = collection.with_options(
        codec_options=CodecOptions(tz_aware=True, document_class=SON),
        read_preference=ReadPreference.NEAREST,
        write_concern=WriteConcern(w=1),
    )
    storage = make_storage(odd)

    cookie = await visit(storage, None, lambda session: session.update(user_id=7))

    assert await values(storage, cookie) == {"user_id": 7}
    assert len([info async for info in storage.sessions(7)]) == 1
