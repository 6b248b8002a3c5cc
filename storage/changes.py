"""What a save has to write: found by comparing a session with what was loaded."""

from __future__ import annotations

from typing import Any

from storage.errors import SessionNotSerializable, Unreadable
from storage.session import MongoSession
from storage.settings import Settings
from storage.snapshot import Diff
from storage.values import SCALARS, Decoder, Encoded, Encoder, Value, marshalled_copy, read_value

# Python's default recursion limit is 1000, and the program around a load needs some of it.
MOST_NESTED = 400
_NAME_SHOWN_CHARACTERS = 80
_NAMES_SHOWN = 10
_MISSING = object()


def is_unchanged(session: MongoSession, now_ms: int) -> bool:
    """Tell whether a save has certainly nothing to do.

    A cheap test that answers for most requests; ``diff_of`` makes the full comparison.
    """
    snapshot, current = session.snapshot, session.current
    if snapshot is None:
        return not current and not session.emptied
    known = snapshot.values
    if (
        session.assigned
        or session.invalidated
        or session.renewal_wanted
        or not snapshot.is_up_to_date(now_ms)
        or len(current) != len(known)
        or session.max_age_changed
        or session.unconfirmed is not None
    ):
        return False
    for name, before in known.items():
        value = current.get(name, _MISSING)
        if value is not before.scalar and (
            before.marshalled is None or marshalled_copy(value) != before.marshalled
        ):
            return False
    return True


def has_changed(session: MongoSession, settings: Settings) -> bool:
    """Tell whether the app has changed a stored session, nested values included."""
    if session.invalidated or session.renewal_wanted or session.max_age_changed:
        return True
    if session.may_be_saved:
        return True  # its save waits, and makes sure
    try:
        return bool(diff_of(session, settings))
    except SessionNotSerializable:
        return True  # the save says what is wrong


def unsaved_changes(session: MongoSession, settings: Settings) -> list[str]:
    """Name what the app has changed since the load or the last save; never a value."""
    try:
        names = sorted(diff_of(session, settings).names)
    except SessionNotSerializable as refusal:
        return [str(refusal)]
    named = [repr(name[:_NAME_SHOWN_CHARACTERS]) for name in names[:_NAMES_SHOWN]]
    if len(names) > _NAMES_SHOWN:
        named.append(f"{len(names) - _NAMES_SHOWN} more")
    if session.max_age_changed:
        named.append("session.max_age")
    return named


def diff_of(session: MongoSession, settings: Settings) -> Diff:
    """Compare a session with its snapshot, nested values included.

    Raises ``SessionNotSerializable`` for a key that is not text or a value that cannot be encoded.
    """
    encoder, decoder = settings.encoder, settings.decoder
    loaded, failed = session.known, session.unconfirmed
    unconfirmed = frozenset[str]() if failed is None else failed.diff.names
    written = {}
    current = session.current
    for name, value in current.items():
        before = None if name in unconfirmed else loaded.get(name)
        if before is not None and _is_same(before, value):
            continue
        encoded = _encode(name, value, encoder)
        if before is not None and encoded == before.encoded:
            continue
        # What cannot be read back would end the session at its next request.
        read = _read_back(name, value, encoded, decoder)
        if before is not None and _encodes_alike(before, value, encoded, encoder, decoder):
            continue
        written[name] = read
    return Diff(written, tuple((loaded.keys() | unconfirmed) - current.keys()))


def _is_same(before: Value, value: Any) -> bool:
    """Tell, without encoding it, whether a value is certainly what was loaded."""
    kind = type(value)
    if kind in SCALARS:
        # Not for float: 0.0 equals -0.0, and they are different values.
        same = kind is type(before.scalar) and kind is not float and value == before.scalar
        return same or value is before.scalar
    return before.marshalled is not None and marshalled_copy(value) == before.marshalled


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
    # A limit of our own: how deep a decoder gets depends on how deep in a program it is called.
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


def _encodes_alike(
    before: Value, value: Any, encoded: Encoded, encoder: Encoder, decoder: Decoder
) -> bool:
    """Tell whether today's encoder writes what was loaded in the same way as this value.

    After an app has changed its encoder every nested value would look changed, and writing it again
    would undo what a parallel request has written.
    """
    if type(value) in SCALARS:
        return False
    try:
        return bool(encoder(decoder(before.encoded)) == encoded)
    except Exception:  # noqa: BLE001 - today's encoder need not know what an older one wrote
        return False


def _refused(name: str, reason: str) -> SessionNotSerializable:
    return SessionNotSerializable(f"session[{name[:_NAME_SHOWN_CHARACTERS]!r}]: {reason}")
