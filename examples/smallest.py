import os

from aiohttp import web
from aiohttp_session import get_session
from pymongo import AsyncMongoClient

from storage import MongoStorage, setup


async def visit(request: web.Request) -> web.Response:
    session = await get_session(request)
    session["visits"] = session.get("visits", 0) + 1
    return web.Response(text=f"Visit {session['visits']}\n")


async def make_app() -> web.Application:
    client = AsyncMongoClient(os.environ["MONGO_URI"])
    app = web.Application()
    app.router.add_get("/", visit)
    setup(app, MongoStorage(client["shop"]["sessions"], os.environ["SESSION_SECRET"]))
    return app


if __name__ == "__main__":
    web.run_app(make_app(), host="127.0.0.1", port=8080)
