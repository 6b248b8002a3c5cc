"""The sessions that were opened lately: what a visitor asks for next is open already."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from storage.document import Document
from storage.session import Snapshot

SESSIONS_KEPT = 1024
# Larger documents are opened each time: what is kept stays a few megabytes.
LARGEST_BYTES = 4096


class Opened(NamedTuple):
    """A session, and the document that it was opened from: its bytes, and all but its values."""

    raw: bytes
    rest: Document
    snapshot: Snapshot


class Recent:
    """Remembers by document id; the least recently used one goes first.

    MongoDB is asked all the same, every time: a memory of the very bytes that it sends spares
    opening them again, and nothing else. A value that changed is opened, whoever changed it.
    """

    def __init__(self) -> None:
        """Start with nothing."""
        self._opened: OrderedDict[bytes, Opened] = OrderedDict()

    def get(self, identifier: bytes) -> Opened | None:
        """Return what was opened last under this id."""
        opened = self._opened.get(identifier)
        if opened is not None:
            self._opened.move_to_end(identifier)
        return opened

    def put(self, opened: Opened) -> None:
        """Remember a session that was just opened."""
        if len(opened.raw) > LARGEST_BYTES:
            return
        self._opened[opened.snapshot.stored.identifier] = opened
        if len(self._opened) > SESSIONS_KEPT:
            self._opened.popitem(last=False)

    def forget(self, identifier: bytes) -> None:
        """Drop a session that has ended."""
        self._opened.pop(identifier, None)
