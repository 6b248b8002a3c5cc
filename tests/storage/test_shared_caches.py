"""Shared caches never give one visitor's answer, or cookie, to another."""

from __future__ import annotations

from typing import Any

import aiohttp_session
import pytest
from aiohttp import web
from aiohttp.typedefs import Handler
from aiohttp_session import get_session, new_session

from storage import MongoStorage, setup
from tests.storage.conftest import (
    HANDLERS,
    Clock,
    MakeStorage,
    OpenSite,
    Site,
    Visitor,
    make_app,
)
from tests.storage.handlers import UPGRADE, after

SHARED = {"Cache-Control": "public, max-age=60"}


async def _plain(_request: web.Request) -> web.StreamResponse:
    return web.Response(text="ok", headers=SHARED)


async def _redirect(_request: web.Request) -> web.StreamResponse:
    raise web.HTTPFound("/elsewhere", headers=SHARED)


async def _file(_request: web.Request) -> web.StreamResponse:
    return web.FileResponse(__file__, headers=SHARED)


async def _stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers=SHARED)
    await response.prepare(request)
    return response


async def _websocket(request: web.Request) -> web.StreamResponse:
    response = web.WebSocketResponse()
    response.headers.update(SHARED)
    await response.prepare(request)
    return response


async def _crash(_request: web.Request) -> web.StreamResponse:
    raise LookupError


ANSWERS = {
    "plain": _plain,
    "redirect": _redirect,
    "file": _file,
    "stream": _stream,
    "WebSocket": _websocket,
}


def _headers(head: str, name: str) -> list[str]:
    """Return the values of a header as they came over the wire."""
    lines = (line.partition(": ") for line in head.split("\r\n"))
    return [value for found, _colon, value in lines if found.lower() == name.lower()]


def _caching(head: str) -> tuple[list[str], list[str]]:
    return _headers(head, "Vary"), _headers(head, "Cache-Control")


@pytest.mark.parametrize("answer", [*ANSWERS.values(), _crash], ids=[*ANSWERS, "crash"])
async def test_answer_varies_by_cookie_where_the_handler_asked_for_the_session(
    answer: Handler, site: Site
) -> None:
    """Only there, and a mere read leaves what the app says of caching."""
    asked = await site.head_on_the_wire(after(len, answer), UPGRADE)
    not_asked = await site.head_on_the_wire(answer, UPGRADE)

    said = [] if answer is _crash else ["public, max-age=60"]
    assert _caching(asked) == (["Cookie"], said)
    assert _caching(not_asked) == ([], said)


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
async def test_answer_with_the_session_cookie_is_private(
    answer: Handler, site: Site, visitor: Visitor, clock: Clock
) -> None:
    """A first save, a touch, a renewal and a sign-out, on the wire."""
    await visitor.do(lambda session: session.update(name="Ada"))
    headers = UPGRADE + f"Cookie: session={visitor.cookie}\r\n".encode()
    clock.advance(2 * 3600)

    heads = [
        await site.head_on_the_wire(after(lambda s: s.update(name="Ada"), answer), UPGRADE),
        await site.head_on_the_wire(after(len, answer), headers),
        await site.head_on_the_wire(after(lambda s: s.invalidate(), answer), headers),
    ]

    for head in heads:
        assert head.count("Set-Cookie: session=") == 1
        assert _caching(head) == (["Cookie"], ["max-age=60, private"])


@pytest.mark.parametrize(
    ("said", "sent"),
    [
        pytest.param(None, "private", id="nothing"),
        pytest.param("max-age=60", "max-age=60, private", id="max-age alone"),
        pytest.param("no-cache", "no-cache, private", id="no-cache"),
        pytest.param("private", "private", id="private"),
        pytest.param("No-Store, max-age=0", "No-Store, max-age=0", id="no-store"),
        pytest.param("PUBLIC, S-MaxAge=60", "private", id="public and s-maxage"),
        pytest.param("private, s-maxage=60", "private", id="private and s-maxage"),
        pytest.param("no-store,public", "no-store", id="no-store and public"),
        pytest.param("max-age = 60 , , public", "max-age = 60, private", id="odd blanks"),
        pytest.param(
            'private="Set-Cookie, public"',
            'private="Set-Cookie, public", private',
            id="private for one header only",
        ),
        pytest.param(
            'no-cache="a\\", public", x', 'no-cache="a\\", public", x, private', id="quotes"
        ),
        pytest.param("publicity=1", "publicity=1, private", id="another word"),
    ],
)
async def test_cache_control_of_the_app_stays_without_what_makes_it_public(
    said: str | None, sent: str, site: Site
) -> None:
    """``public`` and ``s-maxage`` are removed; everything else stays as it was written."""

    async def handler(request: web.Request) -> web.Response:
        (await get_session(request))["name"] = "Ada"
        return web.Response(headers={} if said is None else {"Cache-Control": said})

    head = await site.head_on_the_wire(handler)

    assert _headers(head, "Cache-Control") == [sent]


@pytest.mark.parametrize("name", ["CDN-Cache-Control", "Surrogate-Control", "X-Accel-Expires"])
async def test_headers_that_shared_caches_obey_first_are_removed_too(name: str, site: Site) -> None:
    """They would overrule ``Cache-Control: private``."""

    async def handler(request: web.Request) -> web.Response:
        (await get_session(request))["name"] = "Ada"
        return web.Response(headers={name: "60"})

    head = await site.head_on_the_wire(handler)

    assert _headers(head, name) == []
    assert _headers(head, "Cache-Control") == ["private"]


