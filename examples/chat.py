"""A chat over WebSockets that closes for a user who is signed out, on any server.

A WebSocket is one long request: its session was loaded when it started. `watch_session` ends the
block when that session ends, and `save_session` stores what changes meanwhile.
"""

import os
from collections.abc import AsyncIterator

from aiohttp import web
from aiohttp_session import get_session
from pymongo import AsyncMongoClient

from storage import MongoStorage, SessionEnded, save_session, setup, watch_session

STORAGE = web.AppKey("storage", MongoStorage)
SOCKETS = web.AppKey("sockets", set[web.WebSocketResponse])
SIGNED_OUT = 4401  # a code of our own (RFC 6455 section 7.4.2), after HTTP's 401


async def sign_in(request: web.Request) -> web.Response:
    session = await get_session(request)
    session["user_id"] = str((await request.post())["user"])  # check a password first
    return web.Response(text="welcome\n")


async def sign_out_everywhere(request: web.Request) -> web.Response:
    session = await get_session(request)
    if "user_id" not in session:
        raise web.HTTPUnauthorized
    await request.app[STORAGE].revoke_owner(session["user_id"])
    return web.Response(text="signed out everywhere\n")


async def chat(request: web.Request) -> web.WebSocketResponse:
    session = await get_session(request)
    if "user_id" not in session:
        raise web.HTTPUnauthorized
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    sockets = request.app[SOCKETS]
    sockets.add(socket)
    try:
        async with watch_session(request):
            async for message in socket:
                session["sent"] = session.get("sent", 0) + 1
                await save_session(request)
                for other in list(sockets):
                    await other.send_str(f"{session['user_id']}: {message.data}")
    except SessionEnded:
        await socket.close(code=SIGNED_OUT, message=b"signed out")
    finally:
        sockets.discard(socket)
    return socket


async def make_app(mongo_uri: str, secret: str) -> web.Application:
    app = web.Application()
    app[SOCKETS] = set[web.WebSocketResponse]()
    client = AsyncMongoClient[dict[str, object]](mongo_uri)
    app[STORAGE] = MongoStorage(client.get_default_database("shop")["sessions"], secret)
    setup(app, app[STORAGE])
    app.router.add_post("/sign-in", sign_in)
    app.router.add_post("/sign-out-everywhere", sign_out_everywhere)
    app.router.add_get("/chat", chat)

    async def mongodb(_app: web.Application) -> AsyncIterator[None]:
        yield
        await client.close()

    app.cleanup_ctx.append(mongodb)
    return app


if __name__ == "__main__":
    web.run_app(
        make_app(os.environ["MONGO_URI"], os.environ["SESSION_SECRET"]),
        host="127.0.0.1",
        port=8080,
    )
