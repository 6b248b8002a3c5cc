"""The way of a save: what a session needs written, and which cookie goes with the response."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Coroutine
from typing import Any, NamedTuple, TypeVar

from aiohttp import web

from storage.changes import Changes, changes_of
from storage.cookies import SessionCookie
from storage.errors import SessionNotSerializable, SessionTooLarge, StorageUnavailable
from storage.renewal import renew
from storage.rotation import needs_reseal, reseal
from storage.session import MongoSession, Snapshot
from storage.settings import Settings, owner_text
from storage.store import Draft, Store
from storage.tokens import to_cookie, to_handle
from storage.values import Value

T = TypeVar("T")

logger: logging.Logger = logging.getLogger(__name__)

LABEL_CHARACTERS = 200
TOUCHES_REMEMBERED = 4096


class Visit(NamedTuple):
    """One request that saves: what it came with, and when."""

    request: web.Request
    response: web.StreamResponse
    session: MongoSession
    # The stored session that a new one takes the place of.
    superseded: bytes | None
    now_ms: int


class Saving:
    """Decides what a save does.

    A class because it remembers the latest touches: parallel requests of one session share one.
    """

    def __init__(self, store: Store, cookie: SessionCookie) -> None:
        """Save to ``store``, and tell browsers with ``cookie``."""
        self._store = store
        self._cookie = cookie
        self._touched: OrderedDict[bytes, int] = OrderedDict()

    async def save(self, visit: Visit) -> None:
        """Write what changed and set or delete the cookie; see ``MongoStorage.save_session``."""
        session, snapshot = visit.session, visit.session.snapshot
        if session.emptied:
            await self._end(visit)
            return
        settings = self._store.settings
        owner = settings.owner_of(session.live)
        if snapshot is not None and _is_taken_over(snapshot, owner):
            session.carry_only({*session.assigned, str(settings.owner_key)})
        changes = changes_of(session, settings.encoder, settings.decoder)
        _check_owner(session, changes, owner, settings)
        if snapshot is None:
            draft = self._draft(visit, changes, owner, describe=True)
            await self._to_the_end(self._begin(visit, draft))
        elif session.renewal_wanted or _begins_anew(session, snapshot, owner):
            draft = self._draft(visit, changes, owner, describe=True)
            await self._to_the_end(self._renew(visit, snapshot, draft))
        else:
            settle = session.max_age_changed
            touch = not session.touch_failed and self._touch_is_due(snapshot, visit.now_ms)
            move_dates = settle or touch
            if changes or move_dates:
                draft = self._draft(visit, changes, owner, describe=move_dates)
                await self._update(visit, snapshot, draft, move_dates=move_dates, settle=settle)

    def _draft(self, visit: Visit, changes: Changes, owner: str | None, *, describe: bool) -> Draft:
        return Draft(
            changes=changes,
            max_age=visit.session.own_max_age,
            persistent=visit.session.persistent,
            owner=owner,
            label=self._label(visit.request) if describe else None,
            now_ms=visit.now_ms,
            deadline=self._store.driver.deadline(),
            loaded=visit.session.known,
        )

    async def _begin(self, visit: Visit, draft: Draft) -> None:
        """Store a new session, then end the one whose place it takes."""
        values = _all_values(visit.session, draft)
        new = await self._store.insert(draft, values, created_ms=visit.now_ms)
        if visit.superseded is not None:
            try:
                await self._store.delete(visit.superseded, draft.deadline)
            except StorageUnavailable:
                self._store.abandon(new.stored.identifier)
                raise
        self._signed(visit, new)

    async def _renew(self, visit: Visit, old: Snapshot, draft: Draft) -> None:
        """Move a session to a new token: on demand, begun anew, or somebody else's now."""
        begins_anew = _begins_anew(visit.session, old, draft.owner)
        renewed = await renew(
            self._store,
            old,
            draft,
            _all_values(visit.session, draft),
            created_ms=visit.now_ms if begins_anew else old.stored.dates.created_ms,
            adopt=not (visit.session.invalidated or _is_taken_over(old, draft.owner)),
            # A login from nobody's session: a double click must not sign the user out again.
            may_be_gone=old.owner is None and draft.owner is not None,
        )
        if renewed is None:
            self._ended_elsewhere(visit, old)
            return
        visit.session.take_over(renewed.adopted, renewed.dropped)
        self._signed(visit, renewed.snapshot)

    async def _update(
        self, visit: Visit, old: Snapshot, draft: Draft, *, move_dates: bool, settle: bool
    ) -> None:
        """Write the changed values; move the dates when a touch is due or max_age changed."""
        if move_dates:
            self._remember_touch(old, draft.now_ms)
        try:
            if needs_reseal(self._store, old):
                work = self._reseal_and_update(old, draft, move_dates=move_dates, settle=settle)
                new = await self._to_the_end(work)
            else:
                new = await self._store.update(old, draft, move_dates=move_dates, settle=settle)
        except (StorageUnavailable, SessionTooLarge):
            self._touched.pop(old.stored.identifier, None)
            if draft.changes or settle:
                raise
            # Once is enough: an outer app, or a file that starts, would let the visitor wait again.
            visit.session.touch_failed = True
            logger.warning("session %s was not touched: MongoDB is away", _name(old))
            return
        if new is None:
            self._ended_elsewhere(visit, old)
        elif move_dates:
            self._signed(visit, new)
        else:
            # No cookie: repeating the old token could arrive late and undo a renewal.
            visit.session.saved(new)

    async def _reseal_and_update(
        self, old: Snapshot, draft: Draft, *, move_dates: bool, settle: bool
    ) -> Snapshot | None:
        # Finished though the request may be cancelled meanwhile: the session of such a request then
        # knows nothing of it, and its next save claims too little at worst.
        old = await reseal(self._store, old, draft.now_ms, draft.deadline)
        return await self._store.update(old, draft, move_dates=move_dates, settle=settle)

    async def _end(self, visit: Visit) -> None:
        """Log out, with a new session that was left empty too: the stored one must not go on."""
        old = visit.session.snapshot
        ended = visit.superseded if old is None else old.stored.identifier
        if ended is None:
            return
        await self._store.delete(ended, self._store.driver.deadline())
        visit.session.saved(None)
        self._cookie.delete(visit.request, visit.response)

    def _signed(self, visit: Visit, new: Snapshot) -> None:
        """Send the cookie of a session whose token or dates are new."""
        visit.session.saved(new)
        dates = new.stored.dates
        seconds = self._store.lifetime.cookie_seconds(dates.created_ms, visit.now_ms, dates.max_age)
        self._cookie.set(
            visit.request,
            visit.response,
            to_cookie(new.token),
            seconds if new.stored.persistent else None,
        )

    def _ended_elsewhere(self, visit: Visit, old: Snapshot) -> None:
        # No cookie at all, not even a deletion: a newer response may just have set a good one.
        visit.session.abandoned = True
        self._store.forget(old.stored.identifier)
        self._touched.pop(old.stored.identifier, None)
        logger.info("session %s ended during a request; its save wrote nothing", _name(old))

    def _touch_is_due(self, old: Snapshot, now_ms: int) -> bool:
        if old.is_calm(now_ms):
            return False
        touched_ms = self._touched.get(old.stored.identifier)
        return self._store.lifetime.touch_is_due(old.stored.dates, touched_ms, now_ms)

    def _remember_touch(self, old: Snapshot, now_ms: int) -> None:
        self._touched[old.stored.identifier] = now_ms
        while len(self._touched) > TOUCHES_REMEMBERED:
            self._touched.popitem(last=False)

    def _label(self, request: web.Request) -> str | None:
        describe = self._store.settings.describe
        if describe is None:
            return None
        try:
            label: object = describe(request)
        except Exception:
            logger.exception("describe failed; no label is written")
            return None
        if not isinstance(label, str):
            logger.error("describe returned %s, not text", type(label).__name__)
            return None
        return label[:LABEL_CHARACTERS].encode("utf-8", "replace").decode()

    async def _to_the_end(self, work: Coroutine[Any, Any, T]) -> T:
        """Finish several steps even if the visitor has gone in between."""
        return await asyncio.shield(self._store.driver.start(work))


