"""The tests of the example pass, and `storage.testing` does what they need."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
from mongomock_motor import AsyncMongoMockClient
from pymongo import AsyncMongoClient
from pytest_aiohttp import AiohttpClient

from examples.testing_your_app.app import STORAGE, make_app
from storage import MongoStorage, generate_secret
from storage.testing import give_session
from tests.docs.markdown import ROOT


def test_example_tests_pass_as_a_reader_runs_them(mongo_uri: str) -> None:
    """They run with pytest-aiohttp in their own folder."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=ROOT / "examples" / "testing_your_app",
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "MONGO_URI": mongo_uri},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout


async def test_app_is_tested_without_a_server(aiohttp_client: AiohttpClient) -> None:
    """mongomock-motor imitates MongoDB in memory."""
    sessions = AsyncMongoMockClient()["test"]["sessions"]
    app = make_app(sessions, generate_secret())
    client = await aiohttp_client(app)

    await give_session(client, app[STORAGE], user_id="ada")
    signed_in = (await client.get("/profile")).status
    await client.post("/sign-out")

    assert (signed_in, (await client.get("/profile")).status) == (200, 401)


async def test_given_session_works_like_any_other(
    mongo_uri: str, database_name: str, aiohttp_client: AiohttpClient
) -> None:
    """It also works for a storage with a Secure cookie, which http would not carry."""
    async with AsyncMongoClient[dict[str, Any]](mongo_uri) as mongo:
        app = make_app(mongo[database_name]["sessions"], generate_secret())
        client = await aiohttp_client(app)

        session = await give_session(client, app[STORAGE], user_id="ada", cart=["tea"])

        assert await (await client.get("/profile")).json() == {"user": "ada"}
        assert app[STORAGE].handle(session) in [
            s.handle async for s in app[STORAGE].sessions("ada")
        ]


async def test_secure_cookie_is_sent_to_the_http_test_server(
    mongo_uri: str, database_name: str, aiohttp_client: AiohttpClient
) -> None:
    """An app for https can be tested without certificates."""
    async with AsyncMongoClient[dict[str, Any]](mongo_uri) as mongo:
        sessions, secret = mongo[database_name]["sessions"], generate_secret()
        app = make_app(sessions, secret)
        client = await aiohttp_client(app)

        await give_session(client, MongoStorage(sessions, secret, secure=True), user_id="ada")

        assert (await client.get("/profile")).status == 200


async def test_session_without_values_is_refused(
    mongo_uri: str, database_name: str, aiohttp_client: AiohttpClient
) -> None:
    """Such a session would not be stored, so the client would have no cookie."""
    async with AsyncMongoClient[dict[str, Any]](mongo_uri) as mongo:
        app = make_app(mongo[database_name]["sessions"], generate_secret())
        client = await aiohttp_client(app)

        with pytest.raises(ValueError, match=r"^values: none given"):
            await give_session(client, app[STORAGE])
