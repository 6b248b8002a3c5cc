"""A bounded queue that many senders share, each with a line of its own."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Generic, TypeVar

Item = TypeVar("Item")


class FairQueue(Generic[Item]):
    """Lines that take turns, so that a long line never holds up a short one.

    `most` items may wait in all lines together.  One more takes the place of the newest item of
    the longest line: the client that sends the most is refused first (McKenney, Stochastic Fairness
    Queueing, 1990).
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._lines: OrderedDict[str, deque[Item]] = OrderedDict()
        self._length = 0

    def put(self, sender: str, item: Item) -> Item | None:
        """Add an item; return the one that there is no room for, which may be this one."""
        self._lines.setdefault(sender, deque()).append(item)
        self._length += 1
        if self._length <= self._most:
            return None
        # Of lines of one length the sender's own: others keep the place that they have.
        longest = max(self._lines, key=lambda name: (len(self._lines[name]), name == sender))
        refused = self._lines[longest][-1]
        self.discard(longest, refused)
        return refused

    def take(self) -> Item | None:
        """Remove and return the oldest item of the line whose turn it is; `None`: empty."""
        if not self._lines:
            return None
        sender, line = next(iter(self._lines.items()))
        item = line[0]
        self._lines.move_to_end(sender)
        self.discard(sender, item)
        return item

    def discard(self, sender: str, item: Item) -> None:
        """Remove an item, unless it was taken or refused already."""
        line = self._lines.get(sender)
        if line is None or item not in line:
            return
        line.remove(item)
        self._length -= 1
        if not line:
            del self._lines[sender]
