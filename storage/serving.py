"""Whether a storage serves: from its making to ``aclose()``."""

from __future__ import annotations

from storage.errors import StorageUnavailable


class Serving:
    """Refuses to serve after ``aclose()``, and counts what MongoDB left unanswered."""

    __slots__ = ("_counters", "closed")

    def __init__(self, counters: dict[str, int]) -> None:
        """Serve from now on."""
        self._counters = counters
        self.closed = False

    def check(self) -> None:
        """Raise ``RuntimeError`` once the storage is closed."""
        if self.closed:
            raise RuntimeError("this MongoStorage was closed by aclose(); make a new one")

    def __enter__(self) -> None:
        """Check that the storage serves."""
        self.check()

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """Count an answer that MongoDB owes."""
        if isinstance(error, StorageUnavailable):
            self._counters["unavailable"] += 1
