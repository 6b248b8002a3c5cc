"""Indexes and rights, at start: what the app needs in the database before it serves."""

from __future__ import annotations

from typing import Any

import pymongo
from pymongo.errors import OperationFailure

from webapp.database.client import START_SECONDS, Collection, Database, Documents
from webapp.database.errors import UNAUTHORIZED


async def ensure_index(collection: Documents, field: str, **options: Any) -> None:
    """Create an index on one field; a user without that right is served when it exists.

    Raises PyMongo's error when it is missing and cannot be created.
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
    """Try writes that change nothing; raises PyMongo's error for a user who may only read."""
    with pymongo.timeout(START_SECONDS):
        for name in Collection:
            await database[name].update_one({"_id": None}, {"$unset": {"nothing": ""}})
            await database[name].delete_one({"_id": None})
