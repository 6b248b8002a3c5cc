"""Why MongoDB does not serve sessions: from an error to a sentence with the remedy. Pure.

Nothing of the driver's or the server's own text is passed on: it may repeat an address with a
password, or what was sent.

`webapp/database/errors.py` has a table of its own for what fails at its start: it names the app's
variables, and this package is used without the web app. A test compares their codes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from pymongo.errors import (
    AutoReconnect,
    ConfigurationError,
    EncryptionError,
    InvalidOperation,
    NotPrimaryError,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
)
from pymongo.server_description import ServerDescription
from pymongo.topology_description import TopologyDescription

UNAUTHORIZED = 13
REQUEST_RATE_TOO_LARGE = 16500


class Cause(NamedTuple):
    """What is wrong and what fixes it; ``passing`` is what may end without anybody's help."""

    sentence: str
    passing: bool = False


AWAY = Cause(
    "MongoDB is away: nothing answers; check that it runs, that the host and the port of the "
    "address are right, and that its firewall lets this machine in",
    passing=True,
)
SLOW = Cause(
    "MongoDB did not answer in time; check its load and the network, or raise operation_timeout",
    passing=True,
)
CONNECTION_BROKE = Cause(
    "the connection to MongoDB broke before the answer came; check the server's log and the "
    "network if it happens again",
    passing=True,
)
NO_PRIMARY = Cause(
    "MongoDB has no primary that this client can reach; an election takes some seconds; if it "
    "lasts, check rs.status(), name all members in the address with replicaSet=, and leave "
    "directConnection=true out",
    passing=True,
)
WRONG_PASSWORD = Cause(
    "MongoDB refuses the user name or the password; check both, write special characters in the "
    "address as %XX, and name the database of the user with authSource="
)
RIGHTS_MISSING = Cause(
    "the database user may not read and write the sessions, or the address names no user; grant "
    "the user the role readWrite on the database, or name a user in the address"
)
TLS_FAILED = Cause(
    "TLS with MongoDB failed: the server does not use TLS, or its certificate is not trusted or "
    "is for another host name; check tls= and tlsCAFile= in the address"
)
CONNECTION_CLOSED = Cause(
    "MongoDB closes new connections at once, as a server does that expects TLS or has no "
    "connections left; add tls=true to the address, or raise the server's limit"
)
UNKNOWN_HOST = Cause(
    "the host name in MongoDB's address is unknown; check its spelling and the name server of "
    "this machine"
)
WRONG_REPLICA_SET = Cause(
    "no server belongs to a replica set of the name that replicaSet= gives in MongoDB's address; "
    "correct the name (rs.conf() shows it), or leave replicaSet= out for a single server"
)
WRONG_OPTIONS = Cause(
    "the driver cannot use MongoDB's address: its host name is unknown, its options contradict "
    "the server, or the server is too old for this driver; copy the address from your provider "
    "again"
)
CLIENT_CLOSED = Cause(
    "the app has closed MongoDB's client and still uses sessions; close the client in a clean-up "
    "after that of setup"
)
ENCRYPTION_FAILED = Cause(
    "the automatic encryption of MongoDB's client failed; give sessions, which are encrypted "
    "already, a client without auto_encryption_opts, or see that mongocryptd or crypt_shared is "
    "installed"
)
NO_RETRYABLE_WRITES = Cause(
    "this server does not support retryable writes; add retryWrites=false to MongoDB's address"
)
NOT_SUPPORTED = Cause(
    "this server does not support a command that sessions need; use MongoDB, or a server that "
    "supports find, insert, update, delete and findAndModify"
)
VALIDATOR = Cause(
    "a validator of the collection refuses the session; give sessions a collection of their own, "
    "or remove the validator with collMod"
)
UNIQUE_INDEX = Cause(
    "a unique index of the collection refuses the session; give sessions a collection of their "
    "own, or drop that index"
)
VIEW = Cause(
    "the collection is a view, which nobody can write to; give sessions an ordinary collection"
)
CAPPED = Cause(
    "the collection is capped, so that it loses the oldest sessions and cannot have a TTL index; "
    "give sessions an ordinary collection"
)
TIME_SERIES = Cause(
    "the collection is a time series collection, whose documents cannot be changed; give sessions "
    "an ordinary collection"
)
THROTTLED = Cause(
    "the server refuses commands because their rate is too large; raise its throughput (request "
    "units), and on Azure Cosmos DB turn server-side retry on",
    passing=True,
)
DISK_FULL = Cause("the disk of MongoDB is full; free some space there")
NOT_CONFIRMED = Cause(
    "too few members of the replica set confirmed a write in time; check that all members run "
    "and how far they lag",
    passing=True,
)
WRITE_CONCERN = Cause(
    "the replica set can never confirm a write as w= in MongoDB's address asks; use w=majority"
)

