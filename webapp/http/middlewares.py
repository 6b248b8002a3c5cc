"""What a request passes before its handler: the client's address, the host, https, a time limit.

`app` puts these middlewares in order.  The operator's routes are exempt from the first three: a
router's health check comes from inside, by address, over plain http.
"""

from __future__ import annotations

import asyncio
import logging
import re

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware
from yarl import URL

from webapp.config.settings import Config
from webapp.http.app_keys import CLIENT, IN_FLIGHT
from webapp.http.events import event
from webapp.http.health import EXEMPT
from webapp.http.proxy import BadForwarded, Client, ForwardedPolicy, host_name_of
from webapp.http.request_id import identify

BUDGET_SECONDS = 25.0
RETRY_AFTER_SECONDS = 5

_log = logging.getLogger("webapp.http.middlewares")


@web.middleware
async def with_request_id(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give the request its id and count it as in flight until its answer is ready."""
    identify(request)
    with request.app[IN_FLIGHT].counted():
        return await handler(request)


@web.middleware
async def within_budget(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer 503 when a handler takes longer than 25 seconds: routers give up after 30."""
    try:
        async with asyncio.timeout(BUDGET_SECONDS) as budget:
            return await handler(request)
    except TimeoutError:
        if not budget.expired():
            raise
    event(request, "over_budget")
    raise web.HTTPServiceUnavailable(headers={"Retry-After": str(RETRY_AFTER_SECONDS)})


def trusted_address(config: Config, policy: ForwardedPolicy) -> Middleware:
    """Replace the peer by the client that trusted routers name; 400 for contradictory headers."""
    warn = config.production and config.trusted_proxy_hops > 0

    @web.middleware
    async def resolve(request: web.Request, handler: Handler) -> web.StreamResponse:
        nonlocal warn
        if request.path in EXEMPT:
            return await handler(request)
        peer = request[CLIENT]
        if warn and not policy.trusts(peer.address):
            warn = False  # once: it is a wrong setting, or only a scanner
            _log.warning(
                "%s connected directly and is not in TRUSTED_PROXIES; its headers are ignored",
                peer.address,
            )
        try:
            address, scheme = policy.resolve(peer.address, request.headers)
        except BadForwarded as refusal:
            event(request, "forwarded_refused", reason=str(refusal))
            raise web.HTTPBadRequest(text="The forwarded headers contradict themselves.") from None
        # On the original too, which the access line and on_response_prepare see.
        request[CLIENT] = Client(address=address, scheme=scheme, host=peer.host)
        return await handler(request.clone(scheme=scheme, remote=address))

    return resolve


def allowed_host(config: Config) -> Middleware:
    """Answer 421 (RFC 9110 15.5.20) for a host name that is not the app's own."""
    allowed = frozenset(config.allowed_hosts)

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path in EXEMPT:
            return await handler(request)
        name = host_name_of(request[CLIENT].host)
        if name not in allowed or _target_name(request) not in (None, name):
            raise web.HTTPMisdirectedRequest(text="This server does not serve that host.")
        return await handler(request)

    return check


@web.middleware
async def https_only(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Redirect GET and HEAD to https; refuse others: what a form sent may be known to others."""
    client = request[CLIENT]
    if client.scheme == "https" or request.path in EXEMPT:
        return await handler(request)
    if request.method not in (hdrs.METH_GET, hdrs.METH_HEAD):
        raise web.HTTPForbidden(text="Use https.")
    name = host_name_of(client.host) or ""
    target = URL.build(
        scheme="https",
        host=name,
        path=request.rel_url.raw_path,
        query_string=request.rel_url.raw_query_string,
        encoded=True,
    )
    raise web.HTTPPermanentRedirect(target)


def _target_name(request: web.Request) -> str | None:
    """Return the host that an absolute-form target names (RFC 9112 3.2.2), None without one.

    The name is empty when it is malformed, so that it is no host of the app.
    """
    target = request.raw_path
    if target.startswith("/") or target == "*":
        return None
    authority = re.split("[/?#]", target.partition("://")[2], maxsplit=1)[0]
    return host_name_of(authority) or ""
