"""One app with three storages, and the same handlers."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp_session
import pytest
from pymongo import AsyncMongoClient
from pytest_aiohttp import AiohttpClient
from redis import asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff
from redis.exceptions import ConnectionError as NotThereYet

from examples import moving
from tests.conftest import missing
from tests.docs.test_readme_program import free_port


@pytest.fixture(params=["cookie", "redis", "mongodb"])
async def storage(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[aiohttp_session.AbstractStorage]:
    """Create each storage with the example's own line for it."""
    if request.param == "cookie":
        yield moving.with_a_cookie(os.urandom(32))
    elif request.param == "redis":
        async for storage in _over_redis(tmp_path):
            yield storage
    else:
        name = request.getfixturevalue("database_name")
        async with AsyncMongoClient[Any](request.getfixturevalue("mongo_uri")) as client:
            yield moving.with_mongodb(client[name]["sessions"], os.urandom(32))


async def _over_redis(folder: Path) -> AsyncIterator[aiohttp_session.AbstractStorage]:
    if shutil.which("redis-server") is None:
        missing("redis-server is not installed")
    port = free_port()
    server = await asyncio.create_subprocess_exec(
        *("redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", ""),
        cwd=folder,
        stdout=subprocess.DEVNULL,
    )
    retry = Retry(ConstantBackoff(0.05), retries=200, supported_errors=(NotThereYet,))
    client = redis.Redis(host="127.0.0.1", port=port, retry=retry)
    try:
        await client.ping()
        yield moving.with_redis(client)
    finally:
        await client.aclose()
        server.terminate()
        await server.wait()


async def test_app_works_with_every_storage(
    storage: aiohttp_session.AbstractStorage, aiohttp_client: AiohttpClient
) -> None:
    """The test fills the cart, checks out, and starts again."""
    client = await aiohttp_client(moving.make_app(storage))

    first = await (await client.post("/cart/tea")).json()
    second = await (await client.post("/cart/milk")).json()
    bought = await (await client.post("/check-out")).json()
    after = await (await client.post("/cart/bread")).json()

    assert (first, second, after) == (["tea"], ["tea", "milk"], ["bread"])
    assert bought == {"bought": ["tea", "milk"]}
