"""What an error of the driver means: to the app, and in one sentence to an operator.

PyMongo's own messages are for programmers and can be pages long; an operator gets the cause and
the fix. No secret is in it.

`storage/causes.py` has a table of its own, which no other package may import. It names what fixes
sessions in any app, while a request waits: the collection, `operation_timeout`. This one names the
variables of this app, and says whether a start that failed is worth repeating. A test compares
their codes.
"""

from __future__ import annotations

from typing import NamedTuple

from pymongo.errors import ConfigurationError, ConnectionFailure, OperationFailure, PyMongoError

from storage import IndexConflict, StorageUnavailable
from webapp.config.settings import ConfigError

UNAUTHORIZED = 13
BAD_VALUE = 2


class Meaning(NamedTuple):
    """Why MongoDB cannot be used, in one sentence; `passing` is what may end by itself."""

    sentence: str
    passing: bool = False


class DatabaseAway(Exception):
    """MongoDB does not answer, or not yet: the same start may succeed later."""


_AWAY = Meaning(
    "MONGO_URI: MongoDB does not answer; check that it runs, that the host and port are right and"
    " that its firewall lets this machine in",
    passing=True,
)
_NO_PRIMARY = Meaning(
    "MONGO_URI: MongoDB answers, but the replica set has no primary that this machine can reach;"
    " check rs.status(), and whether rs.initiate() was run",
    passing=True,
)
_WRONG_REPLICA_SET = Meaning(
    "MONGO_URI: no server there belongs to the replica set that replicaSet= names; use the name"
    " that rs.conf() shows, or leave replicaSet= out for a single server"
)
_TLS = Meaning(
    "MONGO_URI: TLS with MongoDB failed: its certificate is not trusted or is for another name;"
    " check tls= and tlsCAFile= in the address"
)
# A server that expects the other kind closes the connection; so does a proxy whose server is away.
_TLS_CLOSED = Meaning(
    "MONGO_URI: MongoDB ends the TLS handshake; it does not speak TLS (check tls= in the address),"
    " does not let this machine in (on Atlas: the IP access list), or is away behind a proxy",
    passing=True,
)
_EXPECTS_TLS = Meaning(
    "MONGO_URI: MongoDB closes the connection, as a server does that expects TLS; add tls=true to"
    " the address, or wait if it is only starting behind a proxy",
    passing=True,
)
# The driver has no codes for these; the first sign found in its message counts.
_SIGNS = {
    "certificate": _TLS,
    "wrong version number": _TLS,
    "ssl": _TLS_CLOSED,
    "connection closed": _EXPECTS_TLS,
    "connection reset": _EXPECTS_TLS,
    # A member on which rs.initiate() was not run yet has no name.
    "belongs to a set named 'none'": _NO_PRIMARY,
    "configured to connect to a replica set named": _WRONG_REPLICA_SET,
    "available for replica set name": _WRONG_REPLICA_SET,
    "server_type: rs": _NO_PRIMARY,
}
_ADDRESS = Meaning(
    "MONGO_URI: its host name cannot be found, or its options contradict the server; copy the"
    " address from your provider again"
)
# What dnspython says when no name server answers: the network may not be up yet.
_NO_NAME_SERVER = ("resolution lifetime expired", "all nameservers failed", "timed out")
_NAMES_AWAY = Meaning(
    "MONGO_URI: no name server answers for the host of mongodb+srv://; check the network",
    passing=True,
)
_PASSWORD = Meaning(
    "MONGO_URI: MongoDB refuses the user name or the password; check both, escape special"
    " characters as %XX, and name the user's database with authSource="
)
_WRITE_CONCERN = Meaning(
    "MONGO_URI: the replica set can never confirm a write as w= asks; use w=majority"
)
_SINGLE_SERVER = Meaning(
    "MONGO_URI: w= asks for several members of a replica set, but this is a single server; leave w="
    " out, or use w=majority"
)
_NOT_CONFIRMED = Meaning(
    "MONGO_URI: too few members of the replica set confirmed a write in time; check that all"
    " members run and how far they lag",
    passing=True,
)
_BUSY = Meaning(
    "MONGO_URI: MongoDB is too busy; check its load, or raise its throughput (request units) where"
    " it limits the rate of commands",
    passing=True,
)
# https://github.com/mongodb/mongo/blob/master/src/mongo/base/error_codes.yml; 8000 is Atlas', 16500
# is Azure Cosmos DB's.
_CODES = {
    11: _PASSWORD,
    18: _PASSWORD,
    8000: _PASSWORD,
    64: _NOT_CONFIRMED,
    79: _WRITE_CONCERN,
    100: _WRITE_CONCERN,
    262: _BUSY,
    16500: _BUSY,
}


def is_away(error: PyMongoError) -> bool:
    """Tell whether MongoDB did not answer, or not in time; any other error is a bug of the app."""
    return isinstance(error, ConnectionFailure) or error.timeout


def failed_start(error: Exception, database: str) -> ConfigError | DatabaseAway:
    """Return what to raise at start: whether an operator must act, or time may be enough."""
    meaning = explain(error, database)
    return (DatabaseAway if meaning.passing else ConfigError)(meaning.sentence)


def explain(error: BaseException, database: str) -> Meaning:
    """Say in one sentence why MongoDB cannot be used, and what fixes it."""
    if isinstance(error, StorageUnavailable) and error.__cause__ is not None:
        return explain(error.__cause__, database)
    if isinstance(error, IndexConflict):
        return Meaning(f"MongoDB: {error}")
    if isinstance(error, PyMongoError) and is_away(error):
        return _silence(str(error).casefold())
    if isinstance(error, OperationFailure):
        return _refusal(error, database)
    if isinstance(error, ConfigurationError):
        is_silent = any(sign in str(error).casefold() for sign in _NO_NAME_SERVER)
        return _NAMES_AWAY if is_silent else _ADDRESS
    return _AWAY


def _silence(message: str) -> Meaning:
    return next((meaning for sign, meaning in _SIGNS.items() if sign in message), _AWAY)


def _refusal(error: OperationFailure, database: str) -> Meaning:
    code = error.code
    if code in _CODES:
        return _CODES[code]
    # BadValue is many things; of these only the one about w= names it.
    if code == BAD_VALUE and "'w'" in str(error):
        return _SINGLE_SERVER
    if code == UNAUTHORIZED:
        return Meaning(
            f"MONGO_URI: the user may not write to the database {database!r} or not make indexes"
            f' in it; have an administrator run db.grantRolesToUser(USER, [{{role: "readWrite",'
            f' db: "{database}"}}])'
        )
    return Meaning(
        f"MONGO_URI: MongoDB refused an operation with code {code}; look the code up in"
        " MongoDB's list of error codes"
    )
