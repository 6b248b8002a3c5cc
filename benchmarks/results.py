"""The measurements as data: written by `load` and `disk`, read by `report` and `chart`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.workload import Load


@dataclass(frozen=True, slots=True)
class Measured:
    """The result of one run against one peer; times have the unit of their name."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    failures: int
    cpu_us: float  # CPU time of the peer's process per request
    memory_mb: float  # resident memory of the peer's process afterwards

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds


@dataclass(frozen=True, slots=True)
class Stored:
    """The size of one session where the peer stores it."""

    where: str
    count: str  # the number of sessions of which this is the mean
    session_bytes: int
    index_bytes: int = 0

    @property
    def total(self) -> int:
        """Session and index entries together."""
        return self.session_bytes + self.index_bytes


Results = dict[tuple[str, Load], Measured]  # by the peer's name


def medians(several: Sequence[Measured]) -> Measured:
    """Return the median of each figure; failures are added, memory is the last value."""
    middle_one = sorted(several, key=lambda one: one.rate)[len(several) // 2]
    return Measured(
        requests=middle_one.requests,
        seconds=middle_one.seconds,
        p50_ms=median(one.p50_ms for one in several),
        p99_ms=median(one.p99_ms for one in several),
        failures=sum(one.failures for one in several),
        cpu_us=median(one.cpu_us for one in several),
        memory_mb=several[-1].memory_mb,
    )
