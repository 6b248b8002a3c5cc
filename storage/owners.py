"""An owner's sessions: listed, and ended from outside; and the housekeeping of all sessions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from storage.document import Document, bson_of, decode, live, needs_others, parse_listed
from storage.errors import Unreadable
from storage.lifetime import to_datetime
from storage.store import Store
from storage.tokens import from_handle, to_handle


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """What an owner may see of one of their sessions; every instant is aware UTC.

    ``handle`` is for ``revoke``; ``expires_at`` is when the session ends unless it is used again;
    ``label`` is what ``describe`` said of the device, or "".
    """

    handle: str
    created_at: datetime
    last_seen_at: datetime
    expires_at: datetime
    label: str


async def sessions(store: Store, owner: object, now_ms: int) -> list[SessionInfo]:
    """Return the live sessions of an owner, newest activity first."""
    found = []
    for document in await _documents_of(store, owner):
        try:
            stored = parse_listed(decode(bson_of(document)))
        except Unreadable:
            continue  # it will not let anybody in either
        dates = stored.dates
        if store.lifetime.is_over(dates, now_ms):
            continue
        end = store.lifetime.end(dates.created_ms, dates.last_seen_ms, dates.max_age)
        info = SessionInfo(
            handle=to_handle(stored.identifier),
            created_at=to_datetime(dates.created_ms),
            last_seen_at=to_datetime(dates.last_seen_ms),
            expires_at=to_datetime(min(end, dates.expires_ms)),
            label=_label(store, stored.label, stored.identifier, dates.created_ms),
        )
        found.append(info)
    return found


async def revoke(store: Store, handle: object, owner: object) -> bool:
    """Delete one session by its handle, with ``owner`` only if it is theirs."""
    identifier = from_handle(handle)
    if identifier is None:
        return False
    filter_: dict[str, Any] = {"_id": identifier}
    if owner is not None:
        filter_ |= _owned_by(store, owner)
    delete = store.driver.collection.delete_one
    result = await store.driver.call(lambda: delete(filter_), store.driver.deadline())
    store.counters["deletes"] += result.deleted_count
    store.forget(identifier)
    return bool(result.deleted_count)


async def revoke_owner(store: Store, owner: object, keep: bytes | None) -> int:
    """Delete all sessions of an owner, the one with the id ``keep`` spared; return how many."""
    filter_ = _owned_by(store, owner)
    if keep is not None:
        filter_["_id"] = {"$ne": keep}
    deleted = await _delete_many(store, filter_, store.driver.deadline())
    store.forget_owner(str(owner), keep)
    return deleted


async def count(store: Store, now_ms: int, *, retired: bool) -> int:
    """Count live sessions; with ``retired`` those that still need a secret but the first."""
    filter_ = live(store.lifetime, now_ms)
    if retired:
        filter_ = {"$and": [filter_, needs_others(store.keyring.first.key_id)]}
    found: int = await store.driver.call(lambda: store.driver.collection.count_documents(filter_))
    return found


async def clear(store: Store) -> int:
    """Delete every session, keep the indexes; return how many."""
    deleted = await _delete_many(store, {})
    store.forget_all()
    return deleted


async def purge(store: Store, now_ms: int) -> int:
    """Delete expired sessions, as the TTL index does; return how many."""
    return await _delete_many(store, {"expires_at": {"$lte": to_datetime(now_ms)}})


async def _documents_of(store: Store, owner: object) -> list[Document]:
    # By owner alone: asked for a date as well, MongoDB may walk through the TTL index, which
    # holds everybody's sessions.
    find, driver = store.driver.as_sent.find, store.driver
    cursor = find(_owned_by(store, owner), {"values": False}).sort("last_seen_at", -1)
    documents: list[Document] = await driver.call(lambda: cursor.to_list(None), driver.deadline())
    return documents


async def _delete_many(
    store: Store, filter_: Mapping[str, Any], deadline: float | None = None
) -> int:
    delete = store.driver.collection.delete_many
    result = await store.driver.call(lambda: delete(filter_), deadline)
    store.counters["deletes"] += result.deleted_count
    return int(result.deleted_count)


def _owned_by(store: Store, owner: object) -> dict[str, Any]:
    if owner is None:
        raise ValueError("owner: None is nobody; pass the id that the session key owner_key holds")
    return {"owner": {"$in": store.keyring.owner_hashes(str(owner))}}


def _label(store: Store, label: bytes | None, identifier: bytes, created_ms: int) -> str:
    if label is None:
        return ""
    try:
        return store.keyring.open_label(label, identifier, created_ms)
    except Unreadable:
        return ""
