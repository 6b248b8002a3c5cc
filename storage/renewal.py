"""Renewal: the same session under a new token, and nothing lost that others wrote meanwhile."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from storage.changes import Changes
from storage.document import Change, Document, Stored, alive, parse, parse_listed
from storage.errors import StorageUnavailable, Unreadable
from storage.session import Snapshot
from storage.store import Draft, Store, sealed_values
from storage.tokens import to_handle
from storage.values import Value, open_values

logger: logging.Logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
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
    the new session stands even if the old one ended meanwhile.
    """
    new = await store.insert(draft, values, created_ms=created_ms)
    try:
        removed = await _remove_living(store, old.stored.identifier, draft)
        if removed is None and not may_be_gone:
            await store.delete(new.stored.identifier, draft.deadline)
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


async def _remove_living(store: Store, identifier: bytes, draft: Draft) -> Document | None:
    # One command that finds it alive and removes it: of two renewals at once only one succeeds.
    living = {"_id": identifier, **alive(draft.now_ms)}
    remove = store.driver.collection.find_one_and_delete
    removed: Document | None = await store.driver.call(lambda: remove(living), draft.deadline)
    if removed is not None:
        store.counters["deletes"] += 1
        store.forget(identifier)
    return removed


async def _adopt(
    store: Store, old: Snapshot, new: Snapshot, removed: Document, draft: Draft
) -> Renewed | None:
    """Move to the new session what parallel requests changed in the old one since its load."""
    try:
        # Without values: parallel requests have emptied it together.
        emptied = removed.get("values") == {}
        last = parse_listed(removed) if emptied else parse(removed)
        adopted, dropped = _changed_by_others(store, old, last, draft.changes)
        fresh = {name: value.fresh(store.settings.decoder) for name, value in adopted.items()}
    except Unreadable:
        return Renewed(new, {}, [])
    if not adopted and len(dropped) == len(new.values):
        # Nothing is left to move: an emptied session is a logout.
        await store.delete(new.stored.identifier, draft.deadline)
        return None
    sealed = sealed_values(new.keys, adopted, known=new.values)
    stored, dates = new.stored, None
    before = (old.stored.dates.max_age, old.stored.persistent)
    if before == (draft.max_age, draft.persistent) != (last.dates.max_age, last.persistent):
        # Somebody's "remember me" came in between.
        draft = draft._replace(max_age=last.dates.max_age, persistent=last.persistent)
        dates = store.dates_in_use(draft, stored.dates.created_ms)
        stored = stored._replace(dates=dates, persistent=draft.persistent)
    change = Change(
        values={value.field: value.sealed for value in sealed.values()},
        removed=[new.values[name].field for name in dropped],
        dates=dates,
        persistent=None if dates is None else draft.persistent,
    )
    operators = change.operators()
    if operators and not await store.apply(stored.identifier, operators, draft):
        return None
    values = {n: value for n, value in new.values.items() if n not in dropped} | sealed
    return Renewed(new._replace(stored=stored, values=values), fresh, dropped)


def _changed_by_others(
    store: Store, old: Snapshot, last: Stored, ours: Changes
) -> tuple[dict[str, Value], list[str]]:
    """Return the values that others wrote and the names that others removed; ours go first."""
    known = {value.field: value.sealed for value in old.values.values()}
    foreign = {field: s for field, s in last.values.items() if known.get(field) != s}
    written = open_values(old.keys, foreign, store.settings.decoder)
    adopted = {
        name: value
        for name, value in written.items()
        if name not in ours.written and name not in ours.removed
    }
    dropped = [
        name
        for name, value in old.values.items()
        if value.field not in last.values and name not in ours.written and name not in ours.removed
    ]
    return adopted, dropped
