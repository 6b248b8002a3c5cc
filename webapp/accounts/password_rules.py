"""Which passwords are accepted: long enough, and not one that attackers try first.

No rule asks for digits, capitals or signs: NIST SP 800-63B 3.1.1.2 and OWASP ASVS 5.0 (6.2)
advise against them.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib import resources

from webapp.accounts.passwords import normalize

MAX_LENGTH = 1024
SHORT_BLOCK = 4
"""A repeated block of up to so many characters is refused, whether it is a listed word or not."""

KEYBOARD_PATHS = (
    "0123456789" * 103,  # runs of digits may wrap around, as in 890123
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
    if folded in _common():
        return _FIRST_TRIED
    if _is_run(folded):
        return _RUN
    return _REPEATED if _is_repeated(folded) else None


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
    for size in range(1, len(text) // 2 + 1):
        if text.startswith(text[size:]):
            block = text[:size].strip(" -_.,;:/")
            return size <= SHORT_BLOCK or block in _common()
    return False
