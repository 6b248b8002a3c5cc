"""Requests that aiohttp cannot parse: answered and logged like all others, and never quoted.

aiohttp answers them without routing, hence without signals and middlewares, and repeats the line
that it could not read, a cookie perhaps, in the answer and in its log.  A script that overfills the
cookie header would read the HttpOnly cookie there, as was possible with Apache (CVE-2012-0053).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, cast

from aiohttp import hdrs, web
from aiohttp.http import HttpProcessingError
from aiohttp.http_exceptions import LineTooLong
from aiohttp.http_parser import RawRequestMessage
from aiohttp.web_urldispatcher import MatchInfoError
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from webapp.http.api_prefix import is_api
from webapp.http.error_pages import problem
from webapp.http.request_id import identify
from webapp.http.slow_clients import TimedConnection

# Bytes. Cookies of all apps of a host share one line, and tracing and single sign-on add to it:
# aiohttp's own limit of 8 KiB is met by browsers in good faith, which nginx lets through (32 KiB).
LONGEST_HEADER = 16 * 1024
LONGEST_REQUEST_LINE = 8 * 1024
# What aiohttp gives as the method of such a request.
_METHOD = "UNKNOWN"
_UNREADABLE = (HTTPStatus.BAD_REQUEST, "This request could not be read.")
_LONG_HEADER = (
    "A header of this request is longer than 16 KiB. If a browser sent it, delete the cookies of"
    " this site and try again."
)
_TOO_LONG: Mapping[object, tuple[HTTPStatus, str]] = {  # by the limit that aiohttp reports
    LONGEST_HEADER: (HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, _LONG_HEADER),  # RFC 6585 5
    LONGEST_REQUEST_LINE: (
        HTTPStatus.REQUEST_URI_TOO_LONG,
        "The address of this request is longer than 8 KiB.",
    ),
}
_TARGET = re.compile(rb"[A-Z]{1,20} (/[\w/.-]{0,60})")


class Connection(TimedConnection):
    """One connection of aiohttp's server, which answers what cannot be parsed in the app's words.

    A class because aiohttp's hook for such answers, `handle_error`, is a method of this one.
    """

    __slots__ = ("target",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.target = "/"  # the beginning of the path that was asked for last

    def data_received(self, data: bytes) -> None:
        """Remember what is asked for: the parser does not say it of what it cannot parse.

        A request that arrives in small pieces, or in the body of another, may be taken for
        another one: all that follows from it is the format of the refusal.
        """
        if match := _TARGET.match(data):
            self.target = match[1].decode()
        super().data_received(data)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = HTTPStatus.INTERNAL_SERVER_ERROR,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer without a word of the request; aiohttp answers what is not about parsing."""
        if not isinstance(exc, HttpProcessingError):
            return super().handle_error(request, status, exc, message)
        limit = exc.args[1] if isinstance(exc, LineTooLong) else None
        code, sentence = _TOO_LONG.get(limit, _UNREADABLE)
        if is_api(request):
            answer = web.json_response(
                problem(code, sentence), status=code, content_type="application/problem+json"
            )
        else:
            answer = web.Response(text=f"{sentence}\n", status=code)
        answer.force_close()
        return answer


class _Server(web.Server):
    def __call__(self) -> web.RequestHandler:
        return Connection(self, loop=self._loop, **self._kwargs)


def handle_unreadable_requests(runner: web.AppRunner, app: web.Application) -> None:
    """Give the answers to unreadable requests the app's words and headers, and an access line."""
    server = cast(web.Server, runner.server)
    # aiohttp lets nobody choose the class of its connections; this one adds no state.
    server.__class__ = _Server
    unroutable = MatchInfoError(web.HTTPBadRequest())
    unroutable.add_app(app)
    unroutable.freeze()
    make = server.request_factory

    def factory(message: RawRequestMessage, payload: Any, protocol: Any, *rest: Any) -> Any:
        if message.method != _METHOD:
            message = _with_relative_url(_with_readable_expectation(message))
            return make(message, payload, protocol, *rest)
        headers = CIMultiDictProxy(CIMultiDict(message.headers))  # aiohttp puts a plain dict there
        path = protocol.target
        message = message._replace(headers=headers, path=path, url=URL.build(path=path))
        request = make(message, payload, protocol, *rest)
        if isinstance(request, web.Request):
            request._match_info = unroutable  # a real method of that name gets its own later
            identify(request)
        return request

    server.request_factory = factory


def is_not_a_parser_error(record: logging.LogRecord) -> bool:
    """Tell whether aiohttp's log record is about something else: a filter for its logger.

    A `RequestPayloadError` comes after the answer, from the rest of a body that nobody read:
    anyone could fill the log with its tracebacks.
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


def _with_relative_url(message: RawRequestMessage) -> RawRequestMessage:
    """Remove the host from the parsed target; `middlewares.allowed_host` reads the target itself.

    aiohttp 3.14 decodes it, and when that fails, as for http://xn--a/, it neither answers the
    request nor ever closes the connection.
    """
    return message._replace(url=message.url.relative()) if message.url.absolute else message
