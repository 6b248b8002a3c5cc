"""Waiting for a condition instead of sleeping."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE_SECONDS = 60.0
LOOK_EVERY_SECONDS = 0.02


def until(condition: Callable[[], T | None], *, seconds: float = PATIENCE_SECONDS) -> T:
    """Return the first true value of `condition`; fail if there is none within `seconds`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} seconds"
        time.sleep(LOOK_EVERY_SECONDS)
    return value


async def until_async(
    condition: Callable[[], Awaitable[T | None]], *, seconds: float = PATIENCE_SECONDS
) -> T:
    """Do the same in a coroutine."""
    async with asyncio.timeout(seconds):
        while True:
            if value := await condition():
                return value
            await asyncio.sleep(LOOK_EVERY_SECONDS)
