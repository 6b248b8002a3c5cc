"""The alternation of peers, and the medians: a busy minute affects all peers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.load import measure
from benchmarks.results import Measured, Results, medians
from benchmarks.servers import Running
from benchmarks.visitors import check, sign_in
from benchmarks.workload import VISITORS, Kind, Load, request_lines

STANDARD_CONNECTIONS = 64  # used for logins and logouts, and for the ratios


@dataclass(frozen=True, slots=True)
class Plan:
    """How long, and with which loads, to measure."""

    rounds: int
    seconds: float
    connections: tuple[int, ...]
    kinds: tuple[Kind, ...] = ("read", "write", "login", "logout")
    distances: tuple[int, ...] = (1, 5, 20)  # round trips in milliseconds
    logouts: int = 4000  # sessions that one run ends; signed in before, within `seconds`

    def loads(self) -> Iterator[Load]:
        """List every load of one round."""
        for kind in self.kinds:
            wide = kind in {"read", "write"}
            for connections in self.connections if wide else (STANDARD_CONNECTIONS,):
                yield Load(kind, connections)
        for distance in self.distances:
            for kind in (kind for kind in self.kinds if kind in DISTANT_KINDS):
                for connections in DISTANT_CONNECTIONS:
                    yield Load(kind, connections, distance)


DISTANT_KINDS: tuple[Kind, ...] = ("read", "write")
DISTANT_CONNECTIONS = (1, 2, 8, 64)
FULL = Plan(rounds=3, seconds=2, connections=(1, 2, 8, 64, 256, 1000))
QUICK = Plan(rounds=1, seconds=1, connections=(1, 64), distances=(5,), logouts=500)


def run(peers: Sequence[Running], plan: Plan, directory: Path) -> Results:
    """Measure every peer under every load, in alternating rounds; return the medians."""
    lines = {peer: _Lines(peer, plan, directory) for peer in peers}
    measured: dict[tuple[str, Load], list[Measured]] = {}
    for number in range(1, plan.rounds + 1):
        for load in plan.loads():
            for peer in peers:
                if load.kind not in peer.peer.kinds or load.round_trip_ms != peer.round_trip_ms:
                    continue
                file = lines[peer].of(load.kind)
                seen = measure(peer, load, file, plan.seconds, once=load.kind == "logout")
                measured.setdefault((peer.peer.name, load), []).append(seen)
                _show(f"round {number}/{plan.rounds}", peer, load, seen)
    return {key: medians(several) for key, several in measured.items()}


class _Lines:
    """The request lines of one peer's visitors, who sign in once for all rounds."""

    def __init__(self, peer: Running, plan: Plan, directory: Path) -> None:
        """Check that the peer works, and sign its visitors in."""
        self._peer, self._plan = peer, plan
        self._file = directory / f"{peer.peer.name}-{peer.round_trip_ms}.requests"
        asyncio.run(check(peer.url, peer.peer.kinds))
        keeps_sessions = "login" in peer.peer.kinds
        self._cookies = asyncio.run(sign_in(peer.url, VISITORS)) if keeps_sessions else [""]

    def of(self, kind: Kind) -> Path:
        """Return the lines for one kind of request; a logout needs its own sessions."""
        cookies = self._cookies
        if kind == "logout":
            signing_in = sign_in(self._peer.url, self._plan.logouts, seconds=self._plan.seconds)
            cookies = asyncio.run(signing_in)
        self._file.write_text("\n".join(request_lines(kind, cookies)) + "\n")
        return self._file


def _show(when: str, peer: Running, load: Load, seen: Measured) -> None:
    print(
        f"{when}  {load.kind:<6} {load.connections:>4} connections {load.round_trip_ms:>3} ms away"
        f"  {peer.peer.title:<32}"
        f"{seen.rate:>8,.0f}/s  p99 {seen.p99_ms:>8.2f} ms  {seen.cpu_us:>7,.0f} µs"
        + (f"  {seen.failures} FAILED" if seen.failures else ""),
        flush=True,
    )
