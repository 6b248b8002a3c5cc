"""The model of the random histories: what a load must read, and what a save must do."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

from tests.storage.conftest import Clock
from tests.storage.direct import Visit

IDLE, ABSOLUTE, TOUCH = 1000, 3000, 50
Values = dict[str, Any]


@dataclass
class Record:
    """What one session must contain, and the earliest and latest time of its last touch."""

    values: Values
    created: float
    earliest_touch: float
    latest_touch: float
    ended: bool = False

    def is_active(self, now: float) -> bool | None:
        """Tell whether it is active; `None` if that depends on a touch that was not due."""
        if self.ended or now >= min(self.latest_touch + IDLE, self.created + ABSOLUTE):
            return False
        return True if now < self.earliest_touch + IDLE else None

    def observe(self, now: float, *, active: bool) -> None:
        """Note what a load has shown where the model could not know it."""
        if active:
            self.earliest_touch = max(self.earliest_touch, now - IDLE + 1)
        else:
            self.ended = True

    def merged(self, written: Values, removed: set[str]) -> Values:
        """Return the values after a save: its own changes, and whatever others have saved."""
        kept = {name: value for name, value in self.values.items() if name not in removed}
        return kept | copy.deepcopy(written)


@dataclass
class Request:
    """A request that has loaded its session and not saved it yet."""

    visit: Visit
    phase: int
    cookie: str | None
    record: Record | None
    loaded: Values
    # The names that the handler has assigned to: another owner gets no other values.
    assigned: set[str] = field(default_factory=set)
    renewed: bool = False
    invalidated: bool = False
    # new_session() was called, and whether its session was changed since.
    replaced: bool = False
    changed: bool = False

    @property
    def values(self) -> Values:
        """What the handler sees."""
        return dict(self.visit.session)


class Model:
    """Every session that was ever stored, by its cookie, and what a save must do to it."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.records: dict[str, Record] = {}

    def save(self, request: Request, values: Values) -> Record | None:
        """Return the session whose cookie must be sent; one that ended: deleted; `None`: none."""
        now, record = self.clock(), request.record
        new = Record(values, now, now, now)
        if request.replaced or record is None:
            return self._insert(request, new)
        if not values:
            record.ended = True
            return record
        owner_changed = request.loaded.get("user_id") != values.get("user_id")
        if request.renewed or request.invalidated or owner_changed:
            return self._renew(request, record, new)
        return self._update(request, record, values) if record.is_active(now) else None

    def _insert(self, request: Request, new: Record) -> Record | None:
        """Save a new session, which replaces that of the cookie."""
        if not new.values:
            # A new session that was emptied is a logout; one that was left alone is nothing.
            if request.record is None or not request.changed:
                return None
            request.record.ended = True
            return request.record
        if request.cookie is not None:
            self.records[request.cookie].ended = True
        return new

    def _renew(self, request: Request, record: Record, new: Record) -> Record | None:
        """Save under a new token."""
        loaded, values, active = request.loaded, new.values, record.is_active(self.clock())
        before, owner = loaded.get("user_id"), values.get("user_id")
        record.ended = True
        if not active:
            # Only the login of an anonymous visitor succeeds: a double click, for example.
            return new if before is None and owner is not None else None
        if before is not None and owner not in (None, before):
            kept = {*request.assigned, "user_id"}
            new.values = {name: value for name, value in values.items() if name in kept}
        elif not request.invalidated:
            new.values = record.merged(*changes(loaded, values))
            new.created = record.created if before == owner else new.created
        # Requests that have emptied a session together have ended it.
        return new if new.values else None

    def _update(self, request: Request, record: Record, values: Values) -> Record:
        """Save the changes under the same token."""
        now = self.clock()
        record.values = record.merged(*changes(request.loaded, values))
        record.earliest_touch = max(record.earliest_touch, now - TOUCH)
        record.latest_touch = now
        return record


def changes(loaded: Values, values: Values) -> tuple[Values, set[str]]:
    """Return what a request has written and removed since its load."""
    written = {
        name: value for name, value in values.items() if name not in loaded or loaded[name] != value
    }
    return written, set(loaded) - set(values)
