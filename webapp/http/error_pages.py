"""How every error looks: a page of the app's layout, or `application/problem+json` (RFC 9457).

The middleware words whatever went wrong further in, ours or aiohttp's, and keeps the headers
that came with it (`Allow`, `Retry-After`, `Set-Cookie`).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus

import aiohttp_jinja2
from aiohttp import web
from pymongo.errors import PyMongoError

from webapp.database.client import is_away
from webapp.http.headers import API
from webapp.http.refusals import Busy, Refusal

_log = logging.getLogger(__name__)

STORE_RETRY_SECONDS = 5
_STORE_AWAY = "Our database does not answer at the moment, please try again shortly."

# An error page asks nobody who they are: it must come out whatever is broken.
_BARE_PAGE: dict[str, object] = {
    "account": None,
    "path": "",
    "notice": None,
    "problem": None,
    "errors": {},
}

_WORDS = {
    400: ("This request could not be read", "Something in it is not as it should be."),
    401: ("Please sign in", "This page is for people who are signed in."),
    403: ("Not allowed", "This request did not come from one of this site's own pages."),
    404: ("Nothing here", "There is nothing at this address."),
    405: ("Not like this", "This address exists, but it cannot be used in this way."),
    413: ("Too large", "What was sent is larger than anything this site needs."),
    415: ("Wrong kind of content", "What was sent is not a form that this site knows."),
    421: ("Wrong address", "This server does not answer for the host name that was asked for."),
    429: ("Too many attempts", "Please wait a little before you try again."),
    500: ("Something went wrong", "The mistake is ours; it has been noted. Please try again."),
    503: ("Back in a moment", "The server cannot answer this right now, please try again shortly."),
}


@web.middleware
async def error_answers(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Give every error of the handlers further in the look that its reader expects."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        if error.status < HTTPStatus.BAD_REQUEST:
            raise
        dress(request, error)
        raise
    except PyMongoError as error:
        if not is_away(error):
            raise _failed(request, error) from error
        _log.warning("MongoDB did not answer", exc_info=True)
        away = Busy(_STORE_AWAY, retry_after_seconds=STORE_RETRY_SECONDS)
        dress(request, away)
        raise away from None
    except Exception as error:
        raise _failed(request, error) from error


def _failed(request: web.Request, error: Exception) -> web.HTTPException:
    _log.error("unhandled error", exc_info=error)
    failed = web.HTTPInternalServerError()
    dress(request, failed)
    return failed


def dress(request: web.Request, error: web.HTTPException) -> None:
    """Put the words for `error` into its body: a problem for `/api/`, else a page."""
    heading, sentence = _words(error)
    if request.path.startswith(API):
        error.text = json.dumps(_problem(error, sentence))
        error.content_type = "application/problem+json"
    else:
        error.text = aiohttp_jinja2.render_string(
            "error.html",
            request,
            _BARE_PAGE | {"heading": heading, "sentence": sentence, "status": error.status},
        )
        error.content_type = "text/html"


def _words(error: web.HTTPException) -> tuple[str, str]:
    heading, sentence = _WORDS.get(error.status, (error.reason, "This did not work."))
    if isinstance(error, Refusal):
        return heading, error.sentence
    # aiohttp's own texts are only "404: Not Found"; whoever wrote a sentence meant it to be read.
    own = error.text and error.text != f"{error.status}: {error.reason}"
    return heading, error.text or "" if own else sentence


def _problem(error: web.HTTPException, sentence: str) -> dict[str, object]:
    problem: dict[str, object] = {
        "type": "about:blank",
        "title": HTTPStatus(error.status).phrase,
        "status": error.status,
        "detail": sentence,
    }
    if isinstance(error, Refusal) and error.fields:
        problem["errors"] = [
            {"field": field, "detail": detail} for field, detail in error.fields.items()
        ]
    return problem
