"""A command appears below a request that it serves, and no timeout of a request reaches it."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Any

import pymongo
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from aiohttp.typedefs import Handler

from storage import MongoStorage, setup, watch_session
from tests.storage.command_log import CommandLog, ids_asked_for
from tests.storage.conftest import OpenSite, Visitor, real_drivers
from tests.storage.direct import load, stored

pytestmark = real_drivers

# Where OpenTelemetry and Sentry keep the span of the request.
SPAN: ContextVar[str] = ContextVar("SPAN", default="none")


class Spans(CommandLog):
    """Records with each command the span that an instrumented driver would put it below."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, str]] = []

    def started(self, event: Any) -> None:
        """Record a command and the span of its context."""
        super().started(event)
        self.seen.append((event.command_name, SPAN.get()))


@pytest.fixture
def log() -> Spans:
    """Log the commands with their spans."""
    return Spans()


@web.middleware
async def _trace(request: web.Request, handler: Handler) -> web.StreamResponse:
    SPAN.set(request.headers.get("X-Span", "none"))
    seconds = request.headers.get("X-Timeout")
    with pymongo.timeout(None if seconds is None else float(seconds)):
        return await handler(request)


@pytest.fixture
async def visitor(open_site: OpenSite, storage: MongoStorage) -> Visitor:
    """Open a browser at a site that begins a span for each request."""

    def set_up(app: web.Application, storage: MongoStorage) -> None:
        app.middlewares.append(_trace)
        setup(app, storage)

    return await (await open_site(storage, set_up)).visitor()


async def test_each_command_is_below_the_request_that_it_serves(
    visitor: Visitor, log: Spans
) -> None:
    """A load, a first save, a change, a renewal and a sign-out."""
    steps = {
        "begin": lambda session: session.update(n=1),
        "change": lambda session: session.update(n=2),
        "renew": lambda session: session.renew(),
        "end": lambda session: session.invalidate(),
    }
    log.seen.clear()

    for span, change in steps.items():
        await visitor.do(change, headers={"X-Span": span})

    assert list(dict.fromkeys(log.seen)) == [
        ("insert", "begin"),
        ("find", "change"),
        ("update", "change"),
        ("find", "renew"),
        ("insert", "renew"),
        ("findAndModify", "renew"),
        ("find", "end"),
        ("delete", "end"),
    ]


async def test_shared_command_is_below_one_of_the_requests_that_it_serves(
    storage: MongoStorage, log: Spans
) -> None:
    """Not below the one that was there when the process became busy."""
    cookies = await stored(storage, 12)
    groups: dict[bytes, str] = {}
    log.seen.clear()
    log.commands.clear()

    async def load(number: int) -> None:
        SPAN.set(str(number))
        request = _request(cookies[number])
        session = await storage.load_session(request)
        groups[session.snapshot.stored.identifier] = str(number)  # type: ignore[attr-defined]

    first = [asyncio.create_task(load(number)) for number in range(4)]
    await asyncio.sleep(0)  # they are submitted, and leave together
    await asyncio.sleep(0)
    later = [asyncio.create_task(load(number)) for number in range(4, 12)]
    await asyncio.gather(*first, *later)

    assert len(log.seen) > 1
    for (_name, span), (_same, command) in zip(log.seen, log.commands, strict=True):
        assert span in {groups[bytes(identifier)] for identifier in ids_asked_for(command)}


async def test_look_at_watched_sessions_is_below_no_request(
    storage: MongoStorage, log: Spans
) -> None:
    """Not below the connection that was the first to watch one."""
    (cookie,) = await stored(storage, 1)
    begun = await load(storage, cookie)
    log.seen.clear()
    SPAN.set("connection")

    async with watch_session(begun.request):
        pass

    assert log.seen == [("find", "none")]


async def test_index_work_is_below_no_request(storage: MongoStorage, log: Spans) -> None:
    """Under aiohttp-session's own set-up the first save begins it."""
    SPAN.set("request")

    await storage.start_index_work()

    assert ("createIndexes", "none") in log.seen
    assert {span for _name, span in log.seen} == {"none"}


def _request(cookie: str) -> web.Request:
    return make_mocked_request("GET", "/", headers={"Cookie": f"session={cookie}"})


async def test_timeout_of_a_request_ends_no_command_of_the_storage(visitor: Visitor) -> None:
    """Others may share the command, and a save lasts longer than its request."""
    await visitor.do(lambda session: session.update(n=1))
    short_timeout = {"X-Timeout": "0.000001"}

    changed = await visitor.do(lambda session: session.update(n=2), headers=short_timeout)
    renewed = await visitor.do(lambda session: session.renew(), headers=short_timeout)

    assert (changed.status, renewed.status) == (200, 200)
    assert await visitor.session() == {"n": 2}
