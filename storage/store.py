"""Sessions in MongoDB, without HTTP: read one, insert it, change it, end it.

Each method is one step of a load or a save; ``saving`` decides which steps a save needs.
"""

from __future__ import annotations

import logging
from asyncio import Future
from collections.abc import Iterable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

from storage.batching import TripBounds, Trips
from storage.cache import Recent, Remembered
from storage.changes import Changes
from storage.commands import Delete, Insert, Update, Write, carry_writes
from storage.document import (
    Change,
    Operators,
    Stored,
    build,
    checked_values,
    decode,
    parse_listed,
)
from storage.driver import Driver
from storage.errors import SessionTooLarge, StorageUnavailable, Unreadable
from storage.lifetime import NEVER_CALM, Dates, Lifetime
from storage.reads import carry_finds
from storage.sealing import Keyring, SessionKeys
from storage.session import Snapshot
from storage.settings import Settings, owner_text
from storage.tokens import document_id, new_token, to_handle
from storage.values import Value, open_values

logger: logging.Logger = logging.getLogger(__name__)


class Draft(NamedTuple):
    """What a save wants a session to be."""

    changes: Changes
    max_age: float | None
    persistent: bool
    owner: str | None
    label: str | None
    now_ms: int
    deadline: float
    # What the session held before; it may stay as large as that.
    loaded: Mapping[str, Value]


