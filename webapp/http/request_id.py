"""The id of a request, and the address that it came from."""

from __future__ import annotations

import re
import secrets

from aiohttp import hdrs, web

from webapp.http.app_keys import CLIENT, REQUEST_ID
from webapp.http.proxy import Client

KEPT_ID = re.compile(r"[A-Za-z0-9-]{8,200}", re.ASCII)


def identify(request: web.Request) -> None:
    """Give the request an id, the sender's own if it is valid, and the peer as its client.

    `middlewares.trusted_address` replaces the client by what trusted routers say.
    """
    if REQUEST_ID in request:
        return
    given = request.headers.getall("X-Request-Id", [])
    kept = len(given) == 1 and KEPT_ID.fullmatch(given[0])
    request[REQUEST_ID] = given[0] if kept else secrets.token_hex(16)
    hosts = request.headers.getall(hdrs.HOST, [])
    request[CLIENT] = Client(
        address=request.remote or "unknown", scheme="http", host=hosts[0] if len(hosts) == 1 else ""
    )


def origin_fields(request: web.Request) -> dict[str, str]:
    """Return the fields that tie a line to its request: `request_id` and `address`."""
    return {"request_id": request[REQUEST_ID], "address": request[CLIENT].address}
