"""What MongoDB holds for one session: its fields, how they are built, read, filtered and refused.

No name of a value, no value, no owner's id and no token is anywhere in a document. The names of its
fields are spelled in this module alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import bson
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.datetime_ms import DatetimeMS
from bson.raw_bson import RawBSONDocument

from storage.errors import Unreadable
from storage.lifetime import LONGEST, Dates, Lifetime, from_datetime, to_datetime
from storage.sealing import KEY_ID_BYTES, OWNER_BYTES

Document = Mapping[str, Any]
Filter = dict[str, Any]
MongoUpdate = Mapping[str, Mapping[str, Any]]
ID_BYTES = 32
TTL_FIELD = "expires_at"
OWNER_FIELD = "owner"
# Of a list of sessions: everything else is small.
WITHOUT_VALUES: Mapping[str, bool] = {"values": False}
NEWEST_FIRST = ("last_seen_at", -1)
# Of what may have taken the place of a session.
_WHAT_IS_THERE: Mapping[str, bool] = {
    "_id": True, "created_at": True, "expires_at": True, "forward": True,
}  # fmt: skip
# Of a watched session, or of the forward in its place.
WATCHED: Mapping[str, bool] = {
    "_id": True, "created_at": True, "last_seen_at": True, "expires_at": True, "max_age": True,
    "owner": True, "forward": True,
}  # fmt: skip
# Every update, delete and renewal of a session asks for this: a forward has not expired either, and
# what is written to it would be lost. ``None`` matches a field that is not there.
_NO_FORWARD: Mapping[str, None] = {"forward": None}
# MongoDB puts ``_id`` first: behind the length of the document stand its type, its name, its own
# length and its subtype (bsonspec.org).
_ID_START = len(b"size" + b"\x05" + b"_id\0" + b"size" + b"\x00")
_ID = slice(_ID_START, _ID_START + ID_BYTES)
# Dates that Python cannot hold as plain milliseconds, and text without complaint.
CODEC = CodecOptions[dict[str, Any]](
    datetime_conversion=DatetimeConversion.DATETIME_AUTO, unicode_decode_error_handler="replace"
)
_LONGEST_SECONDS = LONGEST.total_seconds()
# With any timeout added it still fits a datetime.
_LATEST_MS = from_datetime(datetime(9000, 1, 1, tzinfo=UTC))


class Stored(NamedTuple):
    """One session as MongoDB has it, without its values; its shape is checked."""

    identifier: bytes
    dates: Dates
    persistent: bool
    owner: bytes | None
    # Everything was sealed under this secret when the document was inserted or sealed again. What
    # was updated since is sealed under one of ``later_key_ids``.
    key_id: bytes
    label: bytes | None
    later_key_ids: Sequence[bytes] = ()


def bson_of(document: Document) -> bytes:
    """Return a found document as the bytes that came over the wire.

    Collections that exist in memory only (mongomock's) return dicts, whatever they are asked for.
    """
    return bytes(document.raw) if isinstance(document, RawBSONDocument) else bson.encode(document)


def identifier_of(raw: bytes) -> bytes:
    """Return the ``_id`` of a document that was found by it, without decoding the rest."""
    return raw[_ID]


def decode(raw: bytes) -> tuple[dict[str, Any], object]:
    """Decode one document; return everything but its values, and the values.

    Raises ``Unreadable`` for what BSON can hold and Python cannot.
    """
    try:
        document = bson.decode(raw, CODEC)
    except Exception:  # noqa: BLE001 - whatever the driver's decoder raises
        raise Unreadable("the driver cannot decode it") from None
    return document, document.pop("values", None)


def build(stored: Stored, values: Mapping[str, bytes]) -> dict[str, Any]:
    """Write a session as the document to insert."""
    dates = stored.dates
    document: dict[str, Any] = {
        "_id": stored.identifier,
        "created_at": to_datetime(dates.created_ms),
        "last_seen_at": to_datetime(dates.last_seen_ms),
        "expires_at": to_datetime(dates.expires_ms),
        "max_age": dates.max_age,
        "persistent": stored.persistent,
        "key_id": stored.key_id,
        "values": dict(values),
    }
    if stored.owner is not None:
        document["owner"] = stored.owner
    if stored.label is not None:
        document["label"] = stored.label
    return document


def build_forward(
    identifier: bytes, created_ms: int, ends_ms: int, sealed: bytes
) -> dict[str, Any]:
    """Write a forward as the document that replaces a session."""
    return {
        "_id": identifier,
        "created_at": to_datetime(created_ms),
        "expires_at": to_datetime(ends_ms),
        "forward": sealed,
    }


def same_forward(forward: Document) -> tuple[Filter, MongoUpdate]:
    """Return the filter of exactly this forward, and an update that changes nothing."""
    sealed = {"forward": forward["forward"]}
    return by_id(forward["_id"]) | sealed, {"$set": sealed}


class SealedForward(NamedTuple):
    """A forward as MongoDB has it; its shape is checked."""

    created_ms: int
    sealed: bytes


def parse_forward(document: Document) -> SealedForward | None:
    """Read a forward; ``None``: the document is none. Raises ``Unreadable`` for a wrong shape."""
    sealed = document.get("forward")
    if sealed is None:
        return None
    if not isinstance(sealed, bytes):
        raise Unreadable("its field 'forward' is not binary")
    return SealedForward(_instant(document, "created_at"), sealed)


class DocumentUpdate(NamedTuple):
    """What one update changes in a stored session; what is ``None`` stays as it is."""

    values: Mapping[str, bytes]
    removed: Sequence[str] = ()
    dates: Dates | None = None
    # Given only by the request that changed session.max_age.
    persistent: bool | None = None
    label: bytes | None = None
    # The secret of this update, where there are several.
    sealed_under: bytes | None = None

    def to_mongodb(self) -> MongoUpdate:
        """Return it with MongoDB's update operators; empty when nothing changes."""
        assigned: dict[str, Any] = {f"values.{field}": v for field, v in self.values.items()}
        for field in ("persistent", "label"):
            if (value := getattr(self, field)) is not None:
                assigned[field] = value
        update: dict[str, Mapping[str, Any]] = {"$set": assigned} if assigned else {}
        if self.sealed_under is not None and (self.values or self.label is not None):
            # Added, never replaced: processes seal under different secrets during a rotation, and
            # none knows what another has sealed meanwhile.
            update["$addToSet"] = {"later_key_ids": self.sealed_under}
        if self.removed:
            update["$unset"] = {f"values.{field}": "" for field in self.removed}
        if self.dates is not None:
            moved = {
                "last_seen_at": to_datetime(self.dates.last_seen_ms),
                "expires_at": to_datetime(self.dates.expires_ms),
            }
            if self.persistent is not None:
                assigned |= {"max_age": self.dates.max_age, **moved}
            else:
                # Forward only: a stale parallel save must not undo another's "remember me".
                update["$max"] = moved
        return update


def parse_without_values(document: Document) -> Stored:
    """Read everything but the values, which the list of an owner's sessions does not need."""
    identifier, key_id = document.get("_id"), document.get("key_id")
    persistent = document.get("persistent")
    owner, label = _owner(document), document.get("label")
    later = document.get("later_key_ids", [])
    if not (isinstance(identifier, bytes) and len(identifier) == ID_BYTES):
        raise Unreadable("its field '_id' is not binary of 32 bytes")
    if not (isinstance(key_id, bytes) and len(key_id) == KEY_ID_BYTES):
        raise Unreadable("its field 'key_id' is not binary of 4 bytes")
    if not isinstance(later, list) or not all(isinstance(other, bytes) for other in later):
        raise Unreadable("its field 'later_key_ids' is not a list of binary")
    if not isinstance(persistent, bool):
        raise Unreadable("its field 'persistent' is not true or false")
    if label is not None and not isinstance(label, bytes):
        raise Unreadable("its field 'label' is not binary")
    return Stored(identifier, _dates(document), persistent, owner, key_id, label, tuple(later))


class WatchedDocument(NamedTuple):
    """What a watch reads of a session; its shape is checked."""

    dates: Dates
    owner: bytes | None


def parse_watched(document: Document) -> WatchedDocument:
    """Read the dates and the owner of a session; raises ``Unreadable`` for a wrong shape."""
    return WatchedDocument(_dates(document), _owner(document))


def checked_values(values: object) -> Mapping[str, bytes]:
    """Return the field 'values' of a document; raises ``Unreadable`` for a wrong shape."""
    # A session without values is never stored: emptying it is a logout.
    if not isinstance(values, dict) or not values:
        raise Unreadable("its field 'values' is not a document of sealed values")
    for sealed in values.values():
        if not isinstance(sealed, bytes):
            raise Unreadable("a field of its 'values' is not binary")
    return values


def by_id(identifier: bytes) -> Filter:
    """Return the filter of one document."""
    return {"_id": identifier}


def by_ids(identifiers: Sequence[bytes]) -> Filter:
    """Return the filter of several documents."""
    return {"_id": {"$in": identifiers}}


def not_expired(now_ms: int) -> Filter:
    """Return the filter of documents that have not expired, forwards included."""
    return {TTL_FIELD: {"$gt": to_datetime(now_ms)}}


def a_session() -> Filter:
    """Return the filter that excludes forwards, which every delete carries."""
    return {**_NO_FORWARD}


def readable_session(now_ms: int) -> Filter:
    """Return the filter that every update carries: an expired session must stay expired."""
    return {**not_expired(now_ms), **_NO_FORWARD}


def session_by_id(identifier: bytes, now_ms: int) -> Filter:
    """Return the filter of one session that has not expired."""
    return {"_id": identifier, TTL_FIELD: {"$gt": to_datetime(now_ms)}, **_NO_FORWARD}


def a_forward() -> Filter:
    """Return the filter of forwards."""
    return {"forward": {"$ne": None}}


def expired(now_ms: int) -> Filter:
    """Return the filter of what the TTL index will delete, forwards included."""
    return {TTL_FIELD: {"$lte": to_datetime(now_ms)}}


def values_are(fields: Mapping[str, bytes | None]) -> Filter:
    """Return the filter of a session with exactly these sealed values; ``None``: without it."""
    return {f"values.{field}": sealed for field, sealed in fields.items()}


def session_is(stored: Stored, fields: Mapping[str, bytes]) -> Filter:
    """Return the filter of a session with exactly these sealed values, and that idle timeout."""
    return {"values": {**fields}, **max_age_is(stored)}


def changes_nothing(now_ms: int) -> MongoUpdate:
    """Return an update that leaves every session as it is that has not expired at ``now_ms``."""
    return {"$max": {TTL_FIELD: to_datetime(now_ms)}}


def max_age_is(stored: Stored) -> Filter:
    """Return the filter of a session whose own idle timeout is still as in ``stored``."""
    return {"max_age": stored.dates.max_age, "persistent": stored.persistent}


def what_is_there(guarded: Iterable[str] = ()) -> dict[str, bool]:
    """Return the projection for what may have taken the place of a session: it is small.

    ``guarded`` are fields that a guard names, see ``is_carried_out``.
    """
    return {**_WHAT_IS_THERE, **dict.fromkeys(guarded, True)}


def is_forward(raw: bytes) -> bool:
    """Tell whether a document is a forward; raises ``Unreadable``."""
    return decode(raw)[0].get("forward") is not None


def is_carried_out(raw: bytes, change: MongoUpdate, guard: Filter) -> bool:
    """Tell whether a document has, in its guarded fields, what it has after an update.

    Raises ``Unreadable``.
    """
    document, values = decode(raw)
    document["values"] = values
    removed = dict.fromkeys(change.get("$unset", {}))
    afterwards = {**guard, **removed, **change.get("$set", {})}
    return all(_value_at(document, field) == afterwards[field] for field in guard)


def owned_by(owner_hashes: Sequence[bytes], *, but: bytes | None = None) -> Filter:
    """Return the filter of an owner's sessions, except the one with the id ``but``.

    By owner alone: asked for a date as well, MongoDB may walk through the TTL index, which holds
    everybody's sessions. A forward has no owner.
    """
    owned: Filter = {OWNER_FIELD: {"$in": owner_hashes}, **_NO_FORWARD}
    return owned if but is None else {**owned, "_id": {"$ne": but}}


def readable(lifetime: Lifetime, now_ms: int) -> Filter:
    """Return the filter of sessions that a load would accept under today's timeouts."""
    unused_since = to_datetime(now_ms - lifetime.idle_ms)
    conditions: Filter = {
        **readable_session(now_ms),
        "$or": [{"max_age": {"$ne": None}}, {"last_seen_at": {"$gt": unused_since}}],
    }
    if lifetime.absolute_ms is not None:
        conditions["created_at"] = {"$gt": to_datetime(now_ms - lifetime.absolute_ms)}
    return conditions


def needs_older_secret(first_key_id: bytes) -> Filter:
    """Return the filter of sessions that still need a secret other than the first."""
    other = {"$ne": first_key_id}
    return {"$or": [{"key_id": other}, {"later_key_ids": {"$elemMatch": other}}]}


def sealed_again(
    old: tuple[Stored, Mapping[str, bytes]], new: tuple[Stored, Mapping[str, bytes]], now_ms: int
) -> tuple[Filter, MongoUpdate]:
    """Return the filter and the update that put ``new`` in place of exactly ``old``.

    Each is a session and its sealed values.

    The filter matches only the very bytes of ``old``, so that no neighbour's newer value is
    overwritten by an older one that was sealed again.
    """
    stored, values = new
    fields: dict[str, Any] = {"values": values, "key_id": stored.key_id}
    if stored.owner is not None:
        fields[OWNER_FIELD] = stored.owner
    if stored.label is not None:
        fields["label"] = stored.label
    before, values_before = old
    # A label that is None matches one that is not there.
    exactly = {**readable_session(now_ms), "values": values_before, "label": before.label}
    return by_id(before.identifier) | exactly, {"$set": fields, "$unset": {"later_key_ids": ""}}


def _owner(document: Document) -> bytes | None:
    owner = document.get(OWNER_FIELD)
    if owner is not None and not (isinstance(owner, bytes) and len(owner) == OWNER_BYTES):
        raise Unreadable("its field 'owner' is not binary of 16 bytes")
    return owner


def _dates(document: Document) -> Dates:
    max_age = document.get("max_age")
    if max_age is not None and not (_is_number(max_age) and 0 < max_age <= _LONGEST_SECONDS):
        raise Unreadable("its field 'max_age' is neither null nor an accepted number of seconds")
    return Dates(
        created_ms=_instant(document, "created_at"),
        last_seen_ms=_instant(document, "last_seen_at"),
        expires_ms=_instant(document, "expires_at"),
        max_age=max_age,
    )


def _value_at(document: Document, path: str) -> object:
    value: object = document
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _instant(document: Document, field: str) -> int:
    value = document.get(field)
    if isinstance(value, datetime):
        instant_ms = from_datetime(value)
    elif isinstance(value, DatetimeMS):
        instant_ms = int(value)
    else:
        raise Unreadable(f"its field '{field}' is not a date")
    if not 0 <= instant_ms <= _LATEST_MS:
        raise Unreadable(f"its field '{field}' is not a date of this age")
    return instant_ms
