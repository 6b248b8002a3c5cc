"""The operator's routes: whether the process is alive and ready, and its metrics."""

from __future__ import annotations

import secrets

import pymongo
from aiohttp import hdrs, web
from pymongo.errors import PyMongoError

from webapp.http.app_keys import CONFIG, DATABASE, IN_FLIGHT, METRICS
from webapp.http.metrics import CONTENT_TYPE

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
        with pymongo.timeout(PING_SECONDS):
            await request.app[DATABASE].command("ping")
    except PyMongoError:
        return web.json_response({"status": "MongoDB does not answer"}, status=503)
    return web.json_response({"status": "ready"})


async def metrics(request: web.Request) -> web.Response:
    """Answer Prometheus' text for the bearer of `METRICS_TOKEN` (RFC 6750), 401 for others."""
    expected = f"Bearer {request.app[CONFIG].metrics_token}".encode()
    given = request.headers.get(hdrs.AUTHORIZATION, "").encode("utf-8", "surrogateescape")
    if not secrets.compare_digest(given, expected):
        raise web.HTTPUnauthorized(headers={hdrs.WWW_AUTHENTICATE: "Bearer"})
    body = request.app[METRICS].text()
    return web.Response(body=body, headers={hdrs.CONTENT_TYPE: CONTENT_TYPE})
