"""The arguments of ``MongoStorage`` about owners, labels, limits and codecs, and their checks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from storage.undisclosed import Owner
from storage.values import Decoder, Encoder

# A document, and the update that seals one again, may have 16 MiB (MongoDB's limit). That update
# has every value twice, and the field of a small value takes nearly as much as the value.
MOST_BYTES = 4 * 1024 * 1024
MOST_SESSIONS = 1_000_000
LONGEST_OPERATION_SECONDS = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Checks itself: each wrong argument raises an error that names it and what is accepted."""

    owner_key: str | None
    # Called with the request.
    describe: Callable[[Any], str] | None
    max_bytes: int
    max_sessions_per_owner: int | None
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
        if self.max_sessions_per_owner is not None:
            _check_number(
                "max_sessions_per_owner", self.max_sessions_per_owner, int, 1, MOST_SESSIONS
            )
            if self.owner_key is None:
                raise ValueError("max_sessions_per_owner: needs an owner_key; without it, use None")
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
    """Return an owner's id as it is compared: as text (7 is "7").

    ``None`` and the empty text are nobody. 0 is somebody: a sign-in as user 0 must renew too.
    """
    text = "" if owner is None else str(owner)
    return Owner(text) if text else None


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
