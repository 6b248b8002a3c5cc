"""No memory is kept of finished requests, and no task is left after closing."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import AsyncMongoClient

from storage import MongoStorage, StorageUnavailable, save_session, setup, tokens
from tests.storage.command_log import CommandLog
from tests.storage.conftest import SECRET, Clock, MakeStorage, close, real_drivers
from tests.storage.direct import load, stored, values, visit


def objects() -> int:
    """Count the objects that the garbage collector tracks, without the tokens read last."""
    tokens._read.cache_clear()
    tokens.document_id.cache_clear()
    gc.collect()
    return len(gc.get_objects())


def tasks_of_the_storage() -> list[asyncio.Task[Any]]:
    """Return the tasks that run the storage's own code."""
    return [task for task in asyncio.all_tasks() if "storage." in repr(task.get_coro())]


@real_drivers
async def test_memory_stays_constant_over_many_visitors(
    make_storage: MakeStorage, clock: Clock, log: CommandLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First saves, touches, changes, logouts and unknown tokens leave no objects behind."""
    # Caches are bounded; with smaller bounds the test reaches them sooner.
    monkeypatch.setattr("storage.saving.KNOWN_TOUCHES", 50)
    monkeypatch.setattr("storage.cache.SESSIONS_KEPT", 50)
    storage = make_storage(operation_timeout=60)

    async def visitors(rounds: int) -> int:
        for _round in range(rounds):
            cookies = await stored(storage, 200)
            clock.advance(7200)
            for change in (lambda s: s["n"].append(2), lambda s: s.clear(), len):
                await asyncio.gather(*(visit(storage, cookie, change) for cookie in cookies))
        log.commands.clear()
        return objects()

    before = await visitors(rounds=2)
    after = await visitors(rounds=4)

    assert after - before < 200
    assert storage.queued == 0


async def test_memory_stays_constant_over_many_failed_saves_of_one_connection(
    storage: MongoStorage, log: CommandLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A WebSocket that tries to save while MongoDB is away leaves no objects behind."""
    (cookie,) = await stored(storage, 1)
    begun = await load(storage, cookie)
    monkeypatch.setattr(storage._driver, "timeout_seconds", -1.0)

    async def failed(count: int) -> int:
        for number in range(count):
            begun.session["n"] = [number]
            with pytest.raises(StorageUnavailable):
                await save_session(begun.request)
            await storage._store.drained()
        log.commands.clear()
        return objects()

    # What is under way in the driver comes and goes: up to 400 objects.
    before = min([await failed(20) for _ in range(6)])
    after = min([await failed(20) for _ in range(6)])

    assert after - before < 200


@real_drivers
async def test_memory_stays_constant_over_many_cancelled_requests(
    make_storage: MakeStorage, log: CommandLog
) -> None:
    """Requests that are cancelled during their load leave no objects behind."""
    storage = make_storage(operation_timeout=60)
    cookie = await visit(storage, None, lambda session: session.update(a=1))

    async def cancelled(rounds: int) -> int:
        for _round in range(rounds):
            tasks = [asyncio.create_task(load(storage, cookie)) for _ in range(200)]
            await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await storage._store.drained()
        tasks.clear()
        log.commands.clear()
        return objects()

    before = await cancelled(rounds=2)
    after = await cancelled(rounds=8)

    assert after - before < 200
    assert (storage.queued, tasks_of_the_storage()) == (0, [])


@pytest.mark.parametrize("client_class", [AsyncIOMotorClient, AsyncMongoClient])
async def test_no_task_is_left_after_closing_without_mongodb(
    client_class: Any, unused_tcp_port: int
) -> None:
    """Closing ends the retries of the index work too."""
    client = client_class("127.0.0.1", unused_tcp_port)
    storage = MongoStorage(client["app"]["sessions"], SECRET, operation_timeout=0.05)
    app = web.Application()
    setup(app, storage)
    async with TestServer(app):
        with pytest.raises(StorageUnavailable):
            await values(storage, "A" * 43)

    assert tasks_of_the_storage() == []
    await close(client)
