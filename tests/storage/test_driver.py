"""The way to MongoDB on its own: deadlines, tasks and contexts of its own, one kind of failure."""

from __future__ import annotations

import asyncio
import gc
from contextvars import ContextVar
from typing import Any

import pytest
from pymongo.errors import OperationFailure

from storage import MongoStorage, StorageUnavailable
from storage.driver import Driver
from tests.storage.conftest import until

WHERE = ContextVar("WHERE", default="outside")


@pytest.fixture
def driver() -> str:
    """Use one of them: what they are asked for here is held by the test itself."""
    return "pymongo"


@pytest.fixture
def way(storage: MongoStorage) -> Driver:
    """Return the storage's way to MongoDB."""
    return storage._driver


def soon(seconds: float = 0.05) -> float:
    """Return a deadline."""
    return asyncio.get_running_loop().time() + seconds


class Operation:
    """Takes its time until the test lets it end, whatever limit the driver was given."""

    def __init__(self, error: Exception | None = None) -> None:
        self.go = asyncio.Event()
        self.ended = False
        self._error = error

    async def __call__(self) -> str:
        """Wait, then fail or succeed."""
        async with asyncio.timeout(20):
            await self.go.wait()
        self.ended = True
        if self._error is not None:
            raise self._error
        return "done"


async def test_deadline_is_kept_when_the_driver_exceeds_it(way: Driver) -> None:
    """It is an instant: each step of a save has what the one before has left of the time."""
    way.timeout_seconds = 60
    operation = Operation()

    with pytest.raises(StorageUnavailable):
        await asyncio.wait_for(way.call(operation, soon()), 5)

    operation.go.set()
    await way.drained()
    assert operation.ended


async def test_passed_deadline_raises_storage_unavailable(way: Driver, collection: Any) -> None:
    """PyMongo refuses a limit below zero, and takes zero for none at all."""
    for late in (soon(-1), soon(0)):
        with pytest.raises(StorageUnavailable):
            await way.call(lambda: collection.find_one({}), late)
    await way.drained()


async def test_operation_does_not_run_in_the_context_of_its_request(way: Driver) -> None:
    """A timeout or a variable of the request must not reach what outlives it."""
    WHERE.set("inside a request")

    async def where() -> str:
        return WHERE.get()

    assert await way.call(where, soon(5)) == "outside"


async def test_drained_waits_for_a_task_that_another_task_has_started(way: Driver) -> None:
    """As a failed save starts the end of a session that no cookie will ever name."""
    first, second = Operation(), Operation()

    async def both() -> None:
        await first()
        _ = way.start(second())

    _ = way.start(both())
    draining = asyncio.create_task(way.drained())
    await asyncio.sleep(0.01)
    first.go.set()
    await until(lambda: first.ended)
    await asyncio.sleep(0.01)
    assert not draining.done()
    second.go.set()
    await draining

    assert second.ended


async def test_drained_does_not_wait_for_a_call_without_a_deadline(way: Driver) -> None:
    """To count a large collection takes minutes; the app need not wait for that to end."""
    operation = Operation()
    counting = asyncio.create_task(way.call(operation))
    await until(lambda: bool(way._undrained))

    await asyncio.wait_for(way.drained(), 5)

    assert not counting.done()
    operation.go.set()
    assert await counting == "done"


async def test_failure_after_the_deadline_is_not_reported_by_asyncio(
    way: Driver,
) -> None:
    """Its visitor was told already; asyncio would print a traceback as well."""
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, what: reported.append(what))
    operation = Operation(OperationFailure("too late"))
    with pytest.raises(StorageUnavailable):
        await way.call(operation, soon())

    operation.go.set()
    await way.drained()
    del operation
    gc.collect()

    assert reported == []


async def test_log_names_only_the_class_of_an_error_and_its_cause_is_kept(
    way: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    """A driver's own words may hold an address, and an address a password."""
    operation = Operation(OperationFailure("mongodb://app:secret@db.example"))
    operation.go.set()

    with pytest.raises(StorageUnavailable) as caught:
        await way.call(operation, soon(5))

    assert isinstance(caught.value.__cause__, OperationFailure)
    assert "OperationFailure" in caplog.text
    assert "secret" not in caplog.text
