"""One trip of loads: many documents in one ``find``, each as the bytes that MongoDB keeps."""

from __future__ import annotations

from collections.abc import Sequence

from storage.document import bson_of, identifier_of
from storage.driver import Driver


async def carry_finds(
    driver: Driver, identifiers: list[bytes], seconds: float
) -> Sequence[bytes | None]:
    """Read documents by their ids; ``None`` for one that is not there."""
    collection = driver.as_sent
    distinct = list(dict.fromkeys(identifiers))
    if len(distinct) == 1:
        # The driver spends less on this than on a cursor.
        lone = await driver.send(lambda: collection.find_one({"_id": distinct[0]}), seconds)
        documents = [] if lone is None else [lone]
    else:
        # One more than can come: the server then knows that there is nothing left to ask for.
        cursor = collection.find({"_id": {"$in": distinct}}, batch_size=len(distinct) + 1)
        documents = await driver.send(lambda: cursor.to_list(None), seconds)
    found = {identifier_of(raw): raw for raw in map(bson_of, documents)}
    return [found.get(identifier) for identifier in identifiers]
