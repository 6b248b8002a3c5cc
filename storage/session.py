"""The session that a handler holds, and what MongoDB has of it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from aiohttp import web
from aiohttp_session import Session, get_session

from storage.lifetime import LONGEST, whole
from storage.snapshot import Snapshot
from storage.tokens import to_cookie, to_handle
from storage.values import Value


class MongoSession(Session):
    """A session that remembers what was loaded, so that a save writes only what changed."""

    invalidated = False
    renewal_wanted = False
    # Nothing may be written for it any more: it ended elsewhere, or its save has failed.
    abandoned = False
    touch_failed = False
    own_max_age: float | None = None
    # Whether this request has assigned it, also where it is the same as before.
    max_age_assigned = False
    # The storage; it saves no session of another storage.
    made_by: object = None

    def __init__(
        self,
        *,
        max_age: float | None,
        snapshot: Snapshot | None = None,
        values: dict[str, Any] | None = None,
    ) -> None:
        """Start empty, or from a snapshot and its values; ``max_age`` is the storage's, seconds."""
        # Without the parent's constructor: it costs as much as opening a value.
        self._mapping = {} if values is None else values
        self._storage_max_age = max_age
        self.snapshot = snapshot
        self.assigned: set[str] = set()
        if snapshot is None:
            self._new, self._changed = True, False
            self._created = int(time.time())
            self.persistent: bool = max_age is not None
        else:
            # The middleware saves only a session that says it changed. The save decides whether
            # it did: a nested change or a due touch is visible nowhere else.
            self._new, self._changed = False, True
            self._created = snapshot.stored.dates.created_ms // 1000
            self.own_max_age = snapshot.stored.dates.max_age
            self.persistent = snapshot.stored.persistent

    @property
    def identity(self) -> str | None:
        """The session token, ``None`` before the first save. Whoever has it is signed in."""
        return None if self.snapshot is None else to_cookie(self.snapshot.token)

    @property
    def current(self) -> dict[str, Any]:
        """The values as they are now; not to be changed through this."""
        return self._mapping

    @property
    def known(self) -> Mapping[str, Value]:
        """The values as they were loaded or last saved."""
        return {} if self.snapshot is None else self.snapshot.values

    @property
    def emptied(self) -> bool:
        """Whether the app has removed every value: that is a logout, however it was done."""
        return self._changed and not self._mapping

    def set_new_identity(self, identity: Any) -> None:
        """Raise ``RuntimeError``: a token that somebody knows in advance is session fixation."""
        raise RuntimeError(
            "set_new_identity: tokens are drawn at random when a session is first saved; call "
            "renew_session for a new one"
        )

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
        self.renewal_wanted = True

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
        self.max_age_assigned = True

    @property
    def max_age_changed(self) -> bool:
        """Whether the app chose another ``max_age`` than the one that is stored."""
        if self.snapshot is None:
            return False
        stored = self.snapshot.stored
        return (self.own_max_age, self.persistent) != (stored.dates.max_age, stored.persistent)

    def keep_only(self, names: set[str]) -> None:
        """Drop every value but these: another owner gets nothing of what was loaded."""
        if not self.max_age_assigned:
            self._forget_max_age()
        self._mapping = {name: value for name, value in self._mapping.items() if name in names}

    def _forget_max_age(self) -> None:
        self.own_max_age, self.persistent = None, self._storage_max_age is not None
        self.max_age_assigned = False

    def adopt(self, written: Mapping[str, Any], removed: Iterable[str]) -> None:
        """Take in what parallel requests have saved."""
        self._mapping.update(written)
        for name in removed:
            self._mapping.pop(name, None)

    def saved(self, snapshot: Snapshot | None) -> None:
        """Note what MongoDB has now; ``None``: the session has ended."""
        self.snapshot = snapshot
        if snapshot is not None:
            self.own_max_age = snapshot.stored.dates.max_age
            self.persistent = snapshot.stored.persistent
        self.assigned.clear()
        self.invalidated = self.renewal_wanted = self.max_age_assigned = False


async def renew_session(request: web.Request) -> MongoSession:
    """Give the request's session a new token when it is saved; its values stay.

    The old token is dead once the new one is saved. Call it whenever what a visitor may do changes
    (OWASP ASVS 5.0 7.2.4); a change of owner renews without it. Returns the session.
    Raises ``TypeError`` when the app keeps its sessions elsewhere.
    """
    session = await get_session(request)
    if not isinstance(session, MongoSession):
        raise TypeError(f"renew_session: {type(session).__name__} is not from a MongoStorage")
    session.renew()
    return session


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
