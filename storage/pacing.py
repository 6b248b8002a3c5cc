"""How many commands may be under way at once: learned from the time in which the process was idle.

Knows nothing of sessions, of MongoDB or of asyncio.
"""

from __future__ import annotations

from time import perf_counter, process_time

# What a command costs the process, whatever it carries: 0.25 ms and more where it was measured.
COMMAND_SECONDS = 0.00025
# PyMongo's pool has 100 connections, and who waits for one is served in no order. Finds and writes
# share the pool with what the app does itself.
MOST_UNDER_WAY = 32
# One part more for each so many commands that the idle time allows: another command then costs an
# eighth of that time at most.
COMMANDS_PER_PART = 8
# After a command has failed, so many must succeed for each further one under way.
SUCCESSES_PER_STEP = 16


def idle_seconds() -> float:
    """Return for how long this process has used no processor; only differences have a meaning.

    What its other threads use counts too: Motor's commands run in threads. On a busy machine it
    contains the time in which the process waits for a processor.
    """
    return perf_counter() - process_time()


class Pace:
    """The limit of commands under way: one, and those that the process could send while it waits.

    Beside the server a process is hardly ever idle during a command. It sends one at a time: what
    waits meanwhile is worth more in the next one. Further away that would be a wait for a
    stranger's round trip. A process that has enough to do sends few large ones at any distance.

    Each command moves the limit by one at most, so that a slow one does not change much.
    """

    __slots__ = ("_succeeded", "limit")

    def __init__(self) -> None:
        """Begin with one command at a time."""
        self.limit: int = 1
        # Commands since the last one that failed. None has: the limit may grow with each.
        self._succeeded = SUCCESSES_PER_STEP * MOST_UNDER_WAY

    def learn(self, idle: float) -> None:
        """Note for how many seconds the process was idle during a command that succeeded."""
        self._succeeded += 1
        # Less than nothing where several threads were busy at once.
        more = max(idle, 0.0) / COMMAND_SECONDS
        if more >= self.limit:
            allowed = 1 + self._succeeded // SUCCESSES_PER_STEP
            self.limit = min(self.limit + 1, allowed, MOST_UNDER_WAY)
        elif more < self.limit - 1:
            self.limit -= 1

    def fail(self) -> None:
        """Begin again with one command at a time: a command has failed.

        A driver that loses a connection closes them all, and each command that is under way then
        opens one. The more there are, the more of them meet the same fault.
        """
        self.limit = 1
        self._succeeded = 0

    def share(self, items: int) -> int:
        """Return how many of the items, waiting and under way, one command may carry.

        All of them, unless the process would be idle for long. The answer to one part is then
        handled while the others are under way.
        """
        parts = 1 + self.limit // COMMANDS_PER_PART
        return -(-items // parts)
