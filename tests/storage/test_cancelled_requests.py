"""Requests that end early beside requests that do not, and a storage that is closed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from storage import MongoStorage
from tests.storage.conftest import MakeStorage, real_drivers
from tests.storage.direct import load, loaded, stored, values

pytestmark = real_drivers


@pytest.fixture
def crowded() -> Iterator[list[asyncio.Task[Any]]]:
    """Collect tasks that a test leaves unfinished on purpose; they must have ended with it."""
    tasks: list[asyncio.Task[Any]] = []
    yield tasks
    assert all(task.done() for task in tasks)


async def test_cancelled_requests_do_not_affect_the_others(
    storage: MongoStorage, crowded: list[asyncio.Task[Any]]
) -> None:
    """Every second request is cancelled while it waits; every other one is answered."""
    cookies = await stored(storage, 40)
    crowded += [asyncio.create_task(load(storage, cookie)) for cookie in cookies]
    await asyncio.sleep(0)

    for task in crowded[::2]:
        task.cancel()
    results = await asyncio.gather(*crowded, return_exceptions=True)

    assert all(isinstance(result, asyncio.CancelledError) for result in results[::2])
    assert [begun.session["user_id"] for begun in results[1::2]] == list(range(1, 40, 2))  # type: ignore[union-attr]
    assert (await values(storage, cookies[0]))["user_id"] == 0


async def test_writes_of_cancelled_requests_are_carried_out(
    storage: MongoStorage, crowded: list[asyncio.Task[Any]]
) -> None:
    """What was handed over is written although nobody waits for it any more."""
    cookies = await stored(storage, 40)
    visits = await loaded(storage, cookies)
    for begun in visits:
        begun.session["n"].append(1)
    crowded += [asyncio.create_task(begun.save()) for begun in visits]
    await asyncio.sleep(0)

    for task in crowded:
        task.cancel()
    await asyncio.wait(crowded)
    await storage._store.drained()

    assert all(begun.session["n"] == [1] for begun in await loaded(storage, cookies))


async def test_closing_waits_for_the_writes_under_way_and_leaves_no_task(
    make_storage: MakeStorage, collection: Any
) -> None:
    """After aclose() every save is in MongoDB, the queue is empty and nothing runs on."""
    storage = make_storage()
    cookies = await stored(storage, 100)
    visits = await loaded(storage, cookies)
    for begun in visits:
        begun.session["n"].append(1)
    before = asyncio.all_tasks()
    saves = [asyncio.create_task(begun.save()) for begun in visits]
    await asyncio.sleep(0)

    await storage.aclose()

    assert (storage.queued, storage._driver._tasks) == (0, set())
    await asyncio.wait(saves)
    assert not {t for t in asyncio.all_tasks() - before if "storage" in repr(t.get_coro())}
    other = make_storage()
    assert all(begun.session["n"] == [1] for begun in await loaded(other, cookies))
