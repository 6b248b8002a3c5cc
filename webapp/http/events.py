"""What happened, written once to the log and once to the counters."""

from __future__ import annotations

import logging
from typing import Literal

from aiohttp import web

from webapp.http.app_keys import METRICS
from webapp.http.request_id import origin_fields

# Explained in docs/operations.md, "Log lines". Few and fixed: each is a label of a metric.
Event = Literal[
    "sign_up",
    "sign_in",
    "sign_in_failed",
    "sign_out",
    "revoked",
    "password_changed",
    "password_refused",
    "account_deleted",
    "throttled",
    "forwarded_refused",
    "cross_site_refused",
    "over_budget",
]

_log = logging.getLogger("webapp.events")


def event(request: web.Request, name: Event, **fields: str | int | None) -> None:
    """Write one log line and count one event.

    `fields` must never contain a token, cookie, password or value of a session; the caller cuts
    a handle to its first 8 characters.
    """
    request.app[METRICS].event(name)
    _log.info(name, extra={"event": name, "fields": {**origin_fields(request), **fields}})
