"""The session that a handler holds: what was loaded, and what has changed since."""

from __future__ import annotations

import json
import marshal
import time
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from aiohttp_session import Session

from storage.document import Stored
from storage.errors import SessionNotSerializable, Unreadable
from storage.lifetime import LONGEST, whole
from storage.sealing import SessionKeys
from storage.tokens import to_cookie, to_handle

Encoded = str | bytes
Encoder = Callable[[Any], Any]
Decoder = Callable[[Any], Any]

_read = json.JSONDecoder().raw_decode
_SCALARS = frozenset({str, int, float, bool, type(None)})
_NAME_SHOWN_CHARACTERS = 80
_MISSING = object()
# Python's default limit of recursion is 1000, and the program around a load needs some of it.
MOST_NESTED = 400


class _NotKept:
    """Stands for a value that has to be decoded whenever it is asked for."""


class Value(NamedTuple):
    """One value as it was loaded or last saved. It never changes, so that requests can share it."""

    field: str
    sealed: bytes
    encoded: Encoded
    # Of a nested value, from which each request gets a copy of its own to change in place.
    picture: bytes | None = None
    # Itself, where it cannot be changed in place.
    scalar: Any = _NotKept

    def fresh(self, decoder: Decoder) -> Any:
        """Return the value for one request; raises ``Unreadable`` when the decoder refuses it."""
        if self.picture is not None:
            return marshal.loads(self.picture)  # noqa: S302 - our own bytes, from ``_picture``
        if self.scalar is not _NotKept:
            return self.scalar
        try:
            return decoder(self.encoded)
        except Exception:  # noqa: BLE001 - whatever an app's decoder raises
            raise Unreadable("the decoder refused a value") from None

    def with_scalar(self, value: Any) -> Value:
        """Keep what the app holds, where it cannot change it in place."""
        return self._replace(scalar=value) if type(value) in _SCALARS else self


class Snapshot(NamedTuple):
    """A session as MongoDB has it, as far as this request knows."""

    token: bytes
    keys: SessionKeys
    stored: Stored
    values: dict[str, Value]
    owner: str | None
    # Between these two instants (milliseconds, both excluded) nothing is up with its clocks.
    calm: tuple[int, int] = (0, 0)

    def is_calm(self, now_ms: int) -> bool:
        """Tell whether it is surely neither over nor due for a touch."""
        after_ms, before_ms = self.calm
        return after_ms < now_ms < before_ms


class Changes(NamedTuple):
    """What a save has to write: encoded values by name, and the names that are gone."""

    written: dict[str, Encoded]
    removed: list[str]

    def __bool__(self) -> bool:
        return bool(self.written or self.removed)


