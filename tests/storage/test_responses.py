"""Every kind of response: the session is saved before the response starts."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import aiohttp_session
import pytest
from aiohttp import ClientError, WSMsgType, web
from aiohttp.typedefs import Handler
from aiohttp_session import get_session

from storage import MongoStorage, setup
from tests.storage.conftest import (
    Clock,
    CommandLog,
    OpenSite,
    Site,
    Visitor,
    cookie_of,
    set_cookie_of,
)
from tests.storage.direct import values
from tests.storage.handlers import UPGRADE, after, file, plain, redirect, stream


async def _refusal(_request: web.Request) -> web.StreamResponse:
    raise web.HTTPForbidden


async def _stream_not_started(_request: web.Request) -> web.StreamResponse:
    return web.StreamResponse()


async def _websocket(request: web.Request) -> web.StreamResponse:
    response = web.WebSocketResponse()
    await response.prepare(request)
    return response


ORDINARY = [
    pytest.param(plain, "200", id="plain response"),
    pytest.param(redirect, "302", id="redirect raised"),
    pytest.param(_refusal, "403", id="403 raised"),
]
STREAMED = [
    pytest.param(file, "200", id="file"),
    pytest.param(stream, "200", id="stream"),
    pytest.param(_stream_not_started, "200", id="stream left to the server"),
    pytest.param(_websocket, "101", id="WebSocket handshake"),
]


def _headers(status: str) -> bytes:
    """Return the headers of a WebSocket handshake for a 101."""
    return UPGRADE if status == "101" else b""


def _session_cookie(head: str) -> str:
    """Return the value of the only session cookie of a response."""
    lines = [line for line in head.split("\r\n") if line.startswith("Set-Cookie: session=")]
    assert len(lines) == 1
    return lines[0].removeprefix("Set-Cookie: session=").split(";")[0]


@pytest.mark.parametrize(("answer", "status"), [*ORDINARY, *STREAMED])
async def test_every_kind_of_response_carries_the_cookie_of_a_new_session(
    answer: Handler, status: str, site: Site, log: CommandLog
) -> None:
    """One command stores the session, and the cookie is sent with the headers."""
    log.commands.clear()
    handler = after(lambda session: session.update(name="Ada"), answer)

    head = await site.head_on_the_wire(handler, _headers(status))

    assert head.startswith(f"HTTP/1.1 {status} ")
    assert log.names == ["insert"]
    visitor = await site.visitor(cookie=_session_cookie(head))
    assert await visitor.session() == {"name": "Ada"}


@pytest.mark.parametrize(("answer", "status"), [*ORDINARY, *STREAMED])
async def test_every_kind_of_response_saves_a_change_and_can_log_out(
    answer: Handler, status: str, site: Site, visitor: Visitor, collection: Any
) -> None:
    """A nested change is saved without a cookie; a logout deletes session and cookie."""
    await visitor.do(lambda session: session.update(cart=[1]))
    headers = (_headers(status)) + f"Cookie: session={visitor.cookie}\r\n".encode()

    changed = await site.head_on_the_wire(after(lambda s: s["cart"].append(2), answer), headers)
    stored = await visitor.session()
    ended = await site.head_on_the_wire(after(lambda s: s.invalidate(), answer), headers)

    assert "Set-Cookie" not in changed
    assert stored == {"cart": [1, 2]}
    assert _session_cookie(ended) == '""'
    assert "Max-Age=0" in ended
    assert await collection.count_documents({}) == 0


@pytest.mark.parametrize(("answer", "status"), [*ORDINARY, *STREAMED])
async def test_every_kind_of_response_carries_a_due_touch_and_a_renewal(
    answer: Handler, status: str, site: Site, visitor: Visitor, clock: Clock
) -> None:
    """A visitor who only downloads files stays signed in; cookies are sent with the headers."""
    await visitor.do(lambda session: session.update(name="Ada"))
    headers = _headers(status) + f"Cookie: session={visitor.cookie}\r\n".encode()
    clock.advance(2 * 3600)

    touched = await site.head_on_the_wire(after(len, answer), headers)
    again = await site.head_on_the_wire(after(len, answer), headers)
    renewed = await site.head_on_the_wire(after(lambda s: s.renew(), answer), headers)

    assert _session_cookie(touched) == visitor.cookie
    assert "Set-Cookie" not in again
    assert _session_cookie(renewed) != visitor.cookie
    assert await visitor.session() == {}
    other = await site.visitor(cookie=_session_cookie(renewed))
    assert await other.session() == {"name": "Ada"}


@pytest.mark.parametrize(("answer", "_status"), ORDINARY)
async def test_aiohttp_session_setup_saves_ordinary_responses(
    answer: Handler, _status: str, open_site: OpenSite, storage: MongoStorage
) -> None:
    """It is enough for an app without streams and files."""
    site = await open_site(storage, aiohttp_session.setup)
    visitor = await site.visitor()

    await visitor.visit(after(lambda session: session.update(cart=[1]), answer))
    await visitor.visit(after(lambda session: session["cart"].append(2), answer))

    assert await visitor.session() == {"cart": [1, 2]}


@pytest.mark.parametrize(("answer", "status"), STREAMED)
async def test_aiohttp_session_setup_does_not_save_before_streamed_responses(
    answer: Handler, status: str, open_site: OpenSite, storage: MongoStorage, collection: Any
) -> None:
    """This is the reason for ``storage.setup``."""
    site = await open_site(storage, aiohttp_session.setup)

    head = await site.head_on_the_wire(
        after(lambda session: session.update(name="Ada"), answer),
        _headers(status),
    )

    assert head.startswith(f"HTTP/1.1 {status} ")
    assert "Set-Cookie" not in head
    assert await collection.count_documents({}) == 0


async def test_streamed_response_keeps_the_cookies_that_the_app_sets(site: Site) -> None:
    """The session cookie is added to the others."""

    async def handler(request: web.Request) -> web.StreamResponse:
        (await get_session(request))["name"] = "Ada"
        response = web.StreamResponse()
        response.set_cookie("theme", "dark")
        response.headers.add("Set-Cookie", "flavour=oat")
        await response.prepare(request)
        return response

    head = await site.head_on_the_wire(handler)

    assert head.count("Set-Cookie: ") == 3
    assert "Set-Cookie: theme=dark" in head
    assert "Set-Cookie: flavour=oat" in head
    assert len(_session_cookie(head)) == 43


async def test_session_that_begins_after_its_stream_has_started_is_not_stored(
    site: Site, collection: Any
) -> None:
    """The headers were sent without its cookie."""

    async def handler(request: web.Request) -> web.StreamResponse:
        session = await get_session(request)
        response = await stream(request)
        session["name"] = "Ada"
        return response

    head = await site.head_on_the_wire(handler)
    await site.server.close()

    assert "Set-Cookie" not in head
    assert await collection.count_documents({}) == 0


@pytest.mark.parametrize("change", ["renewal", "sign-in"])
async def test_http_exception_after_a_stream_has_started_ends_no_session(
    site: Site, visitor: Visitor, change: str
) -> None:
    """No new token is stored, because its cookie could not be sent."""
    await visitor.do(lambda session: session.update(name="Ada"))
    before = visitor.cookie

    async def handler(request: web.Request) -> web.StreamResponse:
        session = await get_session(request)
        response = web.WebSocketResponse()
        await response.prepare(request)
        if change == "renewal":
            session.renew()  # type: ignore[attr-defined]
        else:
            session["user_id"] = "ada"
        raise web.HTTPForbidden

    async with visitor.client.ws_connect(site.path_of(handler)) as socket:
        assert (await socket.receive()).type in (WSMsgType.CLOSED, WSMsgType.ERROR, WSMsgType.CLOSE)

    assert visitor.cookie == before
    assert await visitor.session() == {"name": "Ada"}


async def test_websocket_handler_reads_the_session(site: Site, visitor: Visitor) -> None:
    """The session is loaded before the handshake and can be read during the connection."""
    await visitor.do(lambda session: session.update(name="Ada"))

    async def handler(request: web.Request) -> web.StreamResponse:
        session = await get_session(request)
        response = web.WebSocketResponse()
        await response.prepare(request)
        await response.send_str(session["name"])
        await response.close()
        return response

    async with visitor.client.ws_connect(site.path_of(handler)) as socket:
        assert await socket.receive_str() == "Ada"


async def _sent_already(request: web.Request) -> web.StreamResponse:
    response = web.Response(text="too early")
    await response.prepare(request)
    return response


async def _raised_too_late(request: web.Request) -> web.StreamResponse:
    refusal = web.HTTPForbidden()
    await refusal.prepare(request)
    raise refusal


async def _nothing(_request: web.Request) -> web.StreamResponse:
    return None  # type: ignore[return-value]


TOO_EARLY = "RuntimeError: the handler has sent its response before the session could be saved"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        pytest.param(_sent_already, TOO_EARLY, id="sent too early"),
        pytest.param(_raised_too_late, TOO_EARLY, id="raised too late"),
        pytest.param(_nothing, "returned NoneType, not a response", id="no response"),
    ],
)
async def test_response_that_comes_too_late_to_save_is_reported_in_the_log(
    site: Site, answer: Handler, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says what is wrong and what to do."""
    with suppress(ClientError):
        visitor = await site.visitor()
        await visitor.visit(after(lambda session: session.update(a=1), answer))

    assert reason in caplog.text


