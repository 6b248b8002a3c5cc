"""A real nginx that caches: two people never see each other's page or cookie."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from http.cookies import SimpleCookie
from pathlib import Path
from typing import NamedTuple

import pytest
from aiohttp import ClientSession, DummyCookieJar, web
from aiohttp_session import get_session
from multidict import CIMultiDictProxy

from storage import MongoStorage, setup
from tests.deploy.conftest import Router, run_nginx
from tests.processes import free_port
from tests.storage.conftest import Clock, OpenSite, Site

pytestmark = pytest.mark.long

# It caches every answer that nothing forbids to cache, for longer than the test takes.
SERVER = """
proxy_cache_path {folder}/cache keys_zone=pages:1m;
server {{
    listen 127.0.0.1:{port};
    location / {{
        proxy_pass http://127.0.0.1:{app_port};
        proxy_cache pages;
        proxy_cache_valid any 10m;
        {more}
        add_header X-Cache $upstream_cache_status always;
    }}
}}
"""
# Without the second line nginx itself never caches an answer that sets a cookie.
RULES = {"as it is": "", "caches cookies": "proxy_ignore_headers Set-Cookie;"}
SAID = {"the app says nothing": {}, "the app says public": {"Cache-Control": "public, max-age=600"}}
ANSWERS = ("plain", "stream", "file")


class Seen(NamedTuple):
    """What a visitor gets: the page, the session cookie, and whether the cache had it."""

    page: str
    cookie: str | None
    cached: bool


@pytest.fixture(params=SAID.values(), ids=SAID)
async def site(
    request: pytest.FixtureRequest, open_site: OpenSite, storage: MongoStorage, tmp_path: Path
) -> Site:
    """Start an app whose pages name the visitor, each page in three kinds of answers."""
    said: dict[str, str] = request.param

    async def answer(request: web.Request, page: str) -> web.StreamResponse:
        kind = request.match_info["kind"]
        if kind == "file":
            file = tmp_path / f"{page}.txt"
            file.write_text(page)
            return web.FileResponse(file, headers=said)
        if kind == "plain":
            return web.Response(text=page, headers=said)
        response = web.StreamResponse(headers=said)
        await response.prepare(request)
        await response.write(page.encode())
        return response

    async def sign_in(request: web.Request) -> web.StreamResponse:
        session = await get_session(request)
        session["user_id"] = request.headers["X-Name"]
        return await answer(request, session["user_id"])

    async def profile(request: web.Request) -> web.StreamResponse:
        return await answer(request, (await get_session(request)).get("user_id", "nobody"))

    async def sign_out(request: web.Request) -> web.StreamResponse:
        (await get_session(request)).invalidate()
        return await answer(request, "bye")

    async def about(request: web.Request) -> web.StreamResponse:
        return await answer(request, "about")

    def set_up(app: web.Application, storage: MongoStorage) -> None:
        setup(app, storage)
        for handler in (sign_in, profile, sign_out, about):
            app.router.add_get(f"/{handler.__name__}/{{kind}}", handler)

    return await open_site(storage, set_up)


@pytest.fixture(params=RULES.values(), ids=RULES)
def cache(request: pytest.FixtureRequest, site: Site, tmp_path: Path) -> Iterator[str]:
    """Run nginx in front of the app; return its address."""
    port = free_port()
    router = Router(port, port, Path(), tmp_path / "error.log", tmp_path / "nginx.conf")
    servers = SERVER.format(
        folder=tmp_path, port=port, app_port=site.server.port, more=request.param
    )
    with run_nginx(router, servers, tmp_path):
        yield router.http.replace("app.example", "127.0.0.1")


@pytest.fixture
async def browser(cache: str) -> AsyncIterator[ClientSession]:
    """Open a client that keeps no cookies: each request says what it sends."""
    async with ClientSession(cache, cookie_jar=DummyCookieJar()) as session:
        yield session


async def visit(
    browser: ClientSession, path: str, cookie: str | None = None, name: str = ""
) -> Seen:
    """Get a page through the cache."""
    headers = {"X-Name": name} if cookie is None else {"Cookie": f"session={cookie}"}
    async with browser.get(path, headers=headers) as response:
        assert response.status == 200
        return Seen(
            await response.text(),
            _session_cookie(response.headers),
            response.headers["X-Cache"] == "HIT",
        )


def _session_cookie(headers: CIMultiDictProxy[str]) -> str | None:
    lines = headers.getall("Set-Cookie", [])
    return SimpleCookie("\r\n".join(lines))["session"].value if lines else None


@pytest.mark.parametrize("kind", ANSWERS)
async def test_two_people_behind_a_cache_never_see_each_others_page_or_cookie(
    kind: str, browser: ClientSession, clock: Clock
) -> None:
    """Sign-in, reads, a touch and a sign-out of both at the same addresses."""
    ada = await visit(browser, f"/sign_in/{kind}", name="ada")
    bob = await visit(browser, f"/sign_in/{kind}", name="bob")

    assert (ada.page, bob.page) == ("ada", "bob")
    assert ada.cookie
    assert bob.cookie
    assert ada.cookie != bob.cookie
    profile = f"/profile/{kind}"
    for again in (False, True):
        assert (await visit(browser, profile, ada.cookie)).page == "ada"
        assert (await visit(browser, profile, bob.cookie)).page == "bob"
        assert await visit(browser, profile) == Seen("nobody", None, cached=again)

    clock.advance(2 * 3600)
    later = f"{profile}?touch-is-due"
    assert await visit(browser, later, ada.cookie) == Seen("ada", ada.cookie, cached=False)
    assert await visit(browser, later, bob.cookie) == Seen("bob", bob.cookie, cached=False)
    assert await visit(browser, later) == Seen("nobody", None, cached=False)

    assert await visit(browser, f"/sign_out/{kind}", ada.cookie) == Seen("bye", "", cached=False)
    assert await visit(browser, f"/sign_out/{kind}", bob.cookie) == Seen("bye", "", cached=False)
    for cookie in (ada.cookie, bob.cookie):
        assert (await visit(browser, f"{profile}?again", cookie)).page == "nobody"


@pytest.mark.parametrize("kind", ANSWERS)
async def test_page_without_a_session_is_still_cached_for_everybody(
    kind: str, browser: ClientSession, storage: MongoStorage
) -> None:
    """The page that asks for no session once, also for a visitor with a cookie of another page."""
    about = f"/about/{kind}"
    ada = await visit(browser, f"/sign_in/{kind}", name="ada")
    loads = storage.counters["loads"]

    seen = [
        await visit(browser, about),
        await visit(browser, about),
        await visit(browser, about, ada.cookie),
        await visit(browser, f"/profile/{kind}"),
        await visit(browser, f"/profile/{kind}"),
    ]

    assert [one.cached for one in seen] == [False, True, True, False, True]
    assert {one.cookie for one in seen} == {None}
    assert storage.counters["loads"] == loads
