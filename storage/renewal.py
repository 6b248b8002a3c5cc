"""Renewal: the same session under a new token, and nothing lost that others wrote meanwhile."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from storage.errors import SessionTooLarge, StorageUnavailable, Unreadable
from storage.following import save_late, take_late
from storage.forwards import FOLLOWED_MS, Forward
from storage.snapshot import Diff, Draft, Snapshot
from storage.store import Store, Taken
from storage.tokens import to_handle
from storage.values import Value

logger: logging.Logger = logging.getLogger(__name__)

# How long a renewal goes on trying to move what others have changed: most failovers take less.
ADOPTION_SECONDS = 60.0
PAUSE_SECONDS = 0.5


@dataclass(frozen=True, slots=True, repr=False)
class Renewal:
    """What becomes of a session, decided by its owner before and afterwards."""

    old: Snapshot
    draft: Draft
    # ``invalidate()`` was called: what was written afterwards is a new session.
    invalidated: bool
    # How long the old token opens the session at its new place.
    grace_ms: int

    @property
    def owner_stays(self) -> bool:
        """Whether it is the session of the same owner, or still nobody's."""
        return self.draft.owner == self.old.owner

    @property
    def starts_again(self) -> bool:
        """Whether the absolute timeout starts again."""
        return starts_again(self.old, self.draft.owner, invalidated=self.invalidated)

    @property
    def is_sign_in(self) -> bool:
        """Whether nobody's session becomes somebody's.

        It succeeds even if the old session has ended: a double click must not sign the user out.
        """
        return self.old.owner is None and self.draft.owner is not None

    @property
    def leaves_forward(self) -> bool:
        """Whether late saves and sign-outs follow.

        Only from nobody, or where the owner stays: otherwise a late save of one user would reach
        the next one.
        """
        return not self.invalidated and (self.owner_stays or self.old.owner is None)

    @property
    def adopts(self) -> bool:
        """Whether the values that others changed since the load move along."""
        return not self.invalidated and (
            self.owner_stays or self.old.owner is None or self.draft.owner is None
        )


@dataclass(frozen=True, slots=True, repr=False)
class Renewed:
    """A session under its new token, and what was adopted from parallel requests."""

    snapshot: Snapshot
    adopted: dict[str, Any]
    dropped: Sequence[str]


def starts_again(old: Snapshot, owner: str | None, *, invalidated: bool) -> bool:
    """Tell whether a session starts again: ``invalidate()`` was called, or the owner changed.

    It then needs a new token, and its absolute timeout starts again.
    """
    return invalidated or owner != old.owner


async def renew(
    store: Store, renewal: Renewal, values: Mapping[str, Value]
) -> Renewed | Forward | None:
    """Insert the session under a new token, then end the old one.

    Returns the forward to follow where another request has renewed it meanwhile, ``None`` where it
    had ended.
    """
    old, draft = renewal.old, renewal.draft
    created_ms = draft.now_ms if renewal.starts_again else old.stored.dates.created_ms
    new = await store.insert(draft, values, created_ms=created_ms)
    try:
        taken = await _take_old(store, renewal, new)
        if not taken.ended and not renewal.is_sign_in:
            forward = None
            if renewal.leaves_forward:
                forward = await store.what_took_its_place(old.token, draft)
            await store.delete(draft.deadline, new.stored.identifier)
            return forward
    except StorageUnavailable:
        store.abandon(new.stored.identifier)
        raise
    if taken.last is None or not renewal.adopts:
        return Renewed(new, {}, [])
    others = _changes_of_others(old, taken.last, draft)
    try:
        return await _adopt(store, new, others)
    except StorageUnavailable:
        # The old session is gone: to give the new one up as well would sign the visitor out.
        store.finish_later(_adopt_late(store, old, new, others))
        return Renewed(new, {}, [])


async def _take_old(store: Store, renewal: Renewal, new: Snapshot) -> Taken:
    old, draft = renewal.old, renewal.draft
    if renewal.leaves_forward:
        # A sign-in ends a grace: its end would be one for the next owner.
        has_grace = renewal.grace_ms > 0 and renewal.owner_stays
        grace_ends_ms = draft.now_ms + renewal.grace_ms if has_grace else 0
        ends_ms = draft.now_ms + FOLLOWED_MS
        forward = Forward(new.token, ends_ms, grace_ends_ms, old.owner is not None)
        return await store.take(old.token, old, draft, forward)
    return await take_late(store, old, draft)


async def _adopt(store: Store, new: Snapshot, others: Draft) -> Renewed | None:
    """Move to the new session what parallel requests changed in the old one since its load."""
    adopted, dropped = others.diff
    try:
        fresh = store.fresh(adopted)
    except Unreadable:
        return Renewed(new, {}, [])
    if not adopted and len(dropped) == len(new.values):
        # Nothing is left to move: an emptied session is a logout.
        await store.delete(others.deadline, new.stored.identifier)
        return None
    if others.diff or others.set_max_age:
        # Each of the requests may store what it has changed, however large it is together.
        sent, new = store.update(new, others._replace(loaded=new.values | adopted))
        if await sent is not None:
            return None
    return Renewed(new, fresh, dropped)


async def _adopt_late(store: Store, old: Snapshot, new: Snapshot, others: Draft) -> None:
    """Try again to move what others changed, as a late save of theirs: MongoDB may be away."""
    clock = asyncio.get_running_loop().time
    give_up_at = clock() + ADOPTION_SECONDS
    while clock() < give_up_at and not store.closed:
        late = others._replace(deadline=store.deadline())
        try:
            await save_late(store, old, late, new.token, owner_key=None)
        except (StorageUnavailable, SessionTooLarge):
            await asyncio.sleep(PAUSE_SECONDS)
        else:
            return
    handle = to_handle(old.stored.identifier)[:8]
    logger.warning("session %s was renewed without what others changed meanwhile", handle)


def _changes_of_others(old: Snapshot, last: Snapshot, draft: Draft) -> Draft:
    """Return a save of what others changed since the load, "remember me" included; ours goes first.

    ``last`` is what the old session was when it ended.
    """
    known, ours = old.values, draft.diff.names
    adopted = {
        name: value
        for name, value in last.values.items()
        if name not in ours and (name not in known or known[name].encoded != value.encoded)
    }
    dropped = [name for name in known if name not in last.values and name not in ours]
    before = (old.stored.dates.max_age, old.stored.persistent)
    after = (last.stored.dates.max_age, last.stored.persistent)
    return draft._replace(
        diff=Diff(adopted, dropped),
        max_age=last.stored.dates.max_age,
        persistent=last.stored.persistent,
        label=None,
        set_max_age=before == (draft.max_age, draft.persistent) != after,
        touch=False,
        without_cookie=False,
    )
