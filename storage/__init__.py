"""Server-side sessions for aiohttp, kept encrypted in MongoDB."""

from storage.errors import (
    IndexConflict,
    SessionNotSerializable,
    SessionTooLarge,
    StorageError,
    StorageUnavailable,
)
from storage.middleware import renew_session, setup
from storage.mongo import MongoStorage
from storage.owners import SessionInfo
from storage.sealing import generate_secret

__all__ = [
    "IndexConflict",
    "MongoStorage",
    "SessionInfo",
    "SessionNotSerializable",
    "SessionTooLarge",
    "StorageError",
    "StorageUnavailable",
    "generate_secret",
    "renew_session",
    "setup",
]
