"""What sessions must do, said in as few lines as it takes: the model of the random tests."""

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
    """The model: what one session must hold, and between which bounds it was last seen."""

    values: Values
    created: float
    seen_after: float
    seen_before: float
    ended: bool = False

    def alive(self, now: float) -> bool | None:
        """Say whether it is alive; `None` while a touch that was not due leaves it open."""
        if self.ended or now >= min(self.seen_before + IDLE, self.created + ABSOLUTE):
            return False
        return True if now < self.seen_after + IDLE else None

    def merge(self, written: Values, removed: set[str]) -> Values:
        """Return the values after a save: its own changes over whatever others have saved."""
        kept = {name: value for name, value in self.values.items() if name not in removed}
        return kept | copy.deepcopy(written)


@dataclass
class Request:
    """A request under way: its visit, and what the model knew when it loaded."""

    visit: Visit
    phase: int
    record: Record | None
    cookie: str | None
    loaded: Values
    assigned: set[str] = field(default_factory=set)
    begun_anew: bool = False
    # Whether anything was done to the session that was begun anew.
    touched: bool = False
    renewed: bool = False
    invalidated: bool = False

    @property
    def values(self) -> Values:
        """What the handler sees."""
        return dict(self.visit.session)


class Model:
    """Every session that ever was, by its cookie, and what a save must do to it."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.records: dict[str, Record] = {}

    def outcome(self, request: Request, values: Values) -> Record | None:
        """Predict a save: the record that the browser has then; `None`: no cookie is sent."""
        now, record = self.clock(), request.record
        fresh = Record(values, now, now, now)
        if request.begun_anew or record is None:
            return self.begun(request, fresh)
        if not values:
            record.ended = True
            return record
        renewed = request.renewed or request.invalidated
        if renewed or request.loaded.get("user_id") != values.get("user_id"):
            return self.moved(request, record, fresh)
        return self.updated(request, values) if record.alive(now) else None

    def moved(self, request: Request, record: Record, fresh: Record) -> Record | None:
        """Predict a save under a new token."""
        loaded, values, alive = request.loaded, fresh.values, record.alive(self.clock())
        was, owner = loaded.get("user_id"), values.get("user_id")
        record.ended = True
        if not alive:
            # A login from nobody's session is served, double-clicked or not.
            return fresh if was is None and owner is not None else None
        if was is not None and owner not in (None, was):
            kept = {*request.assigned, "user_id"}
            fresh.values = {name: value for name, value in values.items() if name in kept}
        elif not request.invalidated:
            fresh.values = record.merge(*changes(loaded, values))
            fresh.created = record.created if was == owner else fresh.created
        # Emptied together with others: that is a logout as well.
        return fresh if fresh.values else None

    def begun(self, request: Request, fresh: Record) -> Record | None:
        """Predict the first save of a session: it takes the place of the one that was sent."""
        if not fresh.values:
            # Emptied again, which is a logout from what it came with; or left alone.
            if not request.touched or request.record is None:
                return None
            request.record.ended = True
            return request.record
        if request.cookie is not None:
            self.records[request.cookie].ended = True
        return fresh

    def updated(self, request: Request, values: Values) -> Record | None:
        """Predict a plain save of a session that is still there."""
        now, record = self.clock(), request.record
        assert record is not None
        record.values = record.merge(*changes(request.loaded, values))
        record.seen_after = max(record.seen_after, now - TOUCH)
        record.seen_before = now
        return record


def changes(loaded: Values, values: Values) -> tuple[Values, set[str]]:
    """Tell what a request has changed since its load."""
    written = {n: v for n, v in values.items() if n not in loaded or loaded[n] != v}
    return written, set(loaded) - set(values)