def _is_taken_over(old: Snapshot, owner: str | None) -> bool:
    """Tell whether another owner has signed in where somebody was signed in already."""
    return old.owner is not None and owner not in (None, old.owner)


def _begins_anew(session: MongoSession, old: Snapshot, owner: str | None) -> bool:
    """Tell whether the session's time starts again: it was ended, or its owner is another now."""
    return session.invalidated or owner != old.owner


def _check_owner(
    session: MongoSession, changes: Changes, owner: str | None, settings: Settings
) -> None:
    """Raise ``SessionNotSerializable`` for an owner whom the next load would not recognise.

    Owners are compared as text, and JSON may give back another one: a tuple comes as a list.
    """
    key = settings.owner_key
    if key is None or key not in session.live:
        return
    value = changes.written.get(key) or session.known[key]
    if owner_text(value.fresh(settings.decoder)) != owner:
        kind = type(session.live[key]).__name__
        raise SessionNotSerializable(
            f"session[{key!r}]: this {kind} names another owner once it has been stored; use text "
            "or a whole number"
        )


def _all_values(session: MongoSession, draft: Draft) -> dict[str, Value]:
    """Return every value; what did not change, as it was loaded."""
    written = draft.changes.written
    return {name: written[name] if name in written else session.known[name] for name in session}


def _name(snapshot: Snapshot) -> str:
    return to_handle(snapshot.stored.identifier)[:8]
