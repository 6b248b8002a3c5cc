"""How often somebody may try: per account and per address, shared by all processes.

Every try is *counted before it is made* and taken back when it succeeds. Counting failures
afterwards would let a thousand parallel guesses through before the first one is counted.

Two kinds of counter, each one document of the `throttle` collection, changed by one atomic
update each:

- A *lock* guards one account. The first `FREE_FAILURES` tries are free; after that each one
  closes the lock, for 1 s, then 2 s, and so on up to `LONGEST_LOCK`. Success opens it.
- A *quota* guards the whole app from one address: `QUOTA` tries per `QUOTA_WINDOW`.

An address that signed in to an account within `FAMILIAR_FOR` has a lock of its own for it, so
that a stranger's guessing never shuts the owner out (OWASP Authentication Cheat Sheet).
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from aiohttp import web
from bson.codec_options import CodecOptions
from motor.motor_asyncio import AsyncIOMotorCollection, AsyncIOMotorDatabase
from pymongo import DeleteOne, ReturnDocument, UpdateOne

from webapp.accounts.usernames import fold_email
from webapp.database.indexes import ensure_index
from webapp.http.refusals import TooManyAttempts

FREE_FAILURES = 5
FIRST_LOCK = timedelta(seconds=1)
LONGEST_LOCK = timedelta(minutes=15)
LOCK_FORGOTTEN_AFTER = timedelta(days=1)
QUOTA = 100
QUOTA_WINDOW = timedelta(minutes=15)
FAMILIAR_FOR = timedelta(days=30)

_KEY_BYTES = 16


@dataclass(frozen=True)
class Attempt:
    """One counted sign-in try that was let through; `Throttle.succeeded` takes it back."""

    quota: bytes
    familiar: bytes
    lock: bytes


class Throttle:
    """Count tries in one database; `secret` keys the hashes that stand for people and addresses.

    `clock` returns seconds since the epoch and may be replaced: tests move it.
    """

    def __init__(self, database: AsyncIOMotorDatabase[dict[str, Any]], secret: str | bytes) -> None:
        raw = secret.encode() if isinstance(secret, str) else secret
        self._key = hmac.digest(raw, b"webapp throttle v1", hashlib.sha256)
        self.clock: Callable[[], float] = time.time
        self._counters: AsyncIOMotorCollection[dict[str, Any]] = database["throttle"].with_options(
            codec_options=CodecOptions(tz_aware=True, tzinfo=UTC)
        )

    async def create_indexes(self) -> None:
        """Create the TTL index; harmless when it exists."""
        await ensure_index(self._counters, "expires_at", expireAfterSeconds=0)

    async def count_sign_in(self, email: str, address: str) -> Attempt:
        """Count a sign-in try. Raises `TooManyAttempts`; then nothing may be tried.

        Tries at a closed lock are not counted anywhere: they neither keep it closed nor use
        up their address's quota.
        """
        account = fold_email(email)
        quota = self._id("sign-in", _network(address))
        familiar = self._id("familiar", account, _network(address))
        lock = await self._open_lock(familiar, self._id("account", account))
        await self._spend(quota)
        try:
            await self._take(lock)
        except TooManyAttempts:
            # Somebody else's try has closed it in between.
            await self._counters.bulk_write([_one_less(quota)])
            raise
        return Attempt(quota=quota, familiar=familiar, lock=lock)

    async def succeeded(self, attempt: Attempt) -> None:
        """Take a try back that was no failure, and remember its address as familiar."""
        now = self._now()
        known = {
            "known_until": now + FAMILIAR_FOR,
            "failures": 0,
            "locked_until": now,
            "expires_at": now + FAMILIAR_FOR,
        }
        changes: list[UpdateOne | DeleteOne] = [
            _one_less(attempt.quota),
            UpdateOne({"_id": attempt.familiar}, {"$set": known}, upsert=True),
        ]
        if attempt.lock != attempt.familiar:
            changes.append(DeleteOne({"_id": attempt.lock}))
        await self._counters.bulk_write(changes, ordered=False)

    async def withdraw(self, attempt: Attempt) -> None:
        """Take a try back that was never made: the password could not be looked at."""
        await self._counters.bulk_write(
            [
                _one_less(attempt.quota),
                UpdateOne(
                    {"_id": attempt.lock, "failures": {"$gt": 0}},
                    {"$inc": {"failures": -1}, "$set": {"locked_until": self._now()}},
                ),
            ],
            ordered=False,
        )

    async def count_sign_up(self, address: str) -> None:
        """Count a sign-up, successful or not. Raises `TooManyAttempts`."""
        await self._spend(self._id("sign-up", _network(address)))

    async def _open_lock(self, familiar: bytes, stranger: bytes) -> bytes:
        """Choose the lock that guards this try; raise what is left of its closed time."""
        now = self._now()
        found = {
            counter["_id"]: counter
            async for counter in self._counters.find({"_id": {"$in": [familiar, stranger]}})
        }
        is_familiar = found.get(familiar, {}).get("known_until", now) > now
        lock = familiar if is_familiar else stranger
        _refuse_until(found.get(lock, {}).get("locked_until", now), now)
        return lock

    async def _take(self, lock: bytes) -> None:
        """Count one try against a lock that was open a moment ago; parallel tries may lose."""
        now = self._now()
        before = await self._counters.find_one_and_update(
            {"_id": lock}, _taking(now), upsert=True, return_document=ReturnDocument.BEFORE
        )
        if before:
            _refuse_until(before.get("locked_until", now), now)

    async def _spend(self, quota: bytes) -> None:
        """Spend one of an address's tries, or raise what is left of its window."""
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


def _network(address: str) -> str:
    """Return whom an address stands for: an IPv6 customer is given a /64 at the least."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address  # a peer without one, as behind a Unix socket: all of them are one
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    # A socket for both families names IPv4 peers ::ffff:198.51.100.7; they share no /64.
    return str(parsed.ipv4_mapped or int(parsed) >> 64)


def _taking(now: datetime) -> list[dict[str, Any]]:
    """Build the update that counts one try, and changes nothing while the lock is closed."""
    is_closed = {"$gt": ["$locked_until", now]}
    is_remembered = {"$gt": ["$expires_at", now]}
    beyond_free = {"$subtract": ["$failures", FREE_FAILURES]}
    doubled = {"$multiply": [_milliseconds(FIRST_LOCK), {"$pow": [2, beyond_free]}]}
    lock = {"$min": [doubled, _milliseconds(LONGEST_LOCK)]}
    closed_for = {"$cond": [{"$lt": [beyond_free, 0]}, 0, lock]}
    reopening = {"$add": [now, closed_for]}
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
    """Build the update that spends one try of a quota, in a new window when the last is over."""
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
    """Build the update that gives one try of a quota back."""
    return UpdateOne({"_id": quota, "spent": {"$gt": 0}}, {"$inc": {"spent": -1}})


def _milliseconds(duration: timedelta) -> int:
    return duration // timedelta(milliseconds=1)
