"""Move an app from `EncryptedCookieStorage` or `RedisStorage`: one line changes.

The handlers below were written for the old storage and do not change. You can also keep the call
of `aiohttp_session.setup`. If you call `storage.setup` instead, it also creates the indexes when
the app starts, and saves changes before a streamed response or a WebSocket starts.

Everybody signs in once more, because a cookie of the old storage is not valid in the new one.
"""

from typing import Any

import aiohttp_session
from aiohttp import web
from aiohttp_session.cookie_storage import EncryptedCookieStorage
from aiohttp_session.redis_storage import RedisStorage

from storage import MongoStorage


def with_a_cookie(secret: bytes) -> aiohttp_session.AbstractStorage:
    return EncryptedCookieStorage(secret, cookie_name="SHOP", max_age=3600)


def with_redis(redis: Any) -> aiohttp_session.AbstractStorage:
    return RedisStorage(redis, cookie_name="SHOP", max_age=3600)


def with_mongodb(collection: Any, secret: bytes) -> aiohttp_session.AbstractStorage:
    return MongoStorage(collection, secret, cookie_name="SHOP", max_age=3600)


async def add_to_cart(request: web.Request) -> web.Response:
    session = await aiohttp_session.get_session(request)
    cart = session.setdefault("cart", [])
    cart.append(request.match_info["item"])
    session.changed()  # the old storages need this for a change in a list; ours does not
    return web.json_response(cart)


async def check_out(request: web.Request) -> web.Response:
    session = await aiohttp_session.get_session(request)
    cart = session.get("cart", [])
    session.invalidate()
    return web.json_response({"bought": cart})


def make_app(storage: aiohttp_session.AbstractStorage) -> web.Application:
    app = web.Application()
    aiohttp_session.setup(app, storage)
    app.router.add_post("/cart/{item}", add_to_cart)
    app.router.add_post("/check-out", check_out)
    return app
