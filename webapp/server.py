"""How the process serves, and how it ends without losing a request.

On the first SIGTERM or SIGINT the port closes, requests in flight are finished and save their
sessions, and the connection to MongoDB closes last.  Later signals change nothing: platforms send
SIGTERM to every process of a group, and repeat it.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from ipaddress import IPv6Address
from types import FrameType
from typing import Any, TypeVar, cast

from aiohttp import web

from webapp.config.settings import Config
from webapp.http.app_keys import CONFIG, IN_FLIGHT
from webapp.http.in_flight import InFlight
from webapp.http.logs import ACCESS, AccessLines
from webapp.http.proxy import peer_address
from webapp.http.unreadable import (
    LONGEST_HEADER,
    LONGEST_REQUEST_LINE,
    handle_unreadable_requests,
)

SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Together with the clean-up under 25 s; platforms kill after 30.
DRAIN_SECONDS = 18.0
# The clean-up: twice aiohttp's own timeout for what is left, then the storage's last writes.
SHUTDOWN_SECONDS = 2.0
CLEANUP_SECONDS = 6.0
# No request may come in for so long before the last connections are closed.
QUIET_SECONDS = 0.3
BACKLOG = 1024
# In one turn of the event loop.
ACCEPTED_AT_ONCE = 16

T = TypeVar("T")

_log = logging.getLogger("webapp.server")


class PortRefused(Exception):
    """The port cannot be opened; the text says why."""


class StopSignals:
    """SIGTERM and SIGINT, as one event that is set once.

    A class because it outlives the event loop: the loop's own handlers are removed with it, and a
    signal after that would kill the process and change its exit code.
    """

    def __init__(self) -> None:
        self._stopped = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        for number in SIGNALS:
            signal.signal(number, self._receive)

    async def wait(self) -> None:
        """Return when the first signal has come."""
        await self._stopped.wait()

    def ignore_from_now_on(self) -> None:
        """Ignore further signals: none may change the exit code of a process that is ending."""
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def _receive(self, _number: int, _frame: FrameType | None) -> None:
        # One is enough, and handling thousands would leave no time to end: the kernel drops them.
        self.ignore_from_now_on()
        self._loop.call_soon_threadsafe(self._stopped.set)


async def unless_stopped(work: Coroutine[Any, Any, T], signals: StopSignals) -> T | None:
    """Return what `work` returns; when a signal comes first, cancel it and return None."""
    task = asyncio.ensure_future(work)
    stopped = asyncio.ensure_future(signals.wait())
    await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if task.done():
        return task.result()
    task.cancel()
    await asyncio.wait({task})
    return None


async def serve(
    app: web.Application, signals: StopSignals, *, when_open: Callable[[], None] = lambda: None
) -> None:
    """Open the port, answer until a signal comes, drain, and close everything.

    `when_open` is called once the port is open.  Raises `PortRefused`.
    """
    runner = web.AppRunner(
        app,
        handle_signals=False,
        shutdown_timeout=SHUTDOWN_SECONDS,
        keepalive_timeout=app[CONFIG].keep_alive.total_seconds(),
        access_log_class=AccessLines,
        access_log=ACCESS,
        max_field_size=LONGEST_HEADER,
        max_line_size=LONGEST_REQUEST_LINE,
        # The body of a refused request is skipped, and 64 KiB of it could be 64 MB to decompress.
        auto_decompress=False,
    )
    try:
        await runner.setup()
        handle_unreadable_requests(runner, app)
        listener = _listen(app[CONFIG])
        # When no file descriptor is free, asyncio logs one traceback a second for each connection
        # that it would accept at once: with 1024, anybody could fill the disk.
        site = web.SockSite(runner, listener, backlog=ACCEPTED_AT_ONCE)
        await site.start()
        listener.listen(BACKLOG)  # asyncio has given the kernel the other number
        # What the start has created lives as long as the process. Without this the garbage
        # collector walks through it again and again, which blocks all requests for 20 ms.
        gc.collect()
        gc.freeze()
        _log.info("listening on %s port %d", *listener.getsockname()[:2])
        when_open()
        await signals.wait()
        await _wait_for_routers(app[CONFIG].drain_delay.total_seconds(), app[IN_FLIGHT])
        await _drain(runner, site, listener, app[IN_FLIGHT])
    finally:
        gc.unfreeze()
        await _clean_up(runner)
        _log.info("ended")


def _listen(config: Config) -> socket.socket:
    is_v6 = isinstance(peer_address(config.host), IPv6Address)
    try:
        return socket.create_server(
            (config.host, config.port),
            family=socket.AF_INET6 if is_v6 else socket.AF_INET,
            backlog=BACKLOG,
            dualstack_ipv6=config.host == "::" and socket.has_dualstack_ipv6(),
        )
    except OSError as error:
        # `create_server` adds the address, which the sentence names already.
        reason = (error.strerror or type(error).__name__).partition(" (while")[0]
        raise PortRefused(
            f"PORT: {config.host} port {config.port} cannot be opened ({reason.lower()});"
            " stop the program that uses it, or set another PORT or HOST"
        ) from None


async def _wait_for_routers(seconds: float, in_flight: InFlight) -> None:
    """Serve on while `/readyz` says 503, so that a router hears of the end before the port closes.

    Kubernetes tells the process and the balancers at the same time, and these need some seconds.
    """
    in_flight.begin_draining()
    if seconds:
        _log.info("ending: not ready any more, and serving for %g seconds", seconds)
        await asyncio.sleep(seconds)


async def _drain(
    runner: web.AppRunner, site: web.SockSite, listener: socket.socket, in_flight: InFlight
) -> None:
    _log.info("ending: %d requests in flight", int(in_flight))
    await _stop_listening(runner, site, listener)
    try:
        async with asyncio.timeout(DRAIN_SECONDS):
            await _until_quiet(in_flight)
    except TimeoutError:
        _log.warning("ending: %d requests took too long and are cut off", int(in_flight))


async def _stop_listening(
    runner: web.AppRunner, site: web.SockSite, listener: socket.socket
) -> None:
    """Close the port; connections that the kernel has accepted are still answered.

    asyncio's own `close` drops connections that it has just accepted, and resets those that wait.
    """
    loop = asyncio.get_running_loop()
    loop.remove_reader(listener)
    await asyncio.sleep(0)  # connections accepted just now get their transports
    waiting = list(_accepted(listener))
    await site.stop()
    for connection in waiting:
        await loop.connect_accepted_socket(cast(web.Server, runner.server), connection)


def _accepted(listener: socket.socket) -> Iterator[socket.socket]:
    with suppress(OSError):  # none is left, or no file descriptor for one
        while True:
            connection, _ = listener.accept()
            connection.settimeout(0)
            yield connection


async def _until_quiet(in_flight: InFlight) -> None:
    """Return when no request is in flight and none comes in for a moment.

    The last connections have perhaps not been read yet, and a router may have just sent a request
    over a connection that it keeps.
    """
    while True:
        await in_flight.wait_until_none()
        try:
            async with asyncio.timeout(QUIET_SECONDS):
                await in_flight.wait_for_change()
        except TimeoutError:
            return


async def _clean_up(runner: web.AppRunner) -> None:
    try:
        async with asyncio.timeout(CLEANUP_SECONDS):
            await runner.cleanup()
    except TimeoutError:
        _log.warning("ending: the clean-up took too long")
