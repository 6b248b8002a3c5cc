"""Renewal: the same session under a new token, and nothing lost that others wrote meanwhile."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from storage.document import DocumentUpdate, checked_values, decode, parse_without_values
from storage.errors import StorageUnavailable, Unreadable
from storage.snapshot import Diff, Draft, Snapshot
from storage.store import Store
from storage.tokens import to_handle
from storage.values import Value, seal_values, sealed_fields

logger: logging.Logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, repr=False)
class Renewed:
    """A session under its new token, and what was adopted from parallel requests."""

    snapshot: Snapshot
    adopted: dict[str, Any]
    dropped: list[str]


async def renew(
    store: Store,
    old: Snapshot,
    draft: Draft,
    values: Mapping[str, Value],
    *,
    created_ms: int,
    adopt: bool,
    may_be_gone: bool,
) -> Renewed | None:
    """Insert the session under a new token, then remove the old one; ``None``: it had ended.

    With ``adopt`` the values that others changed since the load move along. With ``may_be_gone``
    the new session stays even if the old one ended meanwhile.
    """
    new = await store.insert(draft, values, created_ms=created_ms)
    try:
        removed = await store.take(old.stored.identifier, draft)
        if removed is None and not may_be_gone:
            await store.delete(draft.deadline, new.stored.identifier)
            return None
    except StorageUnavailable:
        store.abandon(new.stored.identifier)
        raise
    if removed is None or not adopt:
        return Renewed(new, {}, [])
    try:
        return await _adopt(store, old, new, removed, draft)
    except StorageUnavailable:
        # The old session is gone: to give the new one up as well would sign the visitor out.
        handle = to_handle(old.stored.identifier)[:8]
        logger.warning("session %s was renewed without what others changed meanwhile", handle)
        return Renewed(new, {}, [])


async def _adopt(
    store: Store, old: Snapshot, new: Snapshot, removed: bytes, draft: Draft
) -> Renewed | None:
    """Move to the new session what parallel requests changed in the old one since its load."""
    try:
        rest, values = decode(removed)
        last = parse_without_values(rest)
        # Without values: parallel requests have emptied it together.
        sealed = {} if values == {} else checked_values(values)
        adopted, dropped = _changed_by_others(store, old, sealed, draft.diff)
        fresh = store.fresh(adopted)
    except Unreadable:
        return Renewed(new, {}, [])
    if not adopted and len(dropped) == len(new.values):
        # Nothing is left to move: an emptied session is a logout.
        await store.delete(draft.deadline, new.stored.identifier)
        return None
    written = seal_values(new.keys, adopted, known=new.values)
    stored, dates = new.stored, None
    before = (old.stored.dates.max_age, old.stored.persistent)
    if before == (draft.max_age, draft.persistent) != (last.dates.max_age, last.persistent):
        # Somebody's "remember me" came in between.
        draft = draft._replace(max_age=last.dates.max_age, persistent=last.persistent)
        dates = store.dates_in_use(draft, stored.dates.created_ms)
        stored = stored._replace(dates=dates, persistent=draft.persistent)
    change = DocumentUpdate(
        values=sealed_fields(written),
        removed=[new.values[name].field for name in dropped],
        dates=dates,
        persistent=None if dates is None else draft.persistent,
    )
    if change.to_mongodb() and not await store.apply(stored.identifier, change, draft):
        return None
    kept = {name: value for name, value in new.values.items() if name not in dropped}
    return Renewed(new._replace(stored=stored, values=kept | written), fresh, dropped)


def _changed_by_others(
    store: Store, old: Snapshot, sealed: Mapping[str, bytes], ours: Diff
) -> tuple[dict[str, Value], list[str]]:
    """Return the values that others wrote and the names that others removed; ours have priority."""
    known = sealed_fields(old.values)
    foreign = {field: value for field, value in sealed.items() if known.get(field) != value}
    adopted = {
        name: value
        for name, value in store.open_others(old, foreign).items()
        if name not in ours.written and name not in ours.removed
    }
    dropped = [
        name
        for name, value in old.values.items()
        if value.field not in sealed and name not in ours.written and name not in ours.removed
    ]
    return adopted, dropped
