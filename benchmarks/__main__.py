"""Measure this storage and others in one run: `python -m benchmarks --help`."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from benchmarks.chart import svg
from benchmarks.disk import bytes_per_session
from benchmarks.load import require_wrk
from benchmarks.machine import describe
from benchmarks.peers import PEERS, choose
from benchmarks.report import markdown
from benchmarks.rounds import FULL, QUICK, Plan, run
from benchmarks.servers import databases, end_all_on_sigterm, running
from benchmarks.workload import ROUTES

ROOT = Path(__file__).parent.parent


def main() -> None:
    """Run what the command line says, and write the table and the chart."""
    given = _arguments()
    end_all_on_sigterm()
    require_wrk()
    plan = _plan(given)
    peers = choose(given.only)
    # A quick run only tests the tool; its results must not replace the real figures.
    output = given.output or (ROOT / "build" if given.quick else ROOT / "docs")
    with (
        tempfile.TemporaryDirectory(prefix="benchmarks-") as name,
        databases(Path(name)) as where,
        running(
            peers, where, Path(name), uvloop=given.uvloop, distances=plan.distances
        ) as started_peers,
    ):
        machine = describe(where.mongo) | {
            "Event loop": "uvloop" if given.uvloop else "asyncio",
            "Proxy for distances": "compiled" if shutil.which("cc") else "in Python, which is slow",
        }
        results = run(started_peers, plan, Path(name))
        stored = bytes_per_session([one for one in started_peers if not one.round_trip_ms], where)
    output.mkdir(parents=True, exist_ok=True)
    page, chart = output / "benchmarks.md", output / "benchmarks.svg"
    page.write_text(markdown(peers, results, stored, machine, plan))
    chart.write_text(svg(peers, results))
    print(f"wrote {page} and {chart}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round, to try the tool")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="PEER", choices=[peer.name for peer in PEERS]
    )
    parser.add_argument("--kinds", nargs="+", choices=ROUTES, help="read write login logout")
    parser.add_argument("--connections", nargs="+", type=int, metavar="N")
    parser.add_argument(
        "--distances", nargs="*", type=int, metavar="MS", help="round trips; none: same machine"
    )
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float, help="of each measurement")
    parser.add_argument("--uvloop", action="store_true", help="the event loop of Python peers")
    parser.add_argument("--output", type=Path, help="folder of the results")
    return parser.parse_args()


def _plan(given: argparse.Namespace) -> Plan:
    plan = QUICK if given.quick else FULL
    wanted = {
        "rounds": given.rounds,
        "seconds": given.seconds,
        "connections": given.connections and tuple(given.connections),
        "kinds": given.kinds and tuple(given.kinds),
    }
    if given.distances is not None:
        plan = replace(plan, distances=tuple(given.distances))
    return replace(plan, **{name: value for name, value in wanted.items() if value})


if __name__ == "__main__":
    main()
