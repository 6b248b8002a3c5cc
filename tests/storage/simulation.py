"""A batcher in front of a simulated server, on a simulated clock.

asyncio's own event loop runs it, so that its turns are the real ones. Only the clock is replaced:
waiting moves it at once, and what would use the processor moves it by what it would cost.
"""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

from storage.batching import Batcher
from storage.pacing import Pace

TURN_SECONDS = 10e-6  # of an event loop that has nothing to do
COMMAND_SECONDS = 250e-6  # of the processor, for a command whatever it carries
ITEM_SECONDS = 10e-6
REQUEST_SECONDS = 60e-6
PAUSE_SECONDS = 200e-6  # of a visitor, between an answer and the next request
SERVER_SECONDS, SERVER_ITEM_SECONDS, SERVER_CORES = 60e-6, 3e-6, 2
VARIATION = 0.3  # of the round trip


class _Selector(selectors.SelectSelector):
    """Waits for no socket, and moves the clock instead of waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.idle = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        """Let the time pass."""
        assert timeout is not None, "every task waits for something that never comes"
        self.now += TURN_SECONDS + max(timeout, 0)
        self.idle += max(timeout, 0)
        return []


class _Loop(asyncio.SelectorEventLoop):
    """The event loop of asyncio on the clock of its selector."""

    def __init__(self) -> None:
        self.selector = _Selector()
        super().__init__(self.selector)

    def time(self) -> float:
        """Return the simulated time."""
        return self.selector.now

    def work(self, seconds: float) -> None:
        """Use the processor."""
        self.selector.now += seconds


class Fixed(Pace):
    """A limit that learns nothing."""

    __slots__ = ()

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit

    def learn(self, idle: float) -> None:
        """Keep the limit."""


@dataclass
class Simulation:
    """So many visitors, who send one request after another, and a server at a distance."""

    visitors: int
    round_trip: float
    seconds: float
    # Called with the time that has passed; returns the round trip, or raises what a command raises.
    distance: Callable[[float], float] | None = None
    limits: list[int] = field(default_factory=list)
    answered_at: list[float] = field(default_factory=list)
    commands: int = 0

    def run(self, pace: Pace | None = None) -> float:
        """Return the requests per second in the last three quarters of the time."""
        self._random = random.Random(1)
        self._free_at = [0.0] * SERVER_CORES
        self._loop = _Loop()
        try:
            with patch("storage.batching.idle_seconds", lambda: self._loop.selector.idle):
                self._loop.run_until_complete(self._run(pace))
        finally:
            self._loop.close()
        return self.rate(self.seconds / 4, self.seconds)

    def rate(self, begin: float, end: float) -> float:
        """Return the requests per second between two instants."""
        return sum(begin <= at < end for at in self.answered_at) / (end - begin)

    async def _run(self, pace: Pace | None) -> None:
        self._batcher: Batcher[int, int] = Batcher(self._send, RuntimeError, lambda _: None)
        if pace is not None:
            self._batcher._pace = pace
        await asyncio.gather(*(self._visit(number) for number in range(self.visitors)))
        await self._batcher.drained()

    async def _visit(self, number: int) -> None:
        loop = self._loop
        while loop.time() < self.seconds:
            await asyncio.sleep(self._random.expovariate(1 / PAUSE_SECONDS))
            loop.work(REQUEST_SECONDS / 2)
            try:
                answer = await self._batcher.submit(number, loop.time() + 60)
            except RuntimeError:
                continue
            assert answer == number
            loop.work(REQUEST_SECONDS / 2)
            self.answered_at.append(loop.time())

    async def _send(self, items: list[int], _seconds: float) -> list[int]:
        loop, count = self._loop, len(items)
        self.commands += 1
        self.limits.append(self._batcher._pace.limit)
        cost = COMMAND_SECONDS + ITEM_SECONDS * count
        loop.work(cost * 0.6)
        trip = self.round_trip if self.distance is None else self.distance(loop.time())
        trip *= 1 + VARIATION * self._random.random()
        core = self._free_at.index(min(self._free_at))
        begun_at = max(loop.time() + trip / 2, self._free_at[core])
        self._free_at[core] = begun_at + SERVER_SECONDS + SERVER_ITEM_SECONDS * count
        await asyncio.sleep(self._free_at[core] + trip / 2 - loop.time())
        loop.work(cost * 0.4)
        return items
