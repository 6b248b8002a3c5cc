"""The arguments of ``MongoStorage`` that are not cookies, secrets or timeouts, and their checks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from pymongo.collection import Collection

from storage.values import Decoder, Encoder

Describe = Callable[[web.Request], str]
# A document, and the update that seals one anew, may have 16 MiB (MongoDB's limit). That update
# carries every value twice, and the field of a small value takes nearly as much as the value.
MOST_BYTES = 4 * 1024 * 1024
LONGEST_OPERATION_SECONDS = 3600.0
_COLLECTION = (
    "use a Motor collection or a PyMongo AsyncCollection, such as client['app']['sessions']"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Checks itself: each wrong argument raises an error that names it and what is accepted."""

    owner_key: str | None
    describe: Describe | None
    max_bytes: int
    operation_timeout: float
    encoder: Encoder
    decoder: Decoder

    def __post_init__(self) -> None:
        """Check every argument."""
        if self.owner_key is not None and not isinstance(self.owner_key, str):
            raise _wrong_type("owner_key", self.owner_key, "use a session key (text) or None")
        if self.describe is not None and not callable(self.describe):
            raise _wrong_type("describe", self.describe, "use a function of the request, or None")
        if not callable(self.encoder):
            raise _wrong_type("encoder", self.encoder, "use a function such as json.dumps")
        if not callable(self.decoder):
            raise _wrong_type("decoder", self.decoder, "use a function such as json.loads")
        _check_number("max_bytes", self.max_bytes, int, 1, MOST_BYTES)
        _check_number(
            "operation_timeout",
            self.operation_timeout,
            (int, float),
            0.01,
            LONGEST_OPERATION_SECONDS,
        )

    def owner_of(self, values: Mapping[str, Any]) -> str | None:
        """Return whose session these values make it, as text; ``None``: nobody's."""
        return None if self.owner_key is None else owner_text(values.get(self.owner_key))


def owner_text(owner: object) -> str | None:
    """Return an owner's id as it is compared: as text (7 is "7"); ``None`` is nobody."""
    return None if owner is None else str(owner)


def check_collection(collection: Any) -> None:
    """Refuse what is no asynchronous collection, and one that does not acknowledge writes."""
    kind = type(collection)
    if isinstance(collection, Collection):
        raise _wrong_type("collection", collection, f"it is synchronous; {_COLLECTION}")
    # Looked up on the class: a Motor client or database answers any name with a child of its own.
    if not all(callable(getattr(kind, name, None)) for name in ("find_one", "bulk_write")):
        raise _wrong_type("collection", collection, _COLLECTION)
    if not collection.write_concern.acknowledged:
        raise ValueError(
            "collection: its write concern is unacknowledged (w=0), so that nobody would learn of "
            "a session that was not stored; use w=1 or w='majority'"
        )


def _check_number(
    name: str, value: object, kinds: type | tuple[type, ...], least: float, most: float
) -> None:
    accepted = f"use a {'whole ' if kinds is int else ''}number from {least} to {most}"
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise _wrong_type(name, value, accepted)
    if not (isinstance(value, int | float) and least <= value <= most):
        raise ValueError(f"{name}: {value!r} is out of range; {accepted}")


def _wrong_type(name: str, value: object, accepted: str) -> TypeError:
    return TypeError(f"{name}: {type(value).__name__} is not accepted; {accepted}")
