"""CPU time of one load and one save, without any server: `python -m benchmarks.micro`.

The collection is a stub that answers at once. So a slower storage shows here on any machine, and a
slower database does not. Sessions contain three values of 250 bytes together; a save changes one.
A process caches the sessions that it opened last, so visitors in the cache are measured separately
from visitors that are not in it.

Machines differ by a factor of three, so the goals are scaled by the time that deriving one key
takes on this machine.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterator, Sequence
from time import process_time

from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from aiohttp_session import Session
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from benchmarks.stub import StubCollection
from benchmarks.workload import encode, user
from storage import MongoStorage, generate_secret
from storage.cache import SESSIONS_KEPT

SESSIONS = 64
UNCACHED_VISITORS = 2 * SESSIONS_KEPT
REPEATS = 20
TRIES = 7

# The goals, and the time of HKDF-SHA256 on the machine for which they were set.
GOAL_US = {"load": 20.0, "save": 25.0}
DERIVING_US = 2.6
DERIVATIONS = 2000

# Cloned for each visit: creating one takes forty times as long.
REQUEST = make_mocked_request("GET", "/")

Step = Callable[[int], Awaitable[object]]


def values() -> dict[str, object]:
    """Return three values that need 250 bytes as JSON."""
    values: dict[str, object] = {"user": user(0), "count": 0, "note": ""}
    values["note"] = "x" * (250 - len(encode(values)))
    return values


async def signed_in(storage: MongoStorage, count: int) -> list[str]:
    """Store this number of sessions; return the cookies."""
    cookies = []
    for _ in range(count):
        session, response = await storage.new_session(), web.Response()
        session.update(values())
        await storage.save_session(REQUEST.clone(), response, session)
        cookies.append(f"{storage.cookie_name}={response.cookies[storage.cookie_name].value}")
    return cookies


def requests_with(cookies: Sequence[str]) -> list[web.Request]:
    """Return one request per cookie."""
    return [REQUEST.clone(headers={"Cookie": cookie}) for cookie in cookies]


async def alone(step: Step) -> None:
    """Run the steps one after another."""
    for number in range(SESSIONS):
        await step(number)


async def together(step: Step) -> None:
    """Run all steps at once, each in its own task, as a server does with requests."""
    await asyncio.gather(*(step(number) for number in range(SESSIONS)))


async def nothing(_number: int) -> None:
    """Measure the cost of the measurement."""


async def handed_over(number: int) -> None:
    """Measure the cost of running something in its own task, which every storage needs.

    A command runs in one if it must not be cancelled when the visitor disconnects.
    """
    await asyncio.create_task(nothing(number))


class Steps:
    """A load and a save for each session, prepared outside of the measured time."""

    def __init__(self, storage: MongoStorage, requests: Sequence[web.Request]) -> None:
        """Prepare one request and one response per session."""
        self._storage = storage
        # A clone has not parsed its cookie yet; parsing is part of a load.
        self._requests = [request.clone() for request in requests]
        self._responses = [web.Response() for _ in requests]
        self._sessions: list[Session] = []

    async def load(self, number: int) -> None:
        """Load one session."""
        assert not (await self._storage.load_session(self._requests[number])).new

    async def change(self) -> None:
        """Load every session and change one value of each."""
        for request in self._requests:
            session = await self._storage.load_session(request)
            session["count"] += 1
            self._sessions.append(session)

    async def save(self, number: int) -> None:
        """Save one changed session."""
        await self._storage.save_session(
            self._requests[number], self._responses[number], self._sessions[number]
        )


async def cpu_us(
    way: Callable[[Step], Awaitable[None]], prepare: Callable[[], Awaitable[Step]]
) -> float:
    """Return the smallest CPU time of one step in microseconds, because noise only adds time."""
    return min([await _one_try(way, prepare) for _ in range(TRIES)])


async def _one_try(
    way: Callable[[Step], Awaitable[None]], prepare: Callable[[], Awaitable[Step]]
) -> float:
    used = 0.0
    for _ in range(REPEATS):
        step = await prepare()
        before = process_time()
        await way(step)
        used += process_time() - before
    return used / REPEATS / SESSIONS * 1e6


def deriving_us() -> float:
    """Return the CPU time of deriving one key, in microseconds."""

    def one_try() -> float:
        before = process_time()
        for _ in range(DERIVATIONS):
            HKDF(algorithm=SHA256(), length=32, salt=bytes(32), info=bytes(80)).derive(bytes(32))
        return (process_time() - before) / DERIVATIONS * 1e6

    return min(one_try() for _ in range(TRIES))


async def main() -> None:
    """Measure and print."""
    slower = deriving_us() / DERIVING_US
    print(f"deriving a key takes {slower * DERIVING_US:.1f} µs here: goals times {slower:.2f}")
    task = await cpu_us(alone, _always(handed_over)) - await cpu_us(alone, _always(nothing))
    print(f"a task takes {task:.1f} µs of asyncio's own: in each line 'alone' below", flush=True)
    storage = MongoStorage(StubCollection(), generate_secret())
    for whose, count in (("known", SESSIONS), ("not known", UNCACHED_VISITORS)):
        rounds = _in_turn(requests_with(await signed_in(storage, count)))
        await _measure(storage, whose, rounds, slower)
    await storage.aclose()


async def _measure(
    storage: MongoStorage, whose: str, rounds: Iterator[Sequence[web.Request]], slower: float
) -> None:
    async def load() -> Step:
        return Steps(storage, next(rounds)).load

    async def save() -> Step:
        steps = Steps(storage, next(rounds))
        await steps.change()
        return steps.save

    for name, way in (("alone", alone), (f"{SESSIONS} at once", together)):
        floor = await cpu_us(way, _always(nothing))
        for what, prepare in (("load", load), ("save", save)):
            cost = await cpu_us(way, prepare) - floor
            goal = GOAL_US[what] * slower
            print(f"{what}  {whose:<10}{name:<12}{cost:6.1f} µs, goal {goal:.1f}", flush=True)


def _always(step: Step) -> Callable[[], Awaitable[Step]]:
    async def prepare() -> Step:
        return step

    return prepare


def _in_turn(requests: Sequence[web.Request]) -> Iterator[Sequence[web.Request]]:
    """Yield this number of requests at a time, for ever, the longest unused first."""
    starts = itertools.cycle(range(0, len(requests), SESSIONS))
    return (requests[start : start + SESSIONS] for start in starts)


if __name__ == "__main__":
    asyncio.run(main())
