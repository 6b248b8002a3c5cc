"""Server-sent events that end with the session, and store what was read while they are open.

The session is saved when the headers of the response are sent: what needs a new cookie comes before
that. `save_session` stores what changes later, and `watch_session` ends the stream of a visitor who
is signed out, on any server.
"""

import asyncio
import os

from aiohttp import web
from aiohttp_session import get_session
from pymongo import AsyncMongoClient

from storage import MongoStorage, save_session, setup, watch_session

READERS = web.AppKey("readers", set[asyncio.Queue[str]])


async def events(request: web.Request) -> web.StreamResponse:
    session = await get_session(request)
    session["streams"] = session.get("streams", 0) + 1  # saved, with its cookie, by prepare()
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    await response.write(f"data: this is your stream number {session['streams']}\n\n".encode())
    news: asyncio.Queue[str] = asyncio.Queue()
    request.app[READERS].add(news)
    try:
        async with watch_session(request):
            while text := await news.get():
                await response.write(f"data: {text}\n\n".encode())
                session["read"] = session.get("read", 0) + 1
                await save_session(request)
    finally:
        request.app[READERS].discard(news)
    return response


async def publish(request: web.Request) -> web.Response:
    text = (await request.text()).replace("\n", " ")
    for news in request.app[READERS]:
        news.put_nowait(text)
    return web.Response(text=f"sent to {len(request.app[READERS])} readers\n")


async def sign_out(request: web.Request) -> web.Response:
    (await get_session(request)).invalidate()
    return web.Response(text="signed out\n")


async def end_streams(app: web.Application) -> None:
    for news in app[READERS]:
        news.put_nowait("")


async def make_app(mongo_uri: str, secret: str) -> web.Application:
    client = AsyncMongoClient[dict[str, object]](mongo_uri)
    app = web.Application()
    app[READERS] = set()
    setup(app, MongoStorage(client.get_default_database("shop")["sessions"], secret))
    app.router.add_get("/events", events)
    app.router.add_post("/publish", publish)
    app.router.add_post("/sign-out", sign_out)
    app.on_shutdown.append(end_streams)

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
