"""What of one person's session reaches the next person at the same browser: nothing."""

from __future__ import annotations

from contextvars import ContextVar

import pytest
from aiohttp import web
from aiohttp_session import get_session

from storage import MongoStorage
from tests.storage.conftest import MakeStorage, OpenSite, Visitor

LANGUAGE: ContextVar[str] = ContextVar("LANGUAGE")


@pytest.fixture
async def remembered(visitor: Visitor) -> Visitor:
    """Sign Ada in for a year."""

    async def sign_in(request: web.Request) -> web.Response:
        session = await get_session(request)
        session["user_id"] = "ada"
        session.max_age = 365 * 24 * 3600
        return web.Response()

    await visitor.visit(sign_in)
    return visitor


async def test_remember_me_of_one_owner_does_not_reach_the_next(
    remembered: Visitor, storage: MongoStorage
) -> None:
    """Whoever signs in after Ada gets the storage's own idle timeout."""
    await remembered.do(lambda session: session.update(user_id="bob"))

    assert await (await remembered.do(lambda session: session.max_age)).json() == storage.max_age


async def test_remember_me_does_not_outlive_invalidate(
    remembered: Visitor, storage: MongoStorage
) -> None:
    """What is written after invalidate() is a new session with the storage's idle timeout."""

    async def start_anew(request: web.Request) -> web.Response:
        session = await get_session(request)
        session.invalidate()
        session["seen"] = True
        return web.Response()

    await remembered.visit(start_anew)

    assert await (await remembered.do(lambda session: session.max_age)).json() == storage.max_age


async def test_remember_me_that_the_next_owner_chose_is_kept(remembered: Visitor) -> None:
    """A max_age set by the request that signs Bob in is Bob's."""

    async def sign_in(request: web.Request) -> web.Response:
        session = await get_session(request)
        session["user_id"] = "bob"
        session.max_age = 60
        return web.Response()

    await remembered.visit(sign_in)

    assert await (await remembered.do(lambda session: session.max_age)).json() == 60


async def test_describe_runs_in_the_context_of_its_request(
    make_storage: MakeStorage, open_site: OpenSite
) -> None:
    """An app may keep the visitor's language in a context variable; describe can read it."""
    storage = make_storage(describe=lambda _request: LANGUAGE.get())
    visitor = await (await open_site(storage)).visitor()

    async def sign_in(request: web.Request) -> web.Response:
        LANGUAGE.set("Portuguese")
        (await get_session(request))["user_id"] = "ada"
        return web.Response()

    await visitor.visit(sign_in)

    assert [info.label async for info in storage.sessions("ada")] == ["Portuguese"]
