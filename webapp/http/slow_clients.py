"""Clients that keep a connection by being slow, with hundreds of others, lose it.

A handler has 25 seconds, with the body of its request (`middlewares.within_budget`). aiohttp limits
neither what comes before it nor what comes after it: without the limits below, a client that never
reads its answers keeps a connection, its buffers and its file descriptor until the process ends
(slowloris and slow read attacks, CWE-400). Routers have such limits of their own.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from aiohttp import web

# As long as a handler: routers give up after 30.
HEAD_SECONDS = 25.0
# For what the kernel has no room for: answers are smaller than its buffer.
ANSWER_SECONDS = 25.0


class TimedConnection(web.RequestHandler):
    """A connection with a time limit for the head of a request, and one for reading an answer.

    A class because aiohttp and asyncio tell the connection, by methods, what arrives and waits.
    """

    __slots__ = ("_answer_limit", "_head_limit")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_limit: asyncio.TimerHandle | None = None
        self._answer_limit: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Let asyncio report every answer that is not sent at once, not only large ones."""
        cast(asyncio.Transport, transport).set_write_buffer_limits(high=0)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Stop the clocks."""
        super().connection_lost(exc)
        for limit in (self._head_limit, self._answer_limit):
            if limit is not None:
                limit.cancel()

    def data_received(self, data: bytes) -> None:
        """Start the clock with the first bytes of a head, and stop it with the last ones."""
        super().data_received(data)
        if data and self._waiter is not None and not self._waiter.done():
            if self._head_limit is None:
                self._head_limit = self._loop.call_later(HEAD_SECONDS, self.force_close)
        elif self._head_limit is not None:
            self._head_limit.cancel()
            self._head_limit = None

    def pause_writing(self) -> None:
        """Start the clock: the client does not read what was sent so far."""
        super().pause_writing()
        if self.transport is not None:
            self._answer_limit = self._loop.call_later(ANSWER_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop the clock: everything is sent."""
        super().resume_writing()
        if self._answer_limit is not None:
            self._answer_limit.cancel()
            self._answer_limit = None
