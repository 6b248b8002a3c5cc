"""The connection to MongoDB, and what is said when it does not come about.

PyMongo's own messages are for programmers and can be pages long; an operator gets one sentence
with the cause and the mend.
"""

from __future__ import annotations

from typing import Any

import pymongo
from motor.motor_asyncio import (
    AsyncIOMotorClient,
    AsyncIOMotorCollection,
    AsyncIOMotorDatabase,
)
from pymongo.errors import ConfigurationError, ConnectionFailure, OperationFailure, PyMongoError

from storage import IndexConflict
from webapp.config import mongo_address
from webapp.config.settings import Config, ConfigError

# At start: an operator waits for the answer, and a platform gives 60 s to bind.
START_SECONDS = 5.0
# In requests: longer than any healthy operation, shorter than a router's patience.
OPERATION_MILLISECONDS = 5_000
GOODBYE_SECONDS = 1.0
AUTHENTICATION_FAILED = (18, 8000)  # the second is Atlas'
UNAUTHORIZED = 13

Database = AsyncIOMotorDatabase[dict[str, Any]]


def connect(config: Config) -> AsyncIOMotorClient[dict[str, Any]]:
    """Make the client; it connects with the first operation.  Call it inside the running loop.

    Writes are acknowledged once they are in the journal, and every operation ends within five
    seconds, unless the address says otherwise.
    """
    defaults: dict[str, Any] = {"appname": "webapp", "tz_aware": True}
    if not mongo_address.says(config.mongo_uri, "journal", "j"):
        defaults["journal"] = True
    if not mongo_address.says(config.mongo_uri, "timeoutMS"):
        defaults["timeoutMS"] = OPERATION_MILLISECONDS
    return AsyncIOMotorClient(config.mongo_uri, **defaults)


def disconnect(client: AsyncIOMotorClient[dict[str, Any]]) -> None:
    """Close the connection, in a second at most.

    PyMongo says goodbye to the server, and would look for one that is away for half a minute:
    longer than a platform lets a process end.
    """
    with pymongo.timeout(GOODBYE_SECONDS):
        client.close()


async def ping(database: Database) -> None:
    """Ask MongoDB for any answer; raises `ConfigError` when none comes in time."""
    try:
        with pymongo.timeout(START_SECONDS):
            await database.command("ping")
    except PyMongoError as error:
        raise ConfigError(explain(error, database.name)) from None


async def ensure_index(
    collection: AsyncIOMotorCollection[dict[str, Any]], field: str, **options: Any
) -> None:
    """Create an index on one field, unless it is there and this user may not create any.

    Raises PyMongo's error when it is missing and cannot be made.
    """
    try:
        await collection.create_index(field, **options)
    except OperationFailure as refusal:
        if refusal.code != UNAUTHORIZED:
            raise
        existing = (await collection.index_information()).values()
        wanted = {"key": [(field, 1)], **options}
        if not any(
            all(index.get(key) == value for key, value in wanted.items()) for index in existing
        ):
            raise


async def check_rights(database: Database) -> None:
    """Try a write that changes nothing; raises `ConfigError` for a user who may only read."""
    try:
        with pymongo.timeout(START_SECONDS):
            for name in ("sessions", "users", "throttle"):
                await database[name].update_one({"_id": None}, {"$unset": {"nothing": ""}})
                await database[name].delete_one({"_id": None})
    except PyMongoError as error:
        raise ConfigError(explain(error, database.name)) from None


def is_away(error: PyMongoError) -> bool:
    """Tell whether MongoDB did not answer, or not in time; all else is a mistake of ours."""
    return isinstance(error, ConnectionFailure) or error.timeout


def explain(error: Exception, database: str) -> str:
    """Say in one sentence why MongoDB cannot be used, and what mends it; no secret is in it."""
    if isinstance(error, IndexConflict):
        return f"MongoDB: {error}"
    if isinstance(error, OperationFailure):
        return f"MONGO_URI: {_refusal(error.code, database)}"
    if isinstance(error, ConfigurationError):
        return (
            "MONGO_URI: its host name cannot be found, or its options contradict the server;"
            " copy the address from your provider again"
        )
    told = str(error).casefold()
    signs = (sign for sign, _ in _SIGNS if sign in told)
    return f"MONGO_URI: {dict(_SIGNS).get(next(signs, ''), _AWAY)}"


_AWAY = (
    "MongoDB does not answer; check that it runs, that the host and port are right and that its"
    " firewall lets this machine in"
)
_TLS = (
    "TLS with MongoDB failed: its certificate is not trusted, or one side does not speak TLS;"
    " check tls= and tlsCAFile= in the address"
)
_EXPECTS_TLS = (
    "MongoDB closes the connection, as a server does that expects TLS; add tls=true to the address"
)
# The driver tells these only in words.
_SIGNS = (
    ("ssl", _TLS),
    ("certificate", _TLS),
    ("connection closed", _EXPECTS_TLS),
)


def _refusal(code: int | None, database: str) -> str:
    if code in AUTHENTICATION_FAILED:
        return (
            "MongoDB refuses the user name or the password; check both, escape special"
            " characters as %XX, and name the user's database with authSource="
        )
    if code == UNAUTHORIZED:
        return (
            f"the user may not write to the database {database!r} or not make indexes in it;"
            f' have an administrator run db.grantRolesToUser(USER, [{{role: "readWrite",'
            f' db: "{database}"}}])'
        )
    return (
        f"MongoDB refused an operation with code {code}; look the code up in"
        " MongoDB's list of error codes"
    )
