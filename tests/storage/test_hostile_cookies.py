"""Cookie headers that no browser sends, over a socket: the right session or none, for one find."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from aiohttp_session import get_session

from storage import MongoStorage, setup
from storage.tokens import to_cookie
from tests.storage.command_log import CommandLog
from tests.storage.conftest import AiohttpServer
from tests.storage.direct import values, visit

KIB = 1024
FORGED = [f"session={to_cookie(number.to_bytes(32))}".encode() for number in range(1, 1400)]
# So much reaches the handler; aiohttp's own limits are 8 KiB and 128 lines.
RAISED = {"max_field_size": 80 * KIB, "max_headers": 2000}
Ask = Callable[..., Awaitable[tuple[int, bytes]]]


@pytest.fixture
async def ada(storage: MongoStorage, log: CommandLog) -> bytes:
    """Sign Ada in; return her cookie, name and value."""
    token = await visit(storage, None, lambda session: session.update(user_id="ada"))
    log.commands.clear()
    return f"session={token}".encode()


@pytest.fixture(params=[{}, RAISED], ids=["default limits", "raised limits"])
async def ask(
    request: pytest.FixtureRequest, storage: MongoStorage, aiohttp_server: AiohttpServer
) -> Ask:
    """Start an app that tells who is signed in; return what asks it, with lines of cookies."""

    async def who(request: web.Request) -> web.Response:
        return web.Response(text=(await get_session(request)).get("user_id", "nobody"))

    async def sign_out(request: web.Request) -> web.Response:
        (await get_session(request)).invalidate()
        return web.Response(text="bye")

    app = web.Application()
    setup(app, storage)
    app.router.add_get("/", who)
    app.router.add_post("/", sign_out)
    server = await aiohttp_server(app, **request.param)

    async def ask(*lines: bytes, method: bytes = b"GET") -> tuple[int, bytes]:
        return await _answer(server, method, lines)

    return ask


async def _answer(server: TestServer, method: bytes, lines: tuple[bytes, ...]) -> tuple[int, bytes]:
    reader, writer = await asyncio.open_connection(server.host, server.port)
    headers = b"".join(b"Cookie: " + line + b"\r\n" for line in lines)
    writer.write(method + b" / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" + headers)
    writer.write(b"\r\n")
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    return int(head.split()[1]), body


def joined(*cookies: bytes) -> bytes:
    """Return a line as a browser writes it."""
    return b"; ".join(cookies)


ODD_NAMES = (
    b"=x", b"x", b"", b"=", b"==", b'"', b'"=', b"\xff=1", b"\xc3\xa9=1", b"a b=1", b"(a)=1",
    b"@=1", b"a,b=1", b"{}=1", b"\t=1", b"session", b"session=", b"Session=1", b"$Path=/",
    b"__proto__=1", b"session[]=1", b"session\xa0=1", b"%73ession=1",
    b"expires=Thu, 01 Jan 1970 00:00:00 GMT",
)  # fmt: skip


@pytest.mark.parametrize(
    ("cookies", "whose", "finds"),
    [
        pytest.param(lambda ada: [joined(ada, *FORGED[:150])], b"ada", 1, id="150 forged, after"),
        pytest.param(lambda ada: [joined(*FORGED[:150], ada)], b"nobody", 1, id="150 before"),
        pytest.param(lambda ada: [joined(*[ada] * 150)], b"ada", 1, id="the same 150 times"),
        pytest.param(lambda ada: [ada, *FORGED[:100]], b"ada", 1, id="100 lines"),
        pytest.param(lambda ada: [joined(*[b"session=x"] * 150, ada)], b"ada", 1, id="malformed"),
        pytest.param(lambda ada: [joined(*ODD_NAMES, ada)], b"ada", 1, id="odd names"),
        pytest.param(lambda _: [joined(*ODD_NAMES)], b"nobody", 0, id="odd names alone"),
        pytest.param(lambda ada: [*ODD_NAMES, ada], b"ada", 1, id="odd names, each in a line"),
        pytest.param(lambda ada: [b"a=1, " + ada], b"nobody", 0, id="lines joined by a comma"),
    ],
)
async def test_many_or_odd_cookies_open_the_right_session_or_none(
    cookies: Callable[[bytes], list[bytes]],
    whose: bytes,
    finds: int,
    *,
    ask: Ask,
    ada: bytes,
    log: CommandLog,
) -> None:
    """With the limits of the server as they are, and raised."""
    assert await ask(*cookies(ada)) == (200, whose)
    assert log.names == ["find"] * finds


@pytest.mark.parametrize(
    ("cookies", "whose", "finds"),
    [
        pytest.param(lambda ada: [joined(*FORGED[:1250], ada)], b"nobody", 1, id="forged, before"),
        pytest.param(lambda ada: [joined(ada, *FORGED[:1250])], b"ada", 1, id="forged, after"),
        pytest.param(lambda ada: [*FORGED[:1250], ada], b"nobody", 1, id="each in a line"),
        pytest.param(lambda ada: [b"a=" + b"x" * 64 * KIB, ada], b"ada", 1, id="one long value"),
        pytest.param(lambda ada: [b"x" * 64 * KIB + b"=1; " + ada], b"ada", 1, id="one long name"),
        pytest.param(
            lambda ada: [b"session=" + b"A" * 64 * KIB + b";" + ada], b"ada", 1, id="ours"
        ),
        pytest.param(lambda ada: [b"a" + b";" * 64 * KIB + ada], b"ada", 1, id="separators"),
        pytest.param(lambda ada: [b"a;" + b" " * 64 * KIB + ada], b"ada", 1, id="blanks"),
        pytest.param(lambda ada: [b"a" + b"; \t" * 20 * KIB + ada], b"ada", 1, id="both"),
        pytest.param(
            lambda _: [b"session=" * 8 * KIB], b"nobody", 0, id="the name again and again"
        ),
    ],
)
async def test_64_kib_of_cookies_open_the_right_session_or_none(
    cookies: Callable[[bytes], list[bytes]],
    whose: bytes,
    finds: int,
    *,
    request: pytest.FixtureRequest,
    ask: Ask,
    ada: bytes,
    log: CommandLog,
) -> None:
    """Where the server lets them through: by default it refuses them, and nothing is looked up."""
    status, body = await ask(*cookies(ada))

    if "default limits" in request.node.name:
        assert status in (400, 431)
        assert log.names == []
    else:
        assert (status, body) == (200, whose)
        assert log.names == ["find"] * finds


async def test_cookie_that_a_proxy_cuts_in_two_lines_opens_the_right_session_or_none(
    ask: Ask, ada: bytes, log: CommandLog
) -> None:
    """Cut at any place; only where the cookie is whole in one of the lines it is found."""
    header = joined(b"a=1", ada, b"b=2")
    start = header.index(ada)
    end = start + len(ada)

    answers = [await ask(header[:cut], header[cut:]) for cut in range(1, len(header))]

    whole = [cut <= start or cut >= end for cut in range(1, len(header))]
    assert answers == [(200, b"ada" if found else b"nobody") for found in whole]
    assert log.names == ["find"] * whole.count(True)


async def test_sign_out_with_150_cookies_ends_the_session_in_shared_commands(
    ask: Ask, ada: bytes, log: CommandLog, storage: MongoStorage
) -> None:
    """A cookie that opens nothing costs a part of a bulk write, not a command of its own."""
    assert await ask(joined(ada, *FORGED[:150]), method=b"POST") == (200, b"bye")

    # Each bulk write has one find: what was not there may have been renewed meanwhile.
    assert log.names[0] == "find"
    assert sorted(log.names[1:]) == ["delete"] * 3 + ["find"] * 3
    assert await values(storage, ada.decode().removeprefix("session=")) == {}
