"""The report about mongod's cache, which `make bench-scale` prints, reads mongod's statistics."""

from __future__ import annotations

import os
from typing import Any

from pymongo import MongoClient

from benchmarks.cache import Cache, find_ms, look
from tests.waiting import until

SESSIONS = 500
# Of the documents, and of each index. What was read from the disk takes 0.57 to 1.3 of its size.
CACHED = 0.5


def test_cache_report_has_documents_and_indexes(mongo_uri: str, database_name: str) -> None:
    """Sessions that were just read are all in the cache, and each is found."""
    with MongoClient[dict[str, Any]](mongo_uri) as client:
        sessions = client[database_name]["sessions"]
        sessions.create_index("owner")
        ids = [os.urandom(32) for _ in range(SESSIONS)]
        sessions.insert_many([{"_id": one, "owner": os.urandom(16)} for one in ids])

        def all_cached() -> Cache | None:
            # A checkpoint may have written pages to the disk; reading them brings them back.
            for index in ("_id_", "owner_1"):
                assert len(list(sessions.find(hint=index))) == SESSIONS
            cache = look(client, sessions)
            return cache if min(cache.shares.values()) >= CACHED else None

        cache = until(all_cached, seconds=10)
        half, most = find_ms(sessions, ids)

    assert set(cache.shares) == {"documents", "_id_", "owner_1"}
    assert cache.data_bytes > SESSIONS * (32 + 16)
    assert 0 < cache.used_bytes < cache.most_bytes
    assert 0 < half <= most
