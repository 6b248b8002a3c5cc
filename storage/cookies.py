"""The two ``Set-Cookie`` lines: one that sets the session cookie, one that deletes it.

Both carry the same attributes: a browser ignores the deletion of a ``__Host-`` cookie otherwise
(RFC 6265bis section 4.1.3.2).
"""

from __future__ import annotations

import re

from aiohttp import hdrs, web

SAMESITE = ("Lax", "Strict", "None")
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_ATTRIBUTE = re.compile(r"[\x20-\x3a\x3c-\x7e]*")
_DELETED = "Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT; "


class SessionCookie:
    """The cookie's name and attributes, checked once and spelled out once."""

    def __init__(
        self,
        *,
        name: str,
        domain: str | None,
        path: str,
        secure: bool | None,
        httponly: bool,
        samesite: str | None,
    ) -> None:
        """Check the attributes; a wrong one raises an error that names it."""
        self.name: str = _matching(
            "cookie_name", name, _TOKEN, "letters, digits and !#$%&'*+-.^_`|~"
        )
        self._secure = _flag("secure", secure, (True, False, None))
        attributes = [f"Path={_path(path)}"]
        if domain is not None:
            attributes.append(f"Domain={_matching('domain', domain, _TOKEN, 'a host name')}")
        if _flag("httponly", httponly, (True, False)):
            attributes.append("HttpOnly")
        if samesite is not None:
            attributes.append(f"SameSite={_samesite(samesite)}")
        prefix = name.lower()
        if prefix.startswith("__host-") and (domain is not None or path != "/"):
            raise ValueError("cookie_name: a __Host- cookie takes domain=None and path='/' only")
        if prefix.startswith(("__host-", "__secure-")):
            self._require_secure("cookie_name: a __Host- or __Secure- cookie")
        elif samesite == "None":
            self._require_secure("samesite: 'None'")
        self._attributes = "; ".join(attributes)
        self._alone = re.compile(rf"(?:^|; ){re.escape(name)}=([A-Za-z0-9_-]+)(?:;|$)")

    def read(self, request: web.Request) -> str | None:
        """Return the cookie's text, as ``request.cookies`` has it.

        Parsing all cookies costs more than unsealing a value. A header that names this one once,
        plainly, and quotes nothing can be read at a glance; whatever else is left to aiohttp.
        """
        header = request.headers.get(hdrs.COOKIE)
        if header is None:
            return None
        if header.count(self.name) == 1 and '"' not in header:
            found = self._alone.search(header)
            if found is not None:
                return found[1]
        return request.cookies.get(self.name)

    def set(
        self, request: web.Request, response: web.StreamResponse, token: str, seconds: int | None
    ) -> None:
        """Add the line that sets the cookie; without ``seconds`` it ends with the browser."""
        age = "" if seconds is None else f"Max-Age={seconds}; "
        self._add(request, response, f"{self.name}={token}; {age}")

    def delete(self, request: web.Request, response: web.StreamResponse) -> None:
        """Add the line that deletes the cookie."""
        self._add(request, response, f'{self.name}=""; {_DELETED}')

    def _add(self, request: web.Request, response: web.StreamResponse, start: str) -> None:
        secure = self._secure if self._secure is not None else request.secure
        line = f"{start}{self._attributes}{'; Secure' if secure else ''}"
        headers = response.headers
        if hdrs.SET_COOKIE in headers:
            # An app and its sub-app may both have saved: the last word is the only one.
            others = [
                other
                for other in headers.popall(hdrs.SET_COOKIE)
                if not other.startswith(f"{self.name}=")
            ]
            for other in others:
                headers.add(hdrs.SET_COOKIE, other)
        # A header, not response.set_cookie(): once a stream is being prepared, aiohttp has already
        # rendered the response's cookies.
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
