"""Late saves and sign-outs: they find a session that was renewed after they had loaded it.

Without this a change that was answered with 200 would be lost, and a sign-out would sign nobody
out. The old token may be known to a stranger who planted it before a sign-in. So a late save
changes only what is still as its request has loaded it, and from nobody's session nothing but
values follow.
"""

from __future__ import annotations

from collections.abc import Iterable

from storage.forwards import Forward
from storage.snapshot import Diff, Draft, Snapshot
from storage.store import MOST_MOVES, Store
from storage.values import Value

# Each try that fails leaves less to write: somebody else has changed a value.
MOST_TRIES = 8


async def save_late(
    store: Store,
    old: Snapshot,
    draft: Draft,
    moved_to: bytes,
    *,
    owner_key: str | None,
    tried: Draft | None,
) -> Snapshot | None:
    """Save what is still as the request has loaded it, where the session is now.

    ``moved_to`` is the token under which it was renewed first, ``tried`` a save of the same request
    that has failed: it may have been carried out, and is then no change of somebody else.

    Returns the request's own view of its session from now on, ``None`` where the session has ended:
    at the new place, but only where the owner stayed. From nobody's session it stays at the old
    place and sees nothing of the new one.
    """
    # A label never follows.
    draft = draft._replace(touch=False, label=None, without_cookie=True)
    view = store.own_view(old, draft)
    if old.owner is None:
        draft, tried = draft._replace(set_max_age=False), None
    if not draft.diff and not draft.set_max_age:
        return view
    place = await _reach(store, moved_to, draft.now_ms, draft.deadline)
    for _ in range(MOST_TRIES):
        if place is None:
            return None
        late = _still_as_loaded(old, place, draft, owner_key, tried)
        saved = await store.update_if_unchanged(place, late, draft.diff.names)
        if saved is not None:
            if old.owner is not None:
                return store.view_at(saved, view)
            # Never again: with its own view changed, a planted request could claim to have loaded
            # what the sign-in has written, and change that with its next save.
            not_followed = draft.diff.names - late.diff.names
            return view._replace(not_followed=view.not_followed | not_followed)
        # Meanwhile somebody has changed one of these values, or renewed or ended the session.
        place = await _reach(store, place.token, draft.now_ms, draft.deadline)
    raise store.unavailable()


async def end_late(store: Store, forwards: Iterable[Forward], now_ms: int, deadline: float) -> None:
    """End sessions that were renewed after a sign-out has loaded them.

    Nobody's session is left alone: somebody may have signed in over it.
    """
    for forward in forwards:
        place: Forward | None = forward
        for _ in range(MOST_MOVES):
            if place is None or not place.had_owner:
                break
            found = await store.end([place.token], now_ms, deadline)
            place = found.get(place.token)


async def take_late(store: Store, old: Snapshot, draft: Draft) -> bool:
    """End a session, also where it was renewed meanwhile and had an owner; tell if it did."""
    token: bytes = old.token
    for _ in range(MOST_MOVES + 1):
        if await store.take(token, draft):
            return True
        forward = await store.what_took_its_place(token, draft)
        if forward is None or not forward.had_owner:
            break
        token = forward.token
    return False


async def where_it_is(store: Store, token: bytes, now_ms: int) -> bytes:
    """Return the token under which a session is now, where the owner stayed."""
    deadline = store.deadline()
    for _ in range(MOST_MOVES):
        found = await store.look(token, now_ms, deadline)
        if not isinstance(found, Forward) or not found.had_owner:
            break
        token = found.token
    return token


async def _reach(store: Store, token: bytes, now_ms: int, deadline: float) -> Snapshot | None:
    """Return a session as it is now, however often it was renewed; ``None``: it has ended."""
    for _ in range(MOST_MOVES):
        found = await store.look(token, now_ms, deadline)
        # Nobody is told that a session has ended, and nothing is written to where it has moved,
        # while a failover may undo that.
        if not isinstance(found, Snapshot) and await store.is_there(token, now_ms, deadline):
            found = await store.look(token, now_ms, deadline)
        if not isinstance(found, Forward):
            return found
        token = found.token
    return None


def _still_as_loaded(
    old: Snapshot, there: Snapshot, draft: Draft, owner_key: str | None, tried: Draft | None
) -> Draft:
    """Return what of a late save may be written."""
    diff, before = draft.diff, (old.stored.dates.max_age, old.stored.persistent)

    def may_follow(name: str) -> bool:
        loaded, found = old.values.get(name), there.values.get(name)
        if name == owner_key or name in old.not_followed:
            return False
        if tried is None or name not in tried.diff.names:
            return _is_alike(loaded, found)
        return _is_alike(loaded, found) or _is_alike(tried.diff.written.get(name), found)

    late = Diff(
        {name: value for name, value in diff.written.items() if may_follow(name)},
        [name for name in diff.removed if may_follow(name)],
    )
    stored = there.stored
    now = stored.dates.max_age, stored.persistent
    ours = tried is not None and tried.set_max_age and now == (tried.max_age, tried.persistent)
    set_it = draft.set_max_age and (now == before or ours)
    # What is there already may stay, however large.
    return draft._replace(diff=late, loaded=there.values, set_max_age=set_it)


def _is_alike(one: Value | None, other: Value | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.encoded == other.encoded
