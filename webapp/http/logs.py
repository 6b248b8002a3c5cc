"""Every log line of the process: one format, on standard output.

As JSON: `time` (UTC), `level`, `event` (`request`, or an event's name, or `log`), then the event's
own fields; other libraries' lines carry `logger` and `message`, and `traceback` after a crash.
An access line has `request_id`, `address`, `method`, `route`, `status` and `milliseconds`.
No path, query, header or body is ever written: they can contain secrets.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import TextIO, cast

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger

from webapp.http.app_keys import METRICS
from webapp.http.request_id import origin_fields
from webapp.http.unreadable import is_not_a_parser_error

UNMATCHED = "unmatched"
ACCESS = logging.getLogger("webapp.access")
PLAIN = re.compile(r"[\w.:/{}+-]+", re.ASCII)


def configure(style: str, level: str, stream: TextIO | None = None) -> None:
    """Send all logging, and Python's warnings, to `stream` (standard output), as `json` or `text`.

    PyMongo's debug lines stay off at every level: they show commands, and commands show password
    hashes and sealed values.
    """
    number = logging.getLevelNamesMapping()[level]
    handler = logging.StreamHandler(stream or sys.stdout)
    handler.setFormatter(JsonLines() if style == "json" else TextLines())
    logging.basicConfig(level=number, handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    logging.getLogger("pymongo").setLevel(max(number, logging.WARNING))
    server = logging.getLogger("aiohttp.server")
    server.removeFilter(is_not_a_parser_error)
    server.addFilter(is_not_a_parser_error)


class AccessLines(AbstractAccessLogger):
    """Write and count one line per answer, also to requests that cannot be parsed."""

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        """Write the line; `time` is in seconds."""
        request = cast(web.Request, request)  # the app makes no other kind
        resource = request.match_info.route.resource
        route = resource.canonical if resource else UNMATCHED
        request.app[METRICS].request(route, request.method, response.status, time)
        fields = {
            **origin_fields(request),
            "method": request.method,
            "route": route,
            "status": response.status,
            "milliseconds": round(time * 1000, 1),
        }
        self.logger.info("request", extra={"event": "request", "fields": fields})


class JsonLines(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line, whatever the record contains."""
        return json.dumps(_content(self, record), default=str)


class TextLines(logging.Formatter):
    """`time level event key=value ...`, for people."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; a traceback follows on lines of its own."""
        content = _content(self, record)
        trace = content.pop("traceback", None)
        head = f"{content.pop('time')} {content.pop('level'):7} {content.pop('event')}"
        message = content.pop("message", None)
        pairs = "".join(f" {key}={_quoted(value)}" for key, value in content.items())
        return head + (f" {message}" if message else "") + pairs + (f"\n{trace}" if trace else "")


def _content(formatter: logging.Formatter, record: logging.LogRecord) -> dict[str, object]:
    at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
    content: dict[str, object] = {
        "time": at.replace("+00:00", "Z"),
        "level": record.levelname.lower(),
        "event": getattr(record, "event", "log"),
    }
    if hasattr(record, "fields"):
        content |= record.fields
    else:
        content |= {"logger": record.name, "message": record.getMessage()}
    if record.exc_info:
        content["traceback"] = formatter.formatException(record.exc_info)
    return content


def _quoted(value: object) -> str:
    text = str(value)
    return text if PLAIN.fullmatch(text) else json.dumps(text)