# https://github.com/mongodb/mongo/blob/master/src/mongo/base/error_codes.yml, and the codes that
# other servers have added: 8000 is Atlas', 16500 is Azure Cosmos DB's, 303 Amazon DocumentDB's.
_CODES: Mapping[int, Cause] = {
    11: WRONG_PASSWORD,
    18: WRONG_PASSWORD,
    8000: WRONG_PASSWORD,
    UNAUTHORIZED: RIGHTS_MISSING,
    50: SLOW,
    262: SLOW,
    59: NOT_SUPPORTED,
    115: NOT_SUPPORTED,
    303: NOT_SUPPORTED,
    64: NOT_CONFIRMED,
    79: WRITE_CONCERN,
    100: WRITE_CONCERN,
    72: TIME_SERIES,
    10003: CAPPED,
    121: VALIDATOR,
    166: VIEW,
    11000: UNIQUE_INDEX,
    11001: UNIQUE_INDEX,
    14031: DISK_FULL,
    REQUEST_RATE_TOO_LARGE: THROTTLED,
}
# Servers without retryable writes say so under several codes: 20, 2 (Azure Cosmos DB) and 301
# (Amazon DocumentDB), which is "corrupt data" to MongoDB.
_RETRYABLE_WRITES = ("retryable writes", "transaction numbers")
_KINDS: Mapping[type[PyMongoError], Cause] = {
    NotPrimaryError: NO_PRIMARY,
    ConfigurationError: WRONG_OPTIONS,
    InvalidOperation: CLIENT_CLOSED,
    EncryptionError: ENCRYPTION_FAILED,
}
# Of a connection that failed the driver keeps only the text, which is searched for these in order.
_CONNECTION_SIGNS: Mapping[str, Cause] = {
    "ssl": TLS_FAILED,
    "certificate": TLS_FAILED,
    "connection closed": CONNECTION_CLOSED,
    "already closed": CONNECTION_CLOSED,
    "connection reset": CONNECTION_CLOSED,
    # How the resolvers of Linux, macOS and Windows say it.
    "name or service not known": UNKNOWN_HOST,
    "name resolution": UNKNOWN_HOST,
    "no address associated": UNKNOWN_HOST,
    "nodename nor servname": UNKNOWN_HOST,
    "getaddrinfo failed": UNKNOWN_HOST,
}


def cause_of(error: BaseException | None, topology: TopologyDescription | None = None) -> Cause:
    """Return why an operation failed; ``topology`` is what the client knows of its servers.

    ``None`` for an error: no answer came before the deadline.
    """
    if isinstance(error, ServerSelectionTimeoutError) and topology is not None:
        return _no_server(topology)
    if isinstance(error, OperationFailure):
        return _refusal(error)
    for kind, cause in _KINDS.items():
        if isinstance(error, kind):
            return cause
    if error is None or (isinstance(error, PyMongoError) and error.timeout):
        return SLOW
    if isinstance(error, AutoReconnect):
        return CONNECTION_BROKE
    return named(error)


def named(error: BaseException | None) -> Cause:
    """Return the cause of an error that is not known: the name of its class."""
    return Cause(f"the operation failed with {type(error).__name__}")


def _refusal(error: OperationFailure) -> Cause:
    said = str(error).casefold()
    if any(sign in said for sign in _RETRYABLE_WRITES):
        return NO_RETRYABLE_WRITES
    if (cause := _CODES.get(error.code or 0)) is not None:
        return cause
    return Cause(
        f"MongoDB refused a command with code {error.code}; look it up in MongoDB's list of error "
        "codes"
    )


def _no_server(topology: TopologyDescription) -> Cause:
    """Return why the driver has found no server to send a command to."""
    servers: Iterable[ServerDescription] = topology.server_descriptions().values()
    if not servers and topology.replica_set_name is not None:
        return WRONG_REPLICA_SET  # the driver has removed every server that is no member
    for server in servers:
        said = str(server.error or "").casefold()
        if isinstance(server.error, ConfigurationError):
            # A member on which rs.initiate() was not run yet has no name.
            return NO_PRIMARY if "a set named 'none'" in said else WRONG_REPLICA_SET
        if isinstance(server.error, NotPrimaryError | OperationFailure):
            return cause_of(server.error)
        for sign, cause in _CONNECTION_SIGNS.items():
            if sign in said:
                return cause
    # "Away" only where nothing answered.
    return NO_PRIMARY if any(server.is_server_type_known for server in servers) else AWAY