async def test_stream_of_a_handler_without_session_gets_no_cookie(visitor: Visitor) -> None:
    """A handler that does not use the session is not affected."""
    answer = await visitor.visit(stream)

    assert await answer.read() == b"piece by piece"
    assert "Set-Cookie" not in answer.headers


async def test_handler_without_session_may_send_its_response_itself(visitor: Visitor) -> None:
    """Nothing has to be saved."""
    answer = await visitor.visit(_sent_already)

    assert await answer.text() == "too early"


def _set_up_inside_pages(app: web.Application, storage: MongoStorage) -> None:
    """Set up sessions inside of a middleware that answers in place of every handler."""

    @web.middleware
    async def pages(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            await handler(request)
        except LookupError:
            return web.Response(text="a page for a crash")
        except web.HTTPException as error:
            return web.Response(status=error.status, text="a page")
        return web.Response(status=int(request.query.get("status", 200)), text="a page")

    app.middlewares.append(pages)
    setup(app, storage)


@pytest.mark.parametrize("answer", [plain, redirect, _refusal])
async def test_response_of_a_middleware_outside_of_the_sessions_carries_the_cookie(
    answer: Handler, open_site: OpenSite, storage: MongoStorage
) -> None:
    """Otherwise a sign-in behind a page for redirects or refusals would sign the visitor out."""
    visitor = await (await open_site(storage, _set_up_inside_pages)).visitor()

    async def sign_in(request: web.Request) -> web.StreamResponse:
        (await get_session(request))["user_id"] = "ada"
        return await answer(request)

    response = await visitor.visit(sign_in)

    assert await response.text() == "a page"
    assert response.headers["Cache-Control"] == "private"
    assert cookie_of(response).value == visitor.cookie
    assert visitor.cookie is not None
    assert await values(storage, visitor.cookie) == {"user_id": "ada"}


async def test_page_outside_of_the_sessions_for_a_failure_carries_no_cookie(
    open_site: OpenSite, storage: MongoStorage
) -> None:
    """A status of 500 and above never does, and for a handler that crashed nothing was saved."""
    visitor = await (await open_site(storage, _set_up_inside_pages)).visitor()

    async def crash(request: web.Request) -> web.StreamResponse:
        (await get_session(request))["user_id"] = "ada"
        raise LookupError

    async def sign_in(request: web.Request) -> web.StreamResponse:
        (await get_session(request))["user_id"] = "ada"
        return web.Response()

    responses = [
        await visitor.visit(crash),
        await visitor.visit(sign_in, params={"status": 500}),
    ]

    assert [response.status for response in responses] == [200, 500]
    assert [set_cookie_of(response) for response in responses] == [[], []]
