"""Documents of other programs in the collection: sessions work all the same."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from bson import ObjectId

from storage import MongoStorage
from tests.storage.conftest import real_drivers
from tests.storage.direct import id_of, values, visit

pytestmark = real_drivers


async def test_documents_of_other_programs_do_not_affect_sessions(
    storage: MongoStorage, collection: Any
) -> None:
    """Of any form, with ids of any type, even with a copy of the hash of an owner."""
    cookie = await visit(storage, None, lambda session: session.update(user_id=7, name="Ada"))
    owner = (await collection.find_one({"_id": id_of(str(cookie))}))["owner"]
    dates = ("created_at", "last_seen_at", "expires_at")
    long_ago = dict.fromkeys(dates, datetime(2000, 1, 1, tzinfo=UTC))
    foreign: list[dict[str, Any]] = [
        {"_id": ObjectId()},
        {"_id": "cart 7", "items": [1, 2]},
        {"_id": 7, "owner": 7, "values": 7, "expires_at": "never"},
        {"_id": b"short", "owner": owner},
        {"_id": {"a": 1}, "owner": owner, **long_ago, "values": {}},
        {"_id": bytes(32), "owner": owner, "values": {"a": b"b"}},
    ]
    await collection.insert_many(foreign)

    changed = await visit(storage, cookie, lambda session: session.update(name="Bob"))

    assert changed == cookie
    assert await values(storage, cookie) == {"user_id": 7, "name": "Bob"}
    assert len([info async for info in storage.sessions(7)]) == 1
    assert await storage.count() == 1
    assert await storage.purge() == 1  # which the TTL index would delete too
    assert await collection.count_documents({}) == len(foreign)
    assert await storage.revoke_owner(7) == 3  # all with the hash of this owner
    assert await values(storage, cookie) == {}
