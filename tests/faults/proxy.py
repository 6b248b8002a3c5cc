"""A TCP proxy in front of one server, which stalls, delays or breaks connections.

A stalled connection loses nothing, as in a real network: data on its way arrives when the fault
has ended, however late. It works without root, which network namespaces would need.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Self, cast

# SO_LINGER with zero seconds: closing the socket sends RST, as if the peer's machine had crashed.
RESET = struct.pack("ii", 1, 0)


class Proxy:
    """Forwards a loopback port to another one; a context manager with its own thread.

    A class because the fault changes while it runs. Every method may be called from any thread.
    """

    def __init__(self, target_port: int) -> None:
        """Take a free port. Nothing is forwarded before the context is entered."""
        self.target_port = target_port
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port: int = self._listener.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.connections: set[_Client] = set()
        self.onward: set[_Server] = set()
        self.is_stalled: Callable[[int], bool] = lambda _pid: False
        self.delay_seconds = 0.0
        # Gets what a client sends; True: break the connection in the middle of the answer.
        self.breaks: Callable[[bytes], bool] = lambda _sent: False
        self.broken = 0
        self.stalls: Callable[[bytes], bool] = lambda _sent: False

    def stall(self, *, sources: Collection[int] | None = None, spare: Collection[int] = ()) -> None:
        """Stall connections of all processes, or of these `sources`; never those of `spare`."""

        def is_stalled(port: int) -> bool:
            if sources is None and not spare:
                return True
            inode = _inode(port, self.port)
            if any(inode in _sockets(pid) for pid in spare):
                return False
            return sources is None or any(inode in _sockets(pid) for pid in sources)

        self._set(is_stalled)

    def stall_at(self, recognises: Callable[[bytes], bool]) -> None:
        """Stall everything when a client sends data that `recognises` accepts, also this data."""
        self.stalls = recognises

    def stall_from_now_on(self, sources: Collection[int]) -> None:
        """Stall connections that these processes open later; callable inside `breaks`."""
        self.is_stalled = lambda port: any(
            _inode(port, self.port) in _sockets(pid) for pid in sources
        )

    def heal(self) -> None:
        """Forward everything again, beginning with the data that was held back."""
        self.delay_seconds = 0.0
        self.stalls = lambda _sent: False
        self._set(lambda _port: False)

    def delay(self, seconds: float) -> None:
        """Delay every piece of an answer by this time."""
        self.delay_seconds = seconds

    def break_answers(self, of: Callable[[bytes], bool]) -> None:
        """Break connections in the middle of the answers to data that `of` accepts."""
        self.breaks, self.broken = of, 0

    def __enter__(self) -> Self:
        """Start to forward."""
        self._thread.start()
        self._server: asyncio.Server = self._run(
            self._loop.create_server(lambda: _Client(self), sock=self._listener)
        )
        return self

    def __exit__(self, *_error: object) -> None:
        """Close every connection and stop the thread."""
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._listener.close()
        self._loop.close()

    def _set(self, is_stalled: Callable[[int], bool]) -> None:
        async def apply() -> None:
            self.is_stalled = is_stalled
            for client in tuple(self.connections):
                client.obey()

        self._run(apply())

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _end(self) -> None:
        self._server.close()
        while self.connections or self.onward:
            for client in tuple(self.connections):
                client.reset()
            await asyncio.sleep(0)
            others = asyncio.all_tasks() - {asyncio.current_task()}
            await asyncio.gather(*others, return_exceptions=True)


class _Client(asyncio.Protocol):
    """The side of a connection that the client sees."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.transport: asyncio.Transport
        self.server: _Server | None = None
        self.breaks_next_answer = False
        self._port = 0
        self._stalled = False
        self._early: list[bytes] = []
        self._connecting: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._port = transport.get_extra_info("peername")[1]
        self.proxy.connections.add(self)
        self._connecting = self.proxy._loop.create_task(self._connect())
        self.obey()

    def data_received(self, data: bytes) -> None:
        if self.proxy.stalls(data):
            self.proxy.is_stalled = lambda _port: True
            for client in self.proxy.connections:
                client.obey()
        if self.proxy.breaks(data):
            self.breaks_next_answer = True
        if self.server is None or self._stalled:
            self._early.append(data)
        else:
            self.server.transport.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        self.proxy.connections.discard(self)
        if self.server is not None:
            self.server.transport.abort()

    def obey(self) -> None:
        """Pause or resume forwarding, according to the current state of the proxy."""
        self._stalled = self.proxy.is_stalled(self._port)
        for side in (self.transport, self.server.transport if self.server else None):
            if side is not None and not side.is_closing():
                (side.pause_reading if self._stalled else side.resume_reading)()
        if self.server is not None and not self._stalled:
            self.server.transport.writelines(self._early)
            self._early.clear()

    def reset(self) -> None:
        """Reset the connection."""
        raw = self.transport.get_extra_info("socket")
        with contextlib.suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.transport.abort()

    async def _connect(self) -> None:
        loop = self.proxy._loop
        try:
            _, server = await loop.create_connection(
                lambda: _Server(self), "127.0.0.1", self.proxy.target_port
            )
        except OSError:
            self.reset()
            return
        self.server = server
        if self.transport.is_closing():
            server.transport.abort()
            return
        self.obey()


class _Server(asyncio.Protocol):
    """The side of a connection that the server sees."""

    def __init__(self, client: _Client) -> None:
        self._client = client
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._client.proxy.onward.add(self)

    def data_received(self, data: bytes) -> None:
        client, proxy = self._client, self._client.proxy
        if client.breaks_next_answer:
            client.breaks_next_answer = False
            proxy.broken += 1
            client.transport.write(data[: len(data) // 2])
            client.reset()
        elif proxy.delay_seconds:
            proxy._loop.call_later(proxy.delay_seconds, self._deliver, data)
        else:
            client.transport.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._client.proxy.onward.discard(self)
        self._client.transport.close()

    def _deliver(self, data: bytes) -> None:
        if not self._client.transport.is_closing():
            self._client.transport.write(data)


def _inode(source_port: int, target_port: int) -> str | None:
    """Find the socket of a loopback client in the kernel's table (proc(5), /proc/net/tcp)."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        ports = [int(address.rpartition(":")[2], 16) for address in fields[1:3]]
        if ports == [source_port, target_port]:
            return fields[9]
    return None


def _sockets(pid: int) -> set[str | None]:
    found: set[str | None] = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            name = str(descriptor.readlink())
            if name.startswith("socket:["):
                found.add(name[8:-1])
    return found
