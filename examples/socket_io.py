"""A chat with python-socketio, disconnected when its session ends, on any server.

Socket.IO's handlers run after the request of the handshake was answered. They find that request in
`environ`, and its session with it: `save_session` stores what they change, and `watch_session` ends
with it.
"""

import asyncio
import os
from typing import Any

import socketio  # type: ignore[import-untyped]
from aiohttp import web
from aiohttp_session import get_session
from pymongo import AsyncMongoClient

from storage import MongoStorage, SessionEnded, save_session, setup, watch_session

STORAGE = web.AppKey("storage", MongoStorage)


class Chat:
    def __init__(self) -> None:
        self.sio = socketio.AsyncServer(async_mode="aiohttp")
        self.watches: dict[str, asyncio.Task[None]] = {}
        for handler in (self.connect, self.message, self.disconnect):
            self.sio.on(handler.__name__, handler)

    async def connect(self, sid: str, environ: dict[str, Any], _auth: object) -> None:
        request = environ["aiohttp.request"]
        if "user_id" not in await get_session(request):
            raise socketio.exceptions.ConnectionRefusedError("sign in first")
        self.watches[sid] = self.sio.start_background_task(self.watch, sid, request)

    async def message(self, sid: str, text: str) -> None:
        request = self.sio.get_environ(sid)["aiohttp.request"]
        session = await get_session(request)
        session["sent"] = session.get("sent", 0) + 1
        try:
            await save_session(request)
        except SessionEnded:
            return  # the watch disconnects this client
        await self.sio.emit("message", f"{session['user_id']}: {text}")

    async def disconnect(self, sid: str, _reason: str) -> None:
        if watch := self.watches.pop(sid, None):
            watch.cancel()

    async def watch(self, sid: str, request: web.Request) -> None:
        try:
            async with watch_session(request):
                await asyncio.Event().wait()
        except SessionEnded:
            del self.watches[sid]
            await self.sio.disconnect(sid)

    async def stop(self, _app: web.Application) -> None:
        for watch in self.watches.values():
            watch.cancel()
        await self.sio.shutdown()


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


async def make_app(mongo_uri: str, secret: str) -> web.Application:
    app = web.Application()
    client = AsyncMongoClient[dict[str, object]](mongo_uri)
    app[STORAGE] = MongoStorage(client.get_default_database("shop")["sessions"], secret)
    setup(app, app[STORAGE])
    chat = Chat()
    chat.sio.attach(app)
    app.router.add_post("/sign-in", sign_in)
    app.router.add_post("/sign-out-everywhere", sign_out_everywhere)
    app.on_shutdown.append(chat.stop)

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
