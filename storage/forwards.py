"""Forwards: what a renewal leaves at the old place, so that late saves find the new one.

A forward is no session: no cookie opens it, and it has no value, owner or label.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct

from storage.sealing import SessionKeys
from storage.tokens import TOKEN_BYTES
from storage.undisclosed import Token

# A request that takes longer finds nothing any more.
FOLLOWED_MS = 60_000
_PLAIN = Struct(f">{TOKEN_BYTES}sqq?")


@dataclass(frozen=True, slots=True, repr=False)
class Forward:
    """Where a session has moved to; instants are milliseconds.

    All of it is sealed: anyone who can write to the collection can neither change where a forward
    leads, nor how long.
    """

    token: bytes
    # Afterwards nothing follows.
    ends_ms: int
    # Until then the old token opens the session at its new place; 0: not at all.
    grace_ends_ms: int
    # From nobody's session a sign-in may have moved it: then only changes of values follow.
    had_owner: bool


def seal_forward(keys: SessionKeys, forward: Forward) -> bytes:
    """Seal a forward under the keys of the session that has moved."""
    return keys.seal_forward(
        _PLAIN.pack(forward.token, forward.ends_ms, forward.grace_ends_ms, forward.had_owner)
    )


def open_forward(keys: SessionKeys, sealed: bytes) -> Forward:
    """Open a forward with the keys of the session that has moved; raises ``Unreadable``."""
    token, ends_ms, grace_ends_ms, had_owner = _PLAIN.unpack(keys.open_forward(sealed))
    return Forward(Token(token), ends_ms, grace_ends_ms, had_owner)
