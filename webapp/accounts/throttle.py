"""How often somebody may try: per account and per address, shared by all processes.

Every attempt is *counted before it is made* and counted back when it succeeds. Counting failures
afterwards would let a thousand parallel guesses through before the first one is counted.

Two kinds of counter, each one document of the `throttle` collection, changed by one atomic
update each:

- A *lock* guards one account. The first `FREE_FAILURES` attempts are free; after that each one
  closes the lock, for 1 s, then 2 s, and so on up to `LONGEST_LOCK`. Success opens it.
- A *quota* is a number of attempts in a time. One guards the whole app from one address: as many
  attempts as `THROTTLE_PER_ADDRESS` says per `QUOTA_WINDOW`; an IPv6 address is counted by its
  /64, /56 and /48, each larger network with a larger quota. Another one guards an account:
  `FAILURES_IN_A_ROW` per `IN_A_ROW_WINDOW` (NIST SP 800-63B 3.2.2), until a success or the
  operator's reset.

An address that signed in to an account within `FAMILIAR_FOR` has a lock of its own for it and no
quota, so that guesses from elsewhere, or by others behind this address, never lock the owner out
(OWASP Authentication Cheat Sheet).
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from aiohttp import web
from pymongo import DeleteMany, ReturnDocument, UpdateOne

from webapp.accounts.networks import networks_of
from webapp.accounts.usernames import fold_email
from webapp.database.client import Collection, Database, collection
from webapp.database.indexes import ensure_index
from webapp.http.refusals import Busy, TooManyAttempts

FREE_FAILURES = 5
FIRST_LOCK = timedelta(seconds=1)
LONGEST_LOCK = timedelta(minutes=15)
LOCK_FORGOTTEN_AFTER = timedelta(days=1)
QUOTA_WINDOW = timedelta(minutes=15)
NETWORK_SHARES = (1, 4, 16)
"""How many quotas the /64, the /56 and the /48 of an IPv6 address have."""
FAILURES_IN_A_ROW = 100
IN_A_ROW_WINDOW = timedelta(days=30)
FAMILIAR_FOR = timedelta(days=30)

_KEY_BYTES = 16
# An open lock, by every clock: with the time of its opening it would be closed to a process whose
# clock is behind, and to an attempt that read the clock a moment before.
_OPEN = datetime.fromtimestamp(0, UTC)


_Name = tuple[str, ...]


class _Quota(NamedTuple):
    """So many attempts in so much time, by the name of their counter."""

    name: _Name
    limit: int
    window: timedelta


class _Attempt(NamedTuple):
    """The counters that one sign-in attempt was counted in, and when."""

    account: str
    quotas: Sequence[_Quota]
    counted_at: datetime
    familiar: _Name
    lock: _Name


class Throttle:
    """Count attempts in one database; accounts and addresses are hashed under a secret.

    The first of `secrets` hashes what is written; what was written under the others still counts.
    `per_address` is the quota of one address.  `clock` returns seconds since the epoch and may be
    replaced: tests use one that they set.
    """

    def __init__(self, database: Database, secrets: Sequence[str], *, per_address: int) -> None:
        self._keys = [
            hmac.digest(secret.encode(), b"webapp throttle v1", hashlib.sha256)
            for secret in secrets
        ]
        self._per_address = per_address
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
            await self._undo(attempt)
            raise
        await self._succeed(attempt)

    async def count_sign_up(self, address: str) -> None:
        """Count a sign-up, successful or not. Raises `TooManyAttempts`."""
        quotas = self._address_quotas("sign-up", address)
        await self._carry_over(quota.name for quota in quotas)
        await self._spend(quotas)

    async def forget_failures(self, email: str) -> None:
        """Open the lock of an account and start its counts again: it has another password."""
        await self._counters.bulk_write([self._deletion_of_failures(fold_email(email))])

    async def _count(self, email: str, address: str) -> _Attempt:
        """Count an attempt, or raise `TooManyAttempts`.

        Attempts at a closed lock are not counted anywhere: they neither keep it closed nor use
        up their address's quota.
        """
        account = fold_email(email)
        familiar = ("familiar", account, networks_of(address)[0])
        quotas = [*self._address_quotas("sign-in", address), _failures_in_a_row(account)]
        await self._carry_over([familiar, _lock(account), *(quota.name for quota in quotas)])
        lock = await self._choose_lock(familiar, _lock(account))
        if lock == familiar:
            quotas = []
        await self._spend(quotas)
        counted_at = self._now()
        try:
            await self._use(lock)
        except TooManyAttempts:
            # A parallel attempt has closed it in between.
            await self._give_back(quotas)
            raise
        return _Attempt(account, quotas, counted_at, familiar, lock)

    async def _succeed(self, attempt: _Attempt) -> None:
        now = self._now()
        known = {
            "known_until": now + FAMILIAR_FOR,
            "failures": 0,
            "locked_until": _OPEN,
            "expires_at": now + FAMILIAR_FOR,
        }
        changes: list[UpdateOne | DeleteMany] = [
            *(self._one_less(quota, attempt.counted_at) for quota in attempt.quotas),
            UpdateOne({"_id": self._id(*attempt.familiar)}, {"$set": known}, upsert=True),
        ]
        if attempt.lock != attempt.familiar:
            changes.append(self._deletion_of_failures(attempt.account))
        await self._counters.bulk_write(changes, ordered=False)

    async def _undo(self, attempt: _Attempt) -> None:
        reopened = {"$inc": {"failures": -1}, "$set": {"locked_until": _OPEN}}
        changes = [
            *(self._one_less(quota, attempt.counted_at) for quota in attempt.quotas),
            UpdateOne({"_id": self._id(*attempt.lock), "failures": {"$gt": 0}}, reopened),
        ]
        await self._counters.bulk_write(changes, ordered=False)

    async def _choose_lock(self, familiar: _Name, unfamiliar: _Name) -> _Name:
        """Return the lock that this attempt uses; raise `TooManyAttempts` while it is closed."""
        now = self._now()
        identifiers = [self._id(*familiar), self._id(*unfamiliar)]
        found = {
            counter["_id"]: counter
            async for counter in self._counters.find({"_id": {"$in": identifiers}})
        }
        known, stranger = (found.get(identifier, {}) for identifier in identifiers)
        is_familiar = known.get("known_until", now) > now
        _refuse_until((known if is_familiar else stranger).get("locked_until", now), now)
        return familiar if is_familiar else unfamiliar

    async def _use(self, lock: _Name) -> None:
        """Count one attempt at a lock that was open a moment ago, unless it has closed since."""
        now = self._now()
        before = await self._counters.find_one_and_update(
            {"_id": self._id(*lock)},
            _lock_update(now),
            upsert=True,
            return_document=ReturnDocument.BEFORE,
        )
        if before:
            _refuse_until(before.get("locked_until", now), now)

    async def _spend(self, quotas: Sequence[_Quota]) -> None:
        """Count one attempt in each quota, in none when one is used up: `TooManyAttempts`."""
        now = self._now()
        for number, quota in enumerate(quotas):
            before = await self._counters.find_one_and_update(
                {"_id": self._id(*quota.name)},
                _quota_update(quota, now),
                upsert=True,
                return_document=ReturnDocument.BEFORE,
            )
            if before and before["spent"] >= quota.limit and before["expires_at"] > now:
                await self._give_back(quotas[:number])
                _refuse_until(before["expires_at"], now)

    async def _give_back(self, quotas: Sequence[_Quota]) -> None:
        if quotas:
            now = self._now()
            await self._counters.bulk_write([self._one_less(quota, now) for quota in quotas])

    async def _carry_over(self, names: Iterable[_Name]) -> None:
        """Copy counters that are named under an older secret, unless there are newer ones.

        Only during a rotation. The old ones stay: a process that was not restarted yet uses them.
        """
        if len(self._keys) == 1:
            return
        old_names = {_hashed(key, name): name for name in names for key in self._keys[1:]}
        still_counts = {"_id": {"$in": list(old_names)}, "expires_at": {"$gt": self._now()}}
        copies = [
            UpdateOne(
                {"_id": self._id(*old_names[counter.pop("_id")])},
                {"$setOnInsert": counter},
                upsert=True,
            )
            async for counter in self._counters.find(still_counts)
        ]
        if copies:
            await self._counters.bulk_write(copies, ordered=False)

    def _address_quotas(self, what: str, address: str) -> list[_Quota]:
        return [
            _Quota((what, network), share * self._per_address, QUOTA_WINDOW)
            for network, share in zip(networks_of(address), NETWORK_SHARES, strict=False)
        ]

    def _one_less(self, quota: _Quota, counted_at: datetime) -> UpdateOne:
        """Build the update that gives one attempt of a quota back, to the window it was counted in.

        In a later one it would allow one more failure: many attempts could be kept waiting for it.
        """
        same_window = {"$lte": counted_at + quota.window}
        return UpdateOne(
            {"_id": self._id(*quota.name), "spent": {"$gt": 0}, "expires_at": same_window},
            {"$inc": {"spent": -1}},
        )

    def _deletion_of_failures(self, account: str) -> DeleteMany:
        """Build the deletion of an account's failures, also of those under an older secret."""
        names = (_lock(account), _failures_in_a_row(account).name)
        return DeleteMany(
            {"_id": {"$in": [_hashed(key, name) for name in names for key in self._keys]}}
        )

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self.clock(), UTC)

    def _id(self, *name: str) -> bytes:
        return _hashed(self._keys[0], name)


