"""Renewal: the same session under a new token, and nothing lost that others wrote meanwhile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from storage.errors import StorageUnavailable, Unreadable
from storage.following import take_late
from storage.forwards import FOLLOWED_MS, Forward
from storage.snapshot import Diff, Draft, Snapshot
from storage.store import MOST_MOVES, Store
from storage.values import Value

# Each try that fails has met a change of somebody else, or a move.
MOST_TRIES = 2 * MOST_MOVES


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
        renewed = await _replace(store, renewal, new)
        if not isinstance(renewed, Renewed):
            await store.delete(draft.deadline, new.stored.identifier)
    except StorageUnavailable:
        store.abandon(new.stored.identifier)
        raise
    return renewed


async def _replace(store: Store, renewal: Renewal, new: Snapshot) -> Renewed | Forward | None:
    """End the old session once the new one has everything that others have changed in it."""
    old, draft = renewal.old, renewal.draft
    if not renewal.adopts:
        ended = await take_late(store, old, draft)
        return Renewed(new, {}, []) if ended or renewal.is_sign_in else None
    forward = _forward_to(renewal, new) if renewal.leaves_forward else None
    token, seen = old.token, old
    for _ in range(MOST_TRIES):
        if await store.take(token, draft, as_seen=seen, forward=forward):
            break
        emptied = seen._replace(values={})
        there = await store.look(token, draft.now_ms, draft.deadline, emptied)
        if isinstance(there, Forward) and forward is None and there.had_owner:
            token = there.token
            continue
        if not isinstance(there, Snapshot):
            if renewal.is_sign_in:
                break
            return there if renewal.leaves_forward else None
        adopted = await _adopt(store, new, _changes_of_others(seen, there, new, draft))
        if adopted is None:
            await store.take(token, draft)
            return None
        new, seen = adopted, there
    else:
        raise store.unavailable()
    written, removed = _changes_of_others(old, seen, new, draft).diff
    try:
        return Renewed(new, store.fresh(written), removed)
    except Unreadable:
        # A decoder of the app's own: the values are stored, but not shown to this request.
        return Renewed(new, {}, [])


def _forward_to(renewal: Renewal, new: Snapshot) -> Forward:
    old, draft = renewal.old, renewal.draft
    # A sign-in ends a grace: its end would be one for the next owner.
    has_grace = renewal.grace_ms > 0 and renewal.owner_stays
    grace_ends_ms = draft.now_ms + renewal.grace_ms if has_grace else 0
    return Forward(new.token, draft.now_ms + FOLLOWED_MS, grace_ends_ms, old.owner is not None)


async def _adopt(store: Store, new: Snapshot, others: Draft) -> Snapshot | None:
    """Copy to the new session what parallel requests have changed in the old one.

    Before the old one is replaced: afterwards a late save would not find it at the new place.
    ``None``: nothing is left, or the new session was revoked.
    """
    written, removed = others.diff
    if not written and not new.values.keys() - removed:
        return None  # an emptied session is a logout
    if not others.diff and not others.set_max_age:
        return new
    # Each of the requests may store what it has changed, however large it is together.
    sent, changed = store.update(new, others._replace(loaded=new.values | written))
    return changed if await sent is None else None


def _changes_of_others(old: Snapshot, there: Snapshot, new: Snapshot, draft: Draft) -> Draft:
    """Return a save of what others have changed, "remember me" included; ours goes first.

    ``there`` is what the old session is now, ``new`` what has been made of it.
    """
    known, ours = old.values, draft.diff.names
    written = {
        name: value
        for name, value in there.values.items()
        if name not in ours and (name not in known or known[name].encoded != value.encoded)
    }
    removed = [name for name in known if name not in there.values and name not in ours]
    before, after, chosen = (
        (one.stored.dates.max_age, one.stored.persistent) for one in (old, there, new)
    )
    return draft._replace(
        diff=Diff(written, removed),
        max_age=there.stored.dates.max_age,
        persistent=there.stored.persistent,
        label=None,
        set_max_age=before == chosen != after,
        touch=False,
        without_cookie=False,
    )
