"""Move an app from another session storage to MongoDB, and sign nobody out.

The handlers were written for the old storage and do not change. `docs/moving.md` has the steps.
"""

from typing import Any

from aiohttp import web
from aiohttp_session import AbstractStorage, get_session
from aiohttp_session.cookie_storage import EncryptedCookieStorage
from aiohttp_session.memcached_storage import MemcachedStorage
from aiohttp_session.redis_storage import RedisStorage
from bson import json_util

from storage import MongoStorage, setup

# The line of today, for each of three apps.


def with_redis(redis: Any) -> AbstractStorage:
    return RedisStorage(redis, cookie_name="SHOP", max_age=3600)


def with_memcached(client: Any) -> AbstractStorage:
    return MemcachedStorage(client, cookie_name="SHOP", max_age=3600)


def with_cookies(key: bytes) -> AbstractStorage:
    return EncryptedCookieStorage(key, cookie_name="SHOP", max_age=3600)


# The line while sessions move, and the line afterwards.


def while_moving(old: AbstractStorage, collection: Any, secret: str) -> MongoStorage:
    return MongoStorage(collection, secret, cookie_name="SHOP", max_age=3600, moving_from=old)


def afterwards(collection: Any, secret: str) -> MongoStorage:
    return MongoStorage(collection, secret, cookie_name="SHOP", max_age=3600)


# The same for an app whose values are ObjectIds, dates or bytes, as with aiohttp-session-mongo.


def while_moving_bson(old: AbstractStorage, collection: Any, secret: str) -> MongoStorage:
    return MongoStorage(
        collection,
        secret,
        cookie_name="SHOP",
        max_age=3600,
        encoder=json_util.dumps,
        decoder=json_util.loads,
        moving_from=old,
    )


async def add_to_cart(request: web.Request) -> web.Response:
    session = await get_session(request)
    cart = session.setdefault("cart", [])
    cart.append(request.match_info["item"])
    session.changed()  # the old storages need this for a change in a list; MongoStorage does not
    return web.json_response(cart)


async def check_out(request: web.Request) -> web.Response:
    session = await get_session(request)
    cart = session.get("cart", [])
    session.invalidate()
    return web.json_response({"bought": cart})


ROUTES = [web.post("/cart/{item}", add_to_cart), web.post("/check-out", check_out)]


def make_app(storage: MongoStorage) -> web.Application:
    app = web.Application()
    setup(app, storage)
    app.add_routes(ROUTES)
    return app
