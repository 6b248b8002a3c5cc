"""The answers that say no: a status, one sentence, and the fields that are wrong.

Each refusal is also an aiohttp response, as the storage's `StorageUnavailable` is. The code that
finds a problem raises it; pages, API and command line each present it in their own way, see
`error_pages` and `handlers.pages`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import humanize
from aiohttp import web

# RFC 9110 15.5.2: a 401 must have a challenge. Browsers ignore this scheme and show no prompt.
_CHALLENGE = {"WWW-Authenticate": 'Session realm="account"'}


class Refusal(web.HTTPError):
    """Refuse a request with one sentence for people and, per field, one more.

    `sentence` and the values of `fields` are shown to the sender, so they never repeat a
    password, a token or a secret. `extra_headers` belong to the answer in every format.
    """

    status_code = 400

    def __init__(
        self,
        sentence: str,
        *,
        fields: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(text=sentence, headers=headers)
        self.sentence = sentence
        self.extra_headers = dict(headers or {})
        self.fields = dict(fields or {})


class UnreadableBody(Refusal):
    """The body is not what its content type says: 400."""


class WrongMediaType(Refusal):
    """The body has another content type than this route reads: 415."""

    status_code = 415


class FieldsRefused(Refusal):
    """The body was read, and some of its fields cannot be accepted: 422."""

    status_code = 422

    def __init__(self, fields: Mapping[str, str]) -> None:
        sentence = "; ".join(f"{name}: {reason}" for name, reason in fields.items())
        super().__init__(sentence, fields=fields)


class AccountExists(Refusal):
    """This email address or user name is taken: 409."""

    status_code = 409

    def __init__(self, field: str, sentence: str) -> None:
        super().__init__(sentence, fields={field: sentence})


class SignInRefused(Refusal):
    """The sign-in is wrong; the answer does not say which part: 401."""

    status_code = 401

    def __init__(self) -> None:
        super().__init__(
            "The email address, user name or password is not right.", headers=_CHALLENGE
        )


class NotSignedIn(Refusal):
    """This needs a session, and the request has none: 401."""

    status_code = 401

    def __init__(self, *, ended: bool) -> None:
        self.ended = ended
        super().__init__(
            "Your session has ended, please sign in again." if ended else "Please sign in first.",
            headers=_CHALLENGE,
        )


class WrongPassword(Refusal):
    """The current password, asked for again before an important change, is wrong: 403."""

    status_code = 403

    def __init__(self) -> None:
        sentence = "This is not your current password."
        super().__init__(sentence, fields={"current_password": sentence})


class TooManyAttempts(Refusal):
    """Too many attempts: 429, with the time to wait.

    RFC 9110 10.2.3 counts `Retry-After` in whole seconds; it is rounded up, so that a client that
    waits that long may try again.
    """

    status_code = 429

    def __init__(self, seconds: float) -> None:
        self.retry_after_seconds = max(1, math.ceil(seconds))
        # Not naturaldelta, which rounds down: a client that waits that long would be refused again.
        wait = humanize.precisedelta(self.retry_after_seconds)
        super().__init__(
            f"Too many attempts, try again in {wait}.",
            headers={"Retry-After": str(self.retry_after_seconds)},
        )


class Busy(Refusal):
    """The server cannot do this now, try again: 503 with `Retry-After`."""

    status_code = 503

    def __init__(self, sentence: str, *, retry_after_seconds: int) -> None:
        super().__init__(sentence, headers={"Retry-After": str(retry_after_seconds)})
