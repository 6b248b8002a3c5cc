"""The commands that requests share: one find of many documents, one bulk write of many changes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from itertools import chain
from types import MappingProxyType
from typing import Any, NamedTuple

from pymongo import DeleteOne, InsertOne, UpdateOne
from pymongo.errors import BulkWriteError, WriteConcernError, WriteError

from storage.document import (
    Filter,
    MongoUpdate,
    a_session,
    by_id,
    is_carried_out,
    is_forward,
    not_expired,
    session_by_id,
    what_is_there,
)
from storage.driver import Driver
from storage.errors import Unreadable

Operation = InsertOne[Any] | UpdateOne | DeleteOne
_NO_GUARD: Filter = {}


class Insert(NamedTuple):
    """Store a new document."""

    document: dict[str, Any]

    def operation(self) -> Operation:
        """Return it as PyMongo's bulk writes take it."""
        return InsertOne(self.document)


class Update(NamedTuple):
    """Change single fields of a session that has not expired at ``now_ms``.

    ``guard`` names changed fields, and what they must still be.
    """

    identifier: bytes
    now_ms: int
    change: MongoUpdate
    guard: Filter = _NO_GUARD

    def operation(self) -> Operation:
        """Return it as PyMongo's bulk writes take it."""
        return UpdateOne(self.filter, self.change)

    @property
    def filter(self) -> Filter:
        """Return what the document must still be."""
        # update, not upsert: a session ended by a logout elsewhere must stay ended.
        there = session_by_id(self.identifier, self.now_ms)
        return there | self.guard if self.guard else there


class Delete(NamedTuple):
    """Remove a session, if it is there.

    With ``now_ms`` the outcome says whether a forward is in its place.
    """

    identifier: bytes
    now_ms: int | None = None

    def operation(self) -> Operation:
        """Return it as PyMongo's bulk writes take it."""
        return DeleteOne(self.filter)

    @property
    def filter(self) -> Filter:
        """Return what the document must be."""
        return by_id(self.identifier) | a_session()


Write = Insert | Update | Delete


class Missed(NamedTuple):
    """A write that was not carried out: there is no such session, or its guard did not hold."""

    # The document that was found in the place of the session, if it was a forward.
    forward: bytes | None = None


Outcome = Missed | None


async def find_documents(
    driver: Driver, groups: list[Sequence[bytes]], seconds: float
) -> list[list[bytes | None]]:
    """Read groups of documents by their ids, as bytes; ``None`` for one that is not there."""
    distinct = list(dict.fromkeys(chain.from_iterable(groups)))
    found = await driver.find_by_ids(distinct, seconds)
    return [list(map(found.get, group)) for group in groups]


async def write_documents(
    driver: Driver, writes: list[Write], seconds: float
) -> Sequence[Outcome | BaseException]:
    """Carry out writes; ``None`` for one that was carried out, or ``Missed``.

    A write that the server refuses is a ``StorageUnavailable``, and harms no other.
    """
    clock = asyncio.get_running_loop().time
    ends_at = clock() + seconds
    if len(writes) == 1:
        return [await _write_one(driver, writes[0], ends_at)]
    kinds = dict.fromkeys(map(type, writes))
    if len(kinds) > 1:
        # PyMongo sends a command for each kind anyway. But in a bulk write of several kinds, 4.20
        # sends the first one only if it has to try twice to get a connection, and raises nothing.
        outcomes: dict[int, Outcome | BaseException] = {}
        for kind in kinds:
            numbers = [number for number, write in enumerate(writes) if type(write) is kind]
            same = [writes[number] for number in numbers]
            answers = await write_documents(driver, same, ends_at - clock())
            outcomes.update(zip(numbers, answers, strict=True))
        return [outcomes[number] for number in range(len(writes))]
    refused, done = await _write_many(driver, writes, seconds)
    if done == len(writes):
        return [None] * len(writes)
    for error in refused.values():
        driver.report(error)
    # Of a batch the server only counts what was carried out.
    accepted = [write for number, write in enumerate(writes) if number not in refused]
    there: Mapping[bytes, bytes] | None = None
    if done != len(accepted):
        there = await _what_is_there(driver, accepted, ends_at - clock())
    return [
        driver.unavailable(refused[number])
        if number in refused
        else (None if there is None else _outcome(write, there))
        for number, write in enumerate(writes)
    ]


async def _write_one(driver: Driver, write: Write, ends_at: float) -> Outcome:
    clock = asyncio.get_running_loop().time
    seconds = ends_at - clock()
    # The driver spends less on these than on a bulk write of one.
    collection = driver.collection
    if isinstance(write, Update):
        updated = await driver.send(
            lambda: collection.update_one(write.filter, write.change), seconds
        )
        if updated.matched_count:
            return None
        if write.guard:
            return Missed()
    elif isinstance(write, Delete):
        deleted = await driver.send(lambda: collection.delete_one(write.filter), seconds)
        if deleted.deleted_count:
            return None
    else:
        await driver.send(lambda: collection.insert_one(write.document), seconds)
        return None
    outcome = _outcome(write, await _what_is_there(driver, [write], ends_at - clock()))
    if isinstance(write, Update):
        # It has missed, also where the session was put there again before the look.
        return outcome or Missed()
    return outcome


async def _write_many(
    driver: Driver, writes: list[Write], seconds: float
) -> tuple[dict[int, WriteError], int]:
    """Return refused writes by their positions, and how many were carried out."""
    operations = [write.operation() for write in writes]
    bulk_write = driver.collection.bulk_write
    try:
        result = await driver.send(lambda: bulk_write(operations, ordered=False), seconds)
    except BulkWriteError as error:
        details = error.details
        if unconfirmed := details["writeConcernErrors"]:
            raise WriteConcernError("not confirmed", unconfirmed[0]["code"]) from error
        refused = {
            entry["index"]: WriteError(entry["errmsg"], entry["code"], entry)
            for entry in details["writeErrors"]
        }
        return refused, details["nInserted"] + details["nMatched"] + details["nRemoved"]
    return {}, result.inserted_count + result.matched_count + result.deleted_count


async def _what_is_there(
    driver: Driver, writes: list[Write], seconds: float
) -> Mapping[bytes, bytes]:
    """Return what has not expired in the places of updates, and of deletes that want to know."""
    asked: dict[bytes, int] = {}
    guarded: list[str] = []
    for write in writes:
        if not isinstance(write, Insert) and write.now_ms is not None:
            asked[write.identifier] = write.now_ms
            guarded += write.guard if isinstance(write, Update) else ()
    if not asked:
        return MappingProxyType({})
    alive = not_expired(max(asked.values()))
    projection = what_is_there(guarded)
    return await driver.find_by_ids(list(asked), seconds, condition=alive, projection=projection)


def _outcome(write: Write, there: Mapping[bytes, bytes]) -> Outcome:
    """Tell what became of one write, from what is there afterwards."""
    raw = None if isinstance(write, Insert) else there.get(write.identifier)
    if raw is None:
        return Missed() if isinstance(write, Update) else None
    try:
        if is_forward(raw):
            return Missed(forward=raw)
        if isinstance(write, Update) and not is_carried_out(raw, write.change, write.guard):
            return Missed()
    except Unreadable:
        # It must not fail the others of the batch; who tries to open it logs a warning.
        return Missed(forward=raw)
    return None
