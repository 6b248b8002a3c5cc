"""The `Set-Cookie` lines of responses."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler
from aiohttp_session import get_session

from storage import MongoStorage, setup
from storage.session import MongoSession
from tests.storage.conftest import (
    MakeStorage,
    OpenSite,
    Site,
    cookie_of,
    set_cookie_of,
)


def fill(session: MongoSession) -> None:
    """Store something."""
    session["a"] = 1


def behind_https(app: web.Application, storage: MongoStorage) -> None:
    """Set up sessions inside a middleware that sets the scheme, as behind a TLS proxy."""

    @web.middleware
    async def set_scheme(request: web.Request, handler: Handler) -> web.StreamResponse:
        return await handler(request.clone(scheme="https"))

    app.middlewares.append(set_scheme)
    setup(app, storage)


@pytest.fixture
def driver() -> str:
    """Use mongomock, the fastest driver: cookies do not depend on MongoDB."""
    return "mongomock"


async def _fill(request: web.Request) -> web.StreamResponse:
    (await get_session(request))["a"] = 1
    return web.Response()


async def _touch(request: web.Request) -> web.StreamResponse:
    (await get_session(request)).max_age = 60
    return web.Response()


async def _invalidate(request: web.Request) -> web.StreamResponse:
    (await get_session(request)).invalidate()
    return web.Response()


async def lines_of(site: Site) -> list[str]:
    """Return the lines that set, touch and delete a cookie.

    The cookie is sent as a header: the client of the tests uses http, where it would not send a
    Secure cookie.
    """
    client = (await site.visitor()).client
    created = set_cookie_of(await client.get(site.path_of(_fill)))
    headers = {"Cookie": created[0].split(";")[0]}
    touched = set_cookie_of(await client.get(site.path_of(_touch), headers=headers))
    deleted = set_cookie_of(await client.get(site.path_of(_invalidate), headers=headers))
    return [*created, *touched, *deleted]


def parts(line: str) -> set[str]:
    """Return what a `Set-Cookie` line says; the order of attributes has no meaning."""
    return set(line.split("; "))


@pytest.mark.parametrize(
    ("options", "over_https", "attributes"),
    [
        pytest.param({}, False, "Path=/; HttpOnly; SameSite=Lax", id="defaults over http"),
        pytest.param({}, True, "Path=/; HttpOnly; SameSite=Lax; Secure", id="defaults over https"),
        pytest.param(
            {"secure": True}, False, "Path=/; HttpOnly; SameSite=Lax; Secure", id="secure"
        ),
        pytest.param({"secure": False}, True, "Path=/; HttpOnly; SameSite=Lax", id="never secure"),
        pytest.param(
            {"cookie_name": "__Host-s"},
            False,
            "Path=/; HttpOnly; SameSite=Lax; Secure",
            id="always Secure with __Host-",
        ),
        pytest.param(
            {"cookie_name": "__Secure-s", "domain": "example.com", "path": "/"},
            False,
            "Path=/; Domain=example.com; HttpOnly; SameSite=Lax; Secure",
            id="always Secure with __Secure-",
        ),
        pytest.param(
            {"samesite": "None"},
            False,
            "Path=/; HttpOnly; SameSite=None; Secure",
            id="samesite None",
        ),
        pytest.param(
            {"samesite": "Strict", "httponly": False}, False, "Path=/; SameSite=Strict", id="strict"
        ),
        pytest.param(
            {"samesite": "None", "partitioned": True},
            False,
            "Path=/; HttpOnly; SameSite=None; Partitioned; Secure",
            id="partitioned",
        ),
        pytest.param({"domain": ""}, False, "Path=/; HttpOnly; SameSite=Lax", id="empty domain"),
        pytest.param({"samesite": None}, False, "Path=/; HttpOnly", id="no SameSite"),
        pytest.param({"path": "/shop"}, False, "Path=/shop; HttpOnly; SameSite=Lax", id="path"),
    ],
)
async def test_cookie_is_set_touched_and_deleted_with_the_same_attributes(
    open_site: OpenSite,
    make_storage: MakeStorage,
    options: dict[str, Any],
    over_https: bool,  # noqa: FBT001
    attributes: str,
) -> None:
    """A browser ignores a deletion with other attributes than those of the cookie."""
    site = await open_site(make_storage(**options), behind_https if over_https else setup)

    created, touched, deleted = await lines_of(site)

    name = options.get("cookie_name", "session")
    token = created.removeprefix(f"{name}=")[:43]
    always = set(attributes.split("; "))
    gone = {"Max-Age=0", "expires=Thu, 01 Jan 1970 00:00:00 GMT"}
    assert parts(created) == {f"{name}={token}", "Max-Age=1209600", *always}
    assert parts(touched) == {f"{name}={token}", "Max-Age=60", *always}
    assert parts(deleted) == {f'{name}=""', *gone, *always}


async def test_cookie_without_max_age_ends_with_the_browser(
    open_site: OpenSite, make_storage: MakeStorage
) -> None:
    """Neither Max-Age nor Expires is sent."""
    visitor = await (await open_site(make_storage(max_age=None))).visitor()

    (line,) = set_cookie_of(await visitor.do(fill))

    assert parts(line) - {line.split("; ")[0]} == {"Path=/", "HttpOnly", "SameSite=Lax"}


async def test_max_age_below_a_second_is_rounded_up_in_the_cookie(
    open_site: OpenSite, make_storage: MakeStorage
) -> None:
    """Max-Age has whole seconds (RFC 6265), and 0 would delete the cookie."""
    visitor = await (await open_site(make_storage(max_age=0.25))).visitor()

    assert cookie_of(await visitor.do(fill))["max-age"] == "1"


async def test_session_cookie_does_not_replace_the_cookies_of_the_app(site: Site) -> None:
    """Cookies set by `set_cookie` and as headers stay; the session cookie is sent once."""

    async def handler(request: web.Request) -> web.StreamResponse:
        (await get_session(request))["a"] = 1
        response = web.Response()
        response.set_cookie("theme", "dark")
        response.headers.add("Set-Cookie", "language=eo; Path=/")
        response.headers.add("Set-Cookie", "session_hint=seen; Path=/")
        response.headers.add("Set-Cookie", "session=forged; Path=/")
        return response

    lines = set_cookie_of(await (await site.visitor()).visit(handler))

    assert sorted(line.split("=")[0] for line in lines) == [
        "language", "session", "session_hint", "theme",
    ]  # fmt: skip
    assert not any("forged" in line for line in lines)


async def test_another_cookie_name_is_another_session(
    open_site: OpenSite, make_storage: MakeStorage
) -> None:
    """Two storages with one collection and two cookie names do not affect each other."""
    first = await (await open_site(make_storage(cookie_name="one"))).visitor()
    await first.do(fill)
    site = await open_site(make_storage(cookie_name="two"))
    visitor = await site.visitor()

    response = await visitor.do(dict)

    assert await response.json() == {}
    assert await first.session() == {"a": 1}


async def test_cookie_wins_over_a_del_cookie_of_the_same_response(site: Site) -> None:
    """Code for an older cookie of this name, which deletes it at sign-in, signs nobody out."""

    async def handler(request: web.Request) -> web.StreamResponse:
        (await get_session(request))["a"] = 1
        response = web.Response()
        response.del_cookie("session")
        return response

    visitor = await site.visitor()
    lines = set_cookie_of(await visitor.visit(handler))

    assert len(lines) == 1
    assert await visitor.session() == {"a": 1}


async def test_outer_middleware_finds_the_cookie_in_the_cookies_of_the_response(
    open_site: OpenSite, storage: MongoStorage
) -> None:
    """As aiohttp's own `set_cookie` leaves it there."""
    seen: list[str] = []

    @web.middleware
    async def outer(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        seen.extend(morsel.OutputString() for morsel in response.cookies.values())
        return response

    def set_up(app: web.Application, storage: MongoStorage) -> None:
        app.middlewares.append(outer)
        setup(app, storage)

    visitor = await (await open_site(storage, set_up)).visitor()

    assert set_cookie_of(await visitor.do(fill)) == seen
    assert len(seen) == 1
