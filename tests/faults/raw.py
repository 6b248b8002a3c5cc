"""Requests as plain bytes over kept connections: many, or ones that no client would send."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

CONNECTIONS = 32
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)
GIVEN_UP_SECONDS = 3.0


@dataclass(frozen=True)
class Answer:
    """An answer; status 0 if the connection was closed without one."""

    status: int
    head: bytes
    body: bytes


class Stream(asyncio.Protocol):
    """One connection that sends the next request when the last one is answered.

    Kept small on purpose: a client library would need several times the CPU time of the server.
    """

    def __init__(self, requests: Iterator[bytes], check: Callable[[bytes], None]) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._requests = requests
        self._check = check
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request."""
        self._transport = cast(asyncio.Transport, transport)
        self._send_next()

    def data_received(self, data: bytes) -> None:
        """Collect an answer, check it, and send the next request."""
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not found or length is None or len(body) < int(length[1]):
            return
        answer, self._received = self._received, b""
        try:
            self._check(answer)
        except AssertionError as error:
            self.done.set_exception(error)
            self._transport.abort()
            return
        self._send_next()

    def connection_lost(self, error: Exception | None) -> None:
        """Fail the load if the server closes the connection early."""
        if not self.done.done():
            self.done.set_exception(AssertionError("the app closed a connection"))

    def _send_next(self) -> None:
        request = next(self._requests, None)
        if request is None:
            self.done.set_result(None)
            self._transport.close()
        else:
            self._transport.write(request)


async def send_all(
    port: int,
    requests: Iterator[bytes],
    check: Callable[[bytes], None],
    *,
    connections: int = CONNECTIONS,
) -> None:
    """Send every request over a few connections, and check every answer."""
    loop = asyncio.get_running_loop()
    streams = [
        (await loop.create_connection(lambda: Stream(requests, check), "127.0.0.1", port))[1]
        for _ in range(connections)
    ]
    await asyncio.gather(*(stream.done for stream in streams))


async def ask(port: int, request: bytes) -> Answer:
    """Send one request over its own connection, and read until the server closes it.

    If the request is incomplete, the server waits for the rest, so the client stops after a moment.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    received = b""
    try:
        writer.write(request)
        async with asyncio.timeout(GIVEN_UP_SECONDS):
            while piece := await reader.read(65536):
                received += piece
    except (ConnectionError, TimeoutError):
        pass
    finally:
        writer.close()
    head, _, body = received.partition(b"\r\n\r\n")
    status = re.match(rb"HTTP/1\.[01] (\d{3}) ", head)
    return Answer(int(status[1]) if status else 0, head, body)
