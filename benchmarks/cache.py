"""How much of the sessions is in mongod's cache, and the time to find one that may not be."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from pymongo import MongoClient
from pymongo.collection import Collection

from benchmarks.filler import Document

FINDS = 1000
_HELD = "bytes currently in the cache"


@dataclass(frozen=True, slots=True)
class Cache:
    """The content of mongod's cache.

    A share compares sizes in memory and on the disk. If all is in the cache, it is about 2 for what
    was just inserted, and 0.5 to 1.3 for what was read from the disk.
    """

    used_bytes: int
    most_bytes: int
    data_bytes: int  # of all documents and indexes, in the cache or not
    shares: Mapping[str, float]  # of the documents and of each index
    pages_read: int  # from the disk, since mongod started


def look(client: MongoClient[Document], sessions: Collection[Document]) -> Cache:
    """Ask the server how much of this collection is in memory."""
    client.admin.command("fsync")  # sizes are those of the last checkpoint
    whole: Any = client.admin.command("serverStatus")["wiredTiger"]["cache"]
    stats: Any = sessions.database.command("collStats", sessions.name)
    held = {"documents": stats["wiredTiger"]["cache"][_HELD]}
    held |= {name: index["cache"][_HELD] for name, index in stats["indexDetails"].items()}
    sizes = {"documents": stats["size"], **stats["indexSizes"]}
    return Cache(
        used_bytes=whole[_HELD],
        most_bytes=whole["maximum bytes configured"],
        data_bytes=sum(sizes.values()),
        shares={name: held[name] / size for name, size in sizes.items()},
        pages_read=whole["pages read into cache"],
    )


def find_ms(sessions: Collection[Document], ids: Sequence[bytes]) -> tuple[float, float]:
    """Find up to 1 000 of these sessions, one by one; return median and 99th percentile.

    The ids are a random choice, so the share that is in the cache is the same as in the collection.
    """
    picked = random.sample(ids, min(len(ids), FINDS))
    times = sorted(_find_seconds(sessions, one) * 1000 for one in picked)
    return times[len(times) // 2], times[len(times) * 99 // 100]


def _find_seconds(sessions: Collection[Document], identifier: bytes) -> float:
    before = perf_counter()
    found = sessions.find_one({"_id": identifier})
    after = perf_counter()
    assert found is not None
    return after - before
