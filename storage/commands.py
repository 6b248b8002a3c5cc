"""The three writes of a save, and one trip of them: many in one unordered bulk write."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from pymongo import DeleteOne, InsertOne, UpdateOne
from pymongo.errors import BulkWriteError

from storage.document import Operators, alive
from storage.driver import Driver
from storage.errors import StorageUnavailable

Operation = InsertOne[Any] | UpdateOne | DeleteOne


class Insert(NamedTuple):
    """Store a new document."""

    document: dict[str, Any]

    def operation(self) -> Operation:
        """Return it as PyMongo spells it."""
        return InsertOne(self.document)


class Update(NamedTuple):
    """Change single fields of a document that is still alive at ``now_ms``."""

    identifier: bytes
    now_ms: int
    change: Operators

    def operation(self) -> Operation:
        """Return it as PyMongo spells it."""
        return UpdateOne(self.filter, self.change)

    @property
    def filter(self) -> dict[str, Any]:
        """Return what the document must still be."""
        # With update, not upsert: a session ended by a logout elsewhere must stay ended.
        return {"_id": self.identifier, **alive(self.now_ms)}


class Delete(NamedTuple):
    """Remove a document, if it is there."""

    identifier: bytes

    def operation(self) -> Operation:
        """Return it as PyMongo spells it."""
        return DeleteOne({"_id": self.identifier})


Write = Insert | Update | Delete


async def carry_writes(
    driver: Driver, writes: list[Write], seconds: float
) -> Sequence[bool | BaseException]:
    """Carry out writes; ``False`` for an update that found no living document.

    A write that the server refuses is a ``StorageUnavailable``, and harms no other.
    """
    if len(writes) == 1:
        return [await _carry_one(driver, writes[0], seconds)]
    refused, matched = await _carry_many(driver, writes, seconds)
    updates = [w for n, w in enumerate(writes) if isinstance(w, Update) and n not in refused]
    missed = set() if matched == len(updates) else await _missed(driver, updates, seconds)
    return [
        StorageUnavailable()
        if number in refused
        else not (isinstance(write, Update) and write.identifier in missed)
        for number, write in enumerate(writes)
    ]


async def _carry_one(driver: Driver, write: Write, seconds: float) -> bool:
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
        await driver.send(lambda: collection.delete_one({"_id": write.identifier}), seconds)
    return True


async def _carry_many(driver: Driver, writes: list[Write], seconds: float) -> tuple[set[int], int]:
    """Return the positions of refused writes, and how many updates found their document."""
    operations = [write.operation() for write in writes]
    bulk_write = driver.collection.bulk_write
    try:
        result = await driver.send(lambda: bulk_write(operations, ordered=False), seconds)
    except BulkWriteError as error:
        if error.details["writeConcernErrors"]:
            raise
        return {entry["index"] for entry in error.details["writeErrors"]}, error.details["nMatched"]
    return set(), result.matched_count


async def _missed(driver: Driver, updates: list[Update], seconds: float) -> set[bytes]:
    """Return the ids without a living document: of a batch the server only counts the matches."""
    identifiers = [update.identifier for update in updates]
    living = {"_id": {"$in": identifiers}, **alive(max(update.now_ms for update in updates))}
    cursor = driver.collection.find(living, {"_id": True}, batch_size=len(identifiers) + 1)
    documents = await driver.send(lambda: cursor.to_list(None), seconds)
    return set(identifiers) - {document["_id"] for document in documents}
