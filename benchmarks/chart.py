"""The chart of the ratios: an SVG, readable on light and on dark pages."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import floor, log10

from benchmarks.peers import OURS, Peer
from benchmarks.report import KINDS, ratio
from benchmarks.results import Results
from benchmarks.rounds import STANDARD_CONNECTIONS
from benchmarks.workload import Kind, Load

WIDTH, LABELS, MARGIN = 760, 250, 70
BAR, GAP, TOP = 16, 14, 64

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
    """Draw one pair of bars per rival on a logarithmic axis; to the right of 1 ours is faster."""
    rivals: dict[str, dict[Kind, float]] = {
        peer.title.replace("`", ""): {
            kind: value
            for kind in KINDS
            if (value := ratio(results, peer.name, Load(kind, STANDARD_CONNECTIONS)))
        }
        for peer in peers
        if peer.name != OURS
    }
    rivals = {title: found for title, found in rivals.items() if found}
    axis = _Axis([one for found in rivals.values() for one in found.values()])
    top, bars = TOP, []
    for title, found in rivals.items():
        bars += _group(title, found, top, axis)
        top += len(found) * BAR + GAP
    return "\n".join([_head(top + 30), *axis.grid(top), *bars, *_legend(top + 20), "</svg>\n"])


class _Axis:
    """Converts a ratio to a horizontal position; powers of ten get a line."""

    def __init__(self, ratios: Sequence[float]) -> None:
        self._low = min(0.0, min(map(log10, ratios), default=0.0))
        self._high = max(1.0, max(map(log10, ratios), default=1.0))

    def x(self, value: float) -> float:
        """Return the distance from the left edge, in pixels."""
        share = (log10(value) - self._low) / (self._high - self._low)
        return LABELS + share * (WIDTH - LABELS - MARGIN)

    def grid(self, bottom: int) -> list[str]:
        """Draw a line and a number for each power of ten from 1 upwards."""
        lines = []
        for power in range(floor(self._high) + 1):
            x = self.x(10**power)
            kind = "grid" if power else "one"
            lines += [
                (
                    f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}"'
                    f' y1="{TOP - 6}" y2="{bottom - 6}"/>'
                ),
                (
                    f'<text class="tick" x="{x:.1f}" y="{TOP - 12}" text-anchor="middle">'
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
            f"{STANDARD_CONNECTIONS} connections, logarithmic scale, right of 1× is faster</text>"
        ),
    ]
