"""How each Python peer stores its sessions, which is the only difference between them.

Each function prepares an app in the running event loop, where drivers must be created.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import aiohttp_session
from aiohttp import web
from aiohttp_session.cookie_storage import EncryptedCookieStorage
from aiohttp_session.redis_storage import RedisStorage
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import AsyncMongoClient
from redis.asyncio import Redis

from benchmarks.apps.handlers import add_session_routes, answer
from benchmarks.workload import VISITORS, user
from storage import MongoStorage, setup
from storage.batching import Batcher
from storage.commands import find_documents
from storage.driver import Driver

Prepare = Callable[[web.Application, str, str], Awaitable[None]]

TWO_WEEKS = 14 * 24 * 3600
# The same in every process: sessions must stay valid after a restart of the peer.
SECRET = hashlib.sha256(b"a benchmark has nothing to hide").hexdigest()


async def without_sessions(app: web.Application, _mongo: str, _redis: str) -> None:
    """Answer without any session: the upper limit."""

    async def read(_request: web.Request) -> web.Response:
        return answer(user(0))

    app.router.add_get("/read", read)


async def one_find(app: web.Application, mongo: str, _redis: str) -> None:
    """Await one `find_one` in the handler: the smallest cost of a command to MongoDB."""
    client = AsyncMongoClient[dict[str, Any]](mongo)
    visitors = client["bench_find"]["visitors"]
    await visitors.replace_one({"_id": 0}, {"_id": 0, "user": user(0)}, upsert=True)

    async def read(_request: web.Request) -> web.Response:
        found = await visitors.find_one({"_id": 0})
        assert found is not None
        return answer(found["user"])

    app.router.add_get("/read", read)
    app.on_cleanup.append(lambda _app: client.close())


async def shared_finds(app: web.Application, mongo: str, _redis: str) -> None:
    """Read documents as the storage does, and open nothing: the limit of a storage in MongoDB."""
    client = AsyncMongoClient[dict[str, Any]](mongo)
    visitors = client["bench_shared"]["visitors"]
    for number in range(VISITORS):
        found = {"_id": number.to_bytes(32), "user": bytes(200)}
        await visitors.replace_one({"_id": found["_id"]}, found, upsert=True)
    driver = Driver(visitors, 5.0, {"commands": 0, "unavailable": 0})
    finds: Batcher[Sequence[bytes], list[bytes | None]] = Batcher(
        partial(find_documents, driver), driver.unavailable, driver.report
    )
    numbers = itertools.cycle(range(VISITORS))

    async def read(_request: web.Request) -> web.Response:
        number = next(numbers)
        (found,) = await finds.submit([number.to_bytes(32)], driver.deadline())
        assert found is not None
        return answer(user(number))

    app.router.add_get("/read", read)
    app.on_cleanup.append(lambda _app: client.close())


async def encrypted_cookie(app: web.Application, _mongo: str, _redis: str) -> None:
    """Store the session in the browser, encrypted."""
    key = hashlib.sha256(SECRET.encode()).digest()
    aiohttp_session.setup(app, EncryptedCookieStorage(key, max_age=TWO_WEEKS))
    add_session_routes(app)


async def redis(app: web.Application, _mongo: str, redis_url: str) -> None:
    """Store the session in Redis, as JSON that anyone with access to Redis can read."""
    # By default redis-py allows 100 connections, and the 101st visitor gets an error.
    client = Redis.from_url(redis_url, max_connections=2000)
    aiohttp_session.setup(app, RedisStorage(client, max_age=TWO_WEEKS))
    add_session_routes(app)
    app.on_cleanup.append(lambda _app: client.aclose())


async def mongo_on_pymongo(app: web.Application, mongo: str, _redis: str) -> None:
    """Store the session with this project's storage, with PyMongo's asynchronous client."""
    client = AsyncMongoClient[dict[str, Any]](mongo)
    setup(app, MongoStorage(client["bench_pymongo"]["sessions"], SECRET))
    add_session_routes(app)
    app.on_cleanup.append(lambda _app: client.close())


async def mongo_on_motor(app: web.Application, mongo: str, _redis: str) -> None:
    """Store the session with this project's storage, with Motor."""
    client: AsyncIOMotorClient[dict[str, Any]] = AsyncIOMotorClient(mongo)
    setup(app, MongoStorage(client["bench_motor"]["sessions"], SECRET))
    add_session_routes(app)

    async def close(_app: web.Application) -> None:
        client.close()

    app.on_cleanup.append(close)


STORAGES: dict[str, Prepare] = {
    "none": without_sessions,
    "find": one_find,
    "shared": shared_finds,
    "cookie": encrypted_cookie,
    "redis": redis,
    "pymongo": mongo_on_pymongo,
    "motor": mongo_on_motor,
}
