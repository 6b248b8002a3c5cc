"""How a request body becomes fields.

Pages accept forms and the API accepts JSON, as valid UTF-8, not compressed, with every field once.
Everything else is refused with a sentence, never a traceback.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qsl

from aiohttp import hdrs, web

from webapp.http.refusals import UnreadableBody, WrongMediaType

MAX_FORM_FIELDS = 32

FORM = "application/x-www-form-urlencoded"
JSON = "application/json"
IDENTITY = "identity"
# RFC 9110 15.5.16: it says which content codings are accepted instead.
_NO_COMPRESSION = {"Accept-Encoding": IDENTITY}


async def form_fields(request: web.Request) -> dict[str, object]:
    """Read a submitted HTML form: text by field name.

    Raises `WrongMediaType`, `UnreadableBody`, or aiohttp's 413 beyond the app's `client_max_size`.
    """
    text = await _text(request, FORM, "This page accepts submitted forms only.")
    try:
        pairs = parse_qsl(
            text, keep_blank_values=True, errors="strict", max_num_fields=MAX_FORM_FIELDS
        )
    except ValueError:  # also UnicodeDecodeError: %FF is not UTF-8
        raise UnreadableBody("The form has too many fields, or text that is not UTF-8.") from None
    return _once("form", pairs)


async def json_fields(request: web.Request) -> dict[str, object]:
    """Read a JSON object: any JSON value by field name.

    Raises `WrongMediaType`, `UnreadableBody`, or aiohttp's 413 beyond the app's `client_max_size`.
    """
    text = await _text(request, JSON, f"Send the body as {JSON}.")
    try:
        value = json.loads(
            text, object_pairs_hook=lambda pairs: _once("object", pairs), parse_constant=_refuse
        )
    except (ValueError, RecursionError):
        raise UnreadableBody("The body is not valid JSON.") from None
    if not isinstance(value, dict):
        raise UnreadableBody("The body is not a JSON object.")
    return value


async def _text(request: web.Request, media_type: str, wanted: str) -> str:
    if _media_type(request.headers.get(hdrs.CONTENT_TYPE, "")) != media_type:
        raise WrongMediaType(wanted)
    if request.headers.get(hdrs.CONTENT_ENCODING, IDENTITY).casefold() != IDENTITY:
        raise WrongMediaType("Send the body without compression.", headers=_NO_COMPRESSION)
    try:
        body = await request.read()
        # Whatever charset the header names: WHATWG forms and RFC 8259 JSON are UTF-8.
        return body.decode("utf-8")
    except UnicodeDecodeError:
        raise UnreadableBody("The body is not UTF-8 text.") from None
    except web.RequestPayloadError:
        raise UnreadableBody("The body is not encoded as its headers say.") from None
    except ConnectionError:
        # Nobody reads this; it is only no error of the app, which would be logged and counted.
        raise UnreadableBody("The connection ended before the body did.") from None


def _media_type(content_type: str) -> str:
    """Return the type without its parameters, which mean nothing here.

    Not aiohttp's `content_type`: behind it is Python's parser of emails, which takes five seconds
    for 16 KiB of quotation marks, and the event loop waits.
    """
    return content_type.partition(";")[0].strip().casefold()


def _once(kind: str, pairs: list[tuple[str, Any]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        # Programs disagree on which of two values counts, and attacks use that.
        raise UnreadableBody(f"The {kind} contains a field more than once.")
    return fields


def _refuse(constant: str) -> object:
    raise ValueError(constant)
