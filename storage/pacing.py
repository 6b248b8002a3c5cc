"""How many commands may be under way at once: learned from the time that they take.

Knows nothing of sessions, of MongoDB or of asyncio.
"""

from __future__ import annotations

from math import inf

# What a command costs the event loop, whatever it carries: 0.15 to 0.5 ms where it was measured.
COMMAND_SECONDS = 0.00025
# PyMongo's pool has 100 connections, and who waits for one is served in no order. Finds and writes
# share the pool with what the app does itself.
MOST_UNDER_WAY = 32
# The least time is that of this number of commands, and of as many before. Few, so that a move to
# a server that is further away is noticed soon.
REMEMBERED = 16


class Pace:
    """The limit of commands under way, from the least time that a command takes.

    The least, since the time of most commands includes waiting for the server or for the event
    loop, and more commands would not shorten that.

    A server that answers in less time than a command costs gets one command at a time: what waits
    meanwhile is worth more in the next one. Further away that would be a wait for a stranger's
    round trip, so as many may be under way as the event loop could send in one.

    After a command that failed there is one again, and one more with every sixteen that succeed.
    """

    __slots__ = ("_bound", "_learned", "_least", "_least_before", "limit")

    def __init__(self) -> None:
        """Begin with one command at a time."""
        self.limit: int = 1
        self._bound = MOST_UNDER_WAY
        self._learned = 0
        self._least = self._least_before = inf

    def learn(self, seconds: float) -> None:
        """Note how long a command that succeeded has taken."""
        if self._learned % REMEMBERED == 0:
            self._least_before, self._least = self._least, inf
            self._bound = min(self._bound + 1, MOST_UNDER_WAY)
        self._learned += 1
        if seconds < self._least:
            self._least = seconds
            allowed = min(seconds, self._least_before) / COMMAND_SECONDS
            self.limit = max(1, min(self._bound, int(allowed)))

    def fail(self) -> None:
        """Begin again with one command at a time: a command has failed.

        A driver that loses a connection closes them all, and each command that is under way then
        opens one. The more there are, the more of them meet the same fault.
        """
        self.limit = 1
        self._bound = self._learned = 0
        self._least = self._least_before = inf
