"""The session cookie: read from the request, set or deleted with the response.

What sets a cookie and what deletes it carry the same attributes: a browser ignores the deletion of
a ``__Host-`` cookie otherwise (RFC 6265bis section 4.1.3.2).
"""

from __future__ import annotations

import re
from http.cookies import Morsel
from typing import Any, ClassVar

from aiohttp import hdrs, web

from storage.tokens import from_cookie, to_cookie

SAMESITE = ("Lax", "Strict", "None")
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_ATTRIBUTE = re.compile(r"[\x20-\x3a\x3c-\x7e]*")
_DELETED = {"max-age": 0, "expires": "Thu, 01 Jan 1970 00:00:00 GMT"}


class _Morsel(Morsel[str]):
    """A ``Set-Cookie`` line; Python knows ``Partitioned`` from 3.14 on only."""

    _reserved: ClassVar = {**Morsel._reserved, "partitioned": "Partitioned"}  # type: ignore[attr-defined]
    _flags: ClassVar = {*Morsel._flags, "partitioned"}  # type: ignore[attr-defined]


class SessionCookie:
    """The cookie's name and attributes, checked once."""

    def __init__(
        self,
        *,
        name: str,
        domain: str | None,
        path: str,
        secure: bool | None,
        httponly: bool,
        samesite: str | None,
        partitioned: bool,
    ) -> None:
        """Check the attributes; a wrong one raises an error that names it."""
        self.name: str = _matching(
            "cookie_name", name, _NAME, "letters, digits and !#$%&'*+-.^_`|~"
        )
        self._secure = _flag("secure", secure, (True, False, None))
        self._attributes: dict[str, Any] = {"path": _path(path)}
        if domain:
            self._attributes["domain"] = _matching("domain", domain, _NAME, "a host name")
        if _flag("httponly", httponly, (True, False)):
            self._attributes["httponly"] = True
        if samesite is not None:
            self._attributes["samesite"] = _samesite(samesite)
        if _flag("partitioned", partitioned, (True, False)):
            if samesite != "None":
                raise ValueError(
                    "partitioned: it is for cookies of other sites' pages; use samesite='None' "
                    "with it, or leave it out"
                )
            self._attributes["partitioned"] = True
        prefix = name.lower()
        if prefix.startswith("__host-") and (domain or path != "/"):
            raise ValueError("cookie_name: a __Host- cookie takes domain=None and path='/' only")
        if prefix.startswith(("__host-", "__secure-")):
            self._require_secure("cookie_name: a __Host- or __Secure- cookie")
        elif samesite == "None":
            self._require_secure("samesite: 'None'")
        # Pairs are split at ";" alone and stripped of space and tab alone, and the name is compared
        # exactly (RFC 6265bis section 5). A general parser, which also splits at other blanks or
        # reads quotes, would take a cookie of another name for ours, such as the
        # "a=b __Host-session=..." that a sibling host may set. The look-ahead leaves the ";" to the
        # next pair.
        self._pair = re.compile(
            rf"(?:^|;)[ \t]*{re.escape(name)}=([A-Za-z0-9_-]{{43}})[ \t]*(?=;|$)"
        )

    def tokens(self, request: web.Request) -> list[bytes]:
        """Return the session tokens of the request, in the browser's order, each once.

        A browser sends one for each path and domain that the cookie was set with, and HTTP/2 front
        ends may split the header into lines (RFC 9113 section 8.2.3). Whatever is malformed is left
        out.
        """
        texts: list[str] = []
        for line in request.headers.getall(hdrs.COOKIE, ()):
            texts += self._pair.findall(line)
        if len(texts) == 1:
            token = from_cookie(texts[0])
            return [] if token is None else [token]
        found = map(from_cookie, dict.fromkeys(texts))
        return [token for token in found if token is not None]

    def set(
        self, request: web.Request, response: web.StreamResponse, token: bytes, seconds: int | None
    ) -> None:
        """Set the cookie; without ``seconds`` it ends with the browser."""
        lifetime = {} if seconds is None else {"max-age": seconds}
        self._send(request, response, to_cookie(token), lifetime)

    def delete(self, request: web.Request, response: web.StreamResponse) -> None:
        """Delete the cookie."""
        self._send(request, response, "", _DELETED)

    def put(self, response: web.StreamResponse, morsel: Morsel[str]) -> None:
        """Let the response carry what was set or deleted."""
        response.cookies[self.name] = morsel
        self._remove_lines(response)

    def write_header(self, response: web.StreamResponse) -> None:
        """Write what was set into the headers, once aiohttp has written ``response.cookies``."""
        morsel = response.cookies.get(self.name)
        if isinstance(morsel, _Morsel):
            self._remove_lines(response)
            response.headers.add(hdrs.SET_COOKIE, morsel.OutputString())

    def is_on(self, response: web.StreamResponse) -> bool:
        """Tell whether the headers, once they are complete, set or delete the cookie."""
        headers = response.headers
        if hdrs.SET_COOKIE not in headers:
            return False
        return any(line.startswith(f"{self.name}=") for line in headers.getall(hdrs.SET_COOKIE))

    def _send(
        self,
        request: web.Request,
        response: web.StreamResponse,
        value: str,
        lifetime: dict[str, Any],
    ) -> None:
        morsel = _Morsel()
        morsel.set(self.name, value, value or '""')
        secure = self._secure if self._secure is not None else request.secure
        morsel.update({**self._attributes, **lifetime, **({"secure": True} if secure else {})})
        self.put(response, morsel)

    def _remove_lines(self, response: web.StreamResponse) -> None:
        # Of the app, or of a sub-app that has saved too: the last cookie is the only one.
        headers = response.headers
        if hdrs.SET_COOKIE in headers:
            for line in headers.popall(hdrs.SET_COOKIE):
                if not line.startswith(f"{self.name}="):
                    headers.add(hdrs.SET_COOKIE, line)

    def _require_secure(self, what: str) -> None:
        if self._secure is False:
            raise ValueError(f"{what} must be Secure; use secure=True or leave it out")
        self._secure = True


def _matching(argument: str, value: object, pattern: re.Pattern[str], accepted: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{argument}: {type(value).__name__} is not text; use {accepted}")
    if not pattern.fullmatch(value):
        raise ValueError(f"{argument}: {value!r} is not accepted; use {accepted}")
    return value


def _path(path: object) -> str:
    checked = _matching("path", path, _ATTRIBUTE, "a path that starts with /")
    if not checked.startswith("/"):
        raise ValueError(f"path: {checked!r} is not accepted; use a path that starts with /")
    return checked


def _samesite(samesite: object) -> str:
    if samesite not in SAMESITE:
        raise ValueError(f"samesite: {samesite!r} is not accepted; use 'Lax', 'Strict' or 'None'")
    return str(samesite)


def _flag(argument: str, value: object, accepted: tuple[bool | None, ...]) -> bool | None:
    if not any(value is choice for choice in accepted):
        choices = ", ".join(map(str, accepted))
        raise TypeError(f"{argument}: {value!r} is not accepted; use one of {choices}")
    return value if isinstance(value, bool) else None
