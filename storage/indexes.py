"""The two indexes: created where they are missing, repaired where they differ.

The TTL index lets MongoDB sweep what reads already refuse; the owner index serves the look-ups of
one owner's sessions.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
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
_UNAUTHORIZED = 13
_OTHER_PROCESS_WAS_FASTER = (85, 86)  # IndexOptionsConflict, IndexKeySpecsConflict

Index = Mapping[str, Any]
Command = Mapping[str, Any]


async def create_indexes(driver: Driver) -> None:
    """Create or repair both indexes; see ``MongoStorage.create_indexes``."""
    # In the driver's own task: whoever waits for it may be cancelled. Closing does not wait for it:
    # building an index can take minutes, and the next start asks for it again.
    await asyncio.shield(driver.start(_ensure_all(driver), drain=False))


async def _ensure_all(driver: Driver) -> None:
    try:
        needed = [await _ensure(driver, field) for field in _OPTIONS]
    except PyMongoError as error:
        raise StorageUnavailable from error
    if commands := [command for command in needed if command is not None]:
        raise _conflict(driver, commands)


async def _ensure(driver: Driver, field: str) -> Command | None:
    """Create or repair one index; return the command for an administrator where that failed."""
    existing = await _indexes_on(driver, field)
    if not existing:
        try:
            await _create(driver, field)
        except OperationFailure as error:
            if error.code in _OTHER_PROCESS_WAS_FASTER:
                existing = await _indexes_on(driver, field)
            elif await _is_used(driver, field):
                return None
        else:
            return None
    return await _mend(driver, field, existing) if existing else _creation(driver, field)


async def _indexes_on(driver: Driver, field: str) -> dict[str, Index]:
    """Return the ordinary indexes on one field by their names; hashed ones and such do no harm."""
    try:
        indexes = await driver.send(driver.collection.index_information, driver.timeout_seconds)
    except OperationFailure as error:
        if error.code != _UNAUTHORIZED:
            raise
        return {}
    return {
        name: index
        for name, index in indexes.items()
        if [*index["key"]] in ([(field, 1)], [(field, -1)])
    }


async def _is_used(driver: Driver, field: str) -> bool:
    # Who may not list indexes can still ask how a query would be answered.
    find = {"find": driver.collection.name, "filter": {field: b""}}
    explain = driver.collection.database.command
    try:
        plan = await driver.send(lambda: explain("explain", find), driver.timeout_seconds)
    except OperationFailure:
        return False
    return "IXSCAN" in str(plan["queryPlanner"]["winningPlan"])


async def _create(driver: Driver, field: str) -> None:
    create_index = driver.collection.create_index
    # It may take a day: on a large collection building an index takes minutes, or more.
    await driver.send(lambda: create_index([(field, 1)], **_OPTIONS[field]), None)


async def _mend(driver: Driver, field: str, existing: Mapping[str, Index]) -> Command | None:
    """Give one of the indexes our options; return the command for what this user cannot do."""
    if unique := [name for name, index in existing.items() if index.get("unique")]:
        return _drop(driver, unique)  # it would refuse sessions
    ordinary = [n for n, index in existing.items() if "partialFilterExpression" not in index]
    if not ordinary:
        return _drop(driver, [*existing])  # it misses sessions
    if field != TTL_FIELD or any(existing[n].get("expireAfterSeconds") == 0 for n in ordinary):
        return None
    change = {"index": {"name": ordinary[0], **_OPTIONS[field]}}
    name, command = driver.collection.name, driver.collection.database.command
    try:
        await driver.send(lambda: command("collMod", name, **change), driver.timeout_seconds)
    except OperationFailure as error:
        # MongoDB before 5.1 cannot turn every index into a TTL index.
        permitted = error.code != _UNAUTHORIZED
        return _drop(driver, ordinary) if permitted else {"collMod": name, **change}
    return None


def _drop(driver: Driver, names: list[str]) -> Command:
    return {"dropIndexes": driver.collection.name, "index": names}


def _creation(driver: Driver, field: str) -> Command:
    index = {"key": {field: 1}, "name": f"{field}_1", **_OPTIONS[field]}
    return {"createIndexes": driver.collection.name, "indexes": [index]}


def _conflict(driver: Driver, commands: Sequence[Command]) -> IndexConflict:
    collection = driver.collection
    shell = f"db.getSiblingDB({json.dumps(collection.database.name)})"
    calls = "; ".join(f"{shell}.runCommand({json.dumps(command)})" for command in commands)
    return IndexConflict(
        f"the indexes of {collection.full_name} are not as sessions need them, and this user may "
        f"not mend them; have an administrator run {calls} and start the app again"
    )
