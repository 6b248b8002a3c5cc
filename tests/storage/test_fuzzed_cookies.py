"""Forged cookies: each request is answered, and none opens a session."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from itertools import islice

import pytest
from aiohttp import web
from aiohttp_session import get_session

from storage import MongoStorage, setup
from storage.tokens import to_cookie
from tests.storage.conftest import AiohttpServer
from tests.storage.direct import visit

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
# What a header may contain (RFC 9110 section 5.5); the parser of the server refuses the rest.
HEADER_BYTES = [b for b in range(256) if b in (0x09, *range(0x20, 0x7F), *range(0x80, 0x100))]


def mutations(token: str, chance: random.Random) -> Iterator[bytes]:
    """Yield Cookie headers without end: changed copies of a valid token, and random bytes."""
    good = token.encode()
    while True:
        at = chance.randrange(len(good))
        other = chance.choice(HEADER_BYTES).to_bytes()
        noise = bytes(chance.choices(HEADER_BYTES, k=chance.randrange(200)))
        yield b"session=" + good[:at] + other + good[at + 1 :]
        yield b"session=" + good[:at]
        yield b"session=" + good + other
        yield b"session=" + good[:at] + other + good[at:]
        yield b"session=" + good.swapcase()
        yield b"session=" + "".join(chance.choices(ALPHABET, k=43)).encode()
        yield b"session=" + to_cookie(chance.randbytes(32)).encode()
        yield b"session=" + good[:at] + b"=" * (43 - at)
        yield b"session=" + bytes(chance.choices(HEADER_BYTES, k=43))
        yield b"session=" + noise
        yield b"session=" + b"".join(f"%{byte:02X}".encode() for byte in good)
        yield b"session=" + good[::-1] + b"; session=" + noise + b"; session"
        yield b"Session=" + good + b"; session =" + noise
        yield noise


async def answers(port: int, headers: list[bytes]) -> list[tuple[bytes, bytes]]:
    """Send one request for each Cookie header over one connection; return heads and bodies."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def send() -> None:
        for header in headers:
            writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nCookie: " + header + b"\r\n\r\n")
            await writer.drain()

    sending = asyncio.create_task(send())
    received = []
    for _ in headers:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        received.append((head, await reader.readexactly(length)))
    await sending
    writer.close()
    await writer.wait_closed()
    return received


@pytest.mark.parametrize(
    "cookies",
    [
        pytest.param(1_000, id="a thousand"),
        pytest.param(10_000, id="ten thousand", marks=pytest.mark.long),
    ],
)
async def test_forged_cookies_are_answered_and_open_no_session(
    storage: MongoStorage, aiohttp_server: AiohttpServer, cookies: int
) -> None:
    """None causes a 500, gets a cookie, or shows values of a session."""
    token = await visit(storage, None, lambda session: session.update(name="Ada", user_id=7))
    app = web.Application()
    setup(app, storage)

    async def show(request: web.Request) -> web.Response:
        return web.json_response(dict(await get_session(request)))

    app.router.add_get("/", show)
    server = await aiohttp_server(app)
    forged = list(islice(mutations(str(token), random.Random(7)), cookies))

    received = await answers(server.port or 0, forged)

    for header, (head, body) in zip(forged, received, strict=True):
        assert head.startswith(b"HTTP/1.1 200 "), header
        assert b"set-cookie" not in head.lower(), header
        # Only the whole token opens the session: a character after it may end the cookie.
        assert body == b"{}" or str(token).encode() in header, header
    assert storage.counters["unreadable"] == 0
