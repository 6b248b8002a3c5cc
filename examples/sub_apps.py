"""An app with sub-apps: one sign-in for all; each request loads and saves the session once.

Call `setup` for the outer app, and all sub-apps have sessions. A sub-app that is also served alone
may call `setup` with the same storage; a request that passes through both is still saved once.
"""

import os

from aiohttp import web
from aiohttp_session import get_session
from pymongo import AsyncMongoClient

from storage import MongoStorage, setup


async def sign_in(request: web.Request) -> web.Response:
    session = await get_session(request)
    session["user_id"] = str((await request.post())["user"])  # check a password first
    return web.Response(text="welcome\n")


async def greet(request: web.Request) -> web.Response:
    session = await get_session(request)
    return web.Response(text=f"hello {session.get('user_id', 'stranger')}\n")


async def count(request: web.Request) -> web.Response:
    session = await get_session(request)
    if "user_id" not in session:
        raise web.HTTPUnauthorized
    session["orders"] = session.get("orders", 0) + 1
    return web.Response(text=f"order {session['orders']} of {session['user_id']}\n")


def make_shop(storage: MongoStorage) -> web.Application:
    shop = web.Application()
    setup(shop, storage)
    shop.router.add_post("/orders", count)
    return shop


async def make_app(mongo_uri: str, secret: str) -> web.Application:
    client = AsyncMongoClient[dict[str, object]](mongo_uri)
    storage = MongoStorage(client.get_default_database("shop")["sessions"], secret)
    app = web.Application()
    setup(app, storage)
    app.router.add_get("/", greet)
    app.router.add_post("/sign-in", sign_in)
    app.add_subapp("/shop/", make_shop(storage))

    async def close(_app: web.Application) -> None:
        await client.close()

    app.on_cleanup.append(close)
    return app


if __name__ == "__main__":
    web.run_app(
        make_app(os.environ["MONGO_URI"], os.environ["SESSION_SECRET"]),
        host="127.0.0.1",
        port=8080,
    )
