"""The two shortcuts of the hot path decide nothing differently from the long way."""

from __future__ import annotations

import json
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request

from storage.cookies import SessionCookie
from tests.storage.conftest import Visitor

TOKEN = "A" * 43
COOKIE = SessionCookie(
    name="session", domain=None, path="/", secure=None, httponly=True, samesite="Lax"
)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(1, True, id="one becomes true"),
        pytest.param(True, 1, id="true becomes one"),
        pytest.param(1, 1.0, id="one becomes a fraction"),
        pytest.param(0.0, -0.0, id="zero becomes negative"),
        pytest.param("1", 1, id="text becomes a number"),
        pytest.param(None, 0, id="nothing becomes zero"),
        pytest.param([], {}, id="list becomes dict"),
        pytest.param(10**40, 10**40 + 1, id="huge number"),
        pytest.param("\ud800", "\ud801", id="lone surrogates"),
    ],
)
async def test_nested_change_of_kind_only_is_saved(
    visitor: Visitor, before: Any, after: Any
) -> None:
    """Values that compare equal in Python are still told apart."""
    await visitor.do(lambda session: session.update(cart={"items": [before]}))

    await visitor.do(lambda session: session["cart"]["items"].__setitem__(0, after))

    stored = (await visitor.session())["cart"]["items"][0]
    assert json.dumps(stored) == json.dumps(after)


async def test_nested_change_of_order_is_saved(visitor: Visitor) -> None:
    """A dict whose keys changed places is another value."""
    await visitor.do(lambda session: session.update(cart={"a": 1, "b": 2}))

    await visitor.do(lambda session: session["cart"].update(a=session["cart"].pop("a")))

    assert list((await visitor.session())["cart"]) == ["b", "a"]


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(f"session={TOKEN}", id="alone"),
        pytest.param(f"a=1; session={TOKEN}; b=2", id="between others"),
        pytest.param(f"session={TOKEN}; ", id="with a trailing separator"),
        pytest.param(f"session={TOKEN};b=2", id="without a blank"),
        pytest.param(f'session="{TOKEN}"', id="quoted"),
        pytest.param(f'a="; session={TOKEN}"', id="inside another cookie's quotes"),
        pytest.param(f'a="; session={TOKEN}', id="after an unclosed quote"),
        pytest.param(f'a="; session={TOKEN}; b"', id="among quoted separators"),
        pytest.param(f"xsession={TOKEN}", id="end of another name"),
        pytest.param(f"a=session={TOKEN}", id="inside another value"),
        pytest.param(f"session={'B' * 43}; session={TOKEN}", id="twice"),
        pytest.param(f"session={TOKEN}; session=", id="twice, then empty"),
        pytest.param("session=", id="empty"),
        pytest.param("session", id="without a value"),
        pytest.param(f"session = {TOKEN}", id="blanks around the sign"),
        pytest.param(f"session={TOKEN}=", id="padded"),
        pytest.param(f"Session={TOKEN}", id="other case"),
        pytest.param("", id="empty header"),
    ],
)
def test_cookie_is_read_as_aiohttp_reads_it(header: str) -> None:
    """A glance at the header and aiohttp's parser agree on every header."""
    request = make_mocked_request("GET", "/", headers={"Cookie": header})

    assert COOKIE.read(request) == request.cookies.get("session")


def test_request_without_cookies_has_none() -> None:
    """No header, no token."""
    assert COOKIE.read(make_mocked_request("GET", "/")) is None


@pytest.mark.parametrize("name", ["my.session", "a|session", "$session+", "^session*"])
def test_name_of_a_cookie_is_no_pattern(name: str) -> None:
    """RFC 6265 lets a name have characters that mean something in a regular expression."""
    cookie = SessionCookie(
        name=name, domain=None, path="/", secure=None, httponly=True, samesite="Lax"
    )
    for header in (f"{name}={TOKEN}", f"{name}=; myxsession={TOKEN}", f"b={name}; session={TOKEN}"):
        request = make_mocked_request("GET", "/", headers={"Cookie": header})

        assert cookie.read(request) == request.cookies.get(name)
