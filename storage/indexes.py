"""The two indexes: created where they are missing, repaired where they differ.

The TTL index lets MongoDB sweep what reads already refuse; the owner index serves the look-ups of
one owner's sessions.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from pymongo.errors import OperationFailure, PyMongoError

from storage.driver import Driver
from storage.errors import IndexConflict, StorageUnavailable

TTL_FIELD = "expires_at"
OWNER_FIELD = "owner"
_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    TTL_FIELD: {"expireAfterSeconds": 0},
    OWNER_FIELD: {"sparse": True},
}
# They change which documents an index holds or which it refuses; collMod does not mend them.
_UNMENDABLE = ("unique", "partialFilterExpression")
_UNAUTHORIZED = 13
_OTHER_PROCESS_WAS_FASTER = (85, 86)  # IndexOptionsConflict, IndexKeySpecsConflict

Index = Mapping[str, Any]


async def create_indexes(driver: Driver) -> None:
    """Create or repair both indexes; see ``MongoStorage.create_indexes``."""
    # In the driver's own task: whoever waits for it may be cancelled.
    await asyncio.shield(driver.start(_ensure_all(driver)))


async def _ensure_all(driver: Driver) -> None:
    try:
        for field in _OPTIONS:
            await _ensure(driver, field)
    except PyMongoError as error:
        raise StorageUnavailable from error


async def _ensure(driver: Driver, field: str) -> None:
    existing = await _indexes_on(driver, field)
    if not existing:
        try:
            await _create(driver, field)
        except OperationFailure as error:
            if error.code not in _OTHER_PROCESS_WAS_FASTER:
                raise _conflict(driver, _creation(driver, field)) from error
            existing = await _indexes_on(driver, field)
    if existing and not any(_serves(field, index) for index in existing.values()):
        await _repair(driver, field, existing)


async def _indexes_on(driver: Driver, field: str) -> dict[str, Index]:
    try:
        indexes = await driver.send(driver.collection.index_information, driver.timeout_seconds)
    except OperationFailure as error:
        if error.code != _UNAUTHORIZED:
            raise
        # Who may not look may still create: an index that is already there is left as it is.
        return {}
    return {
        name: index
        for name, index in indexes.items()
        if [key for key, _direction in index["key"]] == [field]
    }


def _serves(field: str, index: Index) -> bool:
    if any(option in index for option in _UNMENDABLE):
        return False
    return field != TTL_FIELD or index.get("expireAfterSeconds") == 0


async def _create(driver: Driver, field: str) -> None:
    create_index = driver.collection.create_index
    # No time limit: on a large collection building an index takes minutes.
    await driver.send(lambda: create_index([(field, 1)], **_OPTIONS[field]), None)


async def _repair(driver: Driver, field: str, existing: Mapping[str, Index]) -> None:
    name, index = next(iter(existing.items()))
    if any(option in index for option in _UNMENDABLE):
        drop = {"dropIndexes": driver.collection.name, "index": name}
        raise _conflict(driver, drop, "and start the app again")
    mend = {"index": {"name": name, **_OPTIONS[field]}}
    collection = driver.collection
    try:
        await driver.send(
            lambda: collection.database.command("collMod", collection.name, **mend),
            driver.timeout_seconds,
        )
    except OperationFailure as error:
        raise _conflict(driver, {"collMod": collection.name, **mend}) from error


def _creation(driver: Driver, field: str) -> dict[str, Any]:
    index = {"key": {field: 1}, "name": f"{field}_1", **_OPTIONS[field]}
    return {"createIndexes": driver.collection.name, "indexes": [index]}


def _conflict(driver: Driver, command: Mapping[str, Any], then: str = "") -> IndexConflict:
    collection = driver.collection
    shell = f"db.getSiblingDB({json.dumps(collection.database.name)})"
    return IndexConflict(
        f"the indexes of {collection.full_name} are not as sessions need them, and MongoDB did not "
        f"let this user change them; have an administrator run "
        f"{shell}.runCommand({json.dumps(command)}) {then}".rstrip()
    )