class MongoSession(Session):
    """A session that remembers what was loaded, so that a save writes only what changed."""

    invalidated = False
    renewal_wanted = False
    # Nothing may be written for it any more: it ended elsewhere, or its save has failed.
    abandoned = False
    touch_failed = False
    own_max_age: float | None = None

    def __init__(
        self,
        *,
        max_age: float | None,
        snapshot: Snapshot | None = None,
        values: dict[str, Any] | None = None,
    ) -> None:
        """Start empty, or from a snapshot and its values; ``max_age`` is the storage's, seconds."""
        # Not by the parent's constructor, which costs every request as much as opening a value.
        self._mapping = {} if values is None else values
        self._storage_max_age = max_age
        self.snapshot = snapshot
        self.assigned: set[str] = set()
        if snapshot is None:
            self._new, self._changed = True, False
            self._created = int(time.time())
            self.persistent: bool = max_age is not None
        else:
            # The middleware saves only what says it changed; whether it did, the save decides:
            # a nested change or a due touch shows nowhere else.
            self._new, self._changed = False, True
            self._created = snapshot.stored.dates.created_ms // 1000
            self.own_max_age = snapshot.stored.dates.max_age
            self.persistent = snapshot.stored.persistent

    @property
    def identity(self) -> str | None:
        """The session token, ``None`` before the first save: whoever holds it is signed in."""
        return None if self.snapshot is None else to_cookie(self.snapshot.token)

    @property
    def live(self) -> dict[str, Any]:
        """The values themselves, without the mapping's detours; not to be changed."""
        return self._mapping

    def __repr__(self) -> str:
        """Show the handle, never a value: sessions end up in logs."""
        handle = None if self.snapshot is None else to_handle(self.snapshot.stored.identifier)
        return f"<{type(self).__name__} handle={handle} with {len(self)} values>"

    def __setitem__(self, key: str, value: Any) -> None:
        """Set a value; it is saved with the response."""
        self._mapping[key] = value
        self._changed = True
        self.assigned.add(key)

    def __delitem__(self, key: str) -> None:
        """Remove a value; it is removed with the response."""
        del self._mapping[key]
        self._changed = True
        self.assigned.discard(key)

    def invalidate(self) -> None:
        """End this session; what is written afterwards starts a new one under a new token."""
        super().invalidate()
        self.assigned.clear()
        self.invalidated = True
        self._forget_max_age()

    def renew(self) -> None:
        """Ask for a new token; see ``renew_session``."""
        self.renewal_wanted = self._changed = True

    @property
    def max_age(self) -> int | None:
        """The idle timeout in seconds; ``None``: the cookie ends with the browser.

        Assign a number of seconds above zero, or ``None``. It is kept with the session.
        """
        if not self.persistent:
            return None
        # The library's annotation says int; fractions are accepted here.
        return self._storage_max_age if self.own_max_age is None else self.own_max_age  # type: ignore[return-value]

    @max_age.setter
    def max_age(self, value: float | None) -> None:
        self.own_max_age = checked_max_age(value)
        self.persistent = value is not None
        self._changed = True

    @property
    def max_age_changed(self) -> bool:
        """Whether the app chose another ``max_age`` than the one that is stored."""
        if self.snapshot is None:
            return False
        stored = self.snapshot.stored
        return (self.own_max_age, self.persistent) != (stored.dates.max_age, stored.persistent)

    def carry_only(self, names: set[str]) -> None:
        """Drop every value but these: another owner gets nothing of what was loaded."""
        if not self.max_age_changed:
            self._forget_max_age()
        self._mapping = {name: value for name, value in self._mapping.items() if name in names}

    def _forget_max_age(self) -> None:
        self.own_max_age, self.persistent = None, self._storage_max_age is not None

    def take_over(self, written: Mapping[str, Any], removed: Iterable[str]) -> None:
        """Adopt what parallel requests have saved."""
        self._mapping.update(written)
        for name in removed:
            self._mapping.pop(name, None)

    def saved(self, snapshot: Snapshot | None) -> None:
        """Note what MongoDB has now; ``None``: the session is over."""
        self.snapshot = snapshot
        if snapshot is not None:
            self.own_max_age = snapshot.stored.dates.max_age
            self.persistent = snapshot.stored.persistent
        self.assigned.clear()
        self.invalidated = self.renewal_wanted = False


def checked_max_age(value: object) -> float | None:
    """Check an assigned ``session.max_age``; whole seconds come back as ``int``."""
    accepted = "use seconds (a number above zero) or None; to end a session, call invalidate()"
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"session.max_age: {type(value).__name__} is not accepted; {accepted}")
    if not 0.001 <= value <= LONGEST.total_seconds():
        raise ValueError(f"session.max_age: {value!r} is out of range; {accepted}")
    return whole(value)


def write_json(value: Any) -> str:
    """Do what ``json.dumps`` does, for less where it is a number that changed."""
    return int.__repr__(value) if type(value) is int else json.dumps(value)


def read_json(encoded: Encoded) -> Any:
    """Do what ``json.loads`` does, for less, with what ``json.dumps`` wrote."""
    return _read(encoded)[0] if isinstance(encoded, str) else json.loads(encoded)


def open_values(
    keys: SessionKeys,
    sealed_values: Mapping[str, bytes],
    decoder: Decoder,
    known: Mapping[str, Value] = MappingProxyType({}),
) -> dict[str, Value]:
    """Open the values of a document; raises ``Unreadable`` when one of them does not open.

    Those of the same session that are ``known``, byte for byte, are not opened again.
    """
    by_field = {value.field: (name, value) for name, value in known.items()}
    values = {}
    for field, sealed in sealed_values.items():
        name, value = by_field.get(field, ("", None))
        if value is None or value.sealed != sealed:
            name, encoded = keys.open(field, sealed)
            value = _value_of(field, sealed, encoded, decoder)
        values[name] = value
    return values


