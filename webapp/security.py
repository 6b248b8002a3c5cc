"""What protects browsers: headers on every answer, and the cross-site check on every change."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware
from multidict import CIMultiDict
from yarl import URL

from webapp.config import Config
from webapp.events import event
from webapp.identity import UNREADABLE, identify
from webapp.keys import CLIENT, REQUEST_ID, UNDER_WAY
from webapp.proxy import Client, host_name_of, port_of
from webapp.variables import DEFAULT_PORTS

API = "/api/"
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
HSTS = "max-age=63072000"  # two years; siblings under the same domain decide for themselves
SAFE = frozenset({hdrs.METH_GET, hdrs.METH_HEAD, hdrs.METH_OPTIONS, hdrs.METH_TRACE})
CORS_METHODS = "GET, HEAD, POST, DELETE"
CORS_HEADERS = "Content-Type, X-Request-Id"
CORS_EXPOSED = "Retry-After, X-Request-Id"
CORS_SECONDS = 600


class Headers(Protocol):
    """The part of a multidict that is asked: all lines of one name."""

    def getall(self, key: str, default: list[str]) -> list[str]:
        """Return the value of every line with this name."""


def header_signal(config: Config) -> _Signal:
    """Return the `on_response_prepare` handler that completes every answer's headers."""
    origins = frozenset(config.allowed_origins)

    async def complete(request: web.Request, response: web.StreamResponse) -> None:
        identify(request)  # an answer to `Expect` comes before every middleware
        response.headers.update(HEADERS)
        response.headers["X-Request-Id"] = request[REQUEST_ID]
        # Nothing is kept by a shared cache or the back button unless a handler says so.
        response.headers.setdefault(hdrs.CACHE_CONTROL, "no-store")
        if request[CLIENT].scheme == "https":
            response.headers["Strict-Transport-Security"] = HSTS
        if request.path.startswith(API) and origins:
            _share(response.headers, request.headers.getall(hdrs.ORIGIN, []), origins)
        if request.method == UNREADABLE and isinstance(response, web.Response):
            _without_echo(response)
        if request.app[UNDER_WAY].draining:
            # The router must not send its next request down a connection that is about to end.
            response.headers[hdrs.CONNECTION] = "close"
            response.force_close()

    return complete


def _without_echo(response: web.Response) -> None:
    """Blank aiohttp's explanation of a parser error: it quotes the line, a cookie perhaps.

    A script that overfills the cookie header would read the HttpOnly cookie in the answer, as it
    once could with Apache (CVE-2012-0053).  The length is announced already and so is kept.
    """
    length = len(response.body) if isinstance(response.body, bytes) else 0
    response.body = b"This request could not be read.".ljust(length)[:length]


class _Signal(Protocol):
    async def __call__(self, request: web.Request, response: web.StreamResponse) -> None: ...


def same_site_only(config: Config) -> Middleware:
    """Refuse changes that another site's page asks for, before the body is read.

    No token: an anonymous visit then writes nothing.  What counts is what the browser says and a
    page cannot forge, `Sec-Fetch-Site`, else `Origin` (OWASP CSRF cheat sheet, "Fetch Metadata").
    With neither, 403 in production; development lets plain curl in.
    """
    origins = frozenset(config.allowed_origins)

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        shared = origins if request.path.startswith(API) else frozenset[str]()
        if _is_preflight(request) and shared:
            return web.Response(status=204)
        if request.method in SAFE or is_own_site(
            request.headers, request[CLIENT], shared, without_evidence=not config.production
        ):
            return await handler(request)
        event(request, "cross_site_refused")
        raise web.HTTPForbidden(text="This request came from another site.")

    return check


def is_own_site(
    headers: Headers, client: Client, shared: Collection[str], *, without_evidence: bool
) -> bool:
    """Tell whether a change was asked for by this site, or by an origin in `shared`.

    Doubled headers count as foreign.  `without_evidence` answers for requests with neither header.
    """
    sites = headers.getall("Sec-Fetch-Site", [])
    origins = headers.getall(hdrs.ORIGIN, [])
    if len(sites) > 1 or len(origins) > 1:
        return False
    if origins and origins[0] in shared:
        return True
    if sites:
        # none: the user's own doing, such as a reload
        return sites[0] in ("same-origin", "none")
    if origins:
        return _names(origins[0], client)
    return without_evidence


def _names(origin: str, client: Client) -> bool:
    """Compare scheme, host and port, the default ports dropped (RFC 6454 4)."""
    try:
        url = URL(origin)
        port = url.port
    except ValueError:
        return False
    own_port = port_of(client.host) or DEFAULT_PORTS[client.scheme]
    named = host_name_of(client.host)
    return (
        named is not None
        and url.scheme == client.scheme
        and (url.host or "").casefold().removesuffix(".") == named
        and port == own_port
    )


def _is_preflight(request: web.Request) -> bool:
    return (
        request.method == hdrs.METH_OPTIONS
        and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers
    )


def _share(answer: CIMultiDict[str], asking: list[str], origins: Collection[str]) -> None:
    """Add the CORS headers for an allowed origin; `Vary` for everybody, or caches mix them up."""
    answer.add(hdrs.VARY, hdrs.ORIGIN)
    if len(asking) != 1 or asking[0] not in origins:
        return
    answer[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = asking[0]
    answer[hdrs.ACCESS_CONTROL_ALLOW_CREDENTIALS] = "true"
    answer[hdrs.ACCESS_CONTROL_ALLOW_METHODS] = CORS_METHODS
    answer[hdrs.ACCESS_CONTROL_ALLOW_HEADERS] = CORS_HEADERS
    answer[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = CORS_EXPOSED
    answer[hdrs.ACCESS_CONTROL_MAX_AGE] = str(CORS_SECONDS)
