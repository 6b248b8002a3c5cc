"""The commands that a message asks an administrator to run, taken from its text."""

from __future__ import annotations

import json
from typing import Any

_DATABASE, _COMMAND = "db.getSiblingDB(", ".runCommand("


def commands_in(message: str) -> list[tuple[str, dict[str, Any]]]:
    """Return each command with the database it is for, exactly as the message spells it."""
    decoder = json.JSONDecoder()
    found = []
    while _DATABASE in message:
        database, end = decoder.raw_decode(message := message.split(_DATABASE, 1)[1])
        assert message[end:].startswith(f"){_COMMAND}")
        command, end = decoder.raw_decode(message := message.split(_COMMAND, 1)[1])
        assert message[end] == ")"
        found.append((database, command))
    assert found
    return found
