"""The app that the faults happen to: it uses `storage/` and nothing else.

`python -m tests.faults.app --help` lists its arguments. Every session contains an owner and a pair
of equal numbers, which are changed together: a change that was applied only in part would show.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from typing import Any

import pymongo
from aiohttp import web
from aiohttp_session import get_session, new_session
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import AsyncMongoClient

from storage import MongoStorage, renew_session, setup

CLOSE_SECONDS = 1.0
STORAGE = web.AppKey("storage", MongoStorage)


class Held:
    """Requests that have loaded their session, and wait until the test lets them save."""

    def __init__(self) -> None:
        self.waiting = 0
        self._released = asyncio.Event()

    async def wait(self) -> None:
        """Wait with the others."""
        self.waiting += 1
        await self._released.wait()

    def release(self) -> None:
        """Let those that wait by now go on."""
        self._released.set()
        self.waiting, self._released = 0, asyncio.Event()


HELD = web.AppKey("held", Held)


def main() -> None:
    """Serve on a loopback port until a signal arrives."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--mongo", required=True)
    parser.add_argument("--database", required=True)
    parser.add_argument("--secret", required=True)
    parser.add_argument("--driver", choices=("motor", "pymongo"), default="pymongo")
    parser.add_argument("--keepalive", type=float, default=75.0, help="seconds")
    parser.add_argument("--max-age", type=float, default=3600.0, help="seconds")
    parser.add_argument("--absolute-timeout", type=float, help="seconds")
    options = parser.parse_args()
    web.run_app(
        make_app(options),
        host="127.0.0.1",
        port=options.port,
        keepalive_timeout=options.keepalive,
        shutdown_timeout=5.0,
        access_log=None,
    )


async def make_app(options: argparse.Namespace) -> web.Application:
    """Create the app, with a client that belongs to the running event loop."""
    client: Any = (AsyncIOMotorClient if options.driver == "motor" else AsyncMongoClient)(
        options.mongo
    )
    storage = MongoStorage(
        client[options.database]["sessions"],
        options.secret,
        max_age=options.max_age,
        absolute_timeout=options.absolute_timeout,
    )
    app = web.Application()
    app[STORAGE] = storage
    app[HELD] = Held()
    setup(app, storage)

    async def close_client(_app: web.Application) -> None:
        # Otherwise the driver would try for half a minute to reach a server that is gone.
        with pymongo.timeout(CLOSE_SECONDS):
            closing = client.close()
            if closing is not None:
                await closing

    app.on_cleanup.append(close_client)
    app.add_routes(
        [
            web.post("/login", login),
            web.post("/set", assign),
            web.post("/put", put),
            web.get("/held", held),
            web.post("/release", release),
            web.get("/names", names),
            web.post("/renew", renew),
            web.post("/logout", logout),
            web.get("/read", read),
            web.get("/devices", devices),
            web.get("/counters", counters),
            web.post("/clock", move_clock),
            web.get("/plain", plain),
        ]
    )
    return app


async def login(request: web.Request) -> web.Response:
    """Open a session for the owner that the query names."""
    session = await new_session(request)
    session.update(user_id=request.query["owner"], left=0, right=0)
    return _pair_of(session)


async def assign(request: web.Request) -> web.Response:
    """Set the pair to the number that the query names."""
    session = await _signed_in(request)
    session["left"] = session["right"] = int(request.query["n"])
    return _pair_of(session)


async def put(request: web.Request) -> web.Response:
    """Add one more value, by the name that the query gives; with `hold` when it is released."""
    session = await _signed_in(request)
    if "hold" in request.query:
        await request.app[HELD].wait()
    session[request.query["name"]] = True
    return web.json_response({})


async def held(request: web.Request) -> web.Response:
    """Count the requests that wait."""
    return web.json_response(request.app[HELD].waiting)


async def release(request: web.Request) -> web.Response:
    """Let the requests that wait go on."""
    request.app[HELD].release()
    return web.json_response({})


async def names(request: web.Request) -> web.Response:
    """Return the names of the values that were added."""
    session = await _signed_in(request)
    return web.json_response([name for name in session if session[name] is True])


async def renew(request: web.Request) -> web.Response:
    """Give the session a new token."""
    await _signed_in(request)
    return _pair_of(await renew_session(request))


async def logout(request: web.Request) -> web.Response:
    """End the session."""
    (await _signed_in(request)).invalidate()
    return web.json_response({})


async def read(request: web.Request) -> web.Response:
    """Return the content of the session."""
    return _pair_of(await _signed_in(request))


async def devices(request: web.Request) -> web.Response:
    """Count the sessions of the session's owner that have not expired."""
    session = await _signed_in(request)
    return web.json_response(
        len([one async for one in _storage(request).sessions(session["user_id"])])
    )


async def counters(request: web.Request) -> web.Response:
    """Return the counters of the storage."""
    storage = _storage(request)
    return web.json_response({**storage.counters, "queued": storage.queued})


async def move_clock(request: web.Request) -> web.Response:
    """Set this process's clock ahead of the machine's by the seconds that the query names."""
    ahead_seconds = float(request.query["ahead"])
    _storage(request).clock = lambda: time.time() + ahead_seconds
    return web.json_response({})


async def plain(_request: web.Request) -> web.Response:
    """Answer without a session."""
    return web.json_response({})


async def _signed_in(request: web.Request) -> Any:
    session = await get_session(request)
    if "user_id" not in session:
        raise web.HTTPUnauthorized
    return session


def _pair_of(session: Any) -> web.Response:
    return web.json_response({name: session[name] for name in ("user_id", "left", "right")})


def _storage(request: web.Request) -> MongoStorage:
    return request.app[STORAGE]


if __name__ == "__main__":
    main()
