"""Many stored sessions: documents of the real shape, made without encrypting anything.

For MongoDB an encrypted value is random bytes, so random bytes of the same length are used; every
field with an index has as many different values as with real visitors.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from pymongo.collection import Collection
from pymongo.write_concern import WriteConcern

Document = dict[str, Any]

BATCH = 5000
OWNER_BYTES = 16
SPREAD = timedelta(days=13)


def similar_document(real: Document) -> Document:
    """Make a document that differs from a real one in every field that differs by visitor."""
    moved = timedelta(seconds=random.uniform(0, SPREAD.total_seconds()))
    dates = {name: real[name] - moved for name in ("created_at", "last_seen_at", "expires_at")}
    sealed = {
        os.urandom(len(field)).hex()[: len(field)]: os.urandom(len(value))
        for field, value in real["values"].items()
    }
    identifier = {"_id": os.urandom(len(real["_id"]))}
    return {**real, **dates, **identifier, "owner": os.urandom(OWNER_BYTES), "values": sealed}


def expired(real: Document, at: datetime) -> Document:
    """Make a document of a session that had expired at `at`."""
    return {**similar_document(real), "expires_at": at - timedelta(seconds=1)}


def grow(
    sessions: Collection[Document],
    to: int,
    make: Callable[[], Document],
    show: Callable[[int, int], object] = lambda _held, _to: None,
) -> None:
    """Insert documents until the collection has `to` of them.

    After each batch `show` is called with the number of documents and the number wanted.
    """
    # The journal would only slow down the inserts; nothing is measured here.
    collection = sessions.with_options(write_concern=WriteConcern(w=1, j=False))
    held = collection.estimated_document_count()
    endless: Iterator[Document] = iter(make, None)
    while held < to:
        batch = list(islice(endless, min(BATCH, to - held)))
        collection.insert_many(batch, ordered=False)
        held += len(batch)
        show(held, to)
