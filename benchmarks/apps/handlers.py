"""The handlers of all Python peers, so that only the storage differs."""

from __future__ import annotations

from aiohttp import web
from aiohttp_session import Session, get_session, new_session

from benchmarks.workload import encode, user


def answer(visitor: dict[str, str]) -> web.Response:
    """Answer with the 60 bytes of JSON that every peer sends."""
    return web.Response(text=encode(visitor), content_type="application/json")


async def signed_in(request: web.Request) -> Session:
    """Return the visitor's session; 401 counts as a failure of the peer."""
    session = await get_session(request)
    if "user" not in session:
        raise web.HTTPUnauthorized
    return session


async def read(request: web.Request) -> web.Response:
    """Read the session."""
    session = await signed_in(request)
    return answer(session["user"])


async def write(request: web.Request) -> web.Response:
    """Change one value of the session."""
    session = await signed_in(request)
    session["count"] += 1
    return answer(session["user"])


async def count(request: web.Request) -> web.Response:
    """Return the count, which shows the benchmark that writes are really stored."""
    session = await signed_in(request)
    return web.Response(text=str(session["count"]))


async def login(request: web.Request) -> web.Response:
    """Store a new session."""
    session = await new_session(request)
    session["user"] = user(int(request.query["number"]))
    session["count"] = 0
    return answer(session["user"])


async def logout(request: web.Request) -> web.Response:
    """End the session."""
    session = await signed_in(request)
    session.invalidate()
    return web.Response(status=204)


def add_session_routes(app: web.Application) -> None:
    """Add every route that needs a session."""
    app.router.add_get("/read", read)
    app.router.add_get("/count", count)
    app.router.add_post("/write", write)
    app.router.add_post("/login", login)
    app.router.add_post("/logout", logout)
