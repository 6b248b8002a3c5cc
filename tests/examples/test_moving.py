"""An app moves from another storage in three steps, and its visitors notice nothing."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp_session
import aiomcache
import pytest
from aiohttp import CookieJar, web
from aiohttp_session import AbstractStorage, get_session
from bson import ObjectId
from pymongo import AsyncMongoClient
from pytest_aiohttp import AiohttpClient
from redis import asyncio as redis

from examples import moving
from storage import MongoStorage, generate_secret
from tests.storage.old_storages import OwnStorage, server


@pytest.fixture(params=["redis", "memcached", "cookies"])
async def old(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AbstractStorage]:
    """Make each old storage with the example's own line for it."""
    if request.param == "redis":
        with server("redis-server", tmp_path) as port:
            async with redis.Redis(host="127.0.0.1", port=port) as client:
                yield moving.with_redis(client)
    elif request.param == "memcached":
        with server("memcached", tmp_path) as port:
            pool = aiomcache.Client("127.0.0.1", port)
            yield moving.with_memcached(pool)
            await pool.close()
    else:
        yield moving.with_cookies(os.urandom(32))


@pytest.fixture
async def collection(mongo_uri: str, database_name: str) -> AsyncIterator[Any]:
    """Open an empty collection."""
    async with AsyncMongoClient[Any](mongo_uri) as client:
        yield client[database_name]["sessions"]


def app_of_before(old: AbstractStorage) -> web.Application:
    """Make the app with the same handlers and the set-up of before."""
    app = web.Application()
    aiohttp_session.setup(app, old)
    app.add_routes(moving.ROUTES)
    return app


async def test_cart_survives_the_three_steps(
    old: AbstractStorage, collection: Any, aiohttp_client: AiohttpClient
) -> None:
    """It is filled before, while and after sessions move, with the same handlers."""
    secret, jar = generate_secret(), CookieJar(unsafe=True)
    while_moving = moving.while_moving(old, collection, secret)
    steps = [
        app_of_before(old),
        moving.make_app(while_moving),
        moving.make_app(moving.afterwards(collection, secret)),
    ]

    carts = []
    for app, item in zip(steps, ["tea", "milk", "bread"], strict=True):
        visitor = await aiohttp_client(app, cookie_jar=jar)
        carts.append(await (await visitor.post(f"/cart/{item}")).json())
    bought = await (await visitor.post("/check-out")).json()
    after = await (await visitor.post("/cart/salt")).json()

    assert carts == [["tea"], ["tea", "milk"], ["tea", "milk", "bread"]]
    assert (bought, after) == ({"bought": carts[-1]}, ["salt"])
    assert while_moving.counters["moved"] == 1


async def test_object_ids_dates_and_bytes_survive_the_move(
    collection: Any, aiohttp_client: AiohttpClient
) -> None:
    """A date comes back without its time zone, in UTC, as from MongoDB."""
    values = {"user": ObjectId(), "since": datetime(1999, 12, 31, tzinfo=UTC), "key": b"k"}
    old = OwnStorage(cookie_name="SHOP")
    old.kept["visitor"] = {"session": values}
    app = moving.make_app(moving.while_moving_bson(old, collection, generate_secret()))
    seen = []

    async def look(request: web.Request) -> web.Response:
        seen.append(dict(await get_session(request)))
        return web.Response()

    app.router.add_get("/", look)
    visitor = await aiohttp_client(app, cookie_jar=CookieJar(unsafe=True))
    visitor.session.cookie_jar.update_cookies({"SHOP": "visitor"}, visitor.make_url("/"))

    await visitor.get("/")
    await visitor.get("/")

    assert seen == [values, {**values, "since": datetime(1999, 12, 31)}]  # noqa: DTZ001
    assert old.kept == {}


# What the guide says of the arguments


def test_key_factory_is_no_argument(collection: Any) -> None:
    """The tokens are drawn by the storage."""
    with pytest.raises(TypeError, match="key_factory"):
        MongoStorage(collection, generate_secret(), key_factory=lambda: "k")  # type: ignore[call-arg]


def test_defaults_of_the_cookie_are_those_that_the_guide_names(collection: Any) -> None:
    """Name and SameSite differ from the other storages, and so does max_age."""
    ours = MongoStorage(collection, generate_secret())
    theirs = OwnStorage()

    assert (ours.cookie_name, theirs.cookie_name) == ("session", "AIOHTTP_SESSION")
    differing = {k for k, v in theirs.cookie_params.items() if ours.cookie_params.get(k) != v}
    assert differing == {"samesite", "max_age"}
    assert (ours.max_age, theirs.max_age) == (14 * 24 * 3600, None)


async def test_encoder_gets_one_value_here_and_the_whole_session_elsewhere(
    collection: Any, aiohttp_client: AiohttpClient
) -> None:
    """A codec for whole sessions need not know what to do with a single value."""
    encoded: list[list[Any]] = [[], []]

    def note(which: int) -> Any:
        return lambda value: (encoded[which].append(value), json.dumps(value))[1]

    old = aiohttp_session.SimpleCookieStorage(encoder=note(0))
    new = MongoStorage(collection, generate_secret(), encoder=note(1))
    for app in (app_of_before(old), moving.make_app(new)):
        visitor = await aiohttp_client(app)
        await visitor.post("/cart/tea")

    assert [list(value) for value in encoded[0]] == [["created", "session"]]
    assert ["tea"] in encoded[1]
    assert all(isinstance(value, list) for value in encoded[1])


async def test_max_age_of_one_session_and_a_read_differ_from_the_old_storage(
    old: AbstractStorage, collection: Any, aiohttp_client: AiohttpClient
) -> None:
    """There it holds for one response, and a read sends no cookie; here it is kept."""

    async def remember(request: web.Request) -> web.Response:
        session = await get_session(request)
        session["a"] = 1
        session.max_age = 60
        return web.Response()

    async def read(request: web.Request) -> web.Response:
        return web.json_response((await get_session(request)).max_age)

    kept = []
    for app in (
        app_of_before(old),
        moving.make_app(moving.afterwards(collection, generate_secret())),
    ):
        app.add_routes([web.get("/remember", remember), web.get("/", read)])
        visitor = await aiohttp_client(app, cookie_jar=CookieJar(unsafe=True))
        await visitor.get("/remember")
        answer = await visitor.get("/")
        kept.append((await answer.json(), "Set-Cookie" in answer.headers))

    assert kept == [(3600, False), (60, False)]