@pytest.mark.parametrize(
    ("said", "sent"),
    [
        pytest.param(["Accept-Encoding"], ["Accept-Encoding", "Cookie"], id="another header"),
        pytest.param(["Accept, cookie"], ["Accept, cookie"], id="the cookie already"),
        pytest.param(["Accept", "COOKIE"], ["Accept", "COOKIE"], id="in a second line"),
        pytest.param(["*"], ["*"], id="everything"),
        pytest.param(["X-Cookie"], ["X-Cookie", "Cookie"], id="a longer name"),
    ],
)
async def test_vary_of_the_app_stays(said: list[str], sent: list[str], site: Site) -> None:
    """``Cookie`` is added once."""

    async def handler(request: web.Request) -> web.Response:
        await get_session(request)
        response = web.Response()
        for line in said:
            response.headers.add("Vary", line)
        return response

    assert _headers(await site.head_on_the_wire(handler), "Vary") == sent


async def test_warning_comes_once_for_a_route(
    open_site: OpenSite, storage: MongoStorage, caplog: pytest.LogCaptureFixture
) -> None:
    """It names the route and what was removed, once for any number of requests."""

    async def begin(request: web.Request) -> web.Response:
        (await get_session(request))["name"] = "Ada"
        return web.Response(headers={"Cache-Control": "public, s-maxage=60"})

    def set_up(app: web.Application, storage: MongoStorage) -> None:
        setup(app, storage)
        app.router.add_get("/shop/{item}", begin)
        app.router.add_get("/about/us", begin)

    site = await open_site(storage, set_up)
    for path in ("/shop/tea", "/shop/milk", "/about/us", "/about/us"):
        await (await site.visitor()).client.get(path)

    messages = [record.getMessage() for record in caplog.records]
    assert [message.split(":")[0] for message in messages] == ["GET /shop/{item}", "GET /about/us"]
    assert all("public, s-maxage=60 was removed from an answer" in text for text in messages)


async def test_warning_for_an_unknown_path_names_no_route(
    open_site: OpenSite, storage: MongoStorage, caplog: pytest.LogCaptureFixture
) -> None:
    """A middleware may answer for it, and ask for the session."""

    @web.middleware
    async def greet(request: web.Request, handler: Handler) -> web.StreamResponse:
        (await get_session(request))["name"] = "Ada"
        return web.Response(headers=SHARED)

    def set_up(app: web.Application, storage: MongoStorage) -> None:
        setup(app, storage)
        app.middlewares.append(greet)

    visitor = await (await open_site(storage, set_up)).visitor()

    await visitor.client.get("/no/such/path")

    assert "GET (no route): public was removed" in caplog.text


async def test_hook_of_the_app_decides_before_the_answer_is_made_private(
    open_site: OpenSite, storage: MongoStorage
) -> None:
    """A hook that forbids every cache by default still does, wherever it was added."""

    async def forbid(_request: web.Request, response: web.StreamResponse) -> None:
        response.headers.setdefault("Cache-Control", "no-store")

    def set_up(app: web.Application, storage: MongoStorage) -> None:
        setup(app, storage)
        app.on_response_prepare.append(forbid)

    site = await open_site(storage, set_up)

    async def begin(request: web.Request) -> web.Response:
        (await get_session(request))["name"] = "Ada"
        return web.Response()

    assert _headers(await site.head_on_the_wire(begin), "Cache-Control") == ["no-store"]


@pytest.mark.parametrize("cloned", [False, True], ids=["as it is", "cloned in between"])
async def test_answer_of_a_sub_app_with_a_storage_of_its_own_is_private(
    cloned: bool,  # noqa: FBT001 - a case
    open_site: OpenSite,
    make_storage: MakeStorage,
    collection: Any,
) -> None:
    """Each storage makes the response with its own cookie private."""
    staff = make_storage(collection.database["staff"], cookie_name="staff")

    @web.middleware
    async def between(request: web.Request, handler: Handler) -> web.StreamResponse:
        return await handler(request.clone() if cloned else request)

    def set_up(app: web.Application, storage: MongoStorage) -> None:
        setup(app, storage)
        app.middlewares.append(between)
        sub_app = make_app(staff, setup)
        sub_app[HANDLERS] = app[HANDLERS]
        app.add_subapp("/sub", sub_app)

    site = await open_site(make_storage(), set_up)
    visitor = await site.visitor()

    async def begin(request: web.Request) -> web.Response:
        (await new_session(request))["name"] = "Ada"
        return web.Response(headers=SHARED)

    response = await visitor.client.get(f"/sub{site.path_of(begin)}")

    assert response.headers.getall("Set-Cookie")[0].startswith("staff=")
    assert response.headers.getall("Vary") == ["Cookie"]
    assert response.headers.getall("Cache-Control") == ["max-age=60, private"]


async def test_answer_with_the_cookie_is_private_under_aiohttp_sessions_own_set_up(
    open_site: OpenSite, storage: MongoStorage
) -> None:
    """There the save itself writes the headers."""
    site = await open_site(storage, aiohttp_session.setup)

    head = await site.head_on_the_wire(after(lambda s: s.update(name="Ada"), _plain))
    again = await site.head_on_the_wire(after(len, _plain))

    assert _caching(head) == (["Cookie"], ["max-age=60, private"])
    assert _caching(again) == ([], ["public, max-age=60"])
