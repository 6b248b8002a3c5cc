"""A browser for each visitor of an example, on one server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import CookieJar, web
from aiohttp.test_utils import TestClient, TestServer
from pytest_aiohttp import AiohttpClient, AiohttpServer

from storage import generate_secret

Browser = TestClient[Any, Any]
MakeApp = Callable[..., Awaitable[web.Application]]
Open = Callable[[], Awaitable[Browser]]
Serve = Callable[..., Awaitable[Open]]


@pytest.fixture
def serve(
    mongo_uri: str,
    database_name: str,
    aiohttp_server: AiohttpServer,
    aiohttp_client: AiohttpClient,
) -> Serve:
    """Start the app of an example; return a function that opens browsers without cookies."""

    async def start(make_app: MakeApp, **options: Any) -> Open:
        app = await make_app(f"{mongo_uri}/{database_name}", generate_secret(), **options)
        server: TestServer = await aiohttp_server(app)

        async def browser() -> Browser:
            return await aiohttp_client(server, cookie_jar=CookieJar(unsafe=True))

        return browser

    return start
