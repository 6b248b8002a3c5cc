"""The sessions opened or saved lately: what a visitor asks for next is open already."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from storage.document import Document
from storage.session import Snapshot

SESSIONS_KEPT = 4096
# Larger documents are opened each time. What is kept of one takes several times its bytes: in all
# a dozen megabytes as a rule, several times that where every session is as large as that.
LARGEST_BYTES = 4096


class Remembered(NamedTuple):
    """A session, and the document that opens to it: its bytes, and all but its values."""

    raw: bytes
    rest: Document
    snapshot: Snapshot


class Recent:
    """Remembers by document id; the least recently used one goes first.

    MongoDB is asked all the same, every time: who knows what some bytes open to need not open them
    again when MongoDB sends the same ones, and that is all. What differs is opened, whoever changed
    it.
    """

    def __init__(self) -> None:
        """Start with nothing."""
        self._sessions: OrderedDict[bytes, Remembered] = OrderedDict()

    def get(self, identifier: bytes) -> Remembered | None:
        """Return what was opened last under this id."""
        found = self._sessions.get(identifier)
        if found is not None:
            self._sessions.move_to_end(identifier)
        return found

    def put(self, session: Remembered) -> None:
        """Remember a session, unless it is large."""
        identifier = session.snapshot.stored.identifier
        self._sessions.pop(identifier, None)
        if len(session.raw) > LARGEST_BYTES:
            return
        self._sessions[identifier] = session
        if len(self._sessions) > SESSIONS_KEPT:
            self._sessions.popitem(last=False)

    def change(self, old: Snapshot, new: Snapshot) -> None:
        """Expect what MongoDB sent for ``old`` to come back with the new values in their places.

        A guess, made where nothing but values has changed, and right unless others change the
        session too. A value of another length leaves bytes that are no BSON, so MongoDB never sends
        them; but then the session is read with values that are open already.
        """
        found = self._sessions.get(old.stored.identifier)
        if (
            found is None
            or found.snapshot is not old
            or new.stored is not old.stored
            or new.values.keys() != old.values.keys()
        ):
            return
        raw = found.raw
        for name, value in new.values.items():
            if value is not old.values[name]:
                raw = raw.replace(old.values[name].sealed, value.sealed)
        self.put(Remembered(raw, found.rest, new))

    def forget(self, identifier: bytes) -> None:
        """Drop a session that has ended."""
        self._sessions.pop(identifier, None)

    def forget_owner(self, owner: str, keep: bytes | None) -> None:
        """Drop an owner's sessions, but for the one with the id ``keep``."""
        for identifier, found in list(self._sessions.items()):
            if found.snapshot.owner == owner and identifier != keep:
                del self._sessions[identifier]

    def forget_all(self) -> None:
        """Drop every session."""
        self._sessions.clear()
