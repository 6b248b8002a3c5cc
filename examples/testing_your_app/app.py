"""The app under test: sign in, see your profile, sign out."""

from typing import Any

from aiohttp import web
from aiohttp_session import get_session

from storage import MongoStorage, setup

STORAGE = web.AppKey("storage", MongoStorage)


async def profile(request: web.Request) -> web.Response:
    session = await get_session(request)
    if "user_id" not in session:
        raise web.HTTPUnauthorized
    return web.json_response({"user": session["user_id"]})


async def sign_out(request: web.Request) -> web.Response:
    session = await get_session(request)
    session.invalidate()
    return web.Response(status=204)


def make_app(sessions: Any, secret: str) -> web.Application:
    app = web.Application()
    app[STORAGE] = MongoStorage(sessions, secret)
    setup(app, app[STORAGE])
    app.router.add_get("/profile", profile)
    app.router.add_post("/sign-out", sign_out)
    return app
