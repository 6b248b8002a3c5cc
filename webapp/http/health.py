"""The operator's routes: whether the process is alive and ready, and its metrics."""

from __future__ import annotations

import asyncio
import secrets

from aiohttp import hdrs, web
from pymongo.errors import PyMongoError

from webapp.database.client import ping
from webapp.http.app_keys import CLIENT, CONFIG, DATABASE, FORWARDED_POLICY, IN_FLIGHT, METRICS
from webapp.http.metrics import CONTENT_TYPE
from webapp.http.proxy import BadForwarded, peer_address

# Requested from inside, by address, over plain http: exempt from the proxy, host and https rules.
EXEMPT = frozenset({"/healthz", "/readyz", "/metrics"})
PING_SECONDS = 2.0


def add_routes(app: web.Application) -> None:
    """Mount `/healthz` and `/readyz`, and `/metrics` where a token is set."""
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    if app[CONFIG].metrics_token:
        app.router.add_get("/metrics", metrics)


async def healthz(_request: web.Request) -> web.Response:
    """Answer 200: the process is alive, with or without its database."""
    return web.json_response({"status": "alive"})


async def readyz(request: web.Request) -> web.Response:
    """Answer 200 when MongoDB answers within two seconds, 503 otherwise and while draining."""
    if request.app[IN_FLIGHT].draining:
        return web.json_response({"status": "ending"}, status=503)
    try:
        # A ping waits for a thread of Motor first, and all of them may wait for MongoDB.
        async with asyncio.timeout(PING_SECONDS):
            await ping(request.app[DATABASE], seconds=PING_SECONDS)
    except (PyMongoError, TimeoutError):
        return web.json_response({"status": "MongoDB does not answer"}, status=503)
    return web.json_response({"status": "ready"})


async def metrics(request: web.Request) -> web.Response:
    """Answer Prometheus' text for the bearer of `METRICS_TOKEN` (RFC 6750), 401 for others.

    In production 403 for a token that came over a public network without TLS.
    """
    config = request.app[CONFIG]
    if config.production and not _is_private(request):
        raise web.HTTPForbidden(text="Use https.")
    scheme, _, token = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    expected = (config.metrics_token or "").encode()
    given = token.strip(" ").encode("utf-8", "surrogateescape")
    # RFC 9110 11.1: the name of the scheme is case-insensitive.
    if not secrets.compare_digest(given, expected) or scheme.casefold() != "bearer":
        raise web.HTTPUnauthorized(headers={hdrs.WWW_AUTHENTICATE: "Bearer"})
    body = request.app[METRICS].text()
    return web.Response(body=body, headers={hdrs.CONTENT_TYPE: CONTENT_TYPE})


def _is_private(request: web.Request) -> bool:
    """Tell whether nobody on the way could read the request: https, or a network of one's own.

    The app has no TLS itself, so https is what a trusted router says.  A scraper in the router's
    networks, as in a cluster, or on this machine connects directly, without a router's headers.
    """
    peer = request[CLIENT].address  # of an exempt route, the one that is connected
    policy = request.app[FORWARDED_POLICY]
    if not policy.trusts(peer):
        address = peer_address(peer)
        return address is not None and address.is_loopback
    if "X-Forwarded-Proto" not in request.headers:
        return True
    try:
        _, scheme = policy.resolve(peer, request.headers)
    except BadForwarded:
        return False
    return scheme == "https"
