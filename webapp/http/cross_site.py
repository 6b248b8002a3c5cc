"""The cross-site check: only this site's own pages may change anything."""

from __future__ import annotations

from collections.abc import Collection

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from webapp.config.settings import Config
from webapp.config.variables import DEFAULT_PORTS
from webapp.http.api_prefix import is_api
from webapp.http.app_keys import CLIENT
from webapp.http.events import event
from webapp.http.proxy import Client, Headers, host_name_of, port_of

SAFE = frozenset({hdrs.METH_GET, hdrs.METH_HEAD, hdrs.METH_OPTIONS, hdrs.METH_TRACE})


def same_site_only(config: Config) -> Middleware:
    """Refuse a request of another site's page that would change something; its body is not read.

    Not by a token, so that an anonymous visit writes nothing, but by headers that a page cannot
    forge: `Sec-Fetch-Site`, else `Origin` (OWASP CSRF cheat sheet, "Fetch Metadata").  Without
    both, 403 in production, with the header that a program must send; in development allowed, for
    curl.
    """
    origins = frozenset(config.allowed_origins)

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        shared = origins if is_api(request) else frozenset[str]()
        if _is_preflight(request) and shared:
            return web.Response(status=204)
        if request.method in SAFE or is_own_site(
            request.headers, request[CLIENT], shared, without_evidence=not config.production
        ):
            return await handler(request)
        event(request, "cross_site_refused")
        raise web.HTTPForbidden(text=_reason(request.headers, request[CLIENT]))

    return check


def _reason(headers: Headers, client: Client) -> str:
    """Say what is wrong; to a program, which sends neither header by itself, also what to do."""
    if headers.getall("Sec-Fetch-Site", []) or headers.getall(hdrs.ORIGIN, []):
        return "This request came from another site."
    return (
        "This request has neither Sec-Fetch-Site nor Origin, so it could come from another site."
        f" Browsers send them; a program must send Origin: {client.scheme}://{client.host}"
    )


def is_own_site(
    headers: Headers, client: Client, shared: Collection[str], *, without_evidence: bool
) -> bool:
    """Tell whether a request comes from a page of this site, or from an origin in `shared`.

    A header that is there twice counts as another site.  `without_evidence` is the answer for a
    request with neither header.
    """
    sites = headers.getall("Sec-Fetch-Site", [])
    origins = headers.getall(hdrs.ORIGIN, [])
    if len(sites) > 1 or len(origins) > 1:
        return False
    if origins and origins[0] in shared:
        return True
    if sites:
        # none: the user did it, by a bookmark for example
        return sites[0] in ("same-origin", "none")
    if origins:
        return _is_same_origin(origins[0], client)
    return without_evidence


def _is_same_origin(origin: str, client: Client) -> bool:
    """Compare scheme, host and port, without default ports (RFC 6454 4).

    Not with a URL parser: browsers write an origin in ASCII, and to decode and encode the names of
    other scripts takes half a second for a header of 16 KiB, or raises an error.
    """
    scheme, _, host = origin.partition("://")
    default_port = DEFAULT_PORTS[client.scheme]
    own_name = host_name_of(client.host)
    return (
        own_name is not None
        and scheme.casefold() == client.scheme
        and host_name_of(host) == own_name
        and (port_of(host) or default_port) == (port_of(client.host) or default_port)
    )


def _is_preflight(request: web.Request) -> bool:
    return (
        request.method == hdrs.METH_OPTIONS
        and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers
    )
