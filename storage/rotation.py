"""Rotation of secrets: what is sealed under an older one is sealed anew under the first."""

from __future__ import annotations

from typing import Any

from storage.document import alive
from storage.errors import Unreadable
from storage.sealing import key_id_of
from storage.session import Snapshot
from storage.store import Store


def needs_reseal(store: Store, snapshot: Snapshot) -> bool:
    """Tell whether anything of a session still hangs on a secret other than the first."""
    if len(store.keyring.keys) == 1:
        return False
    first, stored = store.keyring.first.key_id, snapshot.stored
    sealed_under = (key_id_of(value.sealed) for value in snapshot.values.values())
    needed = (stored.key_id, *stored.later_key_ids, *sealed_under)
    return any(key_id != first for key_id in needed)


async def reseal(store: Store, snapshot: Snapshot, now_ms: int, deadline: float) -> Snapshot:
    """Seal every value anew under the first secret, unless somebody changed one meanwhile.

    An update of its own, which matches only the very bytes that were loaded: a neighbour's newer
    value is never overwritten by an older one, and no secret is given up that another process has
    sealed under meanwhile. Without a match it waits for the next save.
    """
    stored = snapshot.stored
    values = {
        name: value._replace(sealed=snapshot.keys.seal(value.field, name, value.encoded))
        for name, value in snapshot.values.items()
    }
    sealed = {value.field: value.sealed for value in values.values()}
    loaded = {value.field: value.sealed for value in snapshot.values.values()}
    fields: dict[str, Any] = {"values": sealed, "key_id": store.keyring.first.key_id}
    if snapshot.owner is not None:
        fields["owner"] = store.keyring.owner_hash(snapshot.owner)
    if stored.label is not None:
        fields["label"] = _sealed_again(store, snapshot, stored.label)
    update = store.driver.collection.update_one
    result = await store.driver.call(
        lambda: update(
            # A label that is None matches one that is not there.
            {**alive(now_ms), "_id": stored.identifier, "values": loaded, "label": stored.label},
            {"$set": fields, "$unset": {"later_key_ids": ""}},
        ),
        deadline,
    )
    if not result.matched_count:
        return snapshot
    store.counters["updates"] += 1
    stored = stored._replace(key_id=store.keyring.first.key_id, later_key_ids=())
    return snapshot._replace(values=values, stored=stored)


def _sealed_again(store: Store, snapshot: Snapshot, label: bytes) -> bytes:
    identifier, created_ms = snapshot.stored.identifier, snapshot.stored.dates.created_ms
    try:
        text = store.keyring.open_label(label, identifier, created_ms)
    except Unreadable:
        text = ""
    return store.keyring.seal_label(text, identifier, created_ms)
