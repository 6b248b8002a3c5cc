"""Where `next` may redirect to: a path of this site and nowhere else."""

from __future__ import annotations

import pytest

from webapp.handlers.redirects import DEFAULT_PATH, local_path, with_query

HOSTILE = [
    pytest.param("https://evil.example/", id="another site"),
    pytest.param("//evil.example", id="scheme-relative"),
    pytest.param("///evil.example", id="three slashes"),
    pytest.param("/\\evil.example", id="backslash"),
    pytest.param("\\\\evil.example", id="two backslashes"),
    pytest.param("/\t/evil.example", id="tab between slashes"),
    pytest.param("/\n/evil.example", id="line end between slashes"),
    pytest.param("/profile\r\nSet-Cookie: session=x", id="header injection"),
    pytest.param("javascript:alert(1)", id="script"),
    pytest.param("data:text/html,x", id="data"),
    pytest.param(" /profile", id="leading blank"),
    pytest.param("/ /evil.example", id="blank inside"),
    pytest.param("/.//evil.example", id="dot and two slashes"),
    pytest.param("/profile#@evil.example", id="fragment"),
    pytest.param("/..//evil.example", id="dots and two slashes"),
    pytest.param("evil.example", id="no slash"),
    pytest.param("@evil.example", id="user info"),
    pytest.param("http:/evil.example", id="one slash after the scheme"),
    pytest.param("/\u2215evil.example", id="a slash of another alphabet"),
    pytest.param("/\x00", id="NUL"),
    pytest.param("/\ud800", id="lone surrogate"),
    pytest.param("/" + "a" * 600, id="very long"),
    pytest.param("", id="empty"),
    pytest.param(None, id="missing"),
    pytest.param(["/profile"], id="a list"),
]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_next_is_replaced_by_the_default(hostile: object) -> None:
    """Everything that is not a plain path of this site is ignored."""
    assert local_path(hostile) == DEFAULT_PATH


@pytest.mark.parametrize(
    "path",
    ["/", "/profile/sessions", "/profile?tab=a%20b&x=//y", "/a-b_c.d~e/@me", "/caf%C3%A9"],
)
def test_path_of_this_site_is_kept(path: str) -> None:
    """A plain path is accepted, with a query or without."""
    assert local_path(path) == path


def test_values_in_a_query_are_escaped() -> None:
    """A value cannot add another field."""
    assert with_query("/login", next="/a?b=c&d") == "/login?next=%2Fa%3Fb%3Dc%26d"
