"""Cancelled requests among others, and closing while saves are under way."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from storage import MongoStorage
from tests.storage.conftest import MakeStorage, real_drivers
from tests.storage.direct import changed, load, loaded, stored, values

pytestmark = real_drivers


@pytest.fixture
def unfinished() -> Iterator[list[asyncio.Task[Any]]]:
    """Collect the tasks of a test; all of them must have ended with it."""
    tasks: list[asyncio.Task[Any]] = []
    yield tasks
    assert all(task.done() for task in tasks)


async def test_cancelled_requests_do_not_affect_the_others(
    storage: MongoStorage, unfinished: list[asyncio.Task[Any]]
) -> None:
    """Every second load is cancelled; the others get their sessions."""
    cookies = await stored(storage, 40)
    unfinished += [asyncio.create_task(load(storage, cookie)) for cookie in cookies]
    await asyncio.sleep(0)

    for task in unfinished[::2]:
        task.cancel()
    results = await asyncio.gather(*unfinished, return_exceptions=True)

    assert all(isinstance(result, asyncio.CancelledError) for result in results[::2])
    assert [begun.session["user_id"] for begun in results[1::2]] == list(range(1, 40, 2))  # type: ignore[union-attr]
    assert (await values(storage, cookies[0]))["user_id"] == 0


@pytest.mark.parametrize("cancelled", [False, True], ids=["answered", "cancelled"])
async def test_closing_completes_started_saves_and_leaves_no_task(
    make_storage: MakeStorage, unfinished: list[asyncio.Task[Any]], *, cancelled: bool
) -> None:
    """After aclose() every save is in MongoDB, also those of cancelled requests."""
    storage = make_storage()
    cookies, visits = await changed(storage, 100)
    before = asyncio.all_tasks()
    unfinished += [asyncio.create_task(begun.save()) for begun in visits]
    await asyncio.sleep(0)
    for task in unfinished if cancelled else []:
        task.cancel()

    await storage.aclose()

    assert (storage.queued, storage._driver._tasks) == (0, set())
    await asyncio.wait(unfinished)
    assert not {t for t in asyncio.all_tasks() - before if "storage" in repr(t.get_coro())}
    other = make_storage()
    assert all(begun.session["n"] == [1] for begun in await loaded(other, cookies))
