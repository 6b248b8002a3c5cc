"""The session token, and the two public names that are derived from it.

The cookie holds the token, 32 random bytes. MongoDB holds only its hash, the document id, and the
handle is that hash as text: neither leads back to the token.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from functools import lru_cache

from storage.undisclosed import Token

TOKEN_BYTES = 32
COOKIE_CHARACTERS = 43
HANDLE_CHARACTERS = 64
# A visitor asks more than once: reading and hashing a token again took a fifth of a load.
CACHED_TOKENS = 4096
# One token has one spelling: 43 characters carry 258 bits, and the two spare ones must be zero.
_CANONICAL = re.compile(r"[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]")
_ID_DOMAIN = b"aiohttp-session-mongostorage document id 1\0"


def new_token() -> Token:
    """Draw a token from the operating system's random source."""
    return Token(secrets.token_bytes(TOKEN_BYTES))


def to_cookie(token: bytes) -> str:
    """Write a token as base64url without padding (RFC 4648 section 5): 43 characters."""
    return urlsafe_b64encode(token)[:COOKIE_CHARACTERS].decode("ascii")


def from_cookie(text: str | None) -> Token | None:
    """Read a token; anything but its one canonical spelling is ``None``."""
    return _read(text) if text is not None and len(text) == COOKIE_CHARACTERS else None


@lru_cache(maxsize=CACHED_TOKENS)
def _read(text: str) -> Token | None:
    return None if _CANONICAL.fullmatch(text) is None else Token(urlsafe_b64decode(text + "="))


@lru_cache(maxsize=CACHED_TOKENS)
def document_id(token: bytes) -> bytes:
    """Hash a token to the ``_id`` of its document; it stays the same when secrets rotate."""
    return hashlib.sha256(_ID_DOMAIN + token).digest()


def to_handle(identifier: bytes) -> str:
    """Write a document id as its public handle: 64 hexadecimal digits, no use as a cookie."""
    return identifier.hex()


def from_handle(text: object) -> bytes | None:
    """Read a handle back to the document id; whatever is no handle is ``None``."""
    if not isinstance(text, str) or len(text) != HANDLE_CHARACTERS or not text.isascii():
        return None
    try:
        identifier = bytes.fromhex(text)
    except ValueError:
        return None
    return identifier if identifier.hex() == text else None
