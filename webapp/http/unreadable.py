"""Requests that aiohttp cannot parse: answered and logged like all others, and never quoted.

aiohttp answers them without routing, hence without signals and middlewares, and repeats the line
that it could not read, a cookie perhaps, in the answer and in its log.
"""

from __future__ import annotations

import logging
from typing import Any, cast

from aiohttp import hdrs, web
from aiohttp.http import HttpProcessingError
from aiohttp.http_parser import RawRequestMessage
from aiohttp.web_urldispatcher import MatchInfoError
from multidict import CIMultiDict, CIMultiDictProxy

from webapp.http.request_id import identify

# What aiohttp gives as the method of such a request.
_METHOD = "UNKNOWN"


def handle_unreadable_requests(runner: web.AppRunner, app: web.Application) -> None:
    """Give the answers to unreadable requests the app's headers and an access line."""
    server = cast(web.Server, runner.server)
    unroutable = MatchInfoError(web.HTTPBadRequest())
    unroutable.add_app(app)
    unroutable.freeze()
    make = server.request_factory

    def factory(message: RawRequestMessage, *rest: Any) -> web.BaseRequest:
        if message.method != _METHOD:
            return make(_with_readable_expectation(message), *rest)
        headers = CIMultiDictProxy(CIMultiDict(message.headers))  # aiohttp puts a plain dict there
        request = make(message._replace(headers=headers), *rest)
        if isinstance(request, web.Request):
            request._match_info = unroutable  # a real method of that name gets its own later
            identify(request)
        return request

    server.request_factory = factory


def remove_quoted_line(request: web.BaseRequest, response: web.StreamResponse) -> None:
    """Replace aiohttp's explanation in the answer to an unreadable request.

    A script that overfills the cookie header would read the HttpOnly cookie in the answer, as was
    possible with Apache (CVE-2012-0053).  The length is announced already and so is kept.
    """
    if request.method == _METHOD and isinstance(response, web.Response):
        length = len(response.body) if isinstance(response.body, bytes) else 0
        response.body = b"This request could not be read.".ljust(length)[:length]


def is_not_a_parser_error(record: logging.LogRecord) -> bool:
    """Tell whether aiohttp's log record is about something else: a filter for its logger.

    The access line of the same request says that it was refused.  A `RequestPayloadError` comes
    after the answer, from the rest of a body that nobody read: anyone could fill the log with its
    tracebacks.
    """
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError | web.RequestPayloadError)


def _with_readable_expectation(message: RawRequestMessage) -> RawRequestMessage:
    """Replace an `Expect` that is not ASCII: aiohttp 3.14 fails when its 417 repeats it."""
    if message.headers.get(hdrs.EXPECT, "").isascii():
        return message
    headers = CIMultiDict(message.headers)
    headers[hdrs.EXPECT] = "unreadable"
    return message._replace(headers=CIMultiDictProxy(headers))
