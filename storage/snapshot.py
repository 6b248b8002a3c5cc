"""What one request knows of a stored session, and what a save changes in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from storage.document import Stored
from storage.lifetime import NEVER_UP_TO_DATE
from storage.sealing import SessionKeys
from storage.values import Value


class Snapshot(NamedTuple):
    """A session as MongoDB has it, as far as this request knows."""

    token: bytes
    keys: SessionKeys
    stored: Stored
    values: dict[str, Value]
    owner: str | None
    # Two instants (milliseconds, both excluded): see ``is_up_to_date``.
    up_to_date_between: tuple[int, int] = NEVER_UP_TO_DATE
    # Names whose changes were not saved where the session has moved to: see ``following``.
    not_followed: frozenset[str] = frozenset()

    def field(self, name: str) -> str:
        """Return the name of a value's field in the document, also where there is no such value."""
        known = self.values.get(name)
        return self.keys.field(name) if known is None else known.field

    def is_up_to_date(self, now_ms: int) -> bool:
        """Tell whether the session has certainly neither expired nor a touch that is due."""
        after_ms, before_ms = self.up_to_date_between
        return after_ms < now_ms < before_ms


class Diff(NamedTuple):
    """What a save has to write: values by name, not sealed yet, and the removed names."""

    written: dict[str, Value]
    removed: Sequence[str]

    def __bool__(self) -> bool:
        return bool(self.written or self.removed)

    @property
    def names(self) -> frozenset[str]:
        """The names of the values that the save would change."""
        return frozenset((*self.written, *self.removed))


class Draft(NamedTuple):
    """What a save wants a session to be."""

    diff: Diff
    max_age: float | None
    persistent: bool
    owner: str | None
    label: str | None
    now_ms: int
    # An instant of the running loop's clock.
    deadline: float
    # What the session held before; it may stay as large as that.
    loaded: Mapping[str, Value]
    # Whether the app chose another max_age than the stored one: then the dates move, back as well.
    set_max_age: bool
    # Whether to record that the session is in use: then the dates move, forward only.
    touch: bool
    # Whether the cookie that belongs to new dates cannot be sent.
    without_cookie: bool

    @property
    def moves_dates(self) -> bool:
        """Whether the save writes new dates."""
        return self.touch or self.set_max_age
