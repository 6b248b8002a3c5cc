"""The way of a save: what a session needs written, and which cookie goes with the response."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple
from weakref import ref

from aiohttp import web

from storage.changes import diff_of
from storage.commands import Outcome
from storage.cookies import SessionCookie
from storage.errors import SessionNotSerializable, SessionTooLarge, StorageUnavailable
from storage.following import end_late, save_late
from storage.forwards import Forward
from storage.lifetime import Lifetime
from storage.moving import Moved, Moving
from storage.owners import Owners
from storage.renewal import Renewal, renew, starts_again
from storage.session import MongoSession, SentCookie
from storage.settings import Settings, owner_text
from storage.snapshot import Diff, Draft, Snapshot
from storage.store import Store
from storage.tokens import document_id, to_handle
from storage.values import Value

logger: logging.Logger = logging.getLogger(__name__)

LABEL_CHARACTERS = 200
KNOWN_TOUCHES = 4096
# The session key of aiohttp-security's SessionIdentityPolicy, unless it is given another one.
AIOHTTP_SECURITY = "AIOHTTP_SECURITY"


class Visit(NamedTuple):
    """One request that saves: what it came with, and when."""

    request: web.Request
    response: web.StreamResponse
    session: MongoSession
    # The tokens of the stored sessions that a new one replaces.
    replaced: Sequence[bytes]
    now_ms: int
    # Whether the request has loaded the session that it ends: then the end follows a renewal.
    loaded: bool
    # Whether it saves without its answer: nothing put on ``response`` is sent by this save.
    by_hand: bool = False


class Saving:
    """Decides what a save does.

    A class because it remembers the latest touches: parallel requests of one session share one.
    """

    def __init__(
        self,
        store: Store,
        cookie: SessionCookie,
        settings: Settings,
        lifetime: Lifetime,
        *,
        owners: Owners,
        moving: Moving | None,
    ) -> None:
        """Save to ``store``, and tell browsers with ``cookie``.

        ``owners`` ends those beyond the limit, ``moving`` those of another storage.
        """
        self._store = store
        self._cookie = cookie
        self._settings = settings
        self._lifetime = lifetime
        self._owners = owners
        self._moving = moving
        self._touched: OrderedDict[bytes, int] = OrderedDict()
        self._owner_key_checked = False

    async def save(self, visit: Visit) -> None:
        """Write what changed and set or delete the cookie; see ``MongoStorage.save_session``."""
        try:
            await self._save(visit)
        except (SessionNotSerializable, SessionTooLarge) as reason:
            if self._moving is None or visit.session.moved_from is None:
                raise
            await self._moving.leave(visit.request, visit.response, visit.session, reason)

    async def save_so_far(self, session: MongoSession, visit: Visit) -> None:
        """Write what was taken from a session, and let the session know what that came to."""
        taken = visit.session
        try:
            await self._save(visit)
        except BaseException:
            session.give_back(taken)
            raise
        else:
            session.take_over(taken)
        finally:
            # A task keeps its error, and that the frames with the one before it, and so on.
            session.saving = None

    async def _save(self, visit: Visit) -> None:
        session, snapshot, settings = visit.session, visit.session.snapshot, self._settings
        if session.emptied:
            await self._end(visit)
            return
        owner = settings.owner_of(session.current)
        renews = snapshot is not None and (
            (session.renewal_wanted and not session.by_forward)
            or starts_again(snapshot, owner, invalidated=session.invalidated)
        )
        if visit.by_hand and (snapshot is None or renews):
            raise RuntimeError(
                "save_session: the session is new, or gets a new token because its owner changed "
                "or the app asked for it, and only an answer can carry the cookie; do this before "
                "the response starts, in a request of its own"
            )
        if snapshot is not None and _is_another_owner(snapshot, owner):
            held = len(session)
            session.keep_only({*session.assigned, str(settings.owner_key)})
            dropped = held - len(session)
            logger.info("session %s has another owner; %d values dropped", _name(snapshot), dropped)
        diff = self._diff_of(session)
        if AIOHTTP_SECURITY in diff.written:
            self._check_owner_key()
        _check_owner(session, diff, owner, settings)
        draft = self._draft(visit, diff, owner, has_new_token=snapshot is None or renews)
        if snapshot is None:
            await self._store.finish(self._begin(visit, draft))
        elif renews:
            await self._store.finish(self._renew(visit, snapshot, draft))
        elif diff or draft.moves_dates:
            await self._update(visit, snapshot, draft)
        else:
            session.saved(snapshot)

    def needs_touch(self, session: MongoSession, now_ms: int) -> bool:
        """Tell whether to record that a session is in use."""
        snapshot = session.snapshot
        # By a forward there is no touch: its cookie would tell the new token to who has the old.
        if snapshot is None or session.touch_failed or session.by_forward:
            return False
        return self._touch_is_due(snapshot, now_ms)

    def _diff_of(self, session: MongoSession) -> Diff:
        try:
            return diff_of(session, self._settings)
        except SessionNotSerializable as refusal:
            # Without the frames that have the values: error trackers record them.
            raise refusal.with_traceback(None) from None

    def _check_owner_key(self) -> None:
        """Say once that aiohttp-security's users are no owners, where the app has not said so."""
        key = self._settings.owner_key
        if key in (None, AIOHTTP_SECURITY) or self._owner_key_checked:
            return
        self._owner_key_checked = True
        logger.warning(
            "owner_key is %r, but aiohttp-security keeps the user under %r: no new token when a "
            "user signs in, no list of sessions and no revoke; use "
            "MongoStorage(..., owner_key=%r)",
            key, AIOHTTP_SECURITY, AIOHTTP_SECURITY,
        )  # fmt: skip

    def _draft(
        self, visit: Visit, diff: Diff, owner: str | None, *, has_new_token: bool = False
    ) -> Draft:
        session = visit.session
        touch = not visit.by_hand and self.needs_touch(session, visit.now_ms)
        failed = session.unconfirmed
        set_max_age = session.max_age_changed or (failed is not None and failed.set_max_age)
        describe = has_new_token or touch or (set_max_age and not visit.by_hand)
        return Draft(
            diff=diff,
            max_age=session.own_max_age,
            persistent=session.persistent,
            owner=owner,
            label=self._label(visit.request) if describe else None,
            now_ms=visit.now_ms,
            deadline=self._store.deadline(),
            loaded=session.known,
            set_max_age=set_max_age,
            touch=touch,
            without_cookie=visit.by_hand or session.by_forward,
        )

    async def _begin(self, visit: Visit, draft: Draft) -> None:
        """Store a new session, then end the one that it replaces."""
        values = _all_values(visit.session, draft)
        new = await self._store.insert(draft, values, created_ms=visit.now_ms)
        try:
            if visit.replaced:
                await self._end_replaced(visit, visit.replaced, draft.deadline)
            if self._moving is not None:
                moved = Moved(new.token, visit.now_ms)
                await self._moving.end(visit.request, visit.response, visit.session, moved_to=moved)
        except StorageUnavailable:
            self._store.abandon(new.stored.identifier)
            raise
        await self._keep_limit(new, draft)
        self._send_cookie(visit, new)

    async def _renew(self, visit: Visit, old: Snapshot, draft: Draft) -> None:
        """Move a session to a new token: on demand, or since it starts again."""
        session = visit.session
        renewal = Renewal(old, draft, session.invalidated, session.grace_ms)
        renewed = await renew(self._store, renewal, _all_values(session, draft))
        if renewed is None:
            self._ended_elsewhere(visit, old)
            return
        if isinstance(renewed, Forward):
            # Another request was faster: its renewal counts, and gets the changes of this one.
            await self._save_late(visit, old, draft, renewed)
            return
        if renewal.starts_again:
            await self._keep_limit(renewed.snapshot, draft)
        session.adopt(renewed.adopted, renewed.dropped)
        session.by_forward = False
        self._send_cookie(visit, renewed.snapshot)

    async def _keep_limit(self, new: Snapshot, draft: Draft) -> None:
        """After a sign-in, end the owner's sessions beyond ``max_sessions_per_owner``."""
        limit = self._settings.max_sessions_per_owner
        if limit is None or draft.owner is None:
            return
        try:
            ended = await self._owners.end_beyond(limit, draft.owner, new.stored, draft.deadline)
        except StorageUnavailable as error:
            # The sign-in is stored; the owner's next one ends what is too much.
            logger.warning("the sessions of one owner were not limited: %s", error)
            return
        if ended:
            logger.info("session %s is new; %d of its owner ended", _name(new), ended)

    async def _update(self, visit: Visit, old: Snapshot, draft: Draft) -> None:
        """Write the changed values; move the dates when a touch is due or max_age changed."""
        if draft.moves_dates:
            if draft.without_cookie:
                # The next answer finds its touch due, and sends the cookie.
                self._touched.pop(old.stored.identifier, None)
            else:
                self._remember_touch(old, draft.now_ms)
        try:
            if self._store.needs_reseal(old):
                await self._store.finish(self._reseal_and_send(visit, old, draft))
            else:
                await self._send(visit, old, draft)
        except (StorageUnavailable, SessionTooLarge) as error:
            self._touched.pop(old.stored.identifier, None)
            if draft.diff or draft.set_max_age:
                visit.session.unconfirmed = draft
                raise
            # Only once: an outer app, or a file that starts, would let the visitor wait again.
            visit.session.touch_failed = True
            logger.warning("session %s was not touched: %s", _name(old), error)

    async def _reseal_and_send(self, visit: Visit, old: Snapshot, draft: Draft) -> None:
        old = await self._store.reseal(old, draft.now_ms, draft.deadline)
        await self._send(visit, old, draft)

    async def _send(self, visit: Visit, old: Snapshot, draft: Draft) -> None:
        session, store = visit.session, self._store
        sent, new = store.update(old, draft)
        try:
            outcome = await sent
        except asyncio.CancelledError:
            store.finish_after(sent, partial(self._missed, visit, old, draft))
            raise
        if outcome is not None:
            await store.finish(self._missed(visit, old, draft, outcome))
            return
        store.updated(new, draft)
        if draft.moves_dates and not draft.without_cookie:
            self._send_cookie(visit, new)
        else:
            # No cookie: repeating the old token could arrive late and undo a renewal.
            session.saved(new)

    async def _missed(self, visit: Visit, old: Snapshot, draft: Draft, outcome: Outcome) -> None:
        """Follow a session that was renewed meanwhile, or note that it has ended."""
        if outcome is None:
            return
        forward = None
        if outcome.forward is not None:
            forward = self._store.forward_in(old.token, outcome.forward, draft.now_ms)
        forward = forward or visit.session.moved
        if forward is None:
            self._ended_elsewhere(visit, old)
        else:
            await self._save_late(visit, old, draft, forward)

    async def _save_late(self, visit: Visit, old: Snapshot, draft: Draft, forward: Forward) -> None:
        """Save where the session is now; there is no cookie for it."""
        owner_key = self._settings.owner_key
        tried = visit.session.unconfirmed
        view = await save_late(
            self._store, old, draft, forward.token, owner_key=owner_key, tried=tried
        )
        if view is None:
            self._ended_elsewhere(visit, old)
        else:
            visit.session.saved(view)
            visit.session.by_forward = True

    async def _end(self, visit: Visit) -> None:
        """Log out. A new session that was left empty ends the stored ones that it replaces.

        Every other cookie of our name that the request carried ends too: after a sign-out nobody is
        signed in any more.
        """
        old = visit.session.snapshot
        ended = visit.replaced if old is None else (old.token,)
        if ended or self._moving is not None:
            await self._store.finish(self._end_everywhere(visit, ended))

    async def _end_everywhere(self, visit: Visit, tokens: Sequence[bytes]) -> None:
        if self._moving is not None:
            await self._moving.end(visit.request, visit.response, visit.session)
        if tokens:
            await self._end_stored(visit, tokens)

    async def _end_stored(self, visit: Visit, tokens: Sequence[bytes]) -> None:
        session, old, deadline = visit.session, visit.session.snapshot, self._store.deadline()
        every = (*tokens, *self._cookie.tokens(visit.request))
        forwards = await self._end_replaced(visit, every, deadline)
        forward = None if old is None else forwards.get(old.token)
        if old is not None and old.owner is None and forward is not None:
            # Nobody's session has moved, and somebody may have signed in over it: this request
            # may remove what it has seen, but not end the new session or drop its cookie.
            if session.invalidated:
                self._ended_elsewhere(visit, old)
                return
            draft = self._draft(visit, Diff({}, tuple(old.values)), None)
            await self._save_late(visit, old, draft._replace(set_max_age=False), forward)
            return
        session.saved(None)
        self._cookie.delete(visit.request, visit.response)
        self._note_sent(visit)

    def send_again(self, session: MongoSession, response: web.StreamResponse) -> bool:
        """Put the cookie of an earlier save on the response that is sent in place of its own.

        Return whether there is such a cookie.
        """
        sent = session.sent
        if sent is None or sent.response() is response:
            return False
        self._cookie.put(response, sent.morsel)
        return True

    async def _end_replaced(
        self, visit: Visit, tokens: Sequence[bytes], deadline: float
    ) -> Mapping[bytes, Forward]:
        """End stored sessions; return the forwards that were found in their places.

        What the request has loaded is followed to where it was renewed meanwhile.
        """
        if not visit.loaded:
            await self._store.delete(deadline, *map(document_id, dict.fromkeys(tokens)))
            return {}
        forwards = await self._store.end(dict.fromkeys(tokens), visit.now_ms, deadline)
        # Not those that have been ended just now, under their new token.
        moved = [one for one in forwards.values() if one.token not in tokens]
        if visit.session.moved is not None:
            moved.append(visit.session.moved)
        await end_late(self._store, moved, visit.now_ms, deadline)
        return forwards

    def _send_cookie(self, visit: Visit, new: Snapshot) -> None:
        """Send the cookie of a session whose token or dates are new."""
        visit.session.saved(new)
        dates = new.stored.dates
        seconds = self._lifetime.cookie_seconds(dates.created_ms, visit.now_ms, dates.max_age)
        self._cookie.set(
            visit.request,
            visit.response,
            new.token,
            seconds if new.stored.persistent else None,
        )
        self._note_sent(visit)

    def _note_sent(self, visit: Visit) -> None:
        morsel = visit.response.cookies[self._cookie.name]
        visit.session.sent = SentCookie(ref(visit.response), morsel)

    def _ended_elsewhere(self, visit: Visit, old: Snapshot) -> None:
        # No cookie at all, not even a deletion: a newer response may just have set a good one.
        visit.session.abandoned = visit.session.ended = True
        self._store.forget(old.stored.identifier)
        logger.info("session %s ended during a request; its save wrote nothing", _name(old))

    def _touch_is_due(self, old: Snapshot, now_ms: int) -> bool:
        if old.is_up_to_date(now_ms):
            return False
        touched_ms = self._touched.get(old.stored.identifier)
        return self._lifetime.touch_is_due(old.stored.dates, touched_ms, now_ms)

    def _remember_touch(self, old: Snapshot, now_ms: int) -> None:
        self._touched[old.stored.identifier] = now_ms
        while len(self._touched) > KNOWN_TOUCHES:
            self._touched.popitem(last=False)

    def _label(self, request: web.Request) -> str | None:
        describe = self._settings.describe
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


def _is_another_owner(old: Snapshot, owner: str | None) -> bool:
    """Tell whether another owner has signed in where somebody was signed in already."""
    return old.owner is not None and owner not in (None, old.owner)


def _check_owner(session: MongoSession, diff: Diff, owner: str | None, settings: Settings) -> None:
    """Raise ``SessionNotSerializable`` for an owner whom the next load would not recognise.

    Owners are compared as text, and JSON may give back another one: a tuple comes as a list.
    """
    key = settings.owner_key
    if key is None or key not in session.current:
        return
    value = diff.written.get(key) or session.known[key]
    if owner_text(value.fresh(settings.decoder)) != owner:
        kind = type(session.current[key]).__name__
        raise SessionNotSerializable(
            f"session[{key!r}]: this {kind} names another owner once it has been stored; use text "
            "or a whole number"
        )


def _all_values(session: MongoSession, draft: Draft) -> dict[str, Value]:
    """Return every value; what did not change, as it was loaded."""
    written = draft.diff.written
    return {name: written[name] if name in written else session.known[name] for name in session}


def _name(snapshot: Snapshot) -> str:
    return to_handle(snapshot.stored.identifier)[:8]
