"""The answers that say no: a status, one sentence, and the fields that are at fault.

Each refusal is also an aiohttp response, as the storage's `StorageUnavailable` is, so whoever
finds a fault raises it and whoever knows the reader (a page, the API, the command line)
words the answer: see `errors`, and the pages that show their form again.
"""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import web

from webapp.http.durations import in_words, whole_seconds

# RFC 9110 section 15.5.2: a 401 must carry a challenge. No browser knows this scheme, so none asks.
_CHALLENGE = {"WWW-Authenticate": 'Session realm="account"'}


class Refusal(web.HTTPError):
    """Refuse a request with one sentence for people and, per field, one more.

    `sentence` and the values of `fields` are shown to whoever asked, so they never repeat a
    password, a token or a secret. `told_headers` belong to every form of the answer.
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
        self.told_headers = dict(headers or {})
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
    """Somebody has this email address or this user name already: 409."""

    status_code = 409

    def __init__(self, field: str, sentence: str) -> None:
        super().__init__(sentence, fields={field: sentence})


class SignInRefused(Refusal):
    """The sign-in is wrong; which half of it is nobody's business: 401."""

    status_code = 401

    def __init__(self) -> None:
        super().__init__("The email address or the password is not right.", headers=_CHALLENGE)


class NotSignedIn(Refusal):
    """This needs a session, and the request has none that lives: 401."""

    status_code = 401

    def __init__(self, *, ended: bool) -> None:
        self.ended = ended
        super().__init__(
            "Your session has ended, please sign in again." if ended else "Please sign in first.",
            headers=_CHALLENGE,
        )


class WrongPassword(Refusal):
    """The current password, asked for again before something grave, is wrong: 403."""

    status_code = 403

    def __init__(self) -> None:
        sentence = "This is not your current password."
        super().__init__(sentence, fields={"current_password": sentence})


class TooManyAttempts(Refusal):
    """The throttle is closed: 429, with the time until it opens.

    RFC 9110 section 10.2.3 counts `Retry-After` in whole seconds; it is rounded up, so that
    whoever waits that long is let in.
    """

    status_code = 429

    def __init__(self, seconds: float) -> None:
        self.retry_after_seconds = whole_seconds(seconds)
        super().__init__(
            f"Too many attempts, try again in {in_words(seconds)}.",
            headers={"Retry-After": str(self.retry_after_seconds)},
        )


class Busy(Refusal):
    """The server has more of this work than it can do now: 503 with `Retry-After`."""

    status_code = 503

    def __init__(self, sentence: str, *, retry_after_seconds: int) -> None:
        super().__init__(sentence, headers={"Retry-After": str(retry_after_seconds)})
