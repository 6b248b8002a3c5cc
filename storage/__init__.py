"""Server-side sessions for aiohttp, kept encrypted in MongoDB."""

from storage.connections import save_session, watch_session
from storage.errors import (
    IndexConflict,
    SessionEnded,
    SessionNotSerializable,
    SessionTooLarge,
    StorageError,
    StorageUnavailable,
)
from storage.middleware import setup
from storage.mongo import MongoStorage
from storage.owners import SessionInfo
from storage.sealing import generate_secret
from storage.session import renew_session

__all__ = [
    "IndexConflict",
    "MongoStorage",
    "SessionEnded",
    "SessionInfo",
    "SessionNotSerializable",
    "SessionTooLarge",
    "StorageError",
    "StorageUnavailable",
    "generate_secret",
    "renew_session",
    "save_session",
    "setup",
    "watch_session",
]

# Tracebacks and documentation show what to import: storage.MongoStorage. The modules of this
# package, ``storage.testing`` apart, are its own and change without notice.
for _name in __all__:
    globals()[_name].__module__ = __name__
