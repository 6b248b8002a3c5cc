"""The `Cookie` header: which cookies are session cookies, and which of several is used."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from aiohttp_session import get_session, new_session
from multidict import CIMultiDict

from storage import MongoStorage
from storage.cookies import SessionCookie
from storage.tokens import from_cookie, to_cookie
from tests.storage.conftest import Site, Visitor, set_cookie_of
from tests.storage.direct import values, visit

A, B = "A" * 43, "B" * 42 + "A"


def tokens(*lines: str, name: str = "session") -> list[str]:
    """Return the session tokens of a request with these `Cookie` lines, as text."""
    cookie = SessionCookie(
        name=name,
        domain=None,
        path="/",
        secure=None,
        httponly=True,
        samesite="Lax",
        partitioned=False,
    )
    headers = CIMultiDict([("Cookie", line) for line in lines])
    return [to_cookie(token) for token in cookie.tokens(make_mocked_request("GET", "/", headers))]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        pytest.param([], [], id="no header"),
        pytest.param([""], [], id="empty header"),
        pytest.param([f"session={A}"], [A], id="alone"),
        pytest.param([f"a=1; session={A}; b=2"], [A], id="between others"),
        pytest.param([f"session={A};b=2"], [A], id="without a space"),
        pytest.param([f"a=1;\t session={A}\t;b=2"], [A], id="with tabs"),
        pytest.param([f"session={A}; "], [A], id="with a trailing separator"),
        pytest.param([f"session={B}; session={A}"], [B, A], id="two, in their order"),
        pytest.param([f"session={A}; session={A}"], [A], id="the same twice"),
        pytest.param([f"session={A}; session="], [A], id="one of them empty"),
        pytest.param([f"session=x; session={A}"], [A], id="one of them malformed"),
        pytest.param(["a=1", f"session={A}", "b=2"], [A], id="in one of several lines"),
        pytest.param([f"session={B}", f"session={A}"], [B, A], id="one in each line"),
        pytest.param([f"session={A[:20]}", A[20:]], [], id="split in the middle by a proxy"),
        pytest.param([f'a="; session={A}; b"'], [A], id="between the quotes of another"),
        pytest.param([f'session="{A}"'], [], id="quoted"),
        pytest.param([f'a="; session={A}"'], [], id="followed by a quote"),
        pytest.param([f"a=b session={A}"], [], id="inside the value of another"),
        pytest.param([f"a=session={A}"], [], id="as the value of another"),
        pytest.param([f"session={A} session={B}"], [], id="followed by other text"),
        pytest.param([f"xsession={A}"], [], id="end of another name"),
        pytest.param([f"Session={A}"], [], id="another case"),
        pytest.param([f"\u2000session={A}"], [], id="a Unicode space before the name"),
        pytest.param([f"\x0bsession={A}"], [], id="a vertical tab before the name"),
        pytest.param([f"session ={A}"], [], id="a space after the name"),
        pytest.param([f"session= {A}"], [], id="a space before the value"),
        pytest.param([f"session={A}="], [], id="padded"),
        pytest.param([f"session={A}A"], [], id="one character more"),
        pytest.param(["session"], [], id="without a value"),
        pytest.param([f"session={'B' * 43}"], [], id="not canonical"),
    ],
)
def test_cookie_is_found_by_its_exact_name_between_semicolons(
    lines: list[str], expected: list[str]
) -> None:
    """As a browser writes the header (RFC 6265bis), and not as a general parser reads it."""
    assert tokens(*lines) == expected


@pytest.mark.parametrize("name", ["my.session", "a|session", "$session+", "^session*"])
def test_cookie_name_is_no_regular_expression(name: str) -> None:
    """RFC 6265 allows characters in a name that have a meaning in a regular expression."""
    assert tokens(f"{name}={A}", name=name) == [A]
    assert tokens(f"{name}=; myxsession={A}; b={name}; session={A}", name=name) == []


@pytest.mark.parametrize(
    "planted",
    [
        pytest.param("lang=en session={}", id="in a cookie of another name"),
        pytest.param("\u2000session={}", id="after a Unicode space"),
        pytest.param('a="x; session={}"; b', id="inside quotes"),
    ],
)
async def test_sibling_host_cannot_sign_a_visitor_in_to_its_own_account(
    site: Site, storage: MongoStorage, planted: str
) -> None:
    """Cookies that a general parser would take for the session cookie open no session."""
    attacker = str(await visit(storage, None, lambda session: session.update(user_id="mallory")))
    header = b"Cookie: " + planted.format(attacker).encode() + b"\r\n"
    seen: list[dict[str, object]] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(dict(await get_session(request)))
        return web.Response()

    await site.head_on_the_wire(handler, header)

    assert seen == [{}]


async def session_with(visitor: Visitor, *cookies: str) -> dict[str, object]:
    """Return the session that a request with these session cookies gets."""
    visitor.cookie = None
    header = "; ".join(f"session={cookie}" for cookie in cookies)
    return dict(await (await visitor.do(dict, headers={"Cookie": header})).json())


async def test_planted_anonymous_session_does_not_hide_a_signed_in_one(
    visitor: Visitor, storage: MongoStorage
) -> None:
    """Of several cookies the first one that opens a session with an owner is used."""
    anonymous = str(await visit(storage, None, lambda session: session.update(cart=1)))
    ada = str(await visit(storage, None, lambda session: session.update(user_id="ada")))
    bob = str(await visit(storage, None, lambda session: session.update(user_id="bob")))

    assert await session_with(visitor, anonymous, ada, bob) == {"user_id": "ada"}


async def test_first_cookie_that_opens_a_session_is_used(
    visitor: Visitor, storage: MongoStorage
) -> None:
    """An old cookie, of another path or domain, does not sign the visitor out."""
    first = str(await visit(storage, None, lambda session: session.update(n=1)))
    second = str(await visit(storage, None, lambda session: session.update(n=2)))

    assert await session_with(visitor, A, first, second) == {"n": 1}


async def test_several_cookies_are_looked_up_in_one_find(
    visitor: Visitor, storage: MongoStorage
) -> None:
    """A request costs at most one find, whatever cookies it has."""
    cookie = str(await visit(storage, None, lambda session: session.update(n=1)))
    before = storage.counters["commands"]

    assert await session_with(visitor, A, B, cookie) == {"n": 1}

    assert storage.counters["commands"] - before == 1
    assert storage.counters["loads"] - storage.counters["hits"] == 0


async def test_only_the_first_four_session_cookies_are_looked_up(
    visitor: Visitor, storage: MongoStorage
) -> None:
    """In one find; the others of 151 are ignored."""
    cookie = str(await visit(storage, None, lambda session: session.update(n=1)))
    forged = [to_cookie(number.to_bytes(32)) for number in range(150)]
    before = storage.counters["commands"]

    assert await session_with(visitor, *forged, cookie) == {}
    assert await session_with(visitor, *forged[:3], cookie, *forged[3:]) == {"n": 1}

    assert storage.counters["commands"] - before == 2


async def test_sign_out_ends_the_session_of_every_cookie_of_the_request(
    visitor: Visitor, storage: MongoStorage
) -> None:
    """Nobody stays signed in with another cookie, not even with a sixth one."""
    cookies = [
        str(await visit(storage, None, lambda session, n=n: session.update(user_id=n)))  # type: ignore[misc]
        for n in range(6)
    ]
    visitor.cookie = None
    header = "; ".join(f"session={cookie}" for cookie in cookies)

    response = await visitor.do(lambda session: session.invalidate(), headers={"Cookie": header})

    assert "Max-Age=0" in set_cookie_of(response)[0]
    assert await asyncio.gather(*(values(storage, cookie) for cookie in cookies)) == [{}] * 6


async def test_new_session_without_a_load_replaces_the_session_of_every_cookie(
    visitor: Visitor, storage: MongoStorage
) -> None:
    """A sign-in ends every older session of the browser."""
    cookies = [
        str(await visit(storage, None, lambda session, n=n: session.update(user_id=n)))  # type: ignore[misc]
        for n in range(2)
    ]
    visitor.cookie = None

    async def sign_in(request: web.Request) -> web.Response:
        (await new_session(request))["user_id"] = "ada"
        return web.Response()

    await visitor.visit(
        sign_in, headers={"Cookie": "; ".join(f"session={cookie}" for cookie in cookies)}
    )

    assert await asyncio.gather(*(values(storage, cookie) for cookie in cookies)) == [{}] * 2


async def test_load_cookie_returns_the_first_token_of_the_request(storage: MongoStorage) -> None:
    """As text, for subclasses of the storage; `None` if there is none."""
    request = make_mocked_request("GET", "/", headers={"Cookie": f"session={B}; session={A}"})

    assert storage.load_cookie(request) == B
    assert storage.load_cookie(make_mocked_request("GET", "/")) is None
    assert from_cookie(B) is not None
