"""Shared trips: what is asked for while a trip is under way leaves together in the next one.

A database command costs the same Python time whatever it carries, so a busy process sends few
large ones. This module knows nothing of sessions or of MongoDB: it carries items and brings back
results. With nothing under way an item leaves at once; a lone request waits for nobody.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from dataclasses import dataclass, fields
from typing import Generic, TypeVar

from storage.errors import StorageUnavailable

Item = TypeVar("Item")
Result = TypeVar("Result")
# The item, the instant at which its waiter gives up, and what the waiter waits for. A bare tuple:
# one is made for every load and every save.
Passenger = tuple[Item, float, asyncio.Future[Result]]
Carry = Callable[[list[Item], float], Awaitable[Sequence[Result | BaseException]]]

logger: logging.Logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TripBounds:
    """How much one process asks of MongoDB at once; loads and saves are counted apart.

    in_flight: commands under way at a time. One is best beside the server; a distant one may want
        more, so that its answers do not wait for each other.
    batch: the most loads, or saves, that one command carries.
    queue: how many may wait; beyond it the answer is ``StorageUnavailable`` at once, since whoever
        joined would wait longer than a visitor does.

    What another choice does, ``make bench-trips`` shows.
    """

    in_flight: int = 1
    batch: int = 64
    queue: int = 10_000

    def __post_init__(self) -> None:
        """Refuse what is no whole number above zero."""
        for field in fields(self):
            value = getattr(self, field.name)
            if type(value) is not int or value < 1:
                raise ValueError(
                    f"TripBounds.{field.name}: {value!r} is not accepted; use a whole number from 1"
                )


class Trips(Generic[Item, Result]):
    """A queue in front of ``carry``.

    ``carry(items, seconds)`` runs in a task of its own, one batch at a time. It returns one result
    or one exception for each item, in order; what it raises befalls the whole batch, and each
    passenger gets a ``StorageUnavailable`` of its own. ``seconds`` is the longest time that any of
    them can still wait.

    With ``keep_cancelled`` an item whose waiter was cancelled travels all the same.
    """

    def __init__(
        self, carry: Carry[Item, Result], bounds: TripBounds, *, keep_cancelled: bool = False
    ) -> None:
        """Prepare; needs no running event loop."""
        self._carry = carry
        self._bounds = bounds
        self._keep_cancelled = keep_cancelled
        self._waiting: deque[Passenger[Item, Result]] = deque()
        self._under_way: list[list[Passenger[Item, Result]]] = []
        self._porters: set[asyncio.Task[None]] = set()
        self._alarm: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """Return how many items wait for a trip; those under way are not counted."""
        return len(self._waiting)

    def submit(self, item: Item, deadline: float) -> asyncio.Future[Result]:
        """Send an item on the next trip; ``deadline`` is an instant of the running loop's clock.

        The future raises ``StorageUnavailable`` at the deadline, or at once when the queue is full.
        Cancelling it never disturbs the trip.
        """
        loop = asyncio.get_running_loop()
        arrival: asyncio.Future[Result] = loop.create_future()
        if len(self._waiting) >= self._bounds.queue:
            arrival.set_exception(StorageUnavailable())
            return arrival
        self._waiting.append((item, deadline, arrival))
        if self._alarm is None or deadline < self._alarm.when():
            self._set_alarm(loop, deadline)
        if len(self._porters) < self._bounds.in_flight:
            # In a context of its own: the trip serves many requests, not the one that starts it.
            porter = loop.create_task(self._run(), context=Context())
            if not porter.done():  # an eager task may be, with all that was to be carried
                self._porters.add(porter)
        return arrival

    async def drained(self) -> None:
        """Wait until nothing is waiting or under way."""
        while self._porters:
            await asyncio.wait(self._porters)
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    async def _run(self) -> None:
        try:
            while batch := self._board():
                self._under_way.append(batch)
                await self._travel(batch)
                self._under_way = [other for other in self._under_way if other is not batch]
        finally:
            # Here, not in a callback: an item submitted in between would wait for ever.
            self._porters -= {asyncio.current_task()}

    def _board(self) -> list[Passenger[Item, Result]]:
        batch: list[Passenger[Item, Result]] = []
        while self._waiting and len(batch) < self._bounds.batch:
            passenger = self._waiting.popleft()
            arrival = passenger[2]
            if not arrival.done() or (self._keep_cancelled and arrival.cancelled()):
                batch.append(passenger)
        return batch

    async def _travel(self, batch: list[Passenger[Item, Result]]) -> None:
        now = asyncio.get_running_loop().time()
        seconds = max(deadline for _item, deadline, _arrival in batch) - now
        results: Sequence[Result | BaseException]
        try:
            results = await self._carry([item for item, _deadline, _arrival in batch], seconds)
        except Exception as error:  # noqa: BLE001 - one trip's failure must not end the porter
            logger.warning("a command shared by %d failed: %s", len(batch), type(error).__name__)
            results = [_unavailable(error) for _ in batch]
        for (_item, _deadline, arrival), result in zip(batch, results, strict=True):
            if arrival.done():
                continue
            if isinstance(result, BaseException):
                arrival.set_exception(result)
            else:
                arrival.set_result(result)

    def _set_alarm(self, loop: asyncio.AbstractEventLoop, when: float) -> None:
        # One timer for all: nearly always every passenger has arrived before it rings.
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = loop.call_at(when, self._ring, context=Context())

    def _ring(self) -> None:
        self._alarm = None
        loop = asyncio.get_running_loop()
        aboard = [passenger for batch in self._under_way for passenger in batch]
        for _item, deadline, arrival in (*aboard, *self._waiting):
            if deadline <= loop.time() and not arrival.done():
                # Answers the waiter only. A driver's operation is never cancelled: cancelled ones
                # can leave PyMongo's topology lock held for ever.
                arrival.set_exception(StorageUnavailable())
        expected = [d for _item, d, arrival in (*aboard, *self._waiting) if not arrival.done()]
        if expected:
            self._set_alarm(loop, min(expected))


def _unavailable(cause: BaseException) -> StorageUnavailable:
    error = StorageUnavailable()
    error.__cause__ = cause
    return error
