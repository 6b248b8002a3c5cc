"""One trip of loads: many documents in one ``find``."""

from __future__ import annotations

from collections.abc import Sequence

from pymongo.errors import PyMongoError

from storage.document import Document
from storage.driver import Driver
from storage.errors import Unreadable

Found = dict[bytes, Document | BaseException]


async def carry_finds(
    driver: Driver, identifiers: list[bytes], seconds: float
) -> Sequence[Document | BaseException | None]:
    """Read documents by their ids; ``None`` for one that is not there.

    One that the driver cannot decode is ``Unreadable``, and harms no other.
    """
    distinct = list(dict.fromkeys(identifiers))
    try:
        found = await _find(driver, distinct, seconds)
    except Unreadable:
        found = await _find_each(driver, distinct, seconds)
    return [found.get(identifier) for identifier in identifiers]


async def _find(driver: Driver, distinct: list[bytes], seconds: float) -> Found:
    collection = driver.collection
    try:
        if len(distinct) == 1:
            lone = await driver.send(lambda: collection.find_one({"_id": distinct[0]}), seconds)
            return {} if lone is None else {distinct[0]: lone}
        # One more than can come: the server then knows that there is nothing left to ask for.
        cursor = collection.find({"_id": {"$in": distinct}}, batch_size=len(distinct) + 1)
        documents = await driver.send(lambda: cursor.to_list(None), seconds)
    except PyMongoError:
        raise
    except Exception:  # noqa: BLE001 - whatever the driver's decoder raises
        raise Unreadable("the driver cannot decode it") from None
    return {document["_id"]: document for document in documents}


async def _find_each(driver: Driver, distinct: list[bytes], seconds: float) -> Found:
    found: Found = {}
    for identifier in distinct:
        try:
            found.update(await _find(driver, [identifier], seconds))
        except Unreadable as reason:
            found[identifier] = reason
    return found
