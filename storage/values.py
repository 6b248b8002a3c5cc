"""The values of a session: sealed, opened, and handed to requests that may change them."""

from __future__ import annotations

import json
import marshal
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from storage.errors import Unreadable
from storage.sealing import SessionKeys

Encoded = str | bytes
Encoder = Callable[[Any], Any]
Decoder = Callable[[Any], Any]

SCALARS = frozenset({str, int, float, bool, type(None)})
_read = json.JSONDecoder().raw_decode


class _NotKept:
    """Stands for a value that has to be decoded for each request."""


class Value(NamedTuple):
    """One value as it was loaded or last saved. It never changes, so that requests can share it."""

    encoded: Encoded
    # Of a nested value: a marshalled copy, from which each request gets an object of its own.
    marshalled: bytes | None
    # Itself, where it cannot be changed in place.
    scalar: Any
    # The name of its field in the document; empty until it is sealed.
    field: str
    sealed: bytes

    def __repr__(self) -> str:
        """Show nothing of it: error trackers record this."""
        return "<Value>"

    def __sentry_repr__(self) -> str:
        """Show no more to Sentry, which looks into sequences otherwise."""
        return repr(self)

    def fresh(self, decoder: Decoder) -> Any:
        """Return the value for one request; raises ``Unreadable`` when the decoder refuses it."""
        if self.marshalled is not None:
            return marshal.loads(self.marshalled)  # noqa: S302 - bytes of ``marshalled_copy``
        if self.scalar is not _NotKept:
            return self.scalar
        return _decoded(self.encoded, decoder)


def write_json(value: Any) -> str:
    """Do what ``json.dumps`` does, faster for a whole number."""
    return int.__repr__(value) if type(value) is int else json.dumps(value)


def read_json(encoded: Encoded) -> Any:
    """Do what ``json.loads`` does with text of ``json.dumps``, faster."""
    return _read(encoded)[0] if isinstance(encoded, str) else json.loads(encoded)


def open_values(
    keys: SessionKeys,
    sealed_values: Mapping[str, bytes],
    decoder: Decoder,
    known: Mapping[str, Value] = MappingProxyType({}),
) -> dict[str, Value]:
    """Open the values of a document; raises ``Unreadable`` when one of them does not open.

    Values of the same session that are ``known``, byte for byte, are not opened again.
    """
    by_field = {value.field: (name, value) for name, value in known.items()}
    values = {}
    for field, sealed in sealed_values.items():
        name, value = by_field.get(field, ("", None))
        if value is None or value.sealed != sealed:
            name, encoded = keys.open(field, sealed)
            value = read_value(encoded, decoder, field, sealed)
        values[name] = value
    return values


def seal_values(
    keys: SessionKeys,
    plain: Mapping[str, Value],
    known: Mapping[str, Value] = MappingProxyType({}),
) -> dict[str, Value]:
    """Seal values; a name that is ``known`` keeps its field."""
    values = {}
    for name, value in plain.items():
        field = known[name].field if name in known else keys.field(name)
        sealed = keys.seal(field, name, value.encoded)
        values[name] = Value(value.encoded, value.marshalled, value.scalar, field, sealed)
    return values


def sealed_fields(values: Mapping[str, Value]) -> dict[str, bytes]:
    """Return sealed values as a document holds them."""
    return {value.field: value.sealed for value in values.values()}


def sealed_bytes(values: Mapping[str, Value]) -> int:
    """Return how many bytes these values take, sealed."""
    return sum(len(value.sealed) for value in values.values())


def read_value(encoded: Encoded, decoder: Decoder, field: str = "", sealed: bytes = b"") -> Value:
    """Decode a value as far as requests can share it; raises ``Unreadable`` as ``fresh`` does."""
    loaded = _decoded(encoded, decoder)
    if type(loaded) in SCALARS:
        return Value(encoded, None, loaded, field, sealed)
    # An app's own decoder may make of it what nobody can copy.
    marshalled = marshalled_copy(loaded) if decoder is read_json else None
    return Value(encoded, marshalled, _NotKept, field, sealed)


def _decoded(encoded: Encoded, decoder: Decoder) -> Any:
    try:
        return decoder(encoded)
    except Exception as error:  # noqa: BLE001 - whatever an app's decoder raises
        # Without its cause and its text: both may show the value.
        raise Unreadable(f"the decoder refused a value ({type(error).__name__})") from None


def marshalled_copy(value: Any) -> bytes | None:
    """Return bytes that are the same for the same nested JSON value, and only for that.

    It costs a fifth of encoding it. marshal writes builtin types exactly (1, 1.0 and True
    differ); its version 2 knows no references, which would depend on who else holds an object.
    """
    try:
        return None if type(value) in SCALARS else marshal.dumps(value, 2)
    except ValueError:  # a foreign type, or nested too deeply
        return None
