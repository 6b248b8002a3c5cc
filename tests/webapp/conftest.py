"""A started app on the mongod of the tests, and a client that sends what a browser sends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient
from motor.motor_asyncio import AsyncIOMotorClient
from pytest_aiohttp import AiohttpClient

from storage import generate_secret
from webapp.accounts.passwords import Cost
from webapp.app import create_app
from webapp.config.settings import Config
from webapp.database.client import Database

Client = TestClient[web.Request, web.Application]
MakeApp = Callable[..., Awaitable[Client]]

# The least that Argon2id accepts: what a hash costs matters to test_passwords and
# test_loop_stays_free alone.
CHEAP = Cost(memory_kib=8, passes=1)
# Production behind one router.
PRODUCTION = {"APP_ENV": "production", "TRUSTED_PROXY_HOPS": "1", "ALLOWED_HOSTS": "app.example"}
# What a browser adds to a form of the site's own page.
BROWSER = {"Sec-Fetch-Site": "same-origin", "Accept": "text/html,application/xhtml+xml"}


@pytest.fixture
def environ(mongo_uri: str, database_name: str) -> dict[str, str]:
    """Give a valid development environment on a database of this test's own."""
    return {
        "MONGO_URI": mongo_uri,
        "MONGO_DATABASE": database_name,
        "SESSION_SECRET": generate_secret(),
        "APP_ENV": "development",
    }


@pytest.fixture
async def database(mongo_uri: str, database_name: str) -> AsyncIterator[Database]:
    """Return a database of this test's own, without an app."""
    client: AsyncIOMotorClient[dict[str, Any]] = AsyncIOMotorClient(mongo_uri)
    yield client[database_name]
    client.close()


@pytest.fixture
def make_app(environ: dict[str, str], aiohttp_client: AiohttpClient) -> MakeApp:
    """Start an app; keyword arguments are environment variables, None unsets one."""

    async def make(**overrides: str | None) -> Client:
        merged = {**environ, **overrides}
        config = Config.from_environ({k: v for k, v in merged.items() if v is not None})
        app = await create_app(config, cost=CHEAP)
        return await aiohttp_client(app, headers=BROWSER)

    return make


@pytest.fixture
async def client(make_app: MakeApp) -> Client:
    """Start the app as configured for development."""
    return await make_app()
