"""A session that cannot be stored, and a handler that crashes: nothing is written, no cookie."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import aiohttp_session
import pytest
from aiohttp import web
from aiohttp.typedefs import Handler
from aiohttp_session import get_session

from storage import MongoStorage, StorageError, setup
from storage.session import MongoSession
from tests.storage.conftest import MakeStorage, OpenSite, Visitor, set_cookie_of

SetUp = Callable[[web.Application, MongoStorage], None]
SET_UPS = [
    pytest.param(setup, id="our set-up"),
    pytest.param(aiohttp_session.setup, id="plain set-up"),
]


def _set_number(session: Any) -> None:
    session[7] = "seven"


UNSTORABLE = [
    pytest.param(_set_number, "session key 7 is int; use text", id="key that is no text"),
    pytest.param(
        lambda session: session.update(when={1, 2}),
        "session['when']: the encoder refused a set (TypeError)",
        id="value that JSON has no form for",
    ),
    pytest.param(
        lambda session: session.update(text="x" * 2000),
        "session['text'] brings the session to",
        id="too large",
    ),
]


def _with_an_error_page(set_up: SetUp) -> SetUp:
    """Let an outermost middleware answer what the storage refuses, as apps do."""

    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except StorageError as refusal:
            return web.Response(status=500, text=str(refusal))

    def set_up_both(app: web.Application, storage: MongoStorage) -> None:
        app.middlewares.append(answer)
        set_up(app, storage)

    return set_up_both


def _spoiled(spoil: Callable[[MongoSession], None]) -> Callable[[MongoSession], None]:
    """Make one good change and a bad one."""

    def change(session: MongoSession) -> None:
        session["name"] = "Bob"
        spoil(session)

    return change


@pytest.mark.parametrize("set_up", SET_UPS)
@pytest.mark.parametrize(("spoil", "message"), UNSTORABLE)
async def test_unstorable_session_is_refused_by_name_before_anything_is_written(
    spoil: Callable[[MongoSession], None],
    message: str,
    set_up: SetUp,
    open_site: OpenSite,
    make_storage: MakeStorage,
) -> None:
    """The error names the key, the app may answer it, and what was stored stays as it was."""
    site = await open_site(make_storage(max_bytes=1000), _with_an_error_page(set_up))
    visitor = await site.visitor()
    await visitor.do(lambda session: session.update(name="Ada"))

    response = await visitor.do(_spoiled(spoil))

    assert response.status == 500
    assert (await response.text()).startswith(message)
    assert set_cookie_of(response) == []
    assert await visitor.session() == {"name": "Ada"}


@pytest.mark.parametrize("set_up", SET_UPS)
@pytest.mark.parametrize(("spoil", "_message"), UNSTORABLE)
async def test_unstorable_new_session_is_answered_with_500_and_not_stored(
    spoil: Callable[[MongoSession], None],
    _message: str,
    set_up: SetUp,
    open_site: OpenSite,
    make_storage: MakeStorage,
    collection: Any,
) -> None:
    """An app without an error page answers 500 too; the connection does not just break."""
    site = await open_site(make_storage(max_bytes=1000), set_up)
    visitor = await site.visitor()

    response = await visitor.do(_spoiled(spoil))

    assert response.status == 500
    assert set_cookie_of(response) == []
    assert await collection.count_documents({}) == 0


@pytest.mark.parametrize("compressed", [False, True], ids=["in chunks", "compressed"])
async def test_unstorable_session_is_refused_before_a_stream_starts(
    compressed: bool,  # noqa: FBT001 - a case
    visitor: Visitor,
    collection: Any,
) -> None:
    """The answer is a whole and honest 500, not the first half of a stream."""

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


async def test_error_page_is_not_cut_to_the_length_of_the_stream_that_did_not_start(
    open_site: OpenSite, storage: MongoStorage
) -> None:
    """An app may answer the refusal with a stream of its own, in chunks."""

    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except StorageError:
            (await get_session(request)).clear()  # a stream would be refused for it again
            page = web.StreamResponse(status=500)
            page.enable_chunked_encoding()
            await page.prepare(request)
            await page.write(b"refused")
            return page

    def set_up(app: web.Application, storage: MongoStorage) -> None:
        app.middlewares.append(answer)
        setup(app, storage)

    async def handler(request: web.Request) -> web.StreamResponse:
        (await get_session(request))["when"] = {1, 2}
        response = web.StreamResponse(headers={"Content-Length": "3"})
        await response.prepare(request)
        return response

    visitor = await (await open_site(storage, set_up)).visitor()

    assert await (await visitor.visit(handler)).text() == "refused"


@pytest.mark.parametrize("set_up", SET_UPS)
async def test_changes_of_a_handler_that_crashes_are_not_saved(
    set_up: SetUp, open_site: OpenSite, storage: MongoStorage
) -> None:
    """As with every storage of aiohttp-session: a 500 is no answer that the app gave."""
    site = await open_site(storage, set_up)
    visitor = await site.visitor()
    await visitor.do(lambda session: session.update(balance=10))

    async def handler(request: web.Request) -> web.StreamResponse:
        (await get_session(request))["balance"] = 0
        raise LookupError

    response = await visitor.visit(handler)

    assert response.status == 500
    assert set_cookie_of(response) == []
    assert await visitor.session() == {"balance": 10}


@pytest.mark.parametrize("page", [web.Response, web.StreamResponse], ids=["page", "stream"])
async def test_changes_of_a_handler_that_crashes_are_not_saved_with_an_outer_error_page(
    page: type[web.StreamResponse], open_site: OpenSite, storage: MongoStorage
) -> None:
    """Whatever a middleware outside of the sessions answers in the handler's place."""

    @web.middleware
    async def pages(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except LookupError:
            return page(status=500)

    def set_up(app: web.Application, storage: MongoStorage) -> None:
        app.middlewares.append(pages)
        setup(app, storage)

    visitor = await (await open_site(storage, set_up)).visitor()
    await visitor.do(lambda session: session.update(balance=10))

    async def handler(request: web.Request) -> web.StreamResponse:
        (await get_session(request))["balance"] = 0
        raise LookupError

    response = await visitor.visit(handler)

    assert response.status == 500
    assert await visitor.session() == {"balance": 10}


async def test_refused_save_may_be_answered_with_a_file(
    open_site: OpenSite, make_storage: MakeStorage
) -> None:
    """The page that is sent instead does not try to save the same session again."""

    @web.middleware
    async def pages(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except StorageError:
            return web.FileResponse(__file__, status=500)

    def set_up(app: web.Application, storage: MongoStorage) -> None:
        app.middlewares.append(pages)
        setup(app, storage)

    visitor = await (await open_site(make_storage(max_bytes=1000), set_up)).visitor()
    await visitor.do(lambda session: session.update(name="Ada"))

    response = await visitor.do(lambda session: session.update(name="x" * 2000))

    assert response.status == 500
    assert (await response.text()).startswith('"""')
    assert await visitor.session() == {"name": "Ada"}
