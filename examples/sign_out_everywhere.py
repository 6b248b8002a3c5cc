"""Show people where they are signed in, and let them end one session, or all others."""

import os

from aiohttp import web
from aiohttp_session import Session, get_session
from pymongo import AsyncMongoClient

from storage import MongoStorage, setup

STORAGE = web.AppKey("storage", MongoStorage)


async def sign_in(request: web.Request) -> web.Response:
    session = await get_session(request)
    session["user_id"] = str((await request.post())["user"])  # check a password first
    return web.Response(text="welcome\n")


async def devices(request: web.Request) -> web.Response:
    storage, session = request.app[STORAGE], await get_session(request)
    return web.json_response(
        [
            {
                "handle": device.handle,
                "device": device.label,
                "last_seen_at": device.last_seen_at.isoformat(),
                "this_one": device.handle == storage.handle(session),
            }
            async for device in storage.sessions(_user(session))
        ]
    )


async def sign_out_one(request: web.Request) -> web.Response:
    session = await get_session(request)
    # With the owner, nobody can end the session of somebody else by its handle.
    handle = request.match_info["handle"]
    ended = await request.app[STORAGE].revoke(handle, owner=_user(session))
    return web.Response(status=204 if ended else 404)


async def sign_out_others(request: web.Request) -> web.Response:
    session = await get_session(request)
    ended = await request.app[STORAGE].revoke_owner(_user(session), keep=session)
    return web.json_response({"ended": ended})


def _user(session: Session) -> str:
    if "user_id" not in session:
        raise web.HTTPUnauthorized
    return str(session["user_id"])


def device_name(request: web.Request) -> str:
    return request.headers.get("User-Agent", "unknown")[:80]


async def make_app(mongo_uri: str, secret: str) -> web.Application:
    client = AsyncMongoClient[dict[str, object]](mongo_uri)
    sessions = client.get_default_database("shop")["sessions"]
    app = web.Application()
    app[STORAGE] = MongoStorage(sessions, secret, describe=device_name)
    setup(app, app[STORAGE])
    app.router.add_post("/sign-in", sign_in)
    app.router.add_get("/devices", devices)
    app.router.add_delete("/devices/{handle}", sign_out_one)
    app.router.add_delete("/devices", sign_out_others)

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
