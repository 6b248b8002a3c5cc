"""The client: how the app connects to MongoDB, and how it closes the connection."""

from __future__ import annotations

from datetime import UTC
from enum import StrEnum
from typing import Any

import pymongo
from bson.codec_options import CodecOptions
from motor.motor_asyncio import (
    AsyncIOMotorClient,
    AsyncIOMotorCollection,
    AsyncIOMotorDatabase,
)
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference

from webapp.config import mongo_address
from webapp.config.settings import Config

# At start: an operator waits for the answer, and a platform gives 60 s to bind.
START_SECONDS = 5.0
# In requests: longer than any normal operation, shorter than a router waits.
OPERATION_SECONDS = 5.0
CLOSE_SECONDS = 1.0

Database = AsyncIOMotorDatabase[dict[str, Any]]
Documents = AsyncIOMotorCollection[dict[str, Any]]


class Collection(StrEnum):
    """The collections of the app; the user of `MONGO_URI` must be allowed to write to each."""

    SESSIONS = "sessions"
    USERS = "users"
    THROTTLE = "throttle"


def connect(config: Config) -> AsyncIOMotorClient[dict[str, Any]]:
    """Make the client; it connects with the first operation.  Call it inside the running loop.

    Writes are acknowledged once they are in the journal, and every operation ends within five
    seconds, unless the address says otherwise.
    """
    defaults: dict[str, Any] = {"appname": "webapp", "tz_aware": True}
    if not mongo_address.has_option(config.mongo_uri, "journal", "j"):
        defaults["journal"] = True
    if not mongo_address.has_option(config.mongo_uri, "timeoutMS"):
        defaults["timeoutMS"] = round(OPERATION_SECONDS * 1000)
    return AsyncIOMotorClient(config.mongo_uri, **defaults)


def open_database(client: AsyncIOMotorClient[dict[str, Any]], name: str) -> Database:
    """Return the database of the app, which is read from the primary whatever the address says.

    A secondary lags, by hours where it must: a password that was changed would sign in again, and
    a session that was ended would be accepted.  The read concern is part of it: with the one of an
    address, "majority", the primary too answers with the past while the others lag.
    """
    return client.get_database(
        name, read_preference=ReadPreference.PRIMARY, read_concern=ReadConcern("local")
    )


def disconnect(client: AsyncIOMotorClient[dict[str, Any]]) -> None:
    """Close the connection, in a second at most.

    PyMongo tells the server that it ends, and looks for a server that is away for half a minute:
    longer than a platform lets a process end.
    """
    with pymongo.timeout(CLOSE_SECONDS):
        client.close()


def collection(database: Database, name: Collection) -> Documents:
    """Return a collection whose dates are read as aware UTC."""
    return database[name].with_options(codec_options=CodecOptions(tz_aware=True, tzinfo=UTC))


async def ping(database: Database, *, seconds: float) -> None:
    """Wait for any answer of MongoDB; raises PyMongo's error when none comes in time."""
    with pymongo.timeout(seconds):
        await database.command("ping")
