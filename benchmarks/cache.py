"""How much of the sessions lies in mongod's cache, and how long one takes that may not."""

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
    """What mongod's cache holds; a share can be above 1, for pages in memory have a margin."""

    used_bytes: int
    most_bytes: int
    data_bytes: int  # of all documents and indexes, wherever they lie
    shares: Mapping[str, float]  # of the documents and of each index
    pages_read: int  # from the disk, since mongod started


def look(client: MongoClient[Document], sessions: Collection[Document]) -> Cache:
    """Ask the server what of this collection it holds in memory."""
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

    Of ids that were picked from all of them, as many are in the cache as of the whole collection.
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
