"""Cookies that a sibling host plants, in a real Chromium: they open no session and hide none."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp_session import get_session
from playwright.async_api import Page, async_playwright
from pymongo import AsyncMongoClient
from pytest_aiohttp.plugin import AiohttpServer

from storage import MongoStorage, generate_secret, setup
from tests.browser.chromium import ARGUMENTS, NOT_FOUND, find_chromium
from tests.conftest import missing
from tests.deploy.conftest import HOST

pytestmark = pytest.mark.long

NAME = "__Host-session"
# What a general parser reads as a cookie of our name, or with what it does not see ours.
PLANTED = {
    "in a cookie of another name": ["lang=en {}"],
    "after a Unicode space": ["\u2000{}"],
    "between quotes": ['a="', 'z="'],
    "by its own name": ["{}"],  # Chromium itself refuses it, for the prefix
}


@pytest.fixture
async def storage(mongo_uri: str, database_name: str) -> AsyncIterator[MongoStorage]:
    """Make a storage whose cookie has the prefix that is safe from sibling hosts."""
    async with AsyncMongoClient[dict[str, Any]](mongo_uri) as client:
        storage = MongoStorage(
            client[database_name]["sessions"], generate_secret(), cookie_name=NAME
        )
        yield storage
        await storage.aclose()


@pytest.fixture
async def page(
    storage: MongoStorage, certificate: Path, aiohttp_server: AiohttpServer
) -> AsyncIterator[Page]:
    """Open Chromium, for which one app answers as the host and as a sibling of it."""

    async def who(request: web.Request) -> web.Response:
        session = await get_session(request)
        return web.json_response([session.get("user_id"), request.headers.get("Cookie", "")])

    async def sign_in(request: web.Request) -> web.Response:
        (await get_session(request))["user_id"] = request.query["user"]
        return web.Response()

    async def plant(request: web.Request) -> web.Response:
        response = web.Response()
        for number, cookie in enumerate(request.query.getall("cookie")):
            # The longest path comes first in the header.
            path = "/who/am/i" if number == 0 else "/"
            line = f"{cookie}; Domain={HOST}; Path={path}; Secure"
            response.headers.add("Set-Cookie", line)
        return response

    app = web.Application()
    setup(app, storage)
    app.add_routes([web.get("/who/am/i", who), web.get("/in", sign_in), web.get("/plant", plant)])
    secured = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    secured.load_cert_chain(certificate, certificate.with_name("key.pem"))
    server = await aiohttp_server(app, ssl=secured)
    executable = find_chromium()
    if executable is None:
        missing(NOT_FOUND)
    rules = f"--host-resolver-rules=MAP * 127.0.0.1:{server.port}"
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=executable, args=[*ARGUMENTS, "--no-sandbox", rules]
        )
        yield await browser.new_page(ignore_https_errors=True)
        await browser.close()


async def see(page: Page) -> tuple[str | None, str]:
    """Return whom the app takes the visitor for, and the cookies that Chromium has sent."""
    response = await page.goto(f"https://{HOST}/who/am/i")
    assert response is not None
    user, header = json.loads(await response.text())
    return user, header


@pytest.mark.parametrize("planted", PLANTED.values(), ids=PLANTED)
async def test_cookie_of_a_sibling_host_opens_no_session_and_hides_none_in_chromium(
    planted: list[str], page: Page
) -> None:
    """A signed-in visitor stays the same user; without a cookie of ours the visitor is nobody."""
    await page.goto(f"https://{HOST}/in?user=mallory")
    (of_mallory,) = await page.context.cookies()
    token = of_mallory.get("value", "")
    await page.context.clear_cookies()
    await page.goto(f"https://{HOST}/in?user=ada")
    cookies = "&".join(f"cookie={one.format(f'{NAME}={token}')}" for one in planted)

    await page.goto(f"https://sibling.{HOST}/plant?{cookies}")
    signed_in, _ = await see(page)
    await page.context.clear_cookies(name=NAME)
    signed_out, sent = await see(page)

    assert (signed_in, signed_out) == ("ada", None)
    assert bool(sent) is (planted != ["{}"])  # Chromium has kept what the sibling planted
    assert len(token) == 43
