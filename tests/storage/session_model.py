"""The model of the random histories: what a load must read, and what a save must do."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

from tests.storage.conftest import Clock
from tests.storage.direct import Visit

IDLE, ABSOLUTE, TOUCH = 1000, 3000, 50
# How long late saves and sign-outs follow a renewal, and how many of them.
FOLLOWED, MOST_MOVES = 60, 8
Values = dict[str, Any]


@dataclass
class Record:
    """What one session must contain, and the earliest and latest time of its last touch."""

    values: Values
    created: float
    earliest_touch: float
    latest_touch: float
    ended: bool = False
    # The session that a renewal has left a forward to, and when.
    renewed_as: Record | None = None
    renewed_at: float = 0
    grace: float = 0

    def newest(self, now: float) -> Record | None:
        """Return the session that a late save finds; `None` if it has ended."""
        record = self
        for _ in range(MOST_MOVES + 1):
            if record.renewed_as is None or now >= record.renewed_at + FOLLOWED:
                return record if record.is_active(now) else None
            record = record.renewed_as
        return None

    def opened(self, now: float) -> Record:
        """Return the session that a load opens: after a renewal, the new one during the grace."""
        record = self
        while record.renewed_as is not None and now < record.renewed_at + record.grace:
            record = record.renewed_as
        return record

    def is_followed(self, now: float) -> bool:
        """Tell whether a late save finds a forward here."""
        return self.renewed_as is not None and now < self.renewed_at + FOLLOWED

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
    # Whether the session was opened with its token of before a renewal, during the grace.
    by_grace: bool = False
    renewed: bool = False
    grace: float = 0
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
            return self._end(request, record)
        owner_changed = request.loaded.get("user_id") != values.get("user_id")
        if request.invalidated or owner_changed or (request.renewed and not request.by_grace):
            return self._renew(request, record, new)
        if record.is_active(now):
            return self._update(request, record, values)
        return self._save_late(request, record)

    def _end(self, request: Request, record: Record) -> Record | None:
        """Save an emptied session: a logout, also of the session as it was renewed meanwhile."""
        now = self.clock()
        if record.is_followed(now) and request.loaded.get("user_id") is None:
            # An anonymous session: somebody may have signed in over it.
            return None if request.invalidated else self._save_late(request, record)
        return self._ended(request, record)

    def _ended(self, request: Request, record: Record) -> Record:
        if request.loaded.get("user_id") is not None:
            newest = record.newest(self.clock())
            if newest is not None:
                newest.ended = True
        record.ended = True
        return record

    def _save_late(self, request: Request, record: Record) -> None:
        """Save into the renewed session what nobody else has changed; no cookie is sent."""
        newest = record.newest(self.clock())
        if newest is None or newest is record:
            return
        loaded, missing = request.loaded, object()
        written, removed = changes(loaded, request.values)
        names = {
            name
            for name in (*written, *removed)
            if name != "user_id" and loaded.get(name, missing) == newest.values.get(name, missing)
        }
        written = {name: value for name, value in written.items() if name in names}
        newest.values = newest.merged(written, removed & names)

    def _insert(self, request: Request, new: Record) -> Record | None:
        """Save a new session, which replaces that of the cookie."""
        if not new.values:
            # A new session that was emptied is a logout; one that was left alone is nothing.
            if request.record is None or not request.changed:
                return None
            return self._ended(request, request.record)
        if request.record is not None:
            self._ended(request, request.record)
        return new

    def _renew(self, request: Request, record: Record, new: Record) -> Record | None:
        """Save under a new token."""
        now, loaded, values = self.clock(), request.loaded, new.values
        before, owner = loaded.get("user_id"), values.get("user_id")
        stays = before == owner and not request.invalidated
        if not record.is_active(now):
            if before is None and owner is not None:
                # The login of an anonymous visitor succeeds: a double click, for example.
                return new
            if stays or before is None:
                # Renewed at the same time: one of them counts, and has the changes of both.
                return self._save_late(request, record) if stays else None
            newest = record.newest(now)
            if newest is None:
                return None
            record = newest
        elif not request.invalidated and (stays or before is None):
            record.renewed_as, record.renewed_at = new, now
            record.grace = request.grace if stays else 0
        record.ended = True
        if before is not None and owner not in (None, before):
            kept = {*request.assigned, "user_id"}
            new.values = {name: value for name, value in values.items() if name in kept}
        elif not request.invalidated:
            new.values = record.merged(*changes(loaded, values))
            new.created = record.created if before == owner else new.created
        # Requests that have emptied a session together have ended it.
        new.ended = not new.values
        return None if new.ended else new

    def _update(self, request: Request, record: Record, values: Values) -> Record | None:
        """Save the changes under the same token."""
        now = self.clock()
        record.values = record.merged(*changes(request.loaded, values))
        if request.by_grace:
            return None  # neither a touch nor a cookie
        record.earliest_touch = max(record.earliest_touch, now - TOUCH)
        record.latest_touch = now
        return record


def changes(loaded: Values, values: Values) -> tuple[Values, set[str]]:
    """Return what a request has written and removed since its load."""
    written = {
        name: value for name, value in values.items() if name not in loaded or loaded[name] != value
    }
    return written, set(loaded) - set(values)
