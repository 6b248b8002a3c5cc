"""A visitor who goes away in the middle of a request leaves no half-written session."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler
from aiohttp_session import get_session, new_session
from pymongo import AsyncMongoClient

from storage import MongoStorage, generate_secret, setup
from tests.storage.command_log import CommandLog
from tests.storage.conftest import MakeStorage, OpenSite, Site, Visitor, real_drivers, until
from tests.storage.overlap import Change

OLD, NEW = generate_secret(), generate_secret()

pytestmark = real_drivers

WRITES = {"insert", "update", "delete"}


class Departures:
    """Visitors who leave while MongoDB holds their writes up."""

    def __init__(self, log: CommandLog, mongo_uri: str) -> None:
        self._log = log
        self._mongo_uri = mongo_uri
        self._noticed = 0

    def set_up(self, app: web.Application, storage: MongoStorage) -> None:
        """Set the storage up below a middleware that notices who has left."""

        @web.middleware
        async def watch(request: web.Request, handler: Handler) -> web.StreamResponse:
            try:
                return await handler(request)
            except asyncio.CancelledError:
                self._noticed += 1
                raise

        app.middlewares.append(watch)
        setup(app, storage)

    @asynccontextmanager
    async def writes_held_up(self) -> AsyncIterator[None]:
        """Let the server answer reads, but no write, until the context ends."""
        self._log.commands.clear()
        async with AsyncMongoClient[dict[str, Any]](self._mongo_uri) as client:
            await client.admin.command("fsync", lock=True)
            try:
                yield
            finally:
                await client.admin.command("fsyncUnlock")

    async def write_is_sent(self) -> None:
        """Wait until a write is on its way to the server."""
        await until(lambda: bool(WRITES & set(self._log.names)))

    async def leave(self, request: asyncio.Task[Any]) -> None:
        """Let the visitor leave, and wait until the app's server has noticed."""
        noticed = self._noticed
        request.cancel()
        await until(lambda: self._noticed > noticed)


@pytest.fixture
def departures(log: CommandLog, mongo_uri: str) -> Departures:
    """Let visitors leave in the middle of their requests."""
    return Departures(log, mongo_uri)


@pytest.fixture
async def site(open_site: OpenSite, storage: MongoStorage, departures: Departures) -> Site:
    """Start an app that notices who has left."""
    return await open_site(storage, departures.set_up)


async def _supersede(request: web.Request) -> web.StreamResponse:
    (await new_session(request))["name"] = "Bob"
    return web.Response()


def _changing(change: Change) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handler(request: web.Request) -> web.StreamResponse:
        change(await get_session(request))  # type: ignore[arg-type]
        return web.Response()

    return handler


def _begin_anew(session: Any) -> None:
    session.invalidate()
    session["name"] = "Bob"


Document = dict[str, Any]


def _has_changed(before: Document, documents: list[Document]) -> bool:
    (document,) = documents
    return bool(document["_id"] == before["_id"] and document["values"] != before["values"])


def _has_moved(before: Document, documents: list[Document]) -> bool:
    return [document["_id"] == before["_id"] for document in documents] == [False]


def _is_gone(_before: Document, documents: list[Document]) -> bool:
    return not documents


SAVES = [
    pytest.param(_changing(lambda s: s.update(name="Bob")), _has_changed, id="change"),
    pytest.param(_changing(lambda s: s.update(user_id=7)), _has_moved, id="login"),
    pytest.param(_changing(lambda s: s.renew()), _has_moved, id="renewal"),
    pytest.param(_changing(_begin_anew), _has_moved, id="begun anew"),
    pytest.param(_supersede, _has_moved, id="new session"),
    pytest.param(_changing(lambda s: s.invalidate()), _is_gone, id="logout"),
]


@pytest.mark.parametrize(("handler", "is_complete"), SAVES)
async def test_started_save_is_completed_after_the_visitor_disconnects(
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    is_complete: Callable[[Document, list[Document]], bool],
    departures: Departures,
    visitor: Visitor,
    collection: Any,
) -> None:
    """All of its steps are done, not only the one that was under way."""
    await visitor.do(lambda session: session.update(name="Ada"))
    before = await collection.find_one({})

    async with departures.writes_held_up():
        request = asyncio.create_task(visitor.visit(handler))
        await departures.write_is_sent()
        await departures.leave(request)
        assert await collection.find({}).to_list(None) == [before]

    async def completed() -> bool:
        return is_complete(before, await collection.find({}).to_list(None))

    await until(completed)


async def test_queued_save_is_completed_after_the_visitor_disconnects(
    departures: Departures, site: Site, storage: MongoStorage, log: CommandLog
) -> None:
    """Being handed over is enough: the write need not have left for the server yet."""
    ada, bob = await site.visitor(), await site.visitor()
    for visitor in (ada, bob):
        await visitor.do(lambda session: session.update(step=1))

    async with departures.writes_held_up():
        first = asyncio.create_task(ada.do(lambda session: session.update(step=2)))
        await departures.write_is_sent()
        second = asyncio.create_task(bob.do(lambda session: session.update(step=2)))
        await until(lambda: log.names.count("find") == 2 and storage.queued == 1)
        await departures.leave(second)
    await first

    async def stored() -> bool:
        return await bob.session() == {"step": 2}

    await until(stored)


async def test_both_steps_of_a_rotation_are_completed_after_the_visitor_disconnects(
    departures: Departures, make_storage: MakeStorage, open_site: OpenSite
) -> None:
    """A save after a rotation has two steps; both are done."""
    visitor = await (await open_site(make_storage(secrets=OLD))).visitor()
    await visitor.do(lambda session: session.update(step=1))
    site = await open_site(make_storage(secrets=[NEW, OLD]), departures.set_up)
    mover = await site.visitor(visitor.cookie)

    async with departures.writes_held_up():
        request = asyncio.create_task(mover.do(lambda session: session.update(step=2)))
        await departures.write_is_sent()
        await departures.leave(request)

    async def stored() -> bool:
        return await visitor.session() == {} and await mover.session() == {"step": 2}

    await until(stored)


async def test_visitor_who_disconnects_before_the_save_changes_nothing(
    departures: Departures, visitor: Visitor, site: Site
) -> None:
    """What was never handed over is not written, and the session serves on."""
    await visitor.do(lambda session: session.update(step=1))
    leaver = await site.visitor(visitor.cookie)
    changed, never = asyncio.Event(), asyncio.Event()

    async def handler(request: web.Request) -> web.Response:
        (await get_session(request))["step"] = 2
        changed.set()
        await never.wait()
        return web.Response()

    request = asyncio.create_task(leaver.visit(handler))
    await changed.wait()
    await departures.leave(request)

    assert await visitor.session() == {"step": 1}
