"""What a driver sends to MongoDB, noted for tests that count it."""

from __future__ import annotations

from typing import Any

from pymongo import monitoring


class CommandLog(monitoring.CommandListener):
    """Every command that a driver sent, but for connecting and closing."""

    def __init__(self) -> None:
        self.commands: list[tuple[str, dict[str, Any]]] = []

    @property
    def names(self) -> list[str]:
        """Name the commands in the order in which they were sent."""
        return [name for name, _command in self.commands]

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        """Note a command."""
        if event.command_name not in {"endSessions", "hello", "killCursors"}:
            self.commands.append((event.command_name, dict(event.command)))

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Ignore it: it was noted when it started."""

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """Ignore it: it was noted when it started."""