class Store:
    """A collection of sealed sessions."""

    def __init__(
        self,
        driver: Driver,
        *,
        keyring: Keyring,
        lifetime: Lifetime,
        settings: Settings,
        counters: dict[str, int],
        trips: TripBounds,
    ) -> None:
        """Bring together what reading and writing sessions takes."""
        self.driver = driver
        self.keyring = keyring
        self.lifetime = lifetime
        self.settings = settings
        self.counters = counters
        self._recent = Recent()
        self._finds: Trips[bytes, bytes | None] = Trips(partial(carry_finds, driver), trips)
        # A write that was handed over is finished even if the visitor has gone.
        self._writes: Trips[Write, bool] = Trips(
            partial(carry_writes, driver), trips, keep_cancelled=True
        )

    @property
    def queued(self) -> int:
        """How many loads and saves wait for a trip at this moment."""
        return len(self._finds) + len(self._writes)

    async def drained(self) -> None:
        """Wait for everything that is under way."""
        await self.driver.drained()
        await self._finds.drained()
        await self._writes.drained()
        self.forget_all()

    async def load(self, token: bytes, now_ms: int) -> tuple[Snapshot, dict[str, Any]] | None:
        """Read and open one session, with values that are the caller's own.

        One that is over, unknown or unreadable is ``None``.
        """
        identifier = document_id(token)
        self.counters["loads"] += 1
        raw = await self._finds.submit(identifier, self.driver.deadline())
        try:
            snapshot = self._snapshot_of(token, identifier, raw, now_ms)
            if snapshot is not None:
                decoder = self.settings.decoder
                values = {name: value.fresh(decoder) for name, value in snapshot.values.items()}
                self.counters["hits"] += 1
                return snapshot, values
        except Unreadable as reason:
            self.counters["unreadable"] += 1
            logger.warning("session %s is not readable: %s", to_handle(identifier)[:8], reason)
        self._recent.forget(identifier)
        return None

    async def insert(
        self, draft: Draft, plain: Mapping[str, Value], *, created_ms: int
    ) -> Snapshot:
        """Store a session under a new token; ``plain`` are all of its values."""
        token = new_token()
        identifier = document_id(token)
        keys = self.keyring.session_keys(token, identifier, created_ms)
        values = sealed_values(keys, plain)
        self._check_size(values, plain, draft.loaded)
        stored = Stored(
            identifier=identifier,
            dates=self.dates_in_use(draft, created_ms),
            persistent=draft.persistent,
            owner=None if draft.owner is None else self.keyring.owner_hash(draft.owner),
            key_id=self.keyring.first.key_id,
            label=self._sealed_label(draft.label, identifier, created_ms),
            values={value.field: value.sealed for value in values.values()},
        )
        try:
            await self._writes.submit(Insert(build(stored)), draft.deadline)
        except StorageUnavailable:
            # It may have arrived all the same, and would be in its owner's list until it expires.
            self.abandon(identifier)
            raise
        self.counters["inserts"] += 1
        return Snapshot(token, keys, stored, values, draft.owner)

    async def update(
        self, old: Snapshot, draft: Draft, *, move_dates: bool, settle: bool
    ) -> Snapshot | None:
        """Write the changed values only, and the dates where they move; ``None``: it has ended."""
        change, new = self._changed(old, draft, move_dates=move_dates, settle=settle)
        if not await self.apply(old.stored.identifier, change, draft):
            return None
        self.counters["updates" if draft.changes else "touches"] += 1
        self._recent.change(old, new)
        return new

    def apply(self, identifier: bytes, change: Operators, draft: Draft) -> Future[bool]:
        """Send one update; ``False`` when the session has ended."""
        return self._writes.submit(Update(identifier, draft.now_ms, change), draft.deadline)

    async def delete(self, identifier: bytes, deadline: float) -> None:
        """End a session; it need not be there."""
        await self._writes.submit(Delete(identifier), deadline)
        # Afterwards: a parallel load would have brought it back.
        self.forget(identifier)
        self.counters["deletes"] += 1

    def forget_all(self) -> None:
        """Keep no value and no key of any session."""
        self._recent.forget_all()

    def forget(self, identifier: bytes) -> None:
        """Keep no value and no key of a session that has ended."""
        self._recent.forget(identifier)

    def forget_owner(self, owner: str, keep: bytes | None) -> None:
        """Keep nothing of an owner's sessions, which have ended, but for the one ``keep``."""
        self._recent.forget_owner(owner, keep)

    def abandon(self, identifier: bytes) -> None:
        """End a session that no cookie will ever name, as well as that can be done by now."""
        _ = self.driver.start(self.delete(identifier, self.driver.deadline()))

    def dates_in_use(self, draft: Draft, created_ms: int) -> Dates:
        """Return the dates of a session that is used now."""
        end = self.lifetime.end(created_ms, draft.now_ms, draft.max_age)
        return Dates(created_ms, draft.now_ms, end, draft.max_age)

    def _snapshot_of(
        self, token: bytes, identifier: bytes, raw: bytes | None, now_ms: int
    ) -> Snapshot | None:
        """Open what MongoDB has sent; ``None`` where nothing is there, or it is over.

        Of what was opened lately only that is opened again which has changed since.
        """
        before = self._recent.get(identifier)
        if before is not None and before.raw == raw and before.snapshot.is_calm(now_ms):
            return before.snapshot
        rest = {} if raw is None else decode(raw)
        values = rest.pop("values", None)
        # Without values: parallel requests have emptied it together, which is a logout too.
        if raw is None or values == {}:
            self.counters["misses"] += 1
            return None
        # Mostly it is a value that has changed, and the rest need not be checked again.
        known = before is not None and before.rest == rest
        stored = before.snapshot.stored if before is not None and known else parse_listed(rest)
        if self.lifetime.is_over(stored.dates, now_ms):
            self.counters["expired"] += 1
            return None
        sealed = checked_values(values)
        snapshot = self._open(token, stored, sealed, None if before is None else before.snapshot)
        self._recent.put(Remembered(raw, rest, snapshot))
        return snapshot

    def _open(
        self, token: bytes, stored: Stored, sealed: Mapping[str, bytes], known: Snapshot | None
    ) -> Snapshot:
        decoder, owner_key = self.settings.decoder, self.settings.owner_key
        created_ms = stored.dates.created_ms
        # Every seal is bound to the creation: under another one nothing is known.
        if known is not None and known.stored.dates.created_ms == created_ms:
            keys = known.keys
            values = open_values(keys, sealed, decoder, known.values)
        else:
            keys = self.keyring.session_keys(token, stored.identifier, created_ms)
            values = open_values(keys, sealed, decoder)
        owned = None if owner_key is None else values.get(owner_key)
        owner = None if owned is None else owner_text(owned.fresh(decoder))
        expected = (None,) if owner is None else self.keyring.owner_hashes(owner)
        if owner_key is not None and stored.owner not in expected:
            # Somebody who may write to the collection gave the session to another owner, or took
            # it out of its owner's reach.
            raise Unreadable("its field 'owner' does not belong to its values")
        return Snapshot(token, keys, stored, values, owner, self.lifetime.calm(stored.dates))

    def _changed(
        self, old: Snapshot, draft: Draft, *, move_dates: bool, settle: bool
    ) -> tuple[Operators, Snapshot]:
        """Return what to write, and what MongoDB then has."""
        changes, stored = draft.changes, old.stored
        written = sealed_values(old.keys, changes.written, known=old.values)
        values = {**old.values, **written}
        for name in changes.removed:
            del values[name]
        self._check_size(values, changes.written, draft.loaded)
        created_ms = stored.dates.created_ms
        change = Change(
            values={value.field: value.sealed for value in written.values()},
            removed=[old.values[name].field for name in changes.removed],
            dates=self.dates_in_use(draft, created_ms) if move_dates else None,
            persistent=draft.persistent if settle else None,
            label=self._sealed_label(draft.label, stored.identifier, created_ms),
            sealed_under=self.keyring.first.key_id if len(self.keyring.keys) > 1 else None,
        )
        calm = old.calm
        if change.dates is not None:
            stored = stored._replace(dates=change.dates, persistent=draft.persistent)
            calm = NEVER_CALM
        new = Snapshot(old.token, old.keys, stored, values, old.owner, calm)
        return change.operators(), new

    def _sealed_label(self, label: str | None, identifier: bytes, created_ms: int) -> bytes | None:
        return None if label is None else self.keyring.seal_label(label, identifier, created_ms)

    def _check_size(
        self, values: Mapping[str, Value], written: Iterable[str], loaded: Mapping[str, Value]
    ) -> None:
        total = sealed_bytes(values)
        # One that is too large already (two saves at once, or the limit was lowered) may still be
        # renewed, and made smaller.
        if written and total > self.settings.max_bytes and total > sealed_bytes(loaded):
            largest = max(written, key=lambda name: len(values[name].sealed))
            raise SessionTooLarge(
                f"session[{largest[:80]!r}] brings the session to {total} bytes sealed; "
                f"max_bytes allows {self.settings.max_bytes}"
            )


def sealed_bytes(values: Mapping[str, Value]) -> int:
    """Return how much these values take, sealed."""
    return sum(len(value.sealed) for value in values.values())


def sealed_values(
    keys: SessionKeys,
    plain: Mapping[str, Value],
    known: Mapping[str, Value] = MappingProxyType({}),
) -> dict[str, Value]:
    """Seal values; a name that is ``known`` keeps its field."""
    values = {}
    for name, value in plain.items():
        field = known[name].field if name in known else keys.field(name)
        sealed = keys.seal(field, name, value.encoded)
        values[name] = Value(value.encoded, value.picture, value.scalar, field, sealed)
    return values