def _value_of(field: str, sealed: bytes, encoded: Encoded, decoder: Decoder) -> Value:
    value = Value(field, sealed, encoded)
    loaded = value.fresh(decoder)
    if type(loaded) in _SCALARS:
        return Value(field, sealed, encoded, None, loaded)
    # An app's own decoder may make of it what nobody can copy.
    return Value(field, sealed, encoded, _picture(loaded)) if decoder is read_json else value


def is_untouched(session: MongoSession, now_ms: int) -> bool:
    """Tell whether a save has surely nothing to do: what most requests come to.

    For less than finding out what has changed, which ``changes_of`` does for all others.
    """
    snapshot, live = session.snapshot, session.live
    if snapshot is None:
        return not live
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
            before.picture is None or _picture(value) != before.picture
        ):
            return False
    return True


def changes_of(session: MongoSession, encoder: Encoder, decoder: Decoder) -> Changes:
    """Compare a session with its snapshot, nested values included.

    Raises ``SessionNotSerializable`` for a key that is not text or a value that cannot be encoded.
    """
    loaded = {} if session.snapshot is None else session.snapshot.values
    written = {}
    live = session.live
    for name, value in live.items():
        before = loaded.get(name)
        is_scalar = type(value) in _SCALARS
        # Without encoding it: whether it is surely what was loaded.
        if before is not None:
            if is_scalar:
                if value is before.scalar:
                    continue
            elif before.picture is not None and _picture(value) == before.picture:
                continue
        encoded = _encode(name, value, encoder)
        if before is not None and encoded == before.encoded:
            continue
        if not is_scalar:
            _check_reads_back(name, value, encoded, decoder)
            if before is not None and _is_respelled(before.encoded, encoded, encoder, decoder):
                continue
        written[name] = encoded
    return Changes(written, [name for name in loaded if name not in live])


def _picture(value: Any) -> bytes | None:
    """Return bytes that are the same for the same nested JSON value, and only for that.

    A fifth of the cost of encoding it. marshal writes builtin types exactly (1, 1.0 and True
    differ); its version 2 knows no references, which would depend on who else holds an object.
    """
    try:
        return None if type(value) in _SCALARS else marshal.dumps(value, 2)
    except ValueError:  # a foreign type, or nested too deeply
        return None


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
    if not isinstance(encoded, str | bytes):
        raise _refused(name, f"the encoder returned {type(encoded).__name__}, not text or bytes")
    return encoded


def _check_reads_back(name: str, value: Any, encoded: Encoded, decoder: Decoder) -> None:
    # What cannot be read back would end the session at its next request. Nesting has a limit of
    # its own: how deep a decoder gets depends on how deep inside a program it is called.
    if len(encoded) > MOST_NESTED and _is_nested_deeper_than(MOST_NESTED, value):
        raise _refused(name, f"it is nested more than {MOST_NESTED} deep")
    try:
        decoder(encoded)
    except Exception as error:  # noqa: BLE001 - whatever an app's decoder raises
        raise _refused(name, f"the decoder cannot read it back ({type(error).__name__})") from None


def _is_nested_deeper_than(levels: int, value: Any) -> bool:
    inside = [value]
    for _ in range(levels):
        inside = [
            child
            for item in inside
            if isinstance(item, dict | list | tuple)
            for child in (item.values() if isinstance(item, dict) else item)
        ]
    return any(isinstance(item, dict | list | tuple) for item in inside)


def _is_respelled(before: Encoded, encoded: Encoded, encoder: Encoder, decoder: Decoder) -> bool:
    # Another spelling of the same value (an encoder that was exchanged, say) is not a change:
    # writing it would undo what a parallel request has written.
    return bool(encoder(decoder(before)) == encoded)


def _refused(name: str, reason: str) -> SessionNotSerializable:
    return SessionNotSerializable(f"session[{name[:_NAME_SHOWN_CHARACTERS]!r}]: {reason}")
