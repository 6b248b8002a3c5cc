"""How every error looks: a page of the app's layout, or `application/problem+json` (RFC 9457).

The middleware gives every error of the handlers and of aiohttp its words, and keeps the headers
that came with it (`Allow`, `Retry-After`, `Set-Cookie`).
"""

from __future__ import annotations

import json
import logging
from http import HTTPStatus
from typing import Protocol

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from pymongo.errors import PyMongoError

from webapp.database.errors import explain, is_away
from webapp.http.api_prefix import is_api
from webapp.http.refusals import Busy, Refusal

_log = logging.getLogger(__name__)

DATABASE_RETRY_SECONDS = 5
_DATABASE_AWAY = "Our database does not answer at the moment, please try again shortly."

_WORDS = {
    400: ("This request could not be read", "Something in it is not valid."),
    401: ("Please sign in", "You need to be signed in to see this page."),
    403: ("Not allowed", "This request did not come from one of this site's own pages."),
    404: ("Page not found", "There is nothing at this address."),
    405: ("Method not allowed", "This address does not accept this kind of request."),
    413: ("Too large", "The request is larger than this site accepts."),
    415: ("Wrong kind of content", "This site does not accept this type of content here."),
    421: ("Wrong address", "This server does not serve this host name."),
    429: ("Too many attempts", "Please wait a little before you try again."),
    500: (
        "Something went wrong",
        "The error is ours, and it has been logged. Please try again.",
    ),
    503: ("Not available now", "The server cannot answer at the moment, please try again shortly."),
}


class ErrorPage(Protocol):
    """Writes the HTML of an error page; it must work whatever is broken."""

    def __call__(self, request: web.Request, *, status: int, heading: str, sentence: str) -> str:
        """Return the page."""


def error_answers(page: ErrorPage) -> Middleware:
    """Give every error of the handlers further in the form that its reader expects."""

    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPException as error:
            if error.status >= HTTPStatus.BAD_REQUEST:
                _explain(request, error, page)
            raise
        except Exception as error:
            if isinstance(error, PyMongoError) and is_away(error):
                # One line: while MongoDB is away, every request comes here.
                _log.warning(explain(error, "of the app").sentence)
                away = Busy(_DATABASE_AWAY, retry_after_seconds=DATABASE_RETRY_SECONDS)
                raise _explain(request, away, page) from None
            _log.error("unhandled error", exc_info=error)
            raise _explain(request, web.HTTPInternalServerError(), page) from error

    return answer


def _explain(request: web.Request, error: web.HTTPException, page: ErrorPage) -> web.HTTPException:
    """Return `error` with its words as its body: a problem for `/api/`, else a page."""
    heading, sentence = _words(error)
    if is_api(request):
        error.text = json.dumps(_problem_of(error, sentence))
        error.content_type = "application/problem+json"
    else:
        error.text = page(request, status=error.status, heading=heading, sentence=sentence)
        error.content_type = "text/html"
    return error


def _words(error: web.HTTPException) -> tuple[str, str]:
    heading, sentence = _WORDS.get(error.status, (error.reason, "This did not work."))
    # aiohttp's own texts are like "404: Not Found"; any other sentence was written to be read.
    if error.text and error.text != f"{error.status}: {error.reason}":
        sentence = error.text
    return heading, sentence


def problem(status: int, sentence: str) -> dict[str, object]:
    """Return the members of an `application/problem+json` (RFC 9457 3.1)."""
    title = HTTPStatus(status).phrase
    return {"type": "about:blank", "title": title, "status": status, "detail": sentence}


def _problem_of(error: web.HTTPException, sentence: str) -> dict[str, object]:
    found = problem(error.status, sentence)
    if isinstance(error, Refusal) and error.fields:
        found["errors"] = [
            {"field": field, "detail": detail} for field, detail in error.fields.items()
        ]
    return found
