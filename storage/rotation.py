"""Rotation of secrets: what is sealed under an older one is sealed again under the first. Pure."""

from __future__ import annotations

from storage.errors import Unreadable
from storage.sealing import Keyring, key_id_of
from storage.snapshot import Snapshot


def needs_reseal(keyring: Keyring, snapshot: Snapshot) -> bool:
    """Tell whether anything of a session still needs a secret other than the first."""
    if len(keyring.keys) == 1:
        return False
    first, stored = keyring.first.key_id, snapshot.stored
    sealed_under = (key_id_of(value.sealed) for value in snapshot.values.values())
    needed = (stored.key_id, *stored.later_key_ids, *sealed_under)
    return any(key_id != first for key_id in needed)


def resealed(keyring: Keyring, snapshot: Snapshot) -> Snapshot:
    """Return the session with its values, owner and label sealed under the first secret."""
    stored = snapshot.stored
    values = {
        name: value._replace(sealed=snapshot.keys.seal(value.field, name, value.encoded))
        for name, value in snapshot.values.items()
    }
    stored = stored._replace(
        owner=stored.owner if snapshot.owner is None else keyring.owner_hash(snapshot.owner),
        key_id=keyring.first.key_id,
        label=None if stored.label is None else _sealed_again(keyring, snapshot, stored.label),
        later_key_ids=(),
    )
    return snapshot._replace(values=values, stored=stored)


def _sealed_again(keyring: Keyring, snapshot: Snapshot, label: bytes) -> bytes:
    identifier, created_ms = snapshot.stored.identifier, snapshot.stored.dates.created_ms
    try:
        text = keyring.open_label(label, identifier, created_ms)
    except Unreadable:
        text = ""
    return keyring.seal_label(text, identifier, created_ms)
