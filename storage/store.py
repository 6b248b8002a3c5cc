"""Sessions in MongoDB, without HTTP: read one, insert it, update it, end it.

Each method is one step of a load or a save; ``saving`` decides which steps a save needs.
"""

from __future__ import annotations

import asyncio
import logging
from asyncio import Future
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from storage import rotation
from storage.batching import BATCH_SIZE, Batcher
from storage.cache import CachedSession, SessionCache
from storage.commands import (
    Delete,
    Insert,
    Outcome,
    Update,
    Write,
    find_documents,
    write_documents,
)
from storage.document import (
    WATCHED,
    Document,
    DocumentUpdate,
    SealedForward,
    Stored,
    WatchedDocument,
    build,
    build_forward,
    changes_nothing,
    checked_values,
    decode,
    max_age_is,
    parse_forward,
    parse_watched,
    parse_without_values,
    same_forward,
    sealed_again,
    session_by_id,
    session_is,
    values_are,
)
from storage.driver import Driver, context_of_request
from storage.errors import SessionTooLarge, StorageUnavailable, Unreadable
from storage.forwards import Forward, open_forward, seal_forward
from storage.lifetime import NEVER_UP_TO_DATE, Dates, Lifetime
from storage.sealing import Keyring
from storage.settings import Settings, owner_text
from storage.snapshot import Draft, Snapshot
from storage.tokens import document_id, new_token, to_handle
from storage.values import Value, open_values, seal_values, sealed_bytes, sealed_fields

T = TypeVar("T")

logger: logging.Logger = logging.getLogger(__name__)

# A session that was renewed more often within the life of its forwards is not found any more.
MOST_MOVES = 8