THROTTLE = web.AppKey("throttle", Throttle)


def _hashed(key: bytes, name: _Name) -> bytes:
    message = b"\0".join(part.encode() for part in name)
    return hmac.digest(key, message, hashlib.sha256)[:_KEY_BYTES]


def _lock(account: str) -> _Name:
    return ("account", account)


def _failures_in_a_row(account: str) -> _Quota:
    return _Quota(("in a row", account), FAILURES_IN_A_ROW, IN_A_ROW_WINDOW)


def _refuse_until(moment: datetime, now: datetime) -> None:
    if moment > now:
        raise TooManyAttempts((moment - now).total_seconds())


def _lock_update(now: datetime) -> list[dict[str, Any]]:
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


def _quota_update(quota: _Quota, now: datetime) -> list[dict[str, Any]]:
    """Build the update that counts one attempt of a quota, in a new window after the last."""
    is_running = {"$gt": ["$expires_at", now]}
    one_more = {"$min": [{"$add": ["$spent", 1]}, quota.limit]}
    return [
        {
            "$set": {
                "spent": {"$cond": [is_running, one_more, 1]},
                "expires_at": {"$cond": [is_running, "$expires_at", now + quota.window]},
            }
        }
    ]


def _milliseconds(duration: timedelta) -> int:
    return duration // timedelta(milliseconds=1)
