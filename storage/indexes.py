"""The two indexes: created where they are missing, repaired where they differ.

The TTL index lets MongoDB delete what reads already refuse; the owner index serves the look-ups of
one owner's sessions.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from contextvars import Context
from typing import Any

from pymongo.errors import OperationFailure, PyMongoError

from storage.causes import CAPPED, TIME_SERIES, UNAUTHORIZED
from storage.document import OWNER_FIELD, TTL_FIELD
from storage.driver import Driver, retrieve_error
from storage.errors import IndexConflict, StorageUnavailable

logger: logging.Logger = logging.getLogger(__name__)

RETRY_SECONDS = 5.0
# Longer than any answer but that of building an index on a large collection.
START_WAITS_SECONDS = 10.0
_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    TTL_FIELD: {"expireAfterSeconds": 0},
    OWNER_FIELD: {"sparse": True},
}
_OTHER_PROCESS_WAS_FASTER = (85, 86)  # IndexOptionsConflict, IndexKeySpecsConflict
# BadValue (Azure Cosmos DB says so), CommandNotFound, CannotCreateIndex, InvalidOptions,
# CommandNotSupported, InvalidIndexSpecificationOption, and Amazon DocumentDB's "feature not
# supported". Neither another try nor an administrator would help.
_SERVER_REFUSES = (2, 59, 67, 72, 115, 197, 303)

Index = Mapping[str, Any]
# For an administrator.
Command = Mapping[str, Any]
# Why this server or this collection cannot have an index, and what to do instead.
Refusal = str


class IndexWork:
    """Creates the indexes in the background, again and again until MongoDB has answered.

    A class because it runs once for a storage, however many apps share it.
    """

    def __init__(self, driver: Driver) -> None:
        """Prepare; nothing runs yet."""
        self._driver = driver
        self._task: asyncio.Task[None] | None = None
        self._first_try = asyncio.Event()
        # Until somebody has asked for the indexes: an app may store sessions without ``setup``.
        self.needed: bool = True

    def begin(self) -> asyncio.Task[None]:
        """Start it in the background unless it runs."""
        self.needed = False
        if self._task is None:
            self._first_try.clear()
            # In a context of its own: a timeout of the request must not reach it.
            self._task = asyncio.get_running_loop().create_task(self._run(), context=Context())
            self._task.add_done_callback(retrieve_error)
        return self._task

    async def start(self) -> None:
        """Start it unless it runs; wait some seconds for the first try.

        Not longer: an index that takes minutes to build is built while the app serves, and a
        platform ends an app that starts too slowly. Raises what is a mistake in the app.
        """
        if self._task is None:
            task = self.begin()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._first_try.wait(), START_WAITS_SECONDS)
            if task.done():
                task.result()

    async def stop(self) -> None:
        """Stop trying."""
        task, self._task = self._task, None
        if task is not None and not task.done():
            task.cancel()
            await asyncio.wait({task})

    async def _run(self) -> None:
        while True:
            try:
                return await create_indexes(self._driver)
            except StorageUnavailable:
                # Why is logged where it is known, once a minute.
                if not self._first_try.is_set():
                    logger.warning("the indexes could not be checked; trying again until they are")
            except IndexConflict as conflict:
                return logger.error("%s", conflict)  # noqa: TRY400 - one line, no traceback
            finally:
                self._first_try.set()
            await asyncio.sleep(RETRY_SECONDS)


async def create_indexes(driver: Driver) -> None:
    """Create or repair both indexes; see ``MongoStorage.create_indexes``."""
    # In the driver's own task: the task that waits may be cancelled. Closing does not wait for it:
    # building an index can take minutes, and the next start asks for it again.
    await driver.finish(_ensure_all(driver), drain=False)


async def _ensure_all(driver: Driver) -> None:
    try:
        needed = [await _ensure(driver, field) for field in _OPTIONS]
    except PyMongoError as error:
        driver.report(error)
        raise driver.unavailable(error) from error
    if needed != [None] * len(needed):
        raise _conflict(driver, [need for need in needed if need is not None])


async def _ensure(driver: Driver, field: str) -> Command | Refusal | None:
    """Create or repair one index; return what to do where that failed."""
    existing = await _indexes_on(driver, field)
    if not existing:
        try:
            await _create(driver, field)
        except OperationFailure as error:
            if error.code in _SERVER_REFUSES:
                return await _refusal(driver, field, error.code)
            if error.code in _OTHER_PROCESS_WAS_FASTER:
                existing = await _indexes_on(driver, field)
            elif error.code != UNAUTHORIZED:
                raise
        else:
            return None
    return await _repair(driver, field, existing) if existing else _creation(driver, field)


async def _indexes_on(driver: Driver, field: str) -> dict[str, Index]:
    """Return the ordinary indexes on one field by their names; hashed ones and such do no harm."""
    try:
        indexes = await driver.send(driver.collection.index_information, driver.timeout_seconds)
    except OperationFailure as error:
        if error.code not in (UNAUTHORIZED, *_SERVER_REFUSES):
            raise
        return {}
    return {
        name: index
        for name, index in indexes.items()
        if [*index["key"]] in ([(field, 1)], [(field, -1)])
    }


async def _create(driver: Driver, field: str) -> None:
    create_index = driver.collection.create_index
    # Without a limit of seconds: on a large collection building an index takes minutes, or more.
    await driver.send(lambda: create_index([(field, 1)], **_OPTIONS[field]), None)


async def _repair(driver: Driver, field: str, existing: Mapping[str, Index]) -> Command | None:
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
        permitted = error.code != UNAUTHORIZED
        return _drop(driver, ordinary) if permitted else {"collMod": name, **change}
    return None


async def _refusal(driver: Driver, field: str, code: int | None) -> Refusal:
    options: Mapping[str, Any] = {}
    with suppress(OperationFailure):  # it may be refused too, and only explains
        options = await driver.send(driver.collection.options, driver.timeout_seconds)
    if options.get("capped"):
        return CAPPED.sentence
    if "timeseries" in options:
        return TIME_SERIES.sentence
    if field == OWNER_FIELD:
        return (
            f"the server refuses an index on {field} (code {code}); sessions work without it, and "
            "to list or end the sessions of an owner takes longer"
        )
    return (
        f"the server refuses a TTL index on {field} (code {code}); expired sessions open for "
        "nobody, but stay stored: call purge() once a day, or, on Azure Cosmos DB, create a TTL "
        "index on _ts with more seconds than the longest max_age"
    )


def _drop(driver: Driver, names: list[str]) -> Command:
    return {"dropIndexes": driver.collection.name, "index": names}


def _creation(driver: Driver, field: str) -> Command:
    index = {"key": {field: 1}, "name": f"{field}_1", **_OPTIONS[field]}
    return {"createIndexes": driver.collection.name, "indexes": [index]}


def _conflict(driver: Driver, needed: Sequence[Command | Refusal]) -> IndexConflict:
    collection = driver.collection
    if refusals := dict.fromkeys(need for need in needed if isinstance(need, Refusal)):
        return IndexConflict(f"{collection.full_name}: {'; '.join(refusals)}")
    shell = f"db.getSiblingDB({json.dumps(collection.database.name)})"
    calls = "; ".join(f"{shell}.runCommand({json.dumps(command)})" for command in needed)
    return IndexConflict(
        f"the indexes of {collection.full_name} are not as sessions need them, and this user may "
        f"not repair them; have an administrator run {calls} and start the app again (a user needs "
        "the action listIndexes to see that they are there)"
    )
