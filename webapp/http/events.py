"""What happened, told once to the log and once to the counters."""

from __future__ import annotations

import logging

from aiohttp import web

from webapp.http.app_keys import METRICS
from webapp.http.request_id import whose

_log = logging.getLogger("webapp.events")


def event(request: web.Request, name: str, **fields: str | int | None) -> None:
    """Write one log line and count one event.

    `name` is one of few fixed words (`sign_in`, `throttled`, ...): it becomes a metric's label.
    `fields` must never hold a token, cookie, password or value of a session; a handle is cut to
    its first 8 characters by the caller.
    """
    request.app[METRICS].event(name)
    _log.info(name, extra={"event": name, "fields": {**whose(request), **fields}})
