"""What is counted, and its Prometheus text.

Each app has a registry of its own: two apps in one process are counted apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# Seconds; the last ones are around the handlers' budget.
LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25)
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Metrics:
    """The app's counters; `event` and `request` add to them, `text` renders them."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "webapp_requests",
            "Answers, by route pattern, method and status.",
            ("route", "method", "status"),
            registry=self._registry,
        )
        self._latency = Histogram(
            "webapp_request_seconds",
            "Time from the request's headers to the end of its answer, by route pattern.",
            ("route",),
            buckets=LATENCY_BUCKETS,
            registry=self._registry,
        )
        self._events = Counter(
            "webapp_events",
            "Sign-ins, failures, sign-outs, throttling, refused forwarded headers, ...",
            ("event",),
            registry=self._registry,
        )

    def event(self, name: str) -> None:
        """Count one event."""
        self._events.labels(name).inc()

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count one answer; unknown methods count as `other`, or clients could fill the memory."""
        known = method if method in METHODS else "other"
        self._requests.labels(route, known, str(status)).inc()
        self._latency.labels(route).observe(seconds)

    def watch(
        self, counters: Mapping[str, int], *, gauges: Mapping[str, Callable[[], int]]
    ) -> None:
        """Add the storage's counters, and gauges; both are read when the text is requested."""
        self._registry.register(_Watched(counters, gauges))

    def text(self) -> bytes:
        """Render everything in Prometheus' text format."""
        return generate_latest(self._registry)


class _Watched(Collector):
    def __init__(
        self, counters: Mapping[str, int], gauges: Mapping[str, Callable[[], int]]
    ) -> None:
        self._counters = counters
        self._gauges = gauges

    def collect(self) -> Iterator[Metric]:
        """Read the numbers as they are now."""
        total = CounterMetricFamily("storage", "What the session storage did.", labels=["what"])
        for name, value in self._counters.items():
            total.add_metric([name], value)
        yield total
        for name, read in self._gauges.items():
            yield GaugeMetricFamily(name, name.replace("_", " ") + ", now.", value=read())
