"""Sessions that cannot be stored and handlers that crash: nothing is written, no cookie."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler
from aiohttp_session import get_session

from storage import MongoStorage, StorageError, setup
from storage.session import MongoSession
from tests.storage.conftest import MakeStorage, OpenSite, SetUp, Visitor, each_set_up, set_cookie_of


def _set_number(session: Any) -> None:
    session[7] = "seven"


Page = Callable[[web.Request, Exception], Awaitable[web.StreamResponse]]


def _with_error_page(error: type[Exception], page: Page, set_up: SetUp = setup) -> SetUp:
    """Set sessions up inside a middleware that answers an error with a page."""

    @web.middleware
    async def pages(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except error as refusal:
            return await page(request, refusal)

    def set_up_both(app: web.Application, storage: MongoStorage) -> None:
        app.middlewares.append(pages)
        set_up(app, storage)

    return set_up_both


async def _message(_request: web.Request, error: Exception) -> web.Response:
    return web.Response(status=500, text=str(error))


async def _crash(request: web.Request) -> web.StreamResponse:
    (await get_session(request))["balance"] = 0
    raise LookupError


UNSTORABLE = [
    pytest.param(_set_number, "session key 7 is int; use text", id="key is no text"),
    pytest.param(
        lambda session: session.update(when={1, 2}),
        "session['when']: the encoder refused a set (TypeError)",
        id="value without a JSON form",
    ),
    pytest.param(
        lambda session: session.update(text="x" * 2000),
        "session['text'] brings the session to",
        id="too large",
    ),
]


def _change_and(bad_change: Callable[[MongoSession], None]) -> Callable[[MongoSession], None]:
    """Make a good change and a bad one."""

    def change(session: MongoSession) -> None:
        session["name"] = "Bob"
        bad_change(session)

    return change


@each_set_up
@pytest.mark.parametrize(("bad_change", "message"), UNSTORABLE)
async def test_unstorable_session_is_refused_by_name_before_anything_is_written(
    bad_change: Callable[[MongoSession], None],
    message: str,
    set_up: SetUp,
    open_site: OpenSite,
    make_storage: MakeStorage,
) -> None:
    """The error names the key, the app may answer it, and the stored session does not change."""
    site = await open_site(
        make_storage(max_bytes=1000), _with_error_page(StorageError, _message, set_up)
    )
    visitor = await site.visitor()
    await visitor.do(lambda session: session.update(name="Ada"))

    response = await visitor.do(_change_and(bad_change))

    assert response.status == 500
    assert (await response.text()).startswith(message)
    assert set_cookie_of(response) == []
    assert await visitor.session() == {"name": "Ada"}


@each_set_up
@pytest.mark.parametrize(("bad_change", "_message"), UNSTORABLE)
async def test_unstorable_new_session_is_answered_with_500_and_not_stored(
    bad_change: Callable[[MongoSession], None],
    _message: str,
    set_up: SetUp,
    open_site: OpenSite,
    make_storage: MakeStorage,
    collection: Any,
) -> None:
    """Without an error page aiohttp answers 500."""
    site = await open_site(make_storage(max_bytes=1000), set_up)
    visitor = await site.visitor()

    response = await visitor.do(_change_and(bad_change))

    assert response.status == 500
    assert set_cookie_of(response) == []
    assert await collection.count_documents({}) == 0


@pytest.mark.parametrize("compressed", [False, True], ids=["in chunks", "compressed"])
async def test_unstorable_session_is_refused_before_a_stream_starts(
    compressed: bool,  # noqa: FBT001 - a case
    visitor: Visitor,
    collection: Any,
) -> None:
    """The response is a complete 500, and no part of the stream."""

    async def handler(request: web.Request) -> web.StreamResponse:
        (await get_session(request))["when"] = {1, 2}
        response = web.StreamResponse()
        if compressed:
            response.enable_compression()
        await response.prepare(request)
        return response

    response = await visitor.visit(handler)

    assert response.status == 500
    assert (await response.text()).startswith("500 Internal Server Error")
    assert await collection.count_documents({}) == 0


async def test_error_page_is_not_cut_to_the_length_of_the_stream_it_replaces(
    open_site: OpenSite, storage: MongoStorage
) -> None:
    """An app may answer the error with another stream."""

    async def page(request: web.Request, _error: Exception) -> web.StreamResponse:
        (await get_session(request)).clear()  # otherwise the stream would be refused too
        response = web.StreamResponse(status=500)
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(b"refused")
        return response

    async def handler(request: web.Request) -> web.StreamResponse:
        (await get_session(request))["when"] = {1, 2}
        response = web.StreamResponse(headers={"Content-Length": "3"})
        await response.prepare(request)
        return response

    site = await open_site(storage, _with_error_page(StorageError, page))
    visitor = await site.visitor()

    assert await (await visitor.visit(handler)).text() == "refused"


@each_set_up
async def test_changes_of_a_handler_that_crashes_are_not_saved(
    set_up: SetUp, open_site: OpenSite, storage: MongoStorage
) -> None:
    """As with every storage of aiohttp-session, the 500 of aiohttp saves nothing."""
    visitor = await (await open_site(storage, set_up)).visitor()
    await visitor.do(lambda session: session.update(balance=10))

    response = await visitor.visit(_crash)

    assert response.status == 500
    assert set_cookie_of(response) == []
    assert await visitor.session() == {"balance": 10}


@pytest.mark.parametrize("kind", [web.Response, web.StreamResponse], ids=["page", "stream"])
async def test_changes_of_a_handler_that_crashes_are_not_saved_with_an_outer_error_page(
    kind: type[web.StreamResponse], open_site: OpenSite, storage: MongoStorage
) -> None:
    """Whatever a middleware outside of the sessions returns instead."""

    async def page(_request: web.Request, _error: Exception) -> web.StreamResponse:
        return kind(status=500)

    visitor = await (await open_site(storage, _with_error_page(LookupError, page))).visitor()
    await visitor.do(lambda session: session.update(balance=10))

    response = await visitor.visit(_crash)

    assert response.status == 500
    assert await visitor.session() == {"balance": 10}


@pytest.mark.parametrize("status", [500, 413])
async def test_refused_save_may_be_answered_with_a_file(
    open_site: OpenSite, make_storage: MakeStorage, status: int
) -> None:
    """The file does not try to save the refused session again."""

    async def page(_request: web.Request, _error: Exception) -> web.StreamResponse:
        return web.FileResponse(__file__, status=status)

    site = await open_site(make_storage(max_bytes=1000), _with_error_page(StorageError, page))
    visitor = await site.visitor()
    await visitor.do(lambda session: session.update(name="Ada"))

    response = await visitor.do(lambda session: session.update(name="x" * 2000))

    assert response.status == status
    assert (await response.text()).startswith('"""')
    assert await visitor.session() == {"name": "Ada"}
