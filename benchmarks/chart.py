"""The chart of the ratios: an SVG, readable on light and on dark pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from math import floor, log10

from benchmarks.peers import OURS, Peer
from benchmarks.report import KINDS, ratio
from benchmarks.results import Results
from benchmarks.rounds import DISTANT_CONNECTIONS, STANDARD_CONNECTIONS
from benchmarks.workload import Kind, Load

WIDTH, LABELS, MARGIN = 760, 250, 70
BAR, GAP, TOP, PANEL_GAP = 16, 14, 80, 56
# What the second panel shows.
DISTANCE_MS, RIVAL = 5, "redis"

STYLE = """
text { font: 13px system-ui, sans-serif; fill: #24292f }
.title { font-size: 15px; font-weight: 600 }
.note, .tick { fill: #57606a }
.grid { stroke: #d0d7de } .one { stroke: #24292f }
.read { fill: #0969da } .write { fill: #bf8700 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .note, .tick { fill: #9198a1 }
  .grid { stroke: #3d444d } .one { stroke: #e6edf3 }
  .read { fill: #4493f8 } .write { fill: #d29922 }
}
"""


def svg(peers: Sequence[Peer], results: Results) -> str:
    """Draw pairs of bars on a logarithmic axis; to the right of 1 ours is faster.

    Two panels: every rival with the databases on the same machine, and RedisStorage with databases
    at a distance, by the number of connections.
    """
    near = {
        peer.title.replace("`", ""): _ratios(results, peer.name, STANDARD_CONNECTIONS)
        for peer in peers
        if peer.name != OURS
    }
    far = {
        f"{connections} connection{'' if connections == 1 else 's'}": _ratios(
            results, RIVAL, connections, DISTANCE_MS
        )
        for connections in DISTANT_CONNECTIONS
    }
    panels = {
        f"databases on the same machine, {STANDARD_CONNECTIONS} connections": near,
        f"databases {DISTANCE_MS} ms away, against RedisStorage": far,
    }
    axis = _Axis([one for rows in panels.values() for row in rows.values() for one in row.values()])
    top, drawn = TOP, []
    for title, rows in panels.items():
        if any(rows.values()):
            bottom, panel = _panel(title, rows, top, axis)
            drawn += panel
            top = bottom + PANEL_GAP
    bottom = top - PANEL_GAP
    return "\n".join([_head(bottom + 30), *drawn, *_legend(bottom + 20), "</svg>\n"])


Ratios = dict[Kind, float]


def _ratios(results: Results, rival: str, connections: int, round_trip_ms: int = 0) -> Ratios:
    found = {kind: ratio(results, rival, Load(kind, connections, round_trip_ms)) for kind in KINDS}
    return {kind: value for kind, value in found.items() if value}


def _panel(title: str, rows: Mapping[str, Ratios], top: int, axis: _Axis) -> tuple[int, list[str]]:
    """Return the lower end, and what to draw."""
    begin, bars = top, []
    for label, found in rows.items():
        if found:
            bars += _group(label, found, top, axis)
            top += len(found) * BAR + GAP
    heading = f'<text class="note" x="12" y="{begin - 30}">{escape(title)}</text>'
    return top, [heading, *axis.grid(begin, top), *bars]


class _Axis:
    """Converts a ratio to a horizontal position; powers of ten get a line."""

    def __init__(self, ratios: Sequence[float]) -> None:
        self._low = min(0.0, min(map(log10, ratios), default=0.0))
        self._high = max(1.0, max(map(log10, ratios), default=1.0))

    def x(self, value: float) -> float:
        """Return the distance from the left edge, in pixels."""
        share = (log10(value) - self._low) / (self._high - self._low)
        return LABELS + share * (WIDTH - LABELS - MARGIN)

    def grid(self, top: int, bottom: int) -> list[str]:
        """Draw a line and a number for each power of ten from 1 upwards."""
        lines = []
        for power in range(floor(self._high) + 1):
            x = self.x(10**power)
            kind = "grid" if power else "one"
            lines += [
                (
                    f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}"'
                    f' y1="{top - 6}" y2="{bottom - 6}"/>'
                ),
                (
                    f'<text class="tick" x="{x:.1f}" y="{top - 12}" text-anchor="middle">'
                    f"{10**power}×</text>"
                ),
            ]
        return lines


def _head(height: int) -> str:
    title = "MongoStorage against its rivals: requests per second, as a multiple of theirs"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img"'
        f' aria-labelledby="t"><style>{STYLE}</style>\n'
        f'<text class="title" id="t" x="12" y="24">{title}</text>'
    )


def _group(title: str, found: dict[Kind, float], top: int, axis: _Axis) -> list[str]:
    middle = top + len(found) * BAR / 2 + 4
    drawn = [f'<text x="{LABELS - 12}" y="{middle}" text-anchor="end">{escape(title)}</text>']
    for row, (kind, value) in enumerate(found.items()):
        left, right = sorted((axis.x(1), axis.x(value)))
        y = top + row * BAR
        drawn += [
            (
                f'<rect class="{kind}" x="{left:.1f}" y="{y}" rx="2"'
                f' width="{max(right - left, 1):.1f}" height="{BAR - 2}"/>'
            ),
            f'<text x="{right + 6:.1f}" y="{y + BAR - 4}">{_short(value)}×</text>',
        ]
    return drawn


def _short(value: float) -> str:
    digits = 2 if value < 10 else 0
    return f"{value:.{digits}f}"


def _legend(y: int) -> list[str]:
    return [
        f'<rect class="read" x="12" y="{y - 11}" width="12" height="12" rx="2"/>',
        f'<text x="30" y="{y}">read</text>',
        f'<rect class="write" x="74" y="{y - 11}" width="12" height="12" rx="2"/>',
        f'<text x="92" y="{y}">write</text>',
        (
            f'<text class="note" x="{WIDTH - 12}" y="{y}" text-anchor="end">'
            "logarithmic scale, right of 1× is faster</text>"
        ),
    ]
