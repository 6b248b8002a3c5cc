"""The page with the results: Markdown, written from the medians."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from benchmarks.peers import OURS, Peer
from benchmarks.results import Results, Stored
from benchmarks.rounds import DISTANT_CONNECTIONS, STANDARD_CONNECTIONS, Plan
from benchmarks.workload import Kind, Load

KINDS: tuple[Kind, ...] = ("read", "write")


def ratio(results: Results, rival: str, load: Load) -> float | None:
    """Return our requests per second divided by a rival's, or None if not measured."""
    ours, theirs = results.get((OURS, load)), results.get((rival, load))
    return ours.rate / theirs.rate if ours and theirs and theirs.requests else None


def markdown(
    peers: Sequence[Peer],
    results: Results,
    stored: Mapping[str, Stored],
    machine: Mapping[str, str],
    plan: Plan,
) -> str:
    """Write the whole page."""
    sections = [
        "# Benchmarks",
        (
            f"Written by `make bench`; medians of {plan.rounds} alternating rounds of"
            f" {plan.seconds:g} s each, one process per peer, `wrk -t1`, all on loopback."
            " The machine is shared: compare numbers on this page only, never with another page."
        ),
        "![Requests per second, compared with other storages](benchmarks.svg)",
        "## Ratios",
        (
            f"Requests per second of MongoStorage on PyMongo Async, divided by the rival's;"
            f" {STANDARD_CONNECTIONS} connections. In brackets the 99th percentile of the answers,"
            " ours and the rival's, in milliseconds."
        ),
        _ratios(peers, results),
        *_distances(peers, results),
        *_loads(peers, results),
        "## Bytes per stored session",
        _stored(peers, stored),
        "## Machine and versions",
        _table(["", ""], machine.items()),
    ]
    return "\n\n".join(sections) + "\n"


def _ratios(peers: Sequence[Peer], results: Results) -> str:
    rows = []
    for peer in peers:
        if peer.name != OURS:
            loads = [Load(kind, STANDARD_CONNECTIONS) for kind in KINDS]
            rows.append([peer.title, *(_ratio_and_p99(results, peer.name, one) for one in loads)])
    return _table(["against", *KINDS], rows)


def _ratio_and_p99(results: Results, rival: str, load: Load) -> str:
    found = ratio(results, rival, load)
    if found is None:
        return "–"
    return f"{found:.2f} ({results[OURS, load].p99_ms:.1f} / {results[rival, load].p99_ms:.1f})"


def _distances(peers: Sequence[Peer], results: Results) -> Iterable[str]:
    """Compare with what runs at the same distance, for few connections and for many."""
    distances = dict.fromkeys(load.round_trip_ms for _, load in results)
    if not any(distances):
        return
    yield "## Few connections, and a distant database"
    yield (
        "The same ratios, by the round trip to the databases. A proxy adds it; for *aiohttp without"
        " sessions*, which has no database, the proxy is in front of the app, so that row of the"
        " tables below says what passes through the proxy."
    )
    for kind in KINDS:
        rivals = [
            peer
            for peer in peers
            if peer.distant and peer.name not in {OURS, "none"} and kind in peer.kinds
        ]
        yield f"### {kind.capitalize()}"
        rows = []
        for distance in distances:
            for connections in DISTANT_CONNECTIONS:
                load = Load(kind, connections, distance)
                cells = [_ratio_and_p99(results, peer.name, load) for peer in rivals]
                if (OURS, load) in results:
                    where = f"{distance} ms" if distance else "same machine"
                    rows.append([where, str(connections), *cells])
        yield _table(["round trip", "connections", *(peer.title for peer in rivals)], rows)


def _loads(peers: Sequence[Peer], results: Results) -> Iterable[str]:
    for load in dict.fromkeys(load for _, load in results):
        plural = "" if load.connections == 1 else "s"
        away = f", {load.round_trip_ms} ms away" if load.round_trip_ms else ""
        yield f"## {load.kind.capitalize()}, {load.connections} connection{plural}{away}"
        rows = []
        for peer in peers:
            if seen := results.get((peer.name, load)):
                of_one = f"{seen.p50_ms:.2f}", f"{seen.p99_ms:.2f}", f"{seen.cpu_us:.0f}"
                if not seen.requests:
                    of_one = "–", "–", "–"
                whole = f"{seen.memory_mb:.0f}", str(seen.failures)
                rows.append([peer.title, f"{seen.rate:,.0f}", *of_one, *whole])
        yield _table(
            ["", "requests/s", "p50 ms", "p99 ms", "CPU µs/request", "memory MB", "failures"], rows
        )


def _stored(peers: Sequence[Peer], stored: Mapping[str, Stored]) -> str:
    rows = [
        [
            peer.title,
            one.where,
            str(one.session_bytes),
            str(one.index_bytes),
            str(one.total),
            one.count,
        ]
        for peer in peers
        if (one := stored.get(peer.name))
    ]
    return _table(["", "stored in", "session", "indexes", "together", "sessions measured"], rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *rows])
