"""Which passwords are accepted: long enough, and not one that attackers try first.

No rule asks for digits, capitals or signs: NIST SP 800-63B 3.1.1.2 and OWASP ASVS 5.0 (6.2)
advise against them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from importlib import resources

from webapp.accounts.passwords import normalize

MAX_LENGTH = 1024
SHORT_BLOCK = 4
"""A repeated block of up to so many characters is refused, whether it is a listed word or not."""

KEYBOARD_PATHS = (
    "0123456789" * (MAX_LENGTH // 10 + 1),  # runs of digits may wrap around, as in 890123
    "abcdefghijklmnopqrstuvwxyz",
    "1234567890qwertyuiopasdfghjklzxcvbnm",
    "qwertzuiopasdfghjklyxcvbnm",
    "azertyuiopqsdfghjklmwxcvbn",
    "1qaz2wsx3edc4rfv5tgb6yhn7ujm8ik9ol0p",
    "qazwsxedcrfvtgbyhnujmikolp",
    "1q2w3e4r5t6y7u8i9o0p",
    "q1w2e3r4t5y6u7i8o9p0",
)

_FIRST_TRIED = "This is one of the passwords that attackers try first."
_RUN = "This is a run of neighbouring keys; attackers try these first."
_REPEATED = "This is one short block or common word repeated; attackers try these first."
_PADDED = "This is one common word with digits or signs added; attackers try these first."

_LETTERS = re.compile(r"[^\W\d_]+")
_SIGNS = re.compile(r"[\W_]+")


def problem_with(password: str, *, min_length: int, names: Iterable[str] = ()) -> str | None:
    """Say in one sentence why a password is refused, or return `None` for an accepted one.

    `names` are texts that everybody who attacks this account knows: its user name and email
    address. Lengths count characters (code points), before and after normalisation.
    """
    normal = normalize(password)
    # Both: a client that counts what was typed, as the API's description says, must be right.
    if min(len(password), len(normal)) < min_length:
        return f"This is too short; use at least {min_length} characters."
    if len(normal) > MAX_LENGTH:
        return f"Use at most {MAX_LENGTH} characters."
    folded = normal.casefold()
    if folded in {name.casefold() for name in names}:
        return "Use something other than your name or email address."
    return _problem_with_guesses(folded)


def _problem_with_guesses(text: str) -> str | None:
    """Say why attackers try this text early, or return `None`."""
    if text in _common():
        return _FIRST_TRIED
    if _is_run(text):
        return _RUN
    if _is_repeated(text):
        return _REPEATED
    return _PADDED if _is_padded(text) else None


@cache
def _common() -> frozenset[str]:
    text = resources.files("webapp.accounts").joinpath("common_passwords.txt").read_text("utf-8")
    return frozenset(line for line in text.splitlines() if not line.startswith("#"))


def _is_run(text: str) -> bool:
    return any(text in path or text[::-1] in path for path in KEYBOARD_PATHS)


def _is_repeated(text: str) -> bool:
    """Tell whether `text` is only a short block or a listed word, repeated.

    The last one may be cut off. A phrase that only contains a word twice is accepted.
    """
    size = _period(text)
    block = text[:size].strip(" -_.,;:/")
    return size < len(text) and (size <= SHORT_BLOCK or block in _common())


def _is_padded(text: str) -> bool:
    """Tell whether `text` is only a listed word or run, with digits or signs added.

    The word may be repeated, with other digits each time. A phrase of several words is accepted,
    whichever of them it repeats.
    """
    without_signs = _SIGNS.sub("", text)
    if without_signs in _common() or (without_signs and _is_run(without_signs)):
        return True
    words = {word[: _period(word)] for word in _LETTERS.findall(text)}
    return len(words) == 1 and words <= _common()


def _period(text: str) -> int:
    """Return the length of the shortest block that `text` repeats, the last one perhaps cut off.

    A text that repeats nothing is one block of its own length.
    """
    sizes = range(1, len(text) // 2 + 1)
    return next((size for size in sizes if text.startswith(text[size:])), len(text))
