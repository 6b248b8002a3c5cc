"""Cookies that no browser sends, encoders of one's own, sessions of another library."""

from __future__ import annotations

import json
from datetime import date
from typing import Any

import aiohttp_session
import pytest
from aiohttp import web
from aiohttp_session import Session, get_session

from storage import MongoStorage
from tests.storage.command_log import CommandLog
from tests.storage.conftest import Clock, MakeStorage, OpenSite, Site, Visitor, set_cookie_of


async def _greet(request: web.Request) -> web.StreamResponse:
    session = await get_session(request)
    return web.Response(headers={"X-Name": session.get("name", "nobody")})


@pytest.mark.parametrize(
    "cookie",
    [
        pytest.param(b"\xff", id="one byte"),
        pytest.param(b"\xff" * 43, id="as long as a token"),
        pytest.param(b"A" * 42 + b"\xe9", id="a token but for its end"),
        pytest.param("ÿ".encode() * 22, id="text in UTF-8"),
        pytest.param(b"A" * 7000, id="longer than any token"),
        pytest.param(b"\\377" * 11, id="octal escapes"),
    ],
)
async def test_cookie_with_unusual_bytes_is_no_session_and_no_error(
    cookie: bytes, site: Site, log: CommandLog
) -> None:
    """It arrives as a lone surrogate or worse; the answer is that of a visitor without a cookie."""
    log.commands.clear()

    head = await site.head_on_the_wire(_greet, b"Cookie: session=" + cookie + b"\r\n")

    assert head.startswith("HTTP/1.1 200 ")
    assert "X-Name: nobody" in head
    assert "Set-Cookie" not in head
    assert log.names == []


async def test_unusual_bytes_in_another_cookie_do_not_hide_the_session(
    site: Site, visitor: Visitor
) -> None:
    """What other software sets for the same host is not ours to judge."""
    await visitor.do(lambda session: session.update(name="Ada"))

    head = await site.head_on_the_wire(
        _greet, b"Cookie: other=\xff\xfe; session=" + (visitor.cookie or "").encode() + b"\r\n"
    )

    assert "X-Name: Ada" in head


async def test_encoder_may_return_bytes(make_storage: MakeStorage, open_site: OpenSite) -> None:
    """They come back as bytes to the decoder, and nested changes are noticed all the same."""
    kinds: set[type] = set()

    def decode(encoded: str | bytes) -> Any:
        kinds.add(type(encoded))
        return json.loads(encoded)

    storage = make_storage(encoder=lambda value: json.dumps(value).encode(), decoder=decode)
    visitor = await (await open_site(storage)).visitor()
    await visitor.do(lambda session: session.update(cart=[1], name="Ada"))

    await visitor.do(lambda session: session["cart"].append(2))

    assert await visitor.session() == {"cart": [1, 2], "name": "Ada"}
    assert kinds == {bytes}


async def test_whatever_the_encoder_accepts_is_stored(
    make_storage: MakeStorage, open_site: OpenSite
) -> None:
    """Values that JSON does not know, with an encoder that does."""

    def decode(encoded: Any) -> Any:
        value = json.loads(encoded)
        return date.fromisoformat(value["date"]) if isinstance(value, dict) else value

    def encode(value: Any) -> str:
        return json.dumps({"date": value.isoformat()} if isinstance(value, date) else value)

    visitor = await (await open_site(make_storage(encoder=encode, decoder=decode))).visitor()
    await visitor.do(lambda session: session.update(born=date(1815, 12, 10), visits=1))

    response = await visitor.do(lambda session: session["born"].year)

    assert await response.json() == 1815


async def test_aiohttp_session_setup_saves_due_touches(
    open_site: OpenSite, storage: MongoStorage, clock: Clock
) -> None:
    """aiohttp-session saves only what says that it changed; a loaded session does."""
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
    """New or not, since when, and under which identity."""
    first = await visitor.do(lambda session: [session.new, session.identity, session.empty])
    await visitor.do(lambda session: session.update(name="Ada"))
    begun = int(clock())
    clock.advance(60)

    later = await visitor.do(lambda session: [session.new, session.identity, session.created])

    assert await first.json() == [True, None, True]
    assert await later.json() == [False, visitor.cookie, begun]


async def test_repr_of_a_session_shows_no_token_and_no_value(visitor: Visitor) -> None:
    """Sessions end up in logs."""
    await visitor.do(lambda session: session.update(name="Ada"))

    shown = await (await visitor.do(repr)).json()

    assert "Ada" not in shown
    assert (visitor.cookie or "") not in shown
    assert shown.startswith("<MongoSession handle=")


async def test_session_of_another_library_is_refused_by_type(
    site: Site, storage: MongoStorage, visitor: Visitor
) -> None:
    """A storage saves what it has made, and nothing else."""
    refused: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        foreign = Session(None, data=None, new=True)
        with pytest.raises(TypeError) as error:
            await storage.save_session(request, web.Response(), foreign)
        refused.append(str(error.value))
        return web.Response()

    await visitor.visit(handler)

    assert refused == ["session: Session was not made by this storage"]


@pytest.mark.parametrize("signed_in", [True, False], ids=["signed in", "without a cookie"])
async def test_closed_storage_refuses_every_request(
    signed_in: bool,  # noqa: FBT001 - a case
    visitor: Visitor,
    storage: MongoStorage,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """After aclose(), which may be called twice, nobody is taken for a new visitor."""
    if signed_in:
        await visitor.do(lambda session: session.update(name="Ada"))
    await storage.aclose()
    await storage.aclose()

    response = await visitor.do(len)

    assert response.status == 500
    errors = [record.exc_info[1] for record in caplog.records if record.exc_info]
    assert [type(error) for error in errors] == [RuntimeError]
