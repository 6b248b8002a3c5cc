"""How often somebody may try: per account and per address, shared by all processes.

Every attempt is *counted before it is made* and counted back when it succeeds. Counting failures
afterwards would let a thousand parallel guesses through before the first one is counted.

Two kinds of counter, each one document of the `throttle` collection, changed by one atomic
update each:

- A *lock* guards one account. The first `FREE_FAILURES` attempts are free; after that each one
  closes the lock, for 1 s, then 2 s, and so on up to `LONGEST_LOCK`. Success opens it.
- A *quota* guards the whole app from one address: `QUOTA` attempts per `QUOTA_WINDOW`.

An address that signed in to an account within `FAMILIAR_FOR` has a lock of its own for it, so
that guesses from elsewhere never lock the owner out (OWASP Authentication Cheat Sheet).
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from aiohttp import web
from pymongo import DeleteOne, ReturnDocument, UpdateOne

from webapp.accounts.networks import networks_of
from webapp.accounts.usernames import fold_email
from webapp.database.client import Collection, Database, collection
from webapp.database.indexes import ensure_index
from webapp.http.refusals import Busy, TooManyAttempts

FREE_FAILURES = 5
FIRST_LOCK = timedelta(seconds=1)
LONGEST_LOCK = timedelta(minutes=15)
LOCK_FORGOTTEN_AFTER = timedelta(days=1)
QUOTA = 100
QUOTA_WINDOW = timedelta(minutes=15)
FAMILIAR_FOR = timedelta(days=30)

_KEY_BYTES = 16
# An open lock, by every clock: with the time of its opening it would be closed to a process whose
# clock is behind, and to an attempt that read the clock a moment before.
_OPEN = datetime.fromtimestamp(0, UTC)


class _Attempt(NamedTuple):
    """The counters that one sign-in attempt was counted in."""

    quota: bytes
    familiar: bytes
    lock: bytes


class Throttle:
    """Count attempts in one database; accounts and addresses are hashed under `secret`.

    `clock` returns seconds since the epoch and may be replaced: tests use one that they set.
    """

    def __init__(self, database: Database, secret: str) -> None:
        self._key = hmac.digest(secret.encode(), b"webapp throttle v1", hashlib.sha256)
        self.clock: Callable[[], float] = time.time
        self._counters = collection(database, Collection.THROTTLE)

    async def create_indexes(self) -> None:
        """Create the TTL index, unless it exists."""
        await ensure_index(self._counters, "expires_at", expireAfterSeconds=0)

    @asynccontextmanager
    async def attempt(self, email: str, address: str) -> AsyncIterator[None]:
        """Count a sign-in attempt, make it in the block, and count it back unless it failed.

        A block that ends normally is a success: the lock opens, and the address is familiar from
        now on.  `Busy` means that nobody looked at the password: it was no attempt.  After any
        other exception the attempt stays counted.  Raises `TooManyAttempts` before the block.
        """
        attempt = await self._count(email, address)
        try:
            yield
        except Busy:
            await self._take_back(attempt)
            raise
        await self._succeed(attempt)

    async def count_sign_up(self, address: str) -> None:
        """Count a sign-up, successful or not. Raises `TooManyAttempts`."""
        await self._spend(self._id("sign-up", networks_of(address)[0]))

    async def _count(self, email: str, address: str) -> _Attempt:
        """Count an attempt, or raise `TooManyAttempts`.

        Attempts at a closed lock are not counted anywhere: they neither keep it closed nor use
        up their address's quota.
        """
        account = fold_email(email)
        quota = self._id("sign-in", networks_of(address)[0])
        familiar = self._id("familiar", account, networks_of(address)[0])
        lock = await self._open_lock(familiar, self._id("account", account))
        await self._spend(quota)
        try:
            await self._use(lock)
        except TooManyAttempts:
            # A parallel attempt has closed it in between.
            await self._counters.bulk_write([_one_less(quota)])
            raise
        return _Attempt(quota, familiar, lock)

    async def _succeed(self, attempt: _Attempt) -> None:
        now = self._now()
        known = {
            "known_until": now + FAMILIAR_FOR,
            "failures": 0,
            "locked_until": _OPEN,
            "expires_at": now + FAMILIAR_FOR,
        }
        changes: list[UpdateOne | DeleteOne] = [
            _one_less(attempt.quota),
            UpdateOne({"_id": attempt.familiar}, {"$set": known}, upsert=True),
        ]
        if attempt.lock != attempt.familiar:
            changes.append(DeleteOne({"_id": attempt.lock}))
        await self._counters.bulk_write(changes, ordered=False)

    async def _take_back(self, attempt: _Attempt) -> None:
        reopened = {"$inc": {"failures": -1}, "$set": {"locked_until": _OPEN}}
        changes = [
            _one_less(attempt.quota),
            UpdateOne({"_id": attempt.lock, "failures": {"$gt": 0}}, reopened),
        ]
        await self._counters.bulk_write(changes, ordered=False)

    async def _open_lock(self, familiar: bytes, unfamiliar: bytes) -> bytes:
        """Return the lock for this attempt; raise `TooManyAttempts` while it is closed."""
        now = self._now()
        found = {
            counter["_id"]: counter
            async for counter in self._counters.find({"_id": {"$in": [familiar, unfamiliar]}})
        }
        is_familiar = found.get(familiar, {}).get("known_until", now) > now
        lock = familiar if is_familiar else unfamiliar
        _refuse_until(found.get(lock, {}).get("locked_until", now), now)
        return lock

    async def _use(self, lock: bytes) -> None:
        """Count one attempt at a lock that was open a moment ago, unless it has closed since."""
        now = self._now()
        before = await self._counters.find_one_and_update(
            {"_id": lock}, _using(now), upsert=True, return_document=ReturnDocument.BEFORE
        )
        if before:
            _refuse_until(before.get("locked_until", now), now)

    async def _spend(self, quota: bytes) -> None:
        """Count one attempt of an address; raise `TooManyAttempts` when its quota is used up."""
        now = self._now()
        before = await self._counters.find_one_and_update(
            {"_id": quota}, _spending(now), upsert=True, return_document=ReturnDocument.BEFORE
        )
        if before and before["spent"] >= QUOTA:
            _refuse_until(before["expires_at"], now)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self.clock(), UTC)

    def _id(self, *parts: str) -> bytes:
        message = b"\0".join(part.encode() for part in parts)
        return hmac.digest(self._key, message, hashlib.sha256)[:_KEY_BYTES]


THROTTLE = web.AppKey("throttle", Throttle)


def _refuse_until(moment: datetime, now: datetime) -> None:
    if moment > now:
        raise TooManyAttempts((moment - now).total_seconds())


def _using(now: datetime) -> list[dict[str, Any]]:
    """Build the update that counts one attempt, and changes nothing while the lock is closed."""
    is_closed = {"$gt": ["$locked_until", now]}
    is_remembered = {"$gt": ["$expires_at", now]}
    beyond_free = {"$subtract": ["$failures", FREE_FAILURES]}
    doubled = {"$multiply": [_milliseconds(FIRST_LOCK), {"$pow": [2, beyond_free]}]}
    lock = {"$min": [doubled, _milliseconds(LONGEST_LOCK)]}
    reopening = {"$cond": [{"$lt": [beyond_free, 0]}, _OPEN, {"$add": [now, lock]}]}
    known = {"$cond": [is_remembered, {"$ifNull": ["$failures", 0]}, 0]}
    return [
        {"$set": {"failures": {"$cond": [is_closed, "$failures", {"$add": [known, 1]}]}}},
        {
            "$set": {
                "locked_until": {"$cond": [is_closed, "$locked_until", reopening]},
                "expires_at": {"$max": ["$expires_at", now + LOCK_FORGOTTEN_AFTER]},
            }
        },
    ]


def _spending(now: datetime) -> list[dict[str, Any]]:
    """Build the update that counts one attempt of a quota, in a new window after the last."""
    is_running = {"$gt": ["$expires_at", now]}
    one_more = {"$min": [{"$add": ["$spent", 1]}, QUOTA]}
    return [
        {
            "$set": {
                "spent": {"$cond": [is_running, one_more, 1]},
                "expires_at": {"$cond": [is_running, "$expires_at", now + QUOTA_WINDOW]},
            }
        }
    ]


def _one_less(quota: bytes) -> UpdateOne:
    """Build the update that gives one attempt of a quota back."""
    return UpdateOne({"_id": quota, "spent": {"$gt": 0}}, {"$inc": {"spent": -1}})


def _milliseconds(duration: timedelta) -> int:
    return duration // timedelta(milliseconds=1)
