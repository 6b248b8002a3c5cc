"""Calls of the driver: deadlines, tasks, the context, and errors."""

from __future__ import annotations

import asyncio
import gc
from contextvars import ContextVar
from typing import Any

import pymongo
import pytest
from pymongo import _csot
from pymongo.errors import NotPrimaryError, OperationFailure

from storage import MongoStorage, StorageUnavailable, driver
from storage.causes import REQUEST_RATE_TOO_LARGE
from storage.driver import Driver
from tests.storage.conftest import until

WHERE = ContextVar("WHERE", default="outside")


@pytest.fixture
def mongodb(storage: MongoStorage) -> Driver:
    """Return the part of the storage that calls the driver."""
    return storage._driver


def soon(seconds: float = 0.05) -> float:
    """Return a deadline."""
    return asyncio.get_running_loop().time() + seconds


class Operation:
    """Runs until the test ends it, whatever its deadline is."""

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


async def test_deadline_is_kept_when_the_driver_exceeds_it(mongodb: Driver) -> None:
    """It is an instant, which the steps of a save share."""
    mongodb.timeout_seconds = 60
    operation = Operation()

    with pytest.raises(StorageUnavailable):
        await asyncio.wait_for(mongodb.call(operation, soon()), 5)

    operation.go.set()
    await mongodb.drained()
    assert operation.ended


async def test_passed_deadline_raises_storage_unavailable(mongodb: Driver, collection: Any) -> None:
    """PyMongo refuses a negative timeout, and 0 means none."""
    for late in (soon(-1), soon(0)):
        with pytest.raises(StorageUnavailable):
            await mongodb.call(lambda: collection.find_one({}), late)
    await mongodb.drained()


@pytest.mark.parametrize(
    "said",
    [
        pytest.param("Cannot use AsyncMongoClient in different event loop.", id="PyMongo"),
        pytest.param("got Future attached to a different loop", id="Motor"),
    ],
)
async def test_client_of_another_loop_is_named_with_the_remedy(mongodb: Driver, said: str) -> None:
    """Each driver says it in its own words."""

    async def refused() -> None:
        raise RuntimeError(said)

    with pytest.raises(RuntimeError, match=r"^collection: its client was used in another event"):
        await mongodb.send(refused, 1)


async def test_other_runtime_error_of_a_driver_is_raised_as_it_is(mongodb: Driver) -> None:
    """Motor raises one after its threads have ended."""

    async def refused() -> None:
        raise RuntimeError("cannot schedule new futures after shutdown")

    with pytest.raises(RuntimeError, match=r"^cannot schedule new futures after shutdown$"):
        await mongodb.send(refused, 1)


@pytest.mark.parametrize(
    ("details", "calls"),
    [
        pytest.param({"code": 10107}, 2, id="not sent to the primary"),
        pytest.param({"code": 10107, "errorLabels": ["RetryableWriteError"]}, 1, id="sent twice"),
        pytest.param({"code": 11602}, 1, id="interrupted"),
        pytest.param({}, 1, id="without a code"),
    ],
)
async def test_command_that_the_driver_has_sent_to_another_member_is_sent_once_more(
    mongodb: Driver, details: dict[str, Any], calls: int
) -> None:
    """Only where the server says that it has refused it, and the driver has not repeated it."""
    called = []

    async def refused() -> None:
        called.append(None)
        raise NotPrimaryError("not primary", details)

    with pytest.raises(NotPrimaryError):
        await mongodb.send(refused, 1)

    assert len(called) == calls


async def test_operation_whose_time_has_passed_gets_no_more_of_it(mongodb: Driver) -> None:
    """Nobody waits for it any more."""

    async def remaining() -> float:
        return _csot.remaining() or 0

    assert await mongodb.send(remaining, -1) < 0.1


@pytest.mark.parametrize("inner", [30, None], ids=["one timeout", "one without a limit inside"])
async def test_operation_runs_in_the_context_of_its_request_without_its_timeout(
    mongodb: Driver, inner: float | None
) -> None:
    """Tracing shows it below the request; the timeout must not affect what lasts longer."""
    WHERE.set("inside a request")

    async def where() -> tuple[str, float]:
        return WHERE.get(), _csot.remaining() or 0

    with pymongo.timeout(0.001), pymongo.timeout(inner):
        found, seconds = await mongodb.call(where, soon(60))

    assert found == "inside a request"
    assert 30 < seconds <= 60


async def test_drained_waits_for_a_task_that_another_task_has_started(mongodb: Driver) -> None:
    """A failed save starts the deletion of a session whose token no browser has."""
    first, second = Operation(), Operation()

    async def both() -> None:
        await first()
        _ = mongodb.start(second())

    _ = mongodb.start(both())
    draining = asyncio.create_task(mongodb.drained())
    await asyncio.sleep(0)
    first.go.set()
    await until(lambda: first.ended)
    for _turn in range(10):
        await asyncio.sleep(0)
    assert not draining.done()
    second.go.set()
    await draining

    assert second.ended


async def test_drained_does_not_wait_for_a_call_without_a_deadline(mongodb: Driver) -> None:
    """Counting a large collection takes minutes; stopping the app does not wait for it."""
    operation = Operation()
    counting = asyncio.create_task(mongodb.call(operation))
    await until(lambda: bool(mongodb._undrained))

    await asyncio.wait_for(mongodb.drained(), 5)

    assert not counting.done()
    operation.go.set()
    assert await counting == "done"


@pytest.mark.parametrize(("pauses", "calls"), [(1, 1), (2, 2), (3, 2), (4, 3), (7, 3), (8, 4)])
async def test_throttled_command_is_repeated_after_pauses_that_double_while_there_is_time(
    mongodb: Driver, monkeypatch: pytest.MonkeyPatch, pauses: int, calls: int
) -> None:
    """After one pause, then two and four; none begins that would take all of the time left."""
    monkeypatch.setattr(driver, "THROTTLED_PAUSE_SECONDS", 1 / 1024)
    called = []

    async def refused() -> None:
        called.append(None)
        raise OperationFailure("too many", REQUEST_RATE_TOO_LARGE)

    with pytest.raises(OperationFailure):
        await mongodb.send(refused, pauses / 1024)

    assert len(called) == calls


async def test_failure_after_the_deadline_is_not_reported_by_asyncio(
    mongodb: Driver,
) -> None:
    """The visitor has a response already; asyncio must not log the error again."""
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, what: reported.append(what))
    operation = Operation(OperationFailure("too late"))
    with pytest.raises(StorageUnavailable):
        await mongodb.call(operation, soon())

    operation.go.set()
    await mongodb.drained()
    del operation
    gc.collect()

    assert reported == []


async def test_log_does_not_repeat_the_text_of_an_error_which_is_kept_as_its_cause(
    mongodb: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    """The message of a driver may contain the address, and with it the password."""
    operation = Operation(OperationFailure("mongodb://app:secret@db.example", 12345))
    operation.go.set()

    with pytest.raises(StorageUnavailable) as caught:
        await mongodb.call(operation, soon(5))

    assert isinstance(caught.value.__cause__, OperationFailure)
    assert "code 12345" in caplog.text
    assert "secret" not in caplog.text + str(caught.value)
