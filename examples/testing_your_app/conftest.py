"""Fixtures to copy: an empty collection, the app, and clients with and without a session."""

import os
import secrets
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient
from app import STORAGE, make_app
from pymongo import AsyncMongoClient
from pytest_aiohttp import AiohttpClient

from storage import generate_secret
from storage.testing import give_session


@pytest.fixture
async def sessions() -> AsyncIterator[Any]:
    """Yield an empty collection of the MongoDB at MONGO_URI."""
    async with AsyncMongoClient(os.environ["MONGO_URI"]) as client:
        name = f"test_{secrets.token_hex(8)}"
        yield client[name]["sessions"]
        await client.drop_database(name)


@pytest.fixture
def app(sessions: Any) -> web.Application:
    """Create the app."""
    return make_app(sessions, generate_secret())


@pytest.fixture
async def stranger(app: web.Application, aiohttp_client: AiohttpClient) -> TestClient[Any, Any]:
    """Return a client without a session."""
    return await aiohttp_client(app)


@pytest.fixture
async def ada(stranger: TestClient[Any, Any], app: web.Application) -> TestClient[Any, Any]:
    """Return a client that is signed in as Ada."""
    await give_session(stranger, app[STORAGE], user_id="ada")
    return stranger
