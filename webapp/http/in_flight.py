"""How many requests are being answered now, and whether the process is ending."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class InFlight:
    """The number of requests whose handler has started and not ended; bodies may still arrive.

    A class because the drain waits for the number.  `draining` becomes true once and stays so.
    """

    def __init__(self) -> None:
        self._count = 0
        self._changed = asyncio.Event()
        self.draining = False

    def __int__(self) -> int:
        return self._count

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count one request while the block runs."""
        self._count += 1
        self._changed.set()
        try:
            yield
        finally:
            self._count -= 1
            self._changed.set()

    def begin_draining(self) -> None:
        """Note that the process is ending."""
        self.draining = True
        self._changed.set()

    async def wait_until_none(self) -> None:
        """Return when no request is in flight."""
        while self._count:
            await self.wait_for_change()

    async def wait_for_change(self) -> None:
        """Return when a request begins or ends, or the drain begins."""
        self._changed.clear()
        await self._changed.wait()
