"""The table at the end of a run with faults.

Not in the conftest of this folder: with several processes, the one that prints collects no tests.
"""

from __future__ import annotations

import pytest

ROW, REMARK = "row of the table", "remark below the table"
COLUMNS = (
    "fault | requests | in flight | answered | refused (503) | app away"
    " | longest silence, s | sessions | lost | resurrected | stale reads | overtaken"
)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table of docs/reliability.md at the end of the run."""
    noted = [
        entry
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", None) == "call"
        for entry in report.user_properties
    ]
    rows = [text for kind, text in noted if kind == ROW]
    lines = [*([COLUMNS, *rows] if rows else []), *(text for kind, text in noted if kind == REMARK)]
    if lines:
        terminalreporter.section("faults")
    for line in lines:
        terminalreporter.write_line(line)
