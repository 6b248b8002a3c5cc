"""Handlers that many tests share: each kind of response, and changes of the session before it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiohttp import web
from aiohttp_session import get_session, new_session

from tests.storage.conftest import Handler

# The headers of a WebSocket handshake.
UPGRADE = (
    b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)


async def plain(_request: web.Request) -> web.StreamResponse:
    """Answer with a complete response."""
    return web.Response(text="ok")


async def redirect(_request: web.Request) -> web.StreamResponse:
    """Raise a redirect."""
    raise web.HTTPFound("/elsewhere")


async def file(_request: web.Request) -> web.StreamResponse:
    """Answer with a file."""
    return web.FileResponse(__file__)


async def stream(request: web.Request) -> web.StreamResponse:
    """Answer with a stream."""
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"piece by piece")
    return response


ANSWERS: dict[str, Handler] = {
    "plain": plain,
    "redirect": redirect,
    "file": file,
    "stream": stream,
}


def after(change: Callable[[Any], Any], answer: Handler = plain) -> Handler:
    """Return a handler that changes the session and then answers."""

    async def handler(request: web.Request) -> web.StreamResponse:
        change(await get_session(request))
        return await answer(request)

    return handler


async def replace_session(request: web.Request) -> web.StreamResponse:
    """Start a new session in place of the stored one."""
    (await new_session(request))["name"] = "Bob"
    return web.Response()


def log_out_and_write(session: Any) -> None:
    """Invalidate the session, then use it again."""
    session.invalidate()
    session["name"] = "Bob"