# What a load has found: a session, values that are the caller's own, and whether its token is of
# before a renewal, and in its grace. A bare tuple: one is made for every load.
Loaded = tuple[Snapshot, dict[str, Any], bool]


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
            partial(find_documents, driver),
            driver.unavailable,
            driver.report,
            context=context_of_request,
        )
        # A write that was handed over is finished even if the visitor has gone.
        self._writes: Batcher[Write, Outcome] = Batcher(
            partial(write_documents, driver),
            driver.unavailable,
            driver.report,
            keep_cancelled=True,
            context=context_of_request,
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
        return await self._driver.finish(steps)

    def finish_after(
        self, sent: Future[Outcome], then: Callable[[Outcome], Coroutine[Any, Any, None]]
    ) -> None:
        """Do what follows a write although the visitor has gone while it was under way.

        Only then is a task needed: nearly always nothing but the write is to be waited for.
        """
        again = self._writes.wait_again(sent) if sent.cancelled() else sent

        async def rest(outcome: Future[Outcome]) -> None:
            await then(await outcome)

        if again is not None:
            _ = self._driver.start(rest(again))

    async def drained(self) -> None:
        """Wait for everything that is under way."""
        await self._driver.drained()
        await self._finds.drained()
        await self._writes.drained()
        # What follows a write of a visitor who has gone begins one turn after its answer.
        await asyncio.sleep(0)
        await self._driver.drained()
        self._cache.clear()

    async def load(self, tokens: Sequence[bytes], now_ms: int) -> Loaded | None:
        """Read and open one session, with values that are the caller's own.

        Of several tokens the first one that opens a session with an owner counts, else the first
        that opens one: a session of nobody, which a stranger may have planted, must not hide a
        sign-in. All are looked up in one find. ``None`` where each is expired, unknown or
        unreadable, or was renewed: a load follows no forward, except during its grace.
        """
        identifiers = list(map(document_id, tokens))
        self._counters["loads"] += 1
        deadline = self._driver.deadline()
        documents = await self._finds.submit(identifiers, deadline)
        found = None
        forwards: tuple[Forward, ...] = ()
        for token, identifier, raw in zip(tokens, identifiers, documents, strict=True):
            opened = self._opened(token, identifier, raw, now_ms)
            if isinstance(opened, Forward):
                forwards += (opened,)
            elif opened is not None:
                owner = opened[0].owner
                if found is None or owner is not None:
                    found = opened
                if owner is not None:
                    break
        for forward in forwards:
            if found is None or found[0].owner is None:
                found = await self._by_grace(forward, now_ms, deadline) or found
        if found is not None:
            self._counters["hits"] += 1
        return found

    async def look(
        self, token: bytes, now_ms: int, deadline: float, emptied: Snapshot | None = None
    ) -> Snapshot | Forward | None:
        """Read what is stored under one token; ``None``: nothing that opens.

        ``emptied`` is what to return for a session that parallel requests have emptied together.
        """
        identifier = document_id(token)
        (raw,) = await self._finds.submit([identifier], deadline)
        return self._read(token, identifier, raw, now_ms, emptied)

    def forward_in(self, token: bytes, raw: bytes, now_ms: int) -> Forward | None:
        """Open the forward that a write has found under a token; ``None``: nothing to follow."""
        found = self._read(token, document_id(token), raw, now_ms)
        return found if isinstance(found, Forward) else None

    def fresh(self, values: Mapping[str, Value]) -> dict[str, Any]:
        """Return values as objects for one request; raises ``Unreadable``."""
        decoder = self._settings.decoder
        return {name: value.fresh(decoder) for name, value in values.items()}

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
            dates=self._dates_in_use(draft, created_ms),
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

    def update(self, old: Snapshot, draft: Draft) -> tuple[Future[Outcome], Snapshot]:
        """Send the changed values only, and the dates where they move.

        Returns the outcome, and what MongoDB has then.
        """
        change, new = self._changed(old, draft)
        update = Update(old.stored.identifier, draft.now_ms, change.to_mongodb())
        return self._writes.submit(update, draft.deadline), new

    def updated(self, new: Snapshot, draft: Draft) -> None:
        """Note an update that was carried out."""
        self._counters["updates" if draft.diff else "touches"] += 1
        self._cache.update(new)

    async def update_if_unchanged(
        self, there: Snapshot, draft: Draft, names: Iterable[str]
    ) -> Snapshot | None:
        """Write a late save, if these values and the idle timeout are still as in ``there``.

        ``names`` are those of the values that it changes, and of those that it leaves to somebody
        else. Where it leaves all of them the update changes nothing, and is sent all the same: a
        find also sees what a failover may undo, and then nobody's change would be left.

        Returns what MongoDB has then; ``None``: something is not as in ``there``.
        """
        change, new = self._changed(there, draft)
        sealed: dict[str, bytes | None] = {}
        for name in names:
            found = there.values.get(name)
            sealed[there.field(name)] = None if found is None else found.sealed
        guard = values_are(sealed) | max_age_is(there.stored)
        operators = change.to_mongodb()
        sent = operators or changes_nothing(draft.now_ms)
        update = Update(there.stored.identifier, draft.now_ms, sent, guard)
        if await self._writes.submit(update, draft.deadline) is not None:
            return None
        if operators:
            self.updated(new, draft)
        return new

    async def is_there(self, token: bytes, now_ms: int, deadline: float) -> bool:
        """Tell whether a session is there; if not, its end or move is as durable as every write.

        A find also sees what a failover may undo.
        """
        update = Update(document_id(token), now_ms, changes_nothing(now_ms))
        return await self._writes.submit(update, deadline) is None

    def own_view(self, old: Snapshot, draft: Draft) -> Snapshot:
        """Return what a request takes its session for, after a save at a place that it left."""
        return self._changed(old, draft)[1]

    def view_at(self, there: Snapshot, view: Snapshot) -> Snapshot:
        """Return a request's own view of a session as if it had loaded it at another place."""
        same, other = {}, {}
        for name, value in view.values.items():
            found = there.values.get(name)
            if found is not None and found.encoded == value.encoded:
                same[name] = found
            else:
                other[name] = value
        return there._replace(values={**same, **seal_values(there.keys, other)})

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

    async def take(
        self,
        token: bytes,
        draft: Draft,
        *,
        as_seen: Snapshot | None = None,
        forward: Forward | None = None,
    ) -> bool:
        """End a session that has not expired; return whether this has ended it.

        With ``as_seen`` only if it still has the values and the idle timeout of that snapshot; a
        ``forward`` is then left in its place. One command: of two callers at once only one gets the
        session.
        """
        identifier, collection = document_id(token), self._driver.collection
        there = session_by_id(identifier, draft.now_ms)
        if as_seen is not None:
            there |= session_is(as_seen.stored, sealed_fields(as_seen.values))
        left = None
        take = partial(collection.find_one_and_delete, there, {"_id": True})
        if as_seen is not None and forward is not None:
            left = self._forward_document(as_seen, forward)
            take = partial(collection.find_one_and_replace, there, left, {"_id": True})
        try:
            found = await self._driver.call(take, draft.deadline)
        except StorageUnavailable:
            if left is None or not await self._was_left(left, draft.deadline):
                raise
        else:
            if found is None:
                return False
        self._counters["deletes"] += 1
        self._cache.forget(identifier)
        return True

    async def what_took_its_place(self, token: bytes, draft: Draft) -> Forward | None:
        """Return the forward under a token; ``None``: there is nothing to follow."""
        found = await self.look(token, draft.now_ms, draft.deadline)
        return found if isinstance(found, Forward) else None

    async def delete(self, deadline: float, *identifiers: bytes) -> None:
        """End sessions; they need not be there."""
        submit = self._writes.submit
        await asyncio.gather(*(submit(Delete(one), deadline) for one in identifiers))
        for identifier in identifiers:
            # Afterwards: a parallel load would have put it back.
            self._cache.forget(identifier)
            self._counters["deletes"] += 1

    async def end(
        self, tokens: Iterable[bytes], now_ms: int, deadline: float
    ) -> dict[bytes, Forward]:
        """End the sessions of these tokens; return the forwards that were found instead."""
        asked = {token: document_id(token) for token in tokens}
        submit = self._writes.submit
        outcomes = await asyncio.gather(
            *(submit(Delete(one, now_ms), deadline) for one in asked.values())
        )
        forwards = {}
        for (token, identifier), outcome in zip(asked.items(), outcomes, strict=True):
            self._cache.forget(identifier)
            if outcome is None or outcome.forward is None:
                self._counters["deletes"] += 1
            elif found := self.forward_in(token, outcome.forward, now_ms):
                forwards[token] = found
        return forwards

    async def find_watched(self, identifiers: Sequence[bytes]) -> Mapping[bytes, bytes]:
        """Read the dates and the owner of sessions; raises whatever the driver raises.

        Nothing is logged or counted as a refusal: a watch is no request.
        """
        seconds = self._driver.timeout_seconds
        find = self._driver.find_by_ids(identifiers, seconds, projection={**WATCHED})
        return await self._driver.finish(find, seconds)

    def read_watched(
        self, token: bytes, identifier: bytes, raw: bytes | None, now_ms: int
    ) -> WatchedDocument | Forward | None:
        """Read what ``find_watched`` has found; ``None``: the session has ended."""
        if raw is None:
            return None
        try:
            document = decode(raw)[0]
            if (sealed := parse_forward(document)) is not None:
                forward = self._open_forward(token, identifier, sealed)
                return forward if now_ms < forward.ends_ms else None
            found = parse_watched(document)
        except Unreadable as reason:
            self._note_unreadable(identifier, reason)
            return None
        return None if self._lifetime.has_expired(found.dates, now_ms) else found

    async def touch_watched(self, sessions: Iterable[tuple[bytes, Dates]], now_ms: int) -> None:
        """Record that sessions are in use, without their cookies; a failure is tried again later.

        One millisecond early, as in ``_changed``: their next request sends the cookie.
        """
        deadline, submit = self._driver.deadline(), self._writes.submit
        touches = []
        for identifier, dates in sessions:
            end = self._lifetime.end(dates.created_ms, now_ms, dates.max_age)
            moved = dates._replace(last_seen_ms=now_ms, expires_ms=end - 1)
            change = DocumentUpdate({}, dates=moved).to_mongodb()
            touches.append(submit(Update(identifier, now_ms, change), deadline))
        outcomes = await asyncio.gather(*touches, return_exceptions=True)
        self._counters["touches"] += outcomes.count(None)

    def owner_hashes(self, owner: str | None) -> Sequence[bytes]:
        """Return the hashes of an owner's id under every secret."""
        return () if owner is None else self._keyring.owner_hashes(owner)

    def cause_of(self, error: BaseException) -> str:
        """Say why the driver has failed, and the remedy."""
        return self._driver.sentence_for(None if isinstance(error, TimeoutError) else error)

    def abandon(self, identifier: bytes) -> None:
        """End a session that no cookie will ever name, as far as that is possible by now."""
        _ = self._driver.start(self.delete(self._driver.deadline(), identifier))

    def forget(self, identifier: bytes) -> None:
        """Keep no value and no key of a session that has ended elsewhere."""
        self._cache.forget(identifier)

    def unavailable(self) -> StorageUnavailable:
        """Return a new error for a save that could not be carried out, and count it."""
        return self._driver.unavailable()

    async def _by_grace(self, forward: Forward, now_ms: int, deadline: float) -> Loaded | None:
        """Follow forwards as long as each one's grace lasts."""
        for _ in range(MOST_MOVES):
            if now_ms >= forward.grace_ends_ms:
                break
            token = forward.token
            identifier = document_id(token)
            (raw,) = await self._finds.submit([identifier], deadline)
            opened = self._opened(token, identifier, raw, now_ms)
            if not isinstance(opened, Forward):
                return None if opened is None else (*opened[:2], True)
            forward = opened
        self._counters["misses"] += 1
        return None

    def _opened(
        self, token: bytes, identifier: bytes, raw: bytes | None, now_ms: int
    ) -> Loaded | Forward | None:
        try:
            found = self._snapshot_of(token, identifier, raw, now_ms)
            if isinstance(found, Snapshot):
                return found, self.fresh(found.values), False
        except Unreadable as reason:
            self._note_unreadable(identifier, reason)
            return None
        self._cache.forget(identifier)
        return found

    def _read(
        self,
        token: bytes,
        identifier: bytes,
        raw: bytes | None,
        now_ms: int,
        emptied: Snapshot | None = None,
    ) -> Snapshot | Forward | None:
        try:
            found = self._snapshot_of(token, identifier, raw, now_ms, emptied)
        except Unreadable as reason:
            self._note_unreadable(identifier, reason)
            return None
        if isinstance(found, Snapshot):
            return found
        self._cache.forget(identifier)
        # The end inside the seal counts: a database writer can change the other one.
        return found if found is not None and now_ms < found.ends_ms else None

    def _note_unreadable(self, identifier: bytes, reason: Unreadable) -> None:
        self._counters["unreadable"] += 1
        logger.warning("session %s is not readable: %s", to_handle(identifier)[:8], reason)
        self._cache.forget(identifier)

    def _forward_document(self, old: Snapshot, forward: Forward) -> dict[str, Any]:
        sealed = seal_forward(old.keys, forward)
        stored = old.stored
        return build_forward(stored.identifier, stored.dates.created_ms, forward.ends_ms, sealed)

    async def _was_left(self, forward: Document, deadline: float) -> bool:
        """Tell whether a forward is in its place although no answer to the command came.

        Asked with an update that changes nothing: its answer is as durable as every write. A find
        also sees what a failover may undo, and then the old token would open the session again.
        """
        filter_, change = same_forward(forward)
        update = self._driver.collection.update_one
        result = await self._driver.call(lambda: update(filter_, change), deadline)
        return bool(result.matched_count)

    def _snapshot_of(
        self,
        token: bytes,
        identifier: bytes,
        raw: bytes | None,
        now_ms: int,
        emptied: Snapshot | None = None,
    ) -> Snapshot | Forward | None:
        """Open what MongoDB has sent; ``None`` where nothing is there, or it has expired.

        Of a cached session only what differs is opened again.
        """
        cached = self._cache.get(identifier)
        if cached is not None and cached.raw == raw and cached.snapshot.is_up_to_date(now_ms):
            return cached.snapshot
        rest, values = ({}, None) if raw is None else decode(raw)
        if (forward := parse_forward(rest)) is not None:
            return self._open_forward(token, identifier, forward)
        if raw is None:
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
        if values == {}:
            # Parallel requests have emptied it together, which is a logout too.
            self._counters["misses"] += 1
            return None if emptied is None else emptied._replace(stored=stored)
        known = None if cached is None else cached.snapshot
        snapshot = self._open(token, stored, checked_values(values), known)
        self._cache.put(CachedSession(raw, rest, snapshot))
        return snapshot

    def _open_forward(self, token: bytes, identifier: bytes, found: SealedForward) -> Forward:
        keys = self._keyring.session_keys(token, identifier, found.created_ms)
        return open_forward(keys, found.sealed)

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

    def _dates_in_use(self, draft: Draft, created_ms: int) -> Dates:
        """Return the dates of a session that is used now."""
        end = self._lifetime.end(created_ms, draft.now_ms, draft.max_age)
        return Dates(created_ms, draft.now_ms, end, draft.max_age)

    def _changed(self, old: Snapshot, draft: Draft) -> tuple[DocumentUpdate, Snapshot]:
        """Return what to write, and what MongoDB then has."""
        diff, stored = draft.diff, old.stored
        written = seal_values(old.keys, diff.written, known=old.values)
        values = {**old.values, **written}
        for name in diff.removed:
            values.pop(name, None)
        self._check_size(values, diff.written, draft.loaded)
        created_ms = stored.dates.created_ms
        dates = self._dates_in_use(draft, created_ms) if draft.moves_dates else None
        if dates is not None and draft.without_cookie:
            # One millisecond early: the next request finds its touch due, and sends the cookie
            # that this one must not send.
            dates = dates._replace(expires_ms=dates.expires_ms - 1)
        change = DocumentUpdate(
            values=sealed_fields(written),
            removed=[old.field(name) for name in diff.removed],
            dates=dates,
            persistent=draft.persistent if draft.set_max_age else None,
            label=self._sealed_label(draft.label, stored.identifier, created_ms),
            sealed_under=self._keyring.first.key_id if len(self._keyring.keys) > 1 else None,
        )
        up_to_date = old.up_to_date_between
        if change.dates is not None:
            stored = stored._replace(dates=change.dates, persistent=draft.persistent)
            up_to_date = NEVER_UP_TO_DATE
        return change, Snapshot(
            old.token, old.keys, stored, values, old.owner, up_to_date, old.not_followed
        )

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
