"""Sessions in MongoDB, without HTTP: read one, insert it, update it, end it.

Each method is one step of a load or a save; ``saving`` decides which steps a save needs.
"""

from __future__ import annotations

import asyncio
import logging
from asyncio import Future
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from storage import rotation
from storage.batching import BATCH_SIZE, Batcher
from storage.cache import CachedSession, SessionCache
from storage.commands import Delete, Insert, Update, Write, find_documents, write_documents
from storage.document import (
    DocumentUpdate,
    Stored,
    bson_of,
    build,
    by_id,
    checked_values,
    decode,
    not_expired,
    parse_without_values,
    sealed_again,
)
from storage.driver import Driver
from storage.errors import SessionTooLarge, StorageUnavailable, Unreadable
from storage.lifetime import NEVER_UP_TO_DATE, Dates, Lifetime
from storage.sealing import Keyring
from storage.settings import Settings, owner_text
from storage.snapshot import Draft, Snapshot
from storage.tokens import document_id, new_token, to_handle
from storage.values import Value, open_values, seal_values, sealed_bytes, sealed_fields

T = TypeVar("T")

logger: logging.Logger = logging.getLogger(__name__)


class Store:
    """A collection of sealed sessions."""

    def __init__(
        self,
        driver: Driver,
        *,
        keyring: Keyring,
        lifetime: Lifetime,
        settings: Settings,
        cache: SessionCache,
        counters: dict[str, int],
    ) -> None:
        """Put together what reading and writing sessions takes."""
        self._driver = driver
        self._keyring = keyring
        self._lifetime = lifetime
        self._settings = settings
        self._cache = cache
        self._counters = counters
        self._finds: Batcher[Sequence[bytes], list[bytes | None]] = Batcher(
            partial(find_documents, driver), driver.unavailable, driver.report
        )
        # A write that was handed over is finished even if the visitor has gone.
        self._writes: Batcher[Write, bool] = Batcher(
            partial(write_documents, driver),
            driver.unavailable,
            driver.report,
            keep_cancelled=True,
            size=BATCH_SIZE if driver.bulk_writes else 1,
        )

    @property
    def queued(self) -> int:
        """How many loads and saves wait for a batch at this moment."""
        return len(self._finds) + len(self._writes)

    def deadline(self) -> float:
        """Return the instant of the loop's clock at which a load or a save that begins now ends."""
        return self._driver.deadline()

    async def finish(self, steps: Coroutine[Any, Any, T]) -> T:
        """Finish several steps even if the visitor goes in between."""
        return await asyncio.shield(self._driver.start(steps))

    async def drained(self) -> None:
        """Wait for everything that is under way."""
        await self._driver.drained()
        await self._finds.drained()
        await self._writes.drained()
        self._cache.clear()

    async def load(
        self, tokens: Sequence[bytes], now_ms: int
    ) -> tuple[Snapshot, dict[str, Any]] | None:
        """Read and open one session, with values that are the caller's own.

        Of several tokens the first one that opens a session with an owner counts, else the first
        that opens one: a session of nobody, which a stranger may have planted, must not hide a
        sign-in. All are looked up in one find. ``None`` where each is expired, unknown or
        unreadable.
        """
        identifiers = [document_id(token) for token in tokens]
        self._counters["loads"] += 1
        documents = await self._finds.submit(identifiers, self._driver.deadline())
        found = None
        for token, identifier, raw in zip(tokens, identifiers, documents, strict=True):
            opened = self._opened(token, identifier, raw, now_ms)
            if opened is not None and (found is None or opened[0].owner is not None):
                found = opened
                if opened[0].owner is not None:
                    break
        if found is not None:
            self._counters["hits"] += 1
        return found

    def fresh(self, values: Mapping[str, Value]) -> dict[str, Any]:
        """Return values as objects for one request; raises ``Unreadable``."""
        decoder = self._settings.decoder
        return {name: value.fresh(decoder) for name, value in values.items()}

    def open_others(self, known: Snapshot, sealed: Mapping[str, bytes]) -> dict[str, Value]:
        """Open values of a session that others have written; raises ``Unreadable``."""
        return open_values(known.keys, sealed, self._settings.decoder)

    async def insert(
        self, draft: Draft, plain: Mapping[str, Value], *, created_ms: int
    ) -> Snapshot:
        """Store a session under a new token; ``plain`` are all of its values."""
        token = new_token()
        identifier = document_id(token)
        keys = self._keyring.session_keys(token, identifier, created_ms)
        values = seal_values(keys, plain)
        self._check_size(values, plain, draft.loaded)
        stored = Stored(
            identifier=identifier,
            dates=self.dates_in_use(draft, created_ms),
            persistent=draft.persistent,
            owner=None if draft.owner is None else self._keyring.owner_hash(draft.owner),
            key_id=self._keyring.first.key_id,
            label=self._sealed_label(draft.label, identifier, created_ms),
        )
        try:
            document = build(stored, sealed_fields(values))
            await self._writes.submit(Insert(document), draft.deadline)
        except StorageUnavailable:
            # It may have arrived all the same, and would be in its owner's list until it expires.
            self.abandon(identifier)
            raise
        self._counters["inserts"] += 1
        return Snapshot(token, keys, stored, values, draft.owner)

    async def update(
        self, old: Snapshot, draft: Draft, *, move_dates: bool, set_max_age: bool
    ) -> Snapshot | None:
        """Write the changed values only, and the dates where they move; ``None``: it has ended."""
        change, new = self._changed(old, draft, move_dates=move_dates, set_max_age=set_max_age)
        if not await self.apply(old.stored.identifier, change, draft):
            return None
        self._counters["updates" if draft.diff else "touches"] += 1
        self._cache.update(new)
        return new

    def apply(self, identifier: bytes, change: DocumentUpdate, draft: Draft) -> Future[bool]:
        """Send one update; ``False`` when the session has ended."""
        update = Update(identifier, draft.now_ms, change.to_mongodb())
        return self._writes.submit(update, draft.deadline)

    def needs_reseal(self, snapshot: Snapshot) -> bool:
        """Tell whether anything of a session still needs a secret other than the first."""
        return rotation.needs_reseal(self._keyring, snapshot)

    async def reseal(self, old: Snapshot, now_ms: int, deadline: float) -> Snapshot:
        """Seal every value again under the first secret, unless somebody changed one meanwhile.

        An update of its own, which matches only the very bytes that were loaded. Without a match it
        waits for the next save.
        """
        new = rotation.resealed(self._keyring, old)
        before, after = sealed_fields(old.values), sealed_fields(new.values)
        filter_, change = sealed_again((old.stored, before), (new.stored, after), now_ms)
        update = self._driver.collection.update_one
        result = await self._driver.call(lambda: update(filter_, change), deadline)
        if not result.matched_count:
            return old
        self._counters["updates"] += 1
        return new

    async def take(self, identifier: bytes, draft: Draft) -> bytes | None:
        """Remove a session that has not expired and return its document; ``None``: it had ended.

        One command: of two callers at once only one gets the document.
        """
        there = by_id(identifier) | not_expired(draft.now_ms)
        remove = self._driver.collection.find_one_and_delete
        removed = await self._driver.call(lambda: remove(there), draft.deadline)
        if removed is None:
            return None
        self._counters["deletes"] += 1
        self._cache.forget(identifier)
        return bson_of(removed)

    async def delete(self, deadline: float, *identifiers: bytes) -> None:
        """End sessions; they need not be there."""
        submit = self._writes.submit
        await asyncio.gather(*(submit(Delete(one), deadline) for one in identifiers))
        for identifier in identifiers:
            # Afterwards: a parallel load would have put it back.
            self._cache.forget(identifier)
            self._counters["deletes"] += 1

    def abandon(self, identifier: bytes) -> None:
        """End a session that no cookie will ever name, as far as that is possible by now."""
        _ = self._driver.start(self.delete(self._driver.deadline(), identifier))

    def forget(self, identifier: bytes) -> None:
        """Keep no value and no key of a session that has ended elsewhere."""
        self._cache.forget(identifier)

    def dates_in_use(self, draft: Draft, created_ms: int) -> Dates:
        """Return the dates of a session that is used now."""
        end = self._lifetime.end(created_ms, draft.now_ms, draft.max_age)
        return Dates(created_ms, draft.now_ms, end, draft.max_age)

    def _opened(
        self, token: bytes, identifier: bytes, raw: bytes | None, now_ms: int
    ) -> tuple[Snapshot, dict[str, Any]] | None:
        try:
            snapshot = self._snapshot_of(token, identifier, raw, now_ms)
            if snapshot is not None:
                return snapshot, self.fresh(snapshot.values)
        except Unreadable as reason:
            self._counters["unreadable"] += 1
            logger.warning("session %s is not readable: %s", to_handle(identifier)[:8], reason)
        self._cache.forget(identifier)
        return None

    def _snapshot_of(
        self, token: bytes, identifier: bytes, raw: bytes | None, now_ms: int
    ) -> Snapshot | None:
        """Open what MongoDB has sent; ``None`` where nothing is there, or it has expired.

        Of a cached session only what differs is opened again.
        """
        cached = self._cache.get(identifier)
        if cached is not None and cached.raw == raw and cached.snapshot.is_up_to_date(now_ms):
            return cached.snapshot
        rest, values = ({}, None) if raw is None else decode(raw)
        # Without values: parallel requests have emptied it together, which is a logout too.
        if raw is None or values == {}:
            self._counters["misses"] += 1
            return None
        # Mostly a value has changed, and the rest need not be checked again.
        if cached is not None and cached.rest == rest:
            stored = cached.snapshot.stored
        else:
            stored = parse_without_values(rest)
        if self._lifetime.has_expired(stored.dates, now_ms):
            self._counters["expired"] += 1
            return None
        known = None if cached is None else cached.snapshot
        snapshot = self._open(token, stored, checked_values(values), known)
        self._cache.put(CachedSession(raw, rest, snapshot))
        return snapshot

    def _open(
        self, token: bytes, stored: Stored, sealed: Mapping[str, bytes], known: Snapshot | None
    ) -> Snapshot:
        decoder, owner_key = self._settings.decoder, self._settings.owner_key
        created_ms = stored.dates.created_ms
        # Every seal is bound to the creation date: under another one nothing is known.
        if known is not None and known.stored.dates.created_ms == created_ms:
            keys = known.keys
            values = open_values(keys, sealed, decoder, known.values)
        else:
            keys = self._keyring.session_keys(token, stored.identifier, created_ms)
            values = open_values(keys, sealed, decoder)
        owned = None if owner_key is None else values.get(owner_key)
        owner_id = None if owned is None else owned.fresh(decoder)
        owner = owner_text(owner_id)
        expected: Sequence[bytes | None]
        expected = (None,) if owner is None else self._keyring.owner_hashes(owner)
        if owner_id == "":
            # Version 0.1.0 took the empty text for an owner.
            expected = (None, *self._keyring.owner_hashes(""))
        if owner_key is not None and stored.owner not in expected:
            # Somebody who may write to the collection gave the session to another owner, or took
            # it out of its owner's reach.
            raise Unreadable("its field 'owner' does not belong to its values")
        up_to_date = self._lifetime.up_to_date_between(stored.dates)
        return Snapshot(token, keys, stored, values, owner, up_to_date)

    def _changed(
        self, old: Snapshot, draft: Draft, *, move_dates: bool, set_max_age: bool
    ) -> tuple[DocumentUpdate, Snapshot]:
        """Return what to write, and what MongoDB then has."""
        diff, stored = draft.diff, old.stored
        written = seal_values(old.keys, diff.written, known=old.values)
        values = {**old.values, **written}
        for name in diff.removed:
            del values[name]
        self._check_size(values, diff.written, draft.loaded)
        created_ms = stored.dates.created_ms
        change = DocumentUpdate(
            values=sealed_fields(written),
            removed=[old.values[name].field for name in diff.removed],
            dates=self.dates_in_use(draft, created_ms) if move_dates else None,
            persistent=draft.persistent if set_max_age else None,
            label=self._sealed_label(draft.label, stored.identifier, created_ms),
            sealed_under=self._keyring.first.key_id if len(self._keyring.keys) > 1 else None,
        )
        up_to_date = old.up_to_date_between
        if change.dates is not None:
            stored = stored._replace(dates=change.dates, persistent=draft.persistent)
            up_to_date = NEVER_UP_TO_DATE
        return change, Snapshot(old.token, old.keys, stored, values, old.owner, up_to_date)

    def _sealed_label(self, label: str | None, identifier: bytes, created_ms: int) -> bytes | None:
        return None if label is None else self._keyring.seal_label(label, identifier, created_ms)

    def _check_size(
        self, values: Mapping[str, Value], written: Iterable[str], loaded: Mapping[str, Value]
    ) -> None:
        total = sealed_bytes(values)
        # One that is too large already (two saves at once, or a lowered limit) may still be renewed
        # and made smaller.
        if written and total > self._settings.max_bytes and total > sealed_bytes(loaded):
            largest = max(written, key=lambda name: len(values[name].sealed))
            raise SessionTooLarge(
                f"session[{largest[:80]!r}] brings the session to {total} bytes sealed; "
                f"max_bytes allows {self._settings.max_bytes}"
            )
