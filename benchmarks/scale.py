"""The cost of a request as the collection grows: `python -m benchmarks.scale --help`.

Real visitors, more than fit into one batch, among many generated sessions (see `filler`); the same
app and the same load for each size. The result is the growth from the first line to the last, and
how much of the data is still in mongod's cache then.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from pymongo import MongoClient
from pymongo.collection import Collection

from benchmarks.cache import Cache, find_ms, look
from benchmarks.filler import Document, grow, similar_document
from benchmarks.load import cpu_seconds, measure, require_wrk
from benchmarks.maintenance import expiry_seconds, index_seconds, owner_seconds
from benchmarks.peers import OURS, PEERS
from benchmarks.rounds import STANDARD_CONNECTIONS
from benchmarks.servers import Databases, Running, databases, end_all_on_sigterm, running
from benchmarks.visitors import sign_in
from benchmarks.workload import Kind, Load, request_lines

VISITORS = 5000
KINDS: tuple[Kind, ...] = ("read", "write")
ROUNDS = 3
MAX_GROWTH = 1.3  # on the largest collection, compared with the smallest
SAMPLED = 1 / 100  # share of the generated ids to look up


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of one request for one size; the time of the database is separate."""

    kind: Kind
    rate: float
    p50_alone_ms: float
    app_us: float
    mongod_us: float

    @property
    def cpu_us(self) -> float:
        """CPU time of app and database together."""
        return self.app_us + self.mongod_us


class GeneratedSessions:
    """Makes documents like one real session, and keeps the ids of one in a hundred.

    A class because the ids must be known without a query, which would load them into the cache.
    """

    def __init__(self, real: Document) -> None:
        self.ids: list[bytes] = []
        self._real = real

    def make(self) -> Document:
        """Make one more document."""
        document = similar_document(self._real)
        if random.random() < SAMPLED:
            self.ids.append(document["_id"])
        return document


def main() -> None:
    """Fill, measure, print; then time the maintenance of the largest collection."""
    given = _arguments()
    end_all_on_sigterm()
    require_wrk()
    [peer] = [peer for peer in PEERS if peer.name == OURS]
    with (
        tempfile.TemporaryDirectory(prefix="scale-", dir=given.directory) as name,
        databases(Path(name)) as where,
        running([peer], where, Path(name)) as [ours],
        MongoClient[Document](where.mongo) as client,
    ):
        sessions = client[str(peer.database)]["sessions"]
        cookies = asyncio.run(sign_in(ours.url, VISITORS))
        real = sessions.find_one()
        assert real is not None
        generated = GeneratedSessions(real)
        first: dict[Kind, Cost] = {}
        last: dict[Kind, Cost] = {}
        for size in (10**power for power in range(4, given.largest + 1)):
            grow(sessions, size, generated.make, _progress)
            print(f"\n{size:>10,} sessions{_sizes(client, sessions)}")
            before = look(client, sessions)
            for cost in _costs(ours, where, cookies, Path(name), given.seconds):
                _show(cost, first.setdefault(cost.kind, cost))
                last[cost.kind] = cost
            _show_cache(before, look(client, sessions))
            half, most = find_ms(sessions, generated.ids)
            print(f"  any session found in {half:.2f} ms, 99 of 100 in {most:.2f} ms", flush=True)
        _show_growth(first, last)
        database = str(peer.database)
        _show_seconds(asyncio.run(index_seconds(where.mongo, database)))
        _show_seconds(asyncio.run(owner_seconds(where.mongo, database)))
        _show_seconds(expiry_seconds(client, sessions))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument(
        "--largest", type=int, default=6, choices=range(4, 9), metavar="4-8", help="power of ten"
    )
    parser.add_argument("--seconds", type=float, default=4, help="of each measurement")
    parser.add_argument("--directory", type=Path, help="folder of the data during the run")
    return parser.parse_args()


def _costs(
    ours: Running, where: Databases, cookies: list[str], directory: Path, seconds: float
) -> Iterator[Cost]:
    for kind in KINDS:
        lines = directory / f"{kind}.requests"
        lines.write_text("\n".join(request_lines(kind, cookies)) + "\n")
        alone = measure(ours, Load(kind, 1), lines, seconds, once=False)
        busy = [_busy(ours, where, kind, lines, seconds) for _ in range(ROUNDS)]
        rate, app_us, mongod_us = (median(column) for column in zip(*busy, strict=True))
        yield Cost(kind, rate, alone.p50_ms, app_us, mongod_us)


def _busy(
    ours: Running, where: Databases, kind: Kind, lines: Path, seconds: float
) -> tuple[float, float, float]:
    before = cpu_seconds(where.mongod_pid)
    seen = measure(ours, Load(kind, STANDARD_CONNECTIONS), lines, seconds, once=False)
    assert not seen.failures, f"{seen.failures} requests failed"
    return seen.rate, seen.cpu_us, (cpu_seconds(where.mongod_pid) - before) / seen.requests * 1e6


def _show(cost: Cost, first: Cost) -> None:
    print(
        f"  {cost.kind:<6}{cost.rate:>8,.0f}/s  alone p50 {cost.p50_alone_ms:.2f} ms"
        f"  CPU of app {cost.app_us:.0f} µs, of mongod {cost.mongod_us:.0f} µs"
        f"  together {cost.cpu_us / first.cpu_us:.2f} × the first line",
        flush=True,
    )


def _show_growth(first: Mapping[Kind, Cost], last: Mapping[Kind, Cost]) -> None:
    for kind, cost in last.items():
        growth = cost.cpu_us / first[kind].cpu_us
        verdict = "within" if growth <= MAX_GROWTH else "MORE THAN"
        print(f"growth of a {kind}: {growth:.2f} ×, {verdict} {MAX_GROWTH} ×")


def _show_cache(before: Cache, now: Cache) -> None:
    shares = ", ".join(f"{name} {share:.0%}" for name, share in now.shares.items())
    print(
        f"  cache {now.used_bytes / 1e6:,.0f} MB of {now.most_bytes / 1e6:,.0f} MB"
        f" for {now.data_bytes / 1e6:,.0f} MB; it holds of {shares};"
        f" {now.pages_read - before.pages_read:,} pages from the disk meanwhile"
    )


def _show_seconds(measured: Mapping[str, float]) -> None:
    for what, seconds in measured.items():
        print(f"{what}: {seconds:.2f} s", flush=True)


def _sizes(client: MongoClient[Document], sessions: Collection[Document]) -> str:
    client.admin.command("fsync")  # sizes are those of the last checkpoint
    stats = sessions.database.command("collStats", sessions.name)
    indexes = ", ".join(
        f"{name} {size / stats['count']:.0f}" for name, size in stats["indexSizes"].items()
    )
    return f"; bytes per session: {stats['size'] / stats['count']:.0f}, in indexes: {indexes}"


def _progress(count: int, size: int) -> None:
    print(f"\r  filling {count:,} of {size:,} ", end="", flush=True)


if __name__ == "__main__":
    main()
