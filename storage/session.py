"""The session that a handler holds, and what MongoDB has of it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from functools import cache
from http.cookies import Morsel
from typing import Any, NamedTuple, Protocol
from weakref import ReferenceType

from aiohttp import web
from aiohttp_session import STORAGE_KEY, Session, get_session

from storage.forwards import FOLLOWED_MS, Forward
from storage.lifetime import LONGEST, whole
from storage.route_warnings import route_of
from storage.snapshot import Draft, Snapshot
from storage.tokens import to_cookie, to_handle
from storage.values import Value

logger: logging.Logger = logging.getLogger(__name__)


class Maker(Protocol):
    """The storage that made a session."""

    @property
    def clock(self) -> Callable[[], float]:
        """Returns seconds since the epoch."""

    def has_changed(self, session: MongoSession) -> bool:
        """Tell whether the app has changed the session since it was loaded or last saved."""

    def needs_touch(self, session: MongoSession) -> bool:
        """Tell whether the use of the session is to be recorded."""

    def report_late_changes(self, route: str, session: MongoSession) -> None:
        """Say which changes came after the response had started and were never saved."""


class SentCookie(NamedTuple):
    """What a save has put on a response."""

    response: ReferenceType[web.StreamResponse]
    morsel: Morsel[str]


class MongoSession(Session):
    """A session that remembers what was loaded, so that a save writes only what changed."""

    invalidated: bool = False
    renewal_wanted: bool = False
    # How long the token before the renewal opens the session; of no meaning without a renewal.
    grace_ms: int = 0
    # Whether the request has reached it by a forward: then it gets no cookie of it, since anyone
    # who has the old token must not get the new one.
    by_forward: bool = False
    # Where a watch has seen it move to, with the same owner: forwards last for a minute only.
    moved: Forward | None = None
    # Nothing may be written for it any more: it ended elsewhere, or its save has failed.
    abandoned: bool = False
    ended: bool = False
    touch_failed: bool = False
    own_max_age: float | None = None
    # Whether this request has assigned it, also where it is the same as before.
    max_age_assigned: bool = False
    # The storage; it saves no session of another storage.
    made_by: Maker | None = None
    # The request that it was loaded for.
    loaded_for: ReferenceType[web.Request] | None = None
    sent: SentCookie | None = None
    # The last save by hand; it may be under way although its caller was cancelled.
    saving: asyncio.Task[None] | None = None
    # The last save by hand, if it has failed: it may be carried out all the same.
    unconfirmed: Draft | None = None
    _written = False
    _removed = False
    # Of the request, for the log.
    route: str = ""

    def __init__(
        self,
        *,
        max_age: float | None,
        snapshot: Snapshot | None = None,
        values: dict[str, Any] | None = None,
        moved_from: Session | None = None,
    ) -> None:
        """Start empty, or from a snapshot and its values; ``max_age`` is the storage's, seconds.

        ``moved_from`` is the session of another storage that the values come from.
        """
        # Without the parent's constructor: it costs as much as opening a value.
        self._mapping = {} if values is None else values
        self._storage_max_age = max_age
        self.snapshot = snapshot
        self.moved_from = moved_from
        self.assigned: set[str] = set()
        if snapshot is None:
            self._new = moved_from is None
            self._created = int(time.time())
            self.persistent: bool = max_age is not None
        else:
            stored = snapshot.stored
            dates = stored.dates
            self._new = False
            self._created = dates.last_seen_ms // 1000
            self.own_max_age = dates.max_age
            self.persistent = stored.persistent

    @property
    def identity(self) -> str | None:
        """The session token, ``None`` before the first save. Anyone with it is signed in."""
        return None if self.snapshot is None else to_cookie(self.snapshot.token)

    @property
    def created(self) -> int:
        """The last use that was recorded, in seconds since the epoch; now, after a write.

        With other storages it is the last write. Here a write alone moves no date, so it may be
        earlier by up to the touch interval.
        """
        if self._written and self.made_by is not None:
            return int(self.made_by.clock())
        return self._created

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
        if self._mapping:
            return False
        return self.snapshot is not None or self._removed or self.invalidated

    @property
    def _changed(self) -> bool:
        """Whether there is something to save, as far as the middleware that asks is concerned.

        aiohttp-session's middleware saves only a session that says so. It sees nested changes too.
        A due touch is for this storage alone: another one, of a sub-app, would copy every value to
        a place of its own for it.
        """
        storage = self.made_by
        if self._written or storage is None:
            return self._written
        if self.snapshot is not None and storage.has_changed(self):
            return True
        request = None if self.loaded_for is None else self.loaded_for()
        serving: object = None if request is None else request.get(STORAGE_KEY)
        if serving is not storage:
            return False
        # A session that moves is saved even if the app only reads it; and the cookie of a save by
        # hand may have to go with another response.
        moves = self.moved_from is not None or self.sent is not None
        return moves or storage.needs_touch(self)

    @_changed.setter
    def _changed(self, _changed: bool) -> None:
        # By changed() and invalidate() of aiohttp-session, which know no other value than true.
        if not self._written:
            self._note_first_write()

    @property
    def written(self) -> bool:
        """Whether the app has set or removed a value or called ``changed()``."""
        return self._written

    def set_new_identity(self, identity: Any) -> None:
        """Ask for a new token, as ``renew_session`` does; the one that is given is not used.

        A token that somebody knows in advance is session fixation.
        """
        warn_of_given_identity()
        self.renew()

    def __repr__(self) -> str:
        """Show the handle, never a value: sessions end up in logs."""
        handle = None if self.snapshot is None else to_handle(self.snapshot.stored.identifier)
        return f"<{MongoSession.__name__} handle={handle} with {len(self)} values>"

    def __sentry_repr__(self) -> str:
        """Show no more to Sentry, which looks into mappings otherwise."""
        return repr(self)

    def __setitem__(self, key: str, value: Any) -> None:
        """Set a value; it is saved with the response."""
        try:
            self._mapping[key] = value
        except TypeError:
            del value  # a key that cannot be hashed: error trackers record this frame
            raise
        if not self._written:
            self._note_first_write()
        self.assigned.add(key)

    def __delitem__(self, key: str) -> None:
        """Remove a value; it is removed with the response."""
        del self._mapping[key]
        if not self._written:
            self._note_first_write()
        self._removed = True

    def invalidate(self) -> None:
        """End this session; what is written afterwards starts a new one under a new token."""
        super().invalidate()
        self.assigned.clear()
        self.invalidated = True
        self._forget_max_age()

    def renew(self, grace_ms: int = 0) -> None:
        """Ask for a new token; see ``renew_session``."""
        self.renewal_wanted = True
        self.grace_ms = grace_ms

    @property
    def max_age(self) -> int | None:
        """The idle timeout in seconds; ``None``: the cookie ends with the browser.

        Assign a number of seconds above zero, a ``timedelta``, or ``None``. It is kept with the
        session.
        """
        if not self.persistent:
            return None
        # The library's annotation says int; fractions are accepted here.
        return self._storage_max_age if self.own_max_age is None else self.own_max_age  # type: ignore[return-value]

    @max_age.setter
    def max_age(self, value: float | timedelta | None) -> None:
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

    def adopt(self, written: Mapping[str, Any], removed: Iterable[str]) -> None:
        """Take in what parallel requests have saved."""
        self._mapping.update(written)
        for name in removed:
            self._mapping.pop(name, None)

    @property
    def is_being_saved(self) -> bool:
        """Whether a ``save_session`` is under way, so that ``snapshot`` is out of date."""
        return self.saving is not None and not self.saving.done()

    @property
    def may_be_saved(self) -> bool:
        """Whether MongoDB may have the changes that are not known to be saved."""
        return self.is_being_saved or self.unconfirmed is not None

    async def saving_done(self) -> None:
        """Wait until no ``save_session`` is under way: the saves of a request run one by one."""
        while self.saving is not None and not self.saving.done():
            await asyncio.wait({self.saving})

    def take_changes(self) -> MongoSession:
        """Return a copy with the changes so far; what comes from now on is for the next save.

        Other tasks of the request may change the session while it is saved.
        """
        taken = MongoSession.__new__(MongoSession)
        taken.__dict__.update(self.__dict__)
        taken._mapping, taken.assigned = dict(self._mapping), set(self.assigned)
        self._clear_marks()
        return taken

    def give_back(self, taken: MongoSession) -> None:
        """Keep the changes of a save that has failed for the next one."""
        self.assigned |= taken.assigned
        for mark in _MARKS:
            if getattr(taken, mark):
                setattr(self, mark, getattr(taken, mark))

    def take_over(self, taken: MongoSession) -> None:
        """Note what a save of the changes so far has come to."""
        self.snapshot, self.sent = taken.snapshot, taken.sent
        self.ended |= taken.ended
        self.abandoned |= taken.abandoned
        self.by_forward |= taken.by_forward
        if not self.max_age_assigned:
            # Where the save followed a renewal it may be another one than was loaded.
            self.own_max_age, self.persistent = taken.own_max_age, taken.persistent

    def outlive_answer(self, route: str) -> None:
        """Say so if it is dropped with unsaved changes: no answer will save them.

        Called where a response has started; sessions of other requests pay nothing for it.
        """
        self.route = route
        self.__class__ = _OutlivingSession

    def _note_first_write(self) -> None:
        self._written = True
        request = None if self.loaded_for is None else self.loaded_for()
        if request is not None and getattr(request.get(STORAGE_KEY), "started", False) is True:
            self.outlive_answer(route_of(request))

    def saved(self, snapshot: Snapshot | None) -> None:
        """Note what MongoDB has now; ``None``: the session has ended."""
        self.snapshot = snapshot
        if snapshot is not None:
            self.own_max_age = snapshot.stored.dates.max_age
            self.persistent = snapshot.stored.persistent
        self._clear_marks()

    def _clear_marks(self) -> None:
        self.assigned.clear()
        self.unconfirmed = None
        self.invalidated = self.renewal_wanted = self.max_age_assigned = False
        self._written = self._removed = False


_MARKS = (
    "invalidated", "renewal_wanted", "max_age_assigned", "unconfirmed", "_written", "_removed",
)  # fmt: skip


@cache
def warn_of_given_identity() -> None:
    """Say once in a process that the identity of an app is not used."""
    logger.warning(
        "session.set_new_identity: tokens are drawn at random, the given identity is not "
        "used; the session gets a new token; call renew_session(request) instead"
    )


class _OutlivingSession(MongoSession):
    """A session whose response has started.

    A class of its own: a ``__del__`` costs each object of its class time when it is freed.
    """

    def __del__(self) -> None:
        if self.made_by is not None:
            self.made_by.report_late_changes(self.route, self)


async def renew_session(request: web.Request, grace: float | timedelta = 0) -> MongoSession:
    """Give the request's session a new token when it is saved; its values stay.

    The old token opens nothing once the new one is saved. Call it when the rights of a visitor
    change (OWASP ASVS 5.0 7.2.4); a change of owner needs no call. Returns the session.

    grace: seconds (or a ``timedelta``) from 0 to 60 in which the old token still opens the session,
        for tokens that are renewed periodically while a page sends many requests. Such a request
        never gets the new token. Without effect where the owner changes; a sign-out, a sign-in and
        a revoke end it at once.

    Raises ``TypeError`` if the app has another storage.
    """
    grace_ms = checked_grace(grace)
    session = await get_session(request)
    if not isinstance(session, MongoSession):
        raise TypeError(f"renew_session: {type(session).__name__} is not from a MongoStorage")
    session.renew(grace_ms)
    return session


def checked_grace(value: object) -> int:
    """Check the ``grace`` of ``renew_session``; return milliseconds."""
    accepted = "use seconds or a timedelta, from 0 to 60 seconds"
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise TypeError(f"grace: {type(value).__name__} is not accepted; {accepted}")
    if not 0 <= seconds <= FOLLOWED_MS / 1000:
        raise ValueError(f"grace: {value!r} is out of range; {accepted}")
    return int(seconds * 1000)


def checked_max_age(value: object) -> float | None:
    """Check an assigned ``session.max_age``; whole seconds come back as ``int``."""
    accepted = (
        "use seconds (a number above zero), a timedelta or None; to end a session, call "
        "invalidate()"
    )
    if value is None:
        return None
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"session.max_age: {type(value).__name__} is not accepted; {accepted}")
    if not 0.001 <= value <= LONGEST.total_seconds():
        raise ValueError(f"session.max_age: {value!r} is out of range; {accepted}")
    return whole(value)
