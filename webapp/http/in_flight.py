"""Which requests are being answered right now, and whether the process is on its way out."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class InFlight:
    """Count of the requests whose handler has begun and not ended, bodies still arriving included.

    A class because the drain waits on the count.  `draining` turns true once and stays so.
    """

    def __init__(self) -> None:
        self._count = 0
        self._changed = asyncio.Event()
        self.draining = False

    def __int__(self) -> int:
        return self._count

    @contextmanager
    def one(self) -> Iterator[None]:
        """Count one request for as long as the block runs."""
        self._count += 1
        self._changed.set()
        try:
            yield
        finally:
            self._count -= 1
            self._changed.set()

    def begin_draining(self) -> None:
        """Note that the process is on its way out."""
        self.draining = True
        self._changed.set()

    async def wait_until_none(self) -> None:
        """Return when no request is under way."""
        while self._count:
            await self.wait_for_change()

    async def wait_for_change(self) -> None:
        """Return when a request begins or ends, or the drain begins."""
        self._changed.clear()
        await self._changed.wait()
