"""The sessions that this process opened or saved lately, so that it need not open them again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from storage.document import Document
from storage.snapshot import Snapshot
from storage.values import sealed_bytes

SESSIONS_KEPT = 4096
# Larger documents are opened each time. What is kept of a session takes several times its bytes:
# about twelve megabytes in all, more where every session is as large as this.
LARGEST_BYTES = 4096


class CachedSession(NamedTuple):
    """A session, and the document that opens to it: its bytes, and everything but its values."""

    raw: bytes
    rest: Document
    snapshot: Snapshot


class SessionCache:
    """Keeps sessions by document id; the least recently used one goes first.

    MongoDB is asked all the same, every time. The cache only tells what some bytes open to: when
    MongoDB sends the same bytes again, nothing is opened; otherwise what differs is opened, no
    matter which process changed it.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._sessions: OrderedDict[bytes, CachedSession] = OrderedDict()
        # Who wants to know at once that sessions may have ended: one, an owner's, or all.
        self.when_forgotten: Callable[[bytes], None] = _tell_nobody
        self.when_owner_forgotten: Callable[[str], None] = _tell_nobody
        self.when_all_forgotten: Callable[[], None] = _tell_nobody

    def get(self, identifier: bytes) -> CachedSession | None:
        """Return what was opened last under this id."""
        found = self._sessions.get(identifier)
        if found is not None:
            self._sessions.move_to_end(identifier)
        return found

    def put(self, session: CachedSession) -> None:
        """Keep a session, unless it is large."""
        identifier = session.snapshot.stored.identifier
        self._sessions.pop(identifier, None)
        if len(session.raw) > LARGEST_BYTES:
            return
        self._sessions[identifier] = session
        if len(self._sessions) > SESSIONS_KEPT:
            self._sessions.popitem(last=False)

    def update(self, new: Snapshot) -> None:
        """Keep the values of a save, so that the next load does not open them again.

        The bytes of the document are not known, so MongoDB's will differ and be compared.
        """
        identifier = new.stored.identifier
        found = self._sessions.get(identifier)
        if found is None:
            return
        if sealed_bytes(new.values) > LARGEST_BYTES:
            del self._sessions[identifier]
            return
        # Where the save moved dates, MongoDB has the last word on them.
        rest = found.rest if new.stored is found.snapshot.stored else {}
        self._sessions[identifier] = CachedSession(b"", rest, new)

    def forget(self, identifier: bytes) -> None:
        """Remove a session that has ended."""
        self._sessions.pop(identifier, None)
        self.when_forgotten(identifier)

    def forget_owner(self, owner: str, keep: bytes | None) -> None:
        """Remove an owner's sessions, except the one with the id ``keep``."""
        for identifier, found in list(self._sessions.items()):
            if found.snapshot.owner == owner and identifier != keep:
                del self._sessions[identifier]
        self.when_owner_forgotten(owner)

    def clear(self) -> None:
        """Remove every session."""
        self._sessions.clear()
        self.when_all_forgotten()


def _tell_nobody(*_which: object) -> None:
    """Do nothing."""
