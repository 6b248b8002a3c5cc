"""One run of wrk against one peer, with the CPU time of the peer."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

from benchmarks.results import Measured
from benchmarks.servers import Running
from benchmarks.workload import Load

SCRIPT = Path(__file__).parent / "visitors.lua"
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
# Slow peers with many connections answer late; this shows in p99, not as a failure.
PATIENCE_SECONDS = 30


def measure(peer: Running, load: Load, lines: Path, seconds: float, *, once: bool) -> Measured:
    """Load one peer for this number of seconds, or until every line was sent once."""
    cpu_before = cpu_seconds(peer.pid)
    seen = _wrk(peer.url, load.connections, lines, seconds, once=once)
    cpu = cpu_seconds(peer.pid) - cpu_before
    return Measured(
        requests=seen["requests"],
        seconds=seen["microseconds"] / 1e6,
        p50_ms=seen["p50_us"] / 1e3,
        p99_ms=seen["p99_us"] / 1e3,
        failures=seen["refused"] + seen["broken"] + seen["late"],
        cpu_us=cpu / max(seen["requests"], 1) * 1e6,
        memory_mb=resident_mb(peer.pid),
    )


def require_wrk() -> None:
    """Exit with a message if the load generator is missing, before anything is started."""
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is not installed; on Debian and Ubuntu: apt-get install wrk")


def cpu_seconds(pid: int) -> float:
    """Return the CPU time, user and system, that a process and its threads have used so far."""
    stat = Path(f"/proc/{pid}/stat").read_text()
    # The second field is the program's name and may contain spaces: count after it.
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND


def resident_mb(pid: int) -> float:
    """Return the resident memory of a process, in megabytes (2^20 bytes)."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _wrk(url: str, connections: int, lines: Path, seconds: float, *, once: bool) -> dict[str, int]:
    command = [
        *("wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s"),
        *(f"--timeout={PATIENCE_SECONDS}s", f"--script={SCRIPT}"),
        *(url, "--", str(lines), "once" if once else "again"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    for line in done.stdout.splitlines():
        if line.startswith("RESULT "):
            result: dict[str, int] = json.loads(line.removeprefix("RESULT "))
            return result
    raise RuntimeError(f"wrk did not measure {url}: {done.stdout}{done.stderr}")
