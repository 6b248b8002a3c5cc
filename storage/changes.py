"""What a save has to write: found by comparing a session with what was loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from storage.errors import SessionNotSerializable, Unreadable
from storage.session import MongoSession
from storage.values import SCALARS, Decoder, Encoded, Encoder, Value, picture_of, read_value

# Python's default limit of recursion is 1000, and the program around a load needs some of it.
MOST_NESTED = 400
_NAME_SHOWN_CHARACTERS = 80
_MISSING = object()


class Changes(NamedTuple):
    """What a save has to write: values by name, not sealed yet, and the names that are gone."""

    written: dict[str, Value]
    removed: Sequence[str]

    def __bool__(self) -> bool:
        return bool(self.written or self.removed)


def is_untouched(session: MongoSession, now_ms: int) -> bool:
    """Tell whether a save has surely nothing to do.

    A cheap test that answers for most requests; ``changes_of`` makes the full comparison.
    """
    snapshot, live = session.snapshot, session.live
    if snapshot is None:
        return not live and not session.emptied
    known = snapshot.values
    if (
        session.assigned
        or session.invalidated
        or session.renewal_wanted
        or not snapshot.is_calm(now_ms)
        or len(live) != len(known)
        or session.max_age_changed
    ):
        return False
    for name, before in known.items():
        value = live.get(name, _MISSING)
        if value is not before.scalar and (
            before.picture is None or picture_of(value) != before.picture
        ):
            return False
    return True


def changes_of(session: MongoSession, encoder: Encoder, decoder: Decoder) -> Changes:
    """Compare a session with its snapshot, nested values included.

    Raises ``SessionNotSerializable`` for a key that is not text or a value that cannot be encoded.
    """
    loaded = session.known
    written = {}
    live = session.live
    for name, value in live.items():
        before = loaded.get(name)
        if before is not None and _is_surely(before, value):
            continue
        encoded = _encode(name, value, encoder)
        if before is not None and encoded == before.encoded:
            continue
        # What cannot be read back would end the session at its next request.
        read = _read_back(name, value, encoded, decoder)
        if before is not None and _is_respelled(before, value, encoded, encoder, decoder):
            continue
        written[name] = read
    return Changes(written, tuple(loaded.keys() - live.keys()))


def _is_surely(before: Value, value: Any) -> bool:
    """Tell, without encoding it, whether a value is surely what was loaded."""
    kind = type(value)
    if kind in SCALARS:
        # Of numbers with a fraction 0.0 equals -0.0, which is another one.
        same = kind is type(before.scalar) and kind is not float and value == before.scalar
        return same or value is before.scalar
    return before.picture is not None and picture_of(value) == before.picture


def _encode(name: object, value: Any, encoder: Encoder) -> Encoded:
    if not isinstance(name, str):
        shown = repr(name)[:_NAME_SHOWN_CHARACTERS]
        raise SessionNotSerializable(f"session key {shown} is {type(name).__name__}; use text")
    try:
        encoded = encoder(value)
        if isinstance(encoded, str):
            encoded.encode()
    except Exception as error:  # noqa: BLE001 - whatever an app's encoder raises
        # Without its cause and its text: both may show the value.
        kind, reason = type(value).__name__, type(error).__name__
        raise _refused(name, f"the encoder refused a {kind} ({reason})") from None
    if isinstance(encoded, str):
        return str.__str__(encoded)  # of a subclass the text alone: it is kept and shared
    if isinstance(encoded, bytes):
        return bytes.__bytes__(encoded)
    raise _refused(name, f"the encoder returned {type(encoded).__name__}, not text or bytes")


def _read_back(name: str, value: Any, encoded: Encoded, decoder: Decoder) -> Value:
    # Nesting has a limit of its own: how deep a decoder gets depends on how deep inside a program
    # it is called.
    if len(encoded) > MOST_NESTED and _is_nested_deeper_than(MOST_NESTED, value):
        raise _refused(name, f"it is nested more than {MOST_NESTED} deep")
    try:
        return read_value(encoded, decoder)
    except Unreadable as refusal:
        raise _refused(name, str(refusal)) from None


def _is_nested_deeper_than(levels: int, value: Any) -> bool:
    inside = [value]
    for _ in range(levels):
        if not inside:
            return False
        inside = [
            child
            for item in inside
            if isinstance(item, dict | list | tuple)
            for child in (item.values() if isinstance(item, dict) else item)
        ]
    return any(isinstance(item, dict | list | tuple) for item in inside)


def _is_respelled(
    before: Value, value: Any, encoded: Encoded, encoder: Encoder, decoder: Decoder
) -> bool:
    # Another spelling of the same value (an encoder that was exchanged, say) is not a change:
    # writing it would undo what a parallel request has written.
    if type(value) in SCALARS:
        return False
    try:
        return bool(encoder(decoder(before.encoded)) == encoded)
    except Exception:  # noqa: BLE001 - today's encoder need not know what an older one wrote
        return False


def _refused(name: str, reason: str) -> SessionNotSerializable:
    return SessionNotSerializable(f"session[{name[:_NAME_SHOWN_CHARACTERS]!r}]: {reason}")
