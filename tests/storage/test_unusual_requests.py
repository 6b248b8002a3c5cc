"""Cookies that no browser sends, the set-up of aiohttp-session, sessions of another library."""

from __future__ import annotations

import aiohttp_session
import pytest
from aiohttp import web
from aiohttp_session import Session, get_session

from storage import MongoStorage
from tests.storage.command_log import CommandLog
from tests.storage.conftest import Clock, OpenSite, Site, Visitor, set_cookie_of


async def _greet(request: web.Request) -> web.StreamResponse:
    session = await get_session(request)
    return web.Response(headers={"X-Name": session.get("name", "nobody")})


@pytest.mark.parametrize(
    "cookie",
    [
        pytest.param(b"\xff", id="one byte"),
        pytest.param(b"\xff" * 43, id="as long as a token"),
        pytest.param(b"A" * 42 + b"\xe9", id="a token with a wrong last byte"),
        pytest.param("ÿ".encode() * 22, id="text in UTF-8"),
        pytest.param(b"A" * 7000, id="longer than any token"),
        pytest.param(b"\\377" * 11, id="octal escapes"),
    ],
)
async def test_cookie_with_unusual_bytes_is_no_session_and_no_error(
    cookie: bytes, site: Site, log: CommandLog
) -> None:
    """The response is that for a visitor without a cookie."""
    log.commands.clear()

    head = await site.head_on_the_wire(_greet, b"Cookie: session=" + cookie + b"\r\n")

    assert head.startswith("HTTP/1.1 200 ")
    assert "X-Name: nobody" in head
    assert "Set-Cookie" not in head
    assert log.names == []


async def test_unusual_bytes_in_another_cookie_do_not_hide_the_session(
    site: Site, visitor: Visitor
) -> None:
    """Other programs of the same host may set any cookies."""
    await visitor.do(lambda session: session.update(name="Ada"))

    head = await site.head_on_the_wire(
        _greet, b"Cookie: other=\xff\xfe; session=" + (visitor.cookie or "").encode() + b"\r\n"
    )

    assert "X-Name: Ada" in head


async def test_aiohttp_session_setup_saves_due_touches(
    open_site: OpenSite, storage: MongoStorage, clock: Clock
) -> None:
    """aiohttp-session saves only changed sessions; a session with a due touch is one."""
    visitor = await (await open_site(storage, aiohttp_session.setup)).visitor()
    await visitor.do(lambda session: session.update(name="Ada"))

    at_once = await visitor.do(len)
    clock.advance(2 * 3600)
    later = await visitor.do(len)

    assert set_cookie_of(at_once) == []
    assert len(set_cookie_of(later)) == 1
    assert storage.counters["touches"] == 1


async def test_session_has_the_attributes_of_aiohttp_session(
    visitor: Visitor, clock: Clock
) -> None:
    """`new`, `identity`, `empty` and `created`."""
    first = await visitor.do(lambda session: [session.new, session.identity, session.empty])
    await visitor.do(lambda session: session.update(name="Ada"))
    begun = int(clock())
    clock.advance(60)

    later = await visitor.do(lambda session: [session.new, session.identity, session.created])

    assert await first.json() == [True, None, True]
    assert await later.json() == [False, visitor.cookie, begun]


async def test_repr_of_a_session_shows_no_token_and_no_value(visitor: Visitor) -> None:
    """Sessions may be written to logs."""
    await visitor.do(lambda session: session.update(name="Ada"))

    shown = await (await visitor.do(repr)).json()

    assert "Ada" not in shown
    assert (visitor.cookie or "") not in shown
    assert shown.startswith("<MongoSession handle=")


async def test_session_of_another_library_is_refused_by_type(
    site: Site, storage: MongoStorage, visitor: Visitor
) -> None:
    """A storage saves only its own sessions."""
    refused: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        foreign = Session(None, data=None, new=True)
        with pytest.raises(TypeError) as error:
            await storage.save_session(request, web.Response(), foreign)
        refused.append(str(error.value))
        return web.Response()

    await visitor.visit(handler)

    (message,) = refused
    assert message.startswith("session: Session was not made by this storage; ")
    assert "storage.testing.give_session" in message
