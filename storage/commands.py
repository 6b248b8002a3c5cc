"""The commands that requests share: one find of many documents, one bulk write of many changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from pymongo import DeleteOne, InsertOne, UpdateOne
from pymongo.errors import BulkWriteError, WriteConcernError, WriteError

from storage.document import (
    ONLY_ID,
    Filter,
    MongoUpdate,
    by_id,
    by_ids,
    identifier_of,
    not_expired,
)
from storage.driver import Driver

Operation = InsertOne[Any] | UpdateOne | DeleteOne


class Insert(NamedTuple):
    """Store a new document."""

    document: dict[str, Any]

    def operation(self) -> Operation:
        """Return it as PyMongo's bulk writes take it."""
        return InsertOne(self.document)


class Update(NamedTuple):
    """Change single fields of a document that has not expired at ``now_ms``."""

    identifier: bytes
    now_ms: int
    change: MongoUpdate

    def operation(self) -> Operation:
        """Return it as PyMongo's bulk writes take it."""
        return UpdateOne(self.filter, self.change)

    @property
    def filter(self) -> Filter:
        """Return what the document must still be."""
        # update, not upsert: a session ended by a logout elsewhere must stay ended.
        return by_id(self.identifier) | not_expired(self.now_ms)


class Delete(NamedTuple):
    """Remove a document, if it is there."""

    identifier: bytes

    def operation(self) -> Operation:
        """Return it as PyMongo's bulk writes take it."""
        return DeleteOne(by_id(self.identifier))


Write = Insert | Update | Delete


async def find_documents(
    driver: Driver, groups: list[Sequence[bytes]], seconds: float
) -> list[list[bytes | None]]:
    """Read groups of documents by their ids, as bytes; ``None`` for one that is not there."""
    distinct = list(dict.fromkeys(identifier for group in groups for identifier in group))
    if len(distinct) == 1:
        documents = await driver.find_one(by_id(distinct[0]), seconds)
    else:
        documents = await driver.find(by_ids(distinct), len(distinct), seconds)
    found = {identifier_of(raw): raw for raw in documents}
    return [[found.get(identifier) for identifier in group] for group in groups]


async def write_documents(
    driver: Driver, writes: list[Write], seconds: float
) -> Sequence[bool | BaseException]:
    """Carry out writes; ``False`` for an update that found no document that has not expired.

    A write that the server refuses is a ``StorageUnavailable``, and harms no other.
    """
    if len(writes) == 1:
        return [await _write_one(driver, writes[0], seconds)]
    refused, matched = await _write_many(driver, writes, seconds)
    for error in refused.values():
        driver.report(error)
    updates = [w for n, w in enumerate(writes) if isinstance(w, Update) and n not in refused]
    missed = set() if matched == len(updates) else await _missed(driver, updates, seconds)
    return [
        driver.unavailable(refused[number])
        if number in refused
        else not (isinstance(write, Update) and write.identifier in missed)
        for number, write in enumerate(writes)
    ]


async def _write_one(driver: Driver, write: Write, seconds: float) -> bool:
    # The driver spends less on these than on a bulk write of one.
    collection = driver.collection
    if isinstance(write, Update):
        result = await driver.send(
            lambda: collection.update_one(write.filter, write.change), seconds
        )
        return bool(result.matched_count)
    if isinstance(write, Insert):
        await driver.send(lambda: collection.insert_one(write.document), seconds)
    else:
        await driver.send(lambda: collection.delete_one(by_id(write.identifier)), seconds)
    return True


async def _write_many(
    driver: Driver, writes: list[Write], seconds: float
) -> tuple[dict[int, WriteError], int]:
    """Return refused writes by their positions, and how many updates found their document."""
    operations = [write.operation() for write in writes]
    bulk_write = driver.collection.bulk_write
    try:
        result = await driver.send(lambda: bulk_write(operations, ordered=False), seconds)
    except BulkWriteError as error:
        if unconfirmed := error.details["writeConcernErrors"]:
            raise WriteConcernError("not confirmed", unconfirmed[0]["code"]) from error
        refused = {
            entry["index"]: WriteError(entry["errmsg"], entry["code"], entry)
            for entry in error.details["writeErrors"]
        }
        return refused, error.details["nMatched"]
    return {}, result.matched_count


async def _missed(driver: Driver, updates: list[Update], seconds: float) -> set[bytes]:
    """Return the ids that found no document: of a batch the server only counts the matches."""
    identifiers = [update.identifier for update in updates]
    there = by_ids(identifiers) | not_expired(max(update.now_ms for update in updates))
    found = await driver.find(there, len(identifiers), seconds, projection={**ONLY_ID})
    return set(identifiers) - {identifier_of(raw) for raw in found}
