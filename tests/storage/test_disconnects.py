"""A visitor who disconnects during a request: a started save is completed, with all its steps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler
from aiohttp_session import get_session
from pymongo import AsyncMongoClient

from storage import MongoStorage, generate_secret, setup
from tests.storage.command_log import CommandLog
from tests.storage.conftest import (
    SESSIONS,
    MakeStorage,
    OpenSite,
    Site,
    Visitor,
    real_drivers,
    until,
)
from tests.storage.handlers import after, log_out_and_write, replace_session

OLD, NEW = generate_secret(), generate_secret()

pytestmark = real_drivers

WRITES = {"insert", "update", "delete"}


class Disconnects:
    """Visitors who disconnect while MongoDB blocks writes."""

    def __init__(self, log: CommandLog, mongo_uri: str) -> None:
        self._log = log
        self._mongo_uri = mongo_uri
        self._noticed = 0

    def set_up(self, app: web.Application, storage: MongoStorage) -> None:
        """Set the storage up inside a middleware that notices cancelled requests."""

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
    async def writes_blocked(self) -> AsyncIterator[None]:
        """Let the server answer reads, but no writes, until the context ends."""
        self._log.commands.clear()
        async with AsyncMongoClient[dict[str, Any]](self._mongo_uri) as client:
            await client.admin.command("fsync", lock=True)
            try:
                yield
            finally:
                await client.admin.command("fsyncUnlock")

    async def write_is_sent(self) -> None:
        """Wait until a write was sent to the server."""
        await until(lambda: bool(WRITES & set(self._log.names)))

    async def disconnect(self, request: asyncio.Task[Any]) -> None:
        """Close the connection, and wait until the app has noticed."""
        noticed = self._noticed
        request.cancel()
        await until(lambda: self._noticed > noticed)


@pytest.fixture
def disconnects(log: CommandLog, mongo_uri: str) -> Disconnects:
    """Let visitors disconnect during their requests."""
    return Disconnects(log, mongo_uri)


@pytest.fixture
async def site(open_site: OpenSite, storage: MongoStorage, disconnects: Disconnects) -> Site:
    """Start an app that notices cancelled requests."""
    return await open_site(storage, disconnects.set_up)


Document = dict[str, Any]


def _has_changed(before: Document, documents: list[Document]) -> bool:
    (document,) = documents
    return bool(document["_id"] == before["_id"] and document["values"] != before["values"])


def _has_moved(before: Document, documents: list[Document]) -> bool:
    return [document["_id"] == before["_id"] for document in documents] == [False]


def _is_gone(_before: Document, documents: list[Document]) -> bool:
    return not documents


SAVES = [
    pytest.param(after(lambda s: s.update(name="Bob")), _has_changed, id="change"),
    pytest.param(after(lambda s: s.update(user_id=7)), _has_moved, id="login"),
    pytest.param(after(lambda s: s.renew()), _has_moved, id="renewal"),
    pytest.param(after(log_out_and_write), _has_moved, id="written after logout"),
    pytest.param(replace_session, _has_moved, id="new session"),
    pytest.param(after(lambda s: s.invalidate()), _is_gone, id="logout"),
]


@pytest.mark.parametrize(("handler", "is_complete"), SAVES)
async def test_started_save_is_completed_after_the_visitor_disconnects(
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    is_complete: Callable[[Document, list[Document]], bool],
    disconnects: Disconnects,
    visitor: Visitor,
    collection: Any,
) -> None:
    """All of its steps are done, not only the one that was sent."""
    await visitor.do(lambda session: session.update(name="Ada"))
    before = await collection.find_one({})

    async with disconnects.writes_blocked():
        request = asyncio.create_task(visitor.visit(handler))
        await disconnects.write_is_sent()
        await disconnects.disconnect(request)
        assert await collection.find({}).to_list(None) == [before]

    async def completed() -> bool:
        return is_complete(before, await collection.find(SESSIONS).to_list(None))

    await until(completed)


async def test_queued_save_is_completed_after_the_visitor_disconnects(
    disconnects: Disconnects, site: Site, storage: MongoStorage, log: CommandLog
) -> None:
    """A save is started as soon as it waits for a batch."""
    ada, bob = await site.visitor(), await site.visitor()
    for visitor in (ada, bob):
        await visitor.do(lambda session: session.update(step=1))

    async with disconnects.writes_blocked():
        first = asyncio.create_task(ada.do(lambda session: session.update(step=2)))
        await disconnects.write_is_sent()
        second = asyncio.create_task(bob.do(lambda session: session.update(step=2)))
        await until(lambda: log.names.count("find") == 2 and storage.queued == 1)
        await disconnects.disconnect(second)
    await first

    async def stored() -> bool:
        return await bob.session() == {"step": 2}

    await until(stored)


async def test_both_steps_of_a_rotation_are_completed_after_the_visitor_disconnects(
    disconnects: Disconnects, make_storage: MakeStorage, open_site: OpenSite
) -> None:
    """Sealing again and the change are two updates; both are done."""
    visitor = await (await open_site(make_storage(secrets=OLD))).visitor()
    await visitor.do(lambda session: session.update(step=1))
    site = await open_site(make_storage(secrets=[NEW, OLD]), disconnects.set_up)
    rotated = await site.visitor(visitor.cookie)

    async with disconnects.writes_blocked():
        request = asyncio.create_task(rotated.do(lambda session: session.update(step=2)))
        await disconnects.write_is_sent()
        await disconnects.disconnect(request)

    async def stored() -> bool:
        return await visitor.session() == {} and await rotated.session() == {"step": 2}

    await until(stored)


async def test_visitor_who_disconnects_before_the_save_changes_nothing(
    disconnects: Disconnects, visitor: Visitor, site: Site
) -> None:
    """A save that was not started writes nothing; the session stays as it was."""
    await visitor.do(lambda session: session.update(step=1))
    other = await site.visitor(visitor.cookie)
    changed, never = asyncio.Event(), asyncio.Event()

    async def handler(request: web.Request) -> web.Response:
        (await get_session(request))["step"] = 2
        changed.set()
        await never.wait()
        return web.Response()

    request = asyncio.create_task(other.visit(handler))
    await changed.wait()
    await disconnects.disconnect(request)

    assert await visitor.session() == {"step": 1}
