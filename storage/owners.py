"""Sessions from outside: listed and ended by owner or handle, counted and deleted in bulk."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime

from storage.cache import SessionCache
from storage.document import (
    NEWEST_FIRST,
    WITHOUT_VALUES,
    Filter,
    Stored,
    a_forward,
    a_session,
    by_id,
    by_ids,
    decode,
    expired,
    identifier_of,
    needs_older_secret,
    owned_by,
    parse_without_values,
    readable,
)
from storage.driver import Driver
from storage.errors import Unreadable
from storage.lifetime import Lifetime, to_datetime
from storage.sealing import Keyring
from storage.settings import owner_text
from storage.tokens import from_handle, to_handle


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """What an owner may see of one of their sessions; every instant is aware UTC.

    ``handle`` is for ``revoke``; ``expires_at`` is when the session expires unless it is used
    again; ``label`` is what ``describe`` said of the device, or "".
    """

    handle: str
    created_at: datetime
    last_seen_at: datetime
    expires_at: datetime
    label: str


# Of one sign-in: a long list from before the limit takes a few sign-ins.
MOST_ENDED = 1000


class Owners:
    """Finds sessions by their owner, by a handle or by their dates, never by a token."""

    def __init__(
        self,
        driver: Driver,
        *,
        keyring: Keyring,
        lifetime: Lifetime,
        cache: SessionCache,
        counters: dict[str, int],
    ) -> None:
        """Put together what finding and ending sessions takes."""
        self._driver = driver
        self._keyring = keyring
        self._lifetime = lifetime
        self._cache = cache
        self._counters = counters

    async def sessions(self, owner: object, now_ms: int) -> AsyncGenerator[SessionInfo, None]:
        """Yield the active sessions of an owner, newest activity first.

        In batches, each in a turn of the loop of its own: nobody else waits for a long list.
        """
        found = self._driver.find_in_batches(
            self._owned_by(owner),
            projection={**WITHOUT_VALUES},  # mongomock adds to it
            sort=[NEWEST_FIRST],
        )
        async with aclosing(found):
            async for documents in found:
                for document in documents:
                    stored = _readable(document)
                    if stored and not self._lifetime.has_expired(stored.dates, now_ms):
                        yield self._info(stored)

    async def end_beyond(self, limit: int, owner: str, new: Stored, deadline: float) -> int:
        """Delete the sessions of an owner beyond ``limit``, the least recently used ones.

        ``new`` is the one that was just stored. It counts by its dates as the others do: of two
        sign-ins at once both end the same sessions, and never each other. In the same millisecond
        the new one stays, so that a limit of one may then end both. Returns how many.
        """
        beyond = await self._driver.find_all(
            self._owned_by(owner, but=new.identifier),
            deadline,
            projection={**WITHOUT_VALUES},
            sort=[NEWEST_FIRST],
            skip=limit - 1,
            limit=MOST_ENDED,
        )
        if not beyond:
            return 0
        ended = [identifier_of(raw) for raw in beyond]
        last_kept = _readable(beyond[0])
        if last_kept and last_kept.dates.last_seen_ms > new.dates.last_seen_ms:
            ended[0] = new.identifier
        deleted = await self._delete(by_ids(ended) | a_session(), deadline)
        for identifier in ended:
            self._cache.forget(identifier)
        return deleted

    async def revoke(self, handle: object, owner: object) -> bool:
        """Delete one session by its handle, with ``owner`` only if it is theirs."""
        identifier = from_handle(handle)
        if identifier is None or (owner is not None and owner_text(owner) is None):
            return False
        filter_ = by_id(identifier) | a_session()
        if owner is not None:
            filter_ |= self._owned_by(owner)
        delete = self._driver.collection.delete_one
        result = await self._driver.call(lambda: delete(filter_), self._driver.deadline())
        self._counters["deletes"] += result.deleted_count
        self._cache.forget(identifier)
        return bool(result.deleted_count)

    async def revoke_owner(self, owner: object, keep: bytes | None) -> int:
        """Delete all sessions of an owner except the one with the id ``keep``; return how many."""
        deadline = self._driver.deadline()
        deleted = await self._delete(self._owned_by(owner, but=keep), deadline)
        if len(self._keyring.keys) > 1:
            # One that was sealed again meanwhile has moved to the other end of the index, where
            # the first delete had been already.
            deleted += await self._delete(self._owned_by(owner, but=keep), deadline)
        self._cache.forget_owner(str(owner), keep)
        return deleted

    async def count(self, now_ms: int, *, retired: bool) -> int:
        """Count active sessions; with ``retired`` those that still need an older secret."""
        filter_ = readable(self._lifetime, now_ms)
        if retired:
            filter_ = {"$and": [filter_, needs_older_secret(self._keyring.first.key_id)]}
        count = self._driver.collection.count_documents
        found: int = await self._driver.call(lambda: count(filter_))
        return found

    async def clear(self) -> int:
        """Delete every session, keep the indexes; return how many."""
        deleted = await self._delete(a_session())
        self._cache.clear()
        await self._delete_forwards({})
        return deleted

    async def purge(self, now_ms: int) -> int:
        """Delete expired sessions, as the TTL index does; return how many."""
        deleted = await self._delete(expired(now_ms) | a_session())
        await self._delete_forwards(expired(now_ms))
        return deleted

    async def _delete(self, filter_: Filter, deadline: float | None = None) -> int:
        delete = self._driver.collection.delete_many
        result = await self._driver.call(lambda: delete(filter_), deadline)
        self._counters["deletes"] += result.deleted_count
        return int(result.deleted_count)

    async def _delete_forwards(self, filter_: Filter) -> None:
        """Delete forwards, which nobody counts as sessions."""
        delete = self._driver.collection.delete_many
        await self._driver.call(lambda: delete(filter_ | a_forward()))

    def _owned_by(self, owner: object, *, but: bytes | None = None) -> Filter:
        text = owner_text(owner)
        if text is None:
            raise ValueError(
                f"owner: {owner!r} is nobody; pass the id that the session key owner_key holds"
            )
        return owned_by(self._keyring.owner_hashes(text), but=but)

    def _info(self, stored: Stored) -> SessionInfo:
        dates = stored.dates
        end = self._lifetime.end(dates.created_ms, dates.last_seen_ms, dates.max_age)
        return SessionInfo(
            handle=to_handle(stored.identifier),
            created_at=to_datetime(dates.created_ms),
            last_seen_at=to_datetime(dates.last_seen_ms),
            expires_at=to_datetime(min(end, dates.expires_ms)),
            label=self._label(stored),
        )

    def _label(self, stored: Stored) -> str:
        if stored.label is None:
            return ""
        created_ms = stored.dates.created_ms
        try:
            return self._keyring.open_label(stored.label, stored.identifier, created_ms)
        except Unreadable:
            return ""


def _readable(document: bytes) -> Stored | None:
    """Read a document without its values; ``None``: it opens for nobody."""
    try:
        return parse_without_values(decode(document)[0])
    except Unreadable:
        return None
