"""What a refusal tells a client that has to wait."""

from __future__ import annotations

import pytest

from webapp.http.refusals import TooManyAttempts


@pytest.mark.parametrize(
    ("seconds", "words", "header"),
    [
        (0, "1 second", "1"),
        (0.2, "1 second", "1"),
        (1.01, "2 seconds", "2"),
        (60, "1 minute", "60"),
        (119.5, "2 minutes", "120"),
        (121, "2 minutes and 1 second", "121"),
        (900, "15 minutes", "900"),
        (86401, "1 day and 1 second", "86401"),
    ],
)
def test_wait_after_too_many_attempts_is_never_too_short(
    seconds: float, words: str, header: str
) -> None:
    """A wait as long as the sentence, or `Retry-After`, says is long enough."""
    refusal = TooManyAttempts(seconds)

    assert refusal.sentence == f"Too many attempts, try again in {words}."
    assert refusal.headers["Retry-After"] == header
