"""Which user names and email addresses are accepted, and when two of them are the same."""

from __future__ import annotations

import re
import unicodedata

import idna

USERNAME_MAX_LENGTH = 64
EMAIL_MAX_LENGTH = 254  # RFC 5321 section 4.5.3.1.3, less the angle brackets

# UAX #9: they change the direction of the text after them, so that a name can look like another.
BIDI_CONTROLS = frozenset(
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)
# They look like nothing, so that a name can look like another, or empty. Not those that scripts and
# emoji need: joiners, variation selectors, tags (Unicode: Default_Ignorable_Code_Point).
INVISIBLE = frozenset(
    "\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180e\u200b\u2060\u2061\u2062\u2063\u2064"
    "\u206a\u206b\u206c\u206d\u206e\u206f\u2800\ufeff"
)
_REFUSED = BIDI_CONTROLS | INVISIBLE
_UNPRINTABLE = frozenset({"Cc", "Cs", "Zl", "Zp"})
_VISIBLE = frozenset("LNPS")
_EMAIL = re.compile(r"[^@\s]{1,64}@[^@\s.]+(\.[^@\s.]+)*")
_WRONG_EMAIL = "Use an address such as ada@example.org."


def clean_username(text: str) -> str:
    """Return a user name as it is stored and shown: NFKC, without blanks around it."""
    return unicodedata.normalize("NFKC", text).strip()


def fold_username(text: str) -> str:
    """Return what must be unique of a user name: "Ada" and "ADA" are one."""
    # NFKC again: folding can leave text that is not normalised (Unicode 3.13, D145).
    return unicodedata.normalize("NFKC", clean_username(text).casefold())


def clean_email(text: str) -> str:
    """Return an email address as it is stored and shown: as typed, without blanks around it."""
    return text.strip()


def fold_email(text: str) -> str:
    """Return what must be unique of an email address; two that differ in it are two mailboxes.

    The part before the @ in NFC and lower case: RFC 5321 allows it to be case-sensitive, but no
    mail service does that, and people who type it in another case must be able to sign in. Not
    NFKC and not case folding, which make one address of two. The domain as DNS has it, in A-labels
    (IDNA 2008): straße.example and strasse.example have different owners.
    """
    local, at, domain = clean_email(text).rpartition("@")
    return _lower(local) + at + (_to_a_labels(domain) or _lower(domain))


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
    email = clean_email(text)
    if max(len(email), len(fold_email(email))) > EMAIL_MAX_LENGTH:
        return f"Use at most {EMAIL_MAX_LENGTH} characters."
    # Stricter than for names: no invisible characters at all ("Other" in Unicode), also no joiners.
    if not _EMAIL.fullmatch(email) or any(unicodedata.category(c)[0] == "C" for c in email):
        return _WRONG_EMAIL
    if _to_a_labels(email.rpartition("@")[2]) is None:
        return _WRONG_EMAIL
    return None


def _lower(text: str) -> str:
    # NFC again: a capital with an accent of its own can have a small letter that includes it.
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).lower())


def _to_a_labels(domain: str) -> str | None:
    """Return a domain as DNS has it, or `None` if it cannot be one."""
    if domain.isascii():
        # Not checked: there are domains with mail that IDNA refuses, such as r3---a.example.
        return domain.lower()
    try:
        # "。" is mapped to ".", which may be the last character.
        return idna.encode(domain, uts46=True).decode().removesuffix(".")
    except idna.IDNAError:
        return None


def _has_unprintable(text: str) -> bool:
    return any(
        character in _REFUSED or unicodedata.category(character) in _UNPRINTABLE
        for character in text
    )
