"""A response of status 500 and above saves nothing: half of a piece of work is not stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from storage import MongoStorage
from tests.storage.conftest import Clock, OpenSite, SetUp, Site, Visitor, each_set_up, set_cookie_of
from tests.storage.handlers import after


async def _raised(_request: web.Request) -> web.StreamResponse:
    raise web.HTTPBadGateway


async def _returned(_request: web.Request) -> web.StreamResponse:
    return web.Response(status=500)


async def _file(_request: web.Request) -> web.StreamResponse:
    return web.FileResponse(__file__, status=503)


async def _stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(status=500)
    await response.prepare(request)
    await response.write(b"failed")
    return response


async def _stream_not_started(_request: web.Request) -> web.StreamResponse:
    return web.StreamResponse(status=599)


async def _sent_already(request: web.Request) -> web.StreamResponse:
    response = web.Response(status=500)
    await response.prepare(request)
    return response


FAILURES = [
    pytest.param(_raised, id="raised"),
    pytest.param(_returned, id="returned"),
    pytest.param(_file, id="file"),
    pytest.param(_stream, id="stream"),
    pytest.param(_stream_not_started, id="stream left to the server"),
]


CHANGES = [
    pytest.param(lambda session: session.update(balance=0), id="change"),
    pytest.param(lambda session: session.update(user_id="ada"), id="sign-in"),
    pytest.param(lambda session: session.renew(), id="renewal"),
    pytest.param(lambda session: session.invalidate(), id="sign-out"),
    pytest.param(len, id="due touch"),
]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(
    "answer", [*FAILURES, pytest.param(_sent_already, id="sent by the handler")]
)
async def test_response_of_500_and_above_saves_nothing_and_sends_no_cookie(
    answer: Handler, change: Callable[[Any], Any], visitor: Visitor, clock: Clock, collection: Any
) -> None:
    """However the handler answers, the stored session stays as it was, byte for byte."""
    await visitor.do(lambda session: session.update(balance=10))
    before = await collection.find({}).to_list(None)
    clock.advance(2 * 3600)

    response = await visitor.visit(after(change, answer))

    assert response.status >= 500
    assert set_cookie_of(response) == []
    assert await collection.find({}).to_list(None) == before


@pytest.mark.parametrize("answer", FAILURES)
async def test_failed_request_begins_no_session(
    answer: Handler, site: Site, visitor: Visitor, collection: Any
) -> None:
    """No document that no cookie names, and no cookie that names no document."""
    response = await visitor.visit(after(lambda session: session.update(name="Ada"), answer))

    assert response.status >= 500
    assert set_cookie_of(response) == []
    assert await collection.count_documents({}) == 0


@each_set_up
@pytest.mark.parametrize("page", [web.Response, web.StreamResponse], ids=["page", "stream"])
async def test_error_page_of_a_middleware_saves_nothing(
    page: type[web.StreamResponse], set_up: SetUp, open_site: OpenSite, storage: MongoStorage
) -> None:
    """A middleware inside of the sessions may answer for a handler that crashed."""

    @web.middleware
    async def pages(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except LookupError:
            return page(status=500)

    def set_up_both(app: web.Application, storage: MongoStorage) -> None:
        set_up(app, storage)
        app.middlewares.append(pages)

    async def crash(_request: web.Request) -> web.StreamResponse:
        raise LookupError

    visitor = await (await open_site(storage, set_up_both)).visitor()
    await visitor.do(lambda session: session.update(balance=10))

    response = await visitor.visit(after(lambda session: session.update(balance=0), crash))

    assert response.status == 500
    assert await visitor.session() == {"balance": 10}


@pytest.mark.parametrize("status", [400, 404, 429, 499])
async def test_response_below_500_saves(status: int, visitor: Visitor) -> None:
    """A refusal is an answer that the app gave: what it noted in the session is kept."""

    async def refuse(_request: web.Request) -> web.StreamResponse:
        return web.Response(status=status)

    await visitor.visit(after(lambda session: session.update(attempts=1), refuse))

    assert await visitor.session() == {"attempts": 1}
