"""The commands that a driver sends to MongoDB, recorded for tests that count them."""

from __future__ import annotations

from typing import Any

from pymongo import monitoring


class CommandLog(monitoring.CommandListener):
    """Records every command, except those for connecting and closing."""

    def __init__(self) -> None:
        self.commands: list[tuple[str, dict[str, Any]]] = []

    @property
    def names(self) -> list[str]:
        """Return the names of the commands in the order in which they were sent."""
        return [name for name, _command in self.commands]

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        """Record a command."""
        if event.command_name not in {"endSessions", "hello", "killCursors"}:
            self.commands.append((event.command_name, dict(event.command)))

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Ignore it: it was recorded when it started."""

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """Ignore it: it was recorded when it started."""


def ids_asked_for(find: dict[str, Any]) -> list[bytes]:
    """Return the document ids that a find asks for, one or several."""
    ids = find["filter"]["_id"]
    return list(ids["$in"]) if isinstance(ids, dict) else [ids]
