"""The table that a run with faults ends with.

Not in the conftest beside it: the process that prints collects no tests where several run them.
"""

from __future__ import annotations

import pytest

ROW, REMARK = "row of the table", "remark below the table"
COLUMNS = (
    "fault | requests | under way | answered | refused (503) | app away"
    " | longest silence, s | sessions | lost | resurrected | stale reads | overtaken"
)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """End the run with the table of docs/reliability.md."""
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
