"""Which user names and email addresses are accepted, and when two of them are the same."""

from __future__ import annotations

import re
import unicodedata

USERNAME_MAX_LENGTH = 64
EMAIL_MAX_LENGTH = 254  # RFC 5321 section 4.5.3.1.3, less the angle brackets

# UAX #9: they change the direction of the text after them, so that a name can look like another.
BIDI_CONTROLS = frozenset(
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)
_UNPRINTABLE = frozenset({"Cc", "Cs", "Zl", "Zp"})
_VISIBLE = frozenset("LNPS")
_EMAIL = re.compile(r"[^@\s]{1,64}@[^@\s.]+(\.[^@\s.]+)*")


def clean_username(text: str) -> str:
    """Return a user name as it is stored and shown: NFKC, without blanks around it."""
    return unicodedata.normalize("NFKC", text).strip()


def fold_username(text: str) -> str:
    """Return what must be unique of a user name: "Ada" and "ADA" are one."""
    # NFKC again: folding can leave text that is not normalised (Unicode 3.13, D145).
    return unicodedata.normalize("NFKC", clean_username(text).casefold())


def fold_email(text: str) -> str:
    """Return what must be unique of an email address, which is also what is stored.

    RFC 5321 allows the part before the @ to be case-sensitive; no mail service does that, and
    people who type it in another case must be able to sign in.
    """
    return fold_username(text)


def problem_with_username(text: str) -> str | None:
    """Say in one sentence why a user name is refused, or return `None`."""
    name = clean_username(text)
    if not any(unicodedata.category(character)[0] in _VISIBLE for character in name):
        return "Please fill in this field."
    if len(name) > USERNAME_MAX_LENGTH:
        return f"Use at most {USERNAME_MAX_LENGTH} characters."
    if _has_unprintable(name):
        return "Leave out characters that cannot be seen or that change the direction of text."
    return None


def problem_with_email(text: str) -> str | None:
    """Say in one sentence why an email address is refused, or return `None`.

    Only the shape is checked; no pattern can tell whether a mailbox exists.
    """
    email = fold_email(text)
    if len(email) > EMAIL_MAX_LENGTH:
        return f"Use at most {EMAIL_MAX_LENGTH} characters."
    # Stricter than for names: no invisible characters at all ("Other" in Unicode), also no joiners.
    if not _EMAIL.fullmatch(email) or any(unicodedata.category(c)[0] == "C" for c in email):
        return "Use an address such as ada@example.org."
    return None


def _has_unprintable(text: str) -> bool:
    return any(
        character in BIDI_CONTROLS or unicodedata.category(character) in _UNPRINTABLE
        for character in text
    )
