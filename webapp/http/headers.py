"""The headers of every answer: what browsers may do with it, and which origins may read it."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Protocol

from aiohttp import hdrs, web
from multidict import CIMultiDict

from webapp.config.settings import Config
from webapp.http.api_prefix import is_api
from webapp.http.app_keys import CLIENT, IN_FLIGHT, REQUEST_ID
from webapp.http.proxy import Headers
from webapp.http.request_id import identify

CSP = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none';"
    " frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": CSP,
    "X-Content-Type-Options": "nosniff",
    # never no-referrer: it makes browsers send `Origin: null`, and the cross-site check refuse it
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": (
        "accelerometer=(), camera=(), geolocation=(), gyroscope=(), magnetometer=(),"
        " microphone=(), payment=(), usb=()"
    ),
    "Server": "webapp",
}
# Unless a handler says otherwise: no cache and no back button shows it again (no-store), and no
# service on the way rewrites it: some replace email addresses in pages by scripts, which the
# policy above blocks (no-transform, RFC 9111 5.2.2.6).
PERSONAL = "no-store, no-transform"
HSTS = "max-age=63072000"  # two years; no includeSubDomains, which would affect other sites
CORS_METHODS = "GET, HEAD, POST, DELETE"
CORS_HEADERS = "Content-Type, X-Request-Id"
_HEADER_NAMES = re.compile(r"[\w!#$%&'*+.^`|~-]+([ \t]*,[ \t]*[\w!#$%&'*+.^`|~-]+)*", re.ASCII)
CORS_EXPOSED = "Retry-After, X-Request-Id"
CORS_SECONDS = 600


class _Signal(Protocol):
    async def __call__(self, request: web.Request, response: web.StreamResponse) -> None: ...


def header_signal(config: Config) -> _Signal:
    """Return the `on_response_prepare` handler that completes every answer's headers."""
    origins = frozenset(config.allowed_origins)

    async def complete(request: web.Request, response: web.StreamResponse) -> None:
        identify(request)  # aiohttp answers `Expect` before any middleware
        response.headers.update(HEADERS)
        response.headers["X-Request-Id"] = request[REQUEST_ID]
        response.headers.setdefault(hdrs.CACHE_CONTROL, PERSONAL)
        if request[CLIENT].scheme == "https":
            response.headers["Strict-Transport-Security"] = HSTS
        if origins and is_api(request):
            _add_cors_headers(response.headers, request.headers, origins)
        if request.app[IN_FLIGHT].draining:
            # The router must not send its next request over a connection that is about to end.
            response.headers[hdrs.CONNECTION] = "close"
            response.force_close()

    return complete


def _add_cors_headers(answer: CIMultiDict[str], sent: Headers, origins: Collection[str]) -> None:
    """Add the CORS headers for an allowed origin; `Vary` in any case, or caches mix answers up."""
    answer.add(hdrs.VARY, hdrs.ORIGIN)
    named = sent.getall(hdrs.ORIGIN, [])
    if len(named) != 1 or named[0] not in origins:
        return
    answer[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = named[0]
    answer[hdrs.ACCESS_CONTROL_ALLOW_CREDENTIALS] = "true"
    answer[hdrs.ACCESS_CONTROL_ALLOW_METHODS] = CORS_METHODS
    answer[hdrs.ACCESS_CONTROL_ALLOW_HEADERS] = _allowed_headers(sent)
    answer[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = CORS_EXPOSED
    answer[hdrs.ACCESS_CONTROL_MAX_AGE] = str(CORS_SECONDS)


def _allowed_headers(sent: Headers) -> str:
    """Return the headers that a preflight asks for, whatever they are: tracing adds its own.

    Not `*`: with credentials that is the name of a header (Fetch, 3.3.4).
    """
    wanted = ", ".join(sent.getall(hdrs.ACCESS_CONTROL_REQUEST_HEADERS, []))
    return wanted if _HEADER_NAMES.fullmatch(wanted) else CORS_HEADERS
