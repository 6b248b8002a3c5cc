"""Operations on many sessions at once: index, list, revoke, expire; timed in seconds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from time import monotonic, sleep

from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from pymongo import AsyncMongoClient, MongoClient
from pymongo.collection import Collection

from benchmarks.apps.storages import SECRET
from benchmarks.filler import Document, expired, grow
from storage import MongoStorage

INDEXES = ("expires_at_1", "owner_1")
OWNER = "somebody with many devices"
OWNED = 10_000
EXPIRED_SESSIONS = 100_000
PATIENCE_SECONDS = 300.0


async def index_seconds(uri: str, database: str) -> dict[str, float]:
    """Drop each index except `_id`'s, and let the storage build it again.

    There are no requests meanwhile; MongoDB allows them, but then the build takes longer.
    """
    found = {}
    async with AsyncMongoClient[Document](uri) as client:
        sessions = client[database]["sessions"]
        storage = MongoStorage(sessions, SECRET)
        for name in INDEXES:
            await sessions.drop_index(name)
            before = monotonic()
            await storage.create_indexes()
            found[f"building the index {name}"] = monotonic() - before
        await storage.aclose()
    return found


async def owner_seconds(uri: str, database: str) -> dict[str, float]:
    """Store 10 000 sessions of one owner, list them and revoke them."""
    async with AsyncMongoClient[Document](uri) as client:
        storage = MongoStorage(client[database]["sessions"], SECRET)
        request = make_mocked_request("GET", "/")
        for _ in range(OWNED // 100):
            await asyncio.gather(*(_store_one(storage, request) for _ in range(100)))
        before = monotonic()
        listed = len([info async for info in storage.sessions(OWNER)])
        between = monotonic()
        revoked = await storage.revoke_owner(OWNER)
        after = monotonic()
        await storage.aclose()
    assert listed == revoked == OWNED
    return {
        f"sessions(owner), {OWNED:,} of them": between - before,
        f"revoke_owner(owner), {OWNED:,} of them": after - between,
    }


def expiry_seconds(
    client: MongoClient[Document], sessions: Collection[Document]
) -> dict[str, float]:
    """Add 100 000 expired sessions, and wait until MongoDB's TTL monitor has deleted them.

    The time starts when the monitor may start. It runs once a second, so up to one second of the
    result may be its sleep.
    """
    real = sessions.find_one(sort=[("_id", 1)])
    assert real is not None
    now = datetime.now(UTC).replace(tzinfo=None)
    # It may sleep up to a minute before the shorter interval applies; that is not timed.
    client.admin.command("setParameter", 1, ttlMonitorSleepSecs=1)
    goal = _ttl_passes(client) + 2
    _wait_until(lambda: _ttl_passes(client) >= goal)
    client.admin.command("setParameter", 1, ttlMonitorEnabled=False)
    full = sessions.estimated_document_count() + EXPIRED_SESSIONS
    grow(sessions, full, lambda: expired(real, now))
    assert sessions.estimated_document_count() == full, "some were removed before the measurement"
    before = monotonic()
    client.admin.command("setParameter", 1, ttlMonitorEnabled=True)
    _wait_until(lambda: sessions.find_one({"expires_at": {"$lt": now}}, {"_id": True}) is None)
    return {f"removal of {EXPIRED_SESSIONS:,} expired sessions by MongoDB": monotonic() - before}


def _ttl_passes(client: MongoClient[Document]) -> int:
    return int(client.admin.command("serverStatus")["metrics"]["ttl"]["passes"])


async def _store_one(storage: MongoStorage, request: web.Request) -> None:
    session = await storage.new_session()
    session["user_id"] = OWNER
    await storage.save_session(request, web.Response(), session)


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = monotonic() + PATIENCE_SECONDS
    while not condition():
        if monotonic() > deadline:
            raise RuntimeError("MongoDB did not remove the expired sessions in time")
        sleep(0.1)
