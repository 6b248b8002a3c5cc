"""The report about mongod's cache, which `make bench-scale` prints, understands mongod."""

from __future__ import annotations

import os
from typing import Any

from pymongo import MongoClient

from benchmarks.cache import find_ms, look

SESSIONS = 500


def test_cache_report_has_documents_and_indexes(mongo_uri: str, database_name: str) -> None:
    """Sessions that were just stored are all in the cache, and each is found."""
    with MongoClient[dict[str, Any]](mongo_uri) as client:
        sessions = client[database_name]["sessions"]
        sessions.create_index("owner")
        ids = [os.urandom(32) for _ in range(SESSIONS)]
        sessions.insert_many([{"_id": one, "owner": os.urandom(16)} for one in ids])

        cache = look(client, sessions)
        half, most = find_ms(sessions, ids)

    assert set(cache.shares) == {"documents", "_id_", "owner_1"}
    assert min(cache.shares.values()) >= 0.9
    assert cache.data_bytes > SESSIONS * (32 + 16)
    assert 0 < cache.used_bytes < cache.most_bytes
    assert 0 < half <= most
