"""What an error of the driver means: to the app, and in one sentence to an operator.

PyMongo's own messages are for programmers and can be pages long; an operator gets the cause and
the fix. No secret is in it.
"""

from __future__ import annotations

from pymongo.errors import ConfigurationError, ConnectionFailure, OperationFailure, PyMongoError

from storage import IndexConflict

AUTHENTICATION_FAILED = (18, 8000)  # the second is Atlas'
UNAUTHORIZED = 13

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
# The driver has no codes for these; the first sign found in its message counts.
_SIGNS = {"ssl": _TLS, "certificate": _TLS, "connection closed": _EXPECTS_TLS}


def is_away(error: PyMongoError) -> bool:
    """Tell whether MongoDB did not answer, or not in time; any other error is a bug of the app."""
    return isinstance(error, ConnectionFailure) or error.timeout


def explain(error: Exception, database: str) -> str:
    """Say in one sentence why MongoDB cannot be used, and what fixes it."""
    if isinstance(error, IndexConflict):
        return f"MongoDB: {error}"
    if isinstance(error, OperationFailure):
        return f"MONGO_URI: {_refusal(error.code, database)}"
    if isinstance(error, ConfigurationError):
        return (
            "MONGO_URI: its host name cannot be found, or its options contradict the server;"
            " copy the address from your provider again"
        )
    message = str(error).casefold()
    meaning = next((text for sign, text in _SIGNS.items() if sign in message), _AWAY)
    return f"MONGO_URI: {meaning}"


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
