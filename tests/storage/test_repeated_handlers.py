"""A middleware that was added before ``setup`` calls the handler again, as one that retries."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler
from aiohttp_session import get_session

from storage import MongoStorage, SessionNotSerializable, setup
from tests.storage.conftest import HANDLERS, OpenSite, Visitor, cookie_of


@web.middleware
async def _retry(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        response = await handler(request)
    except (LookupError, SessionNotSerializable, web.HTTPConflict):
        return await handler(request)
    return await handler(request) if response.status in (202, 500) else response


def _set_up_inside(app: web.Application, storage: MongoStorage) -> None:
    app.middlewares.append(_retry)
    setup(app, storage)


@pytest.fixture
async def visitor(open_site: OpenSite, storage: MongoStorage) -> Visitor:
    """Open a browser at an app that calls a handler again."""
    return await (await open_site(storage, _set_up_inside)).visitor()


def _twice(change: Callable[[Any], Any], first: Callable[[Any], web.Response]) -> Handler:
    """Return a handler that changes the session, and answers with ``first`` at its first call."""
    left = [first]

    async def handler(request: web.Request) -> web.StreamResponse:
        request.app[HANDLERS][request.match_info["number"]] = handler
        session = await get_session(request)
        change(session)
        return left.pop()(session) if left else web.Response(text="done")

    return handler


def _count(session: Any) -> None:
    session["n"] = session.get("n", 0) + 1


def _crashes(_session: Any) -> web.Response:
    raise LookupError


def _raises_409(_session: Any) -> web.Response:
    raise web.HTTPConflict


def _cannot_be_saved(session: Any) -> web.Response:
    session["since"] = object()
    return web.Response()


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(_crashes, id="crashes"),
        pytest.param(lambda _session: web.Response(status=500), id="answers 500"),
        pytest.param(_cannot_be_saved, id="cannot be saved"),
    ],
)
@pytest.mark.parametrize("stored", [{}, {"n": 10}], ids=["new session", "stored session"])
async def test_call_after_a_failed_one_begins_with_what_is_stored_and_is_saved(
    visitor: Visitor, first: Callable[[Any], web.Response], stored: dict[str, int]
) -> None:
    """Nothing of the first call is saved, and everything of the second one is."""
    await visitor.do(lambda session: session.update(stored))

    response = await visitor.visit(_twice(_count, first))

    assert await response.text() == "done"
    assert await visitor.session() == {"n": stored.get("n", 0) + 1}


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(lambda _session: web.Response(status=202), id="returns"),
        pytest.param(_raises_409, id="raises"),
    ],
)
async def test_call_after_a_saved_one_goes_on_with_its_session(
    visitor: Visitor, first: Callable[[Any], web.Response]
) -> None:
    """The answer that is sent carries the cookie, although the first answer had it."""
    response = await visitor.visit(_twice(_count, first))

    assert cookie_of(response).value == visitor.cookie
    assert await visitor.session() == {"n": 2}


async def test_sign_out_by_a_handler_that_is_called_again_is_carried_out(
    visitor: Visitor, collection: Any
) -> None:
    """An answer that says "signed out" is true."""
    await visitor.do(lambda session: session.update(user_id=7))

    response = await visitor.visit(_twice(lambda session: session.invalidate(), _crashes))

    assert await response.text() == "done"
    assert cookie_of(response)["max-age"] == "0"
    assert await collection.count_documents({}) == 0


@pytest.mark.parametrize("first_fails", [False, True], ids=["first call ends", "first call fails"])
async def test_parallel_calls_share_a_session_that_is_saved_with_the_first_one(
    open_site: OpenSite, storage: MongoStorage, *, first_fails: bool
) -> None:
    """A limit: whatever the second call answers, its changes are dropped if the first one fails."""
    second_has_begun, first_has_ended = asyncio.Event(), asyncio.Event()
    calls: list[web.Request] = []

    @web.middleware
    async def call_twice(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not request.query:
            return await handler(request)
        first, second = (asyncio.ensure_future(handler(request)) for _ in range(2))
        await asyncio.wait([first])
        first_has_ended.set()
        return await second if first_fails else first.result()

    async def both(request: web.Request) -> web.StreamResponse:
        request.app[HANDLERS][request.match_info["number"]] = both
        calls.append(request)
        is_first = len(calls) == 1
        session = await get_session(request)
        if is_first:
            session["first"] = True
            await asyncio.wait_for(second_has_begun.wait(), 30)
            return _crashes(session) if first_fails else web.Response()
        session["second"] = True
        second_has_begun.set()
        await asyncio.wait_for(first_has_ended.wait(), 30)
        return web.Response()

    def set_up(app: web.Application, storage: MongoStorage) -> None:
        app.middlewares.append(call_twice)
        setup(app, storage)

    visitor = await (await open_site(storage, set_up)).visitor()
    await visitor.do(lambda session: session.update(n=1))

    response = await visitor.visit(both, params={"twice": "yes"})

    assert response.status == 200
    changes = {} if first_fails else {"first": True, "second": True}
    assert await visitor.session() == {"n": 1, **changes}
