"""The size of one stored session in bytes, including indexes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from pymongo import MongoClient
from redis import Redis

from benchmarks.results import Stored
from benchmarks.servers import Databases, Running
from benchmarks.visitors import sign_in


def bytes_per_session(peers: Sequence[Running], where: Databases) -> dict[str, Stored]:
    """Ask each database, after the logins have filled it, for the size of one session."""
    found: dict[str, Stored] = {}
    for peer in peers:
        if peer.peer.database is not None:
            found[peer.peer.name] = _in_mongodb(where.mongo, peer.peer.database)
        elif peer.peer.name == "redis":
            found["redis"] = _in_redis(where.redis)
        elif peer.peer.name == "cookie":
            [cookie] = asyncio.run(sign_in(peer.url, 1))
            found["cookie"] = Stored("browser", "1", len(cookie))
    return found


def _in_mongodb(uri: str, database: str) -> Stored:
    with MongoClient[dict[str, Any]](uri) as client:
        client.admin.command("fsync")  # sizes of indexes are those of the last checkpoint
        stats = client[database].command("collStats", "sessions")
    # Uncompressed documents, because encrypted bytes hardly compress, and indexes as on disk.
    count = stats["count"]
    return Stored("MongoDB", f"{count:,}", stats["size"] // count, stats["totalIndexSize"] // count)


def _in_redis(url: str) -> Stored:
    with Redis.from_url(url) as client:
        key: Any = client.randomkey()
        used: Any = client.memory_usage(key)
    return Stored("Redis (memory)", "1", int(used))
