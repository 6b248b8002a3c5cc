"""How the process serves and how it ends, tested inside one process."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import re
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress

import pytest
from aiohttp import ClientSession, web

from tests.processes import free_port
from tests.webapp.people import PATIENCE_SECONDS
from webapp import server
from webapp.app import create_app
from webapp.config.settings import Config
from webapp.http import slow_clients
from webapp.http.app_keys import DATABASE, IN_FLIGHT
from webapp.server import PortRefused, StopSignals, serve, unless_stopped

pytestmark = pytest.mark.usefixtures("_signals_as_before")

HEALTHZ = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
STYLE = b"GET /static/style.css HTTP/1.1\r\nHost: localhost\r\n\r\n"
MORE_THAN_BUFFERS = 100  # answers of 8 KiB; see `_with_small_buffers`

Start = Callable[..., Awaitable["Serving"]]


class Serving:
    """An app that is being served by `serve` in this process."""

    def __init__(self, app: web.Application, port: int) -> None:
        self.app = app
        self.port = port
        self.signals = StopSignals()
        self.opened = asyncio.Event()
        self.task = asyncio.ensure_future(serve(app, self.signals, when_open=self.opened.set))

    async def end(self) -> None:
        """Send SIGTERM and wait for the end."""
        os.kill(os.getpid(), signal.SIGTERM)
        await self.task


@pytest.fixture
def start(environ: dict[str, str]) -> Start:
    """Serve an app with these environment variables until it gets a signal."""

    async def serving(**changes: str) -> Serving:
        port = free_port()
        config = Config.from_environ(environ | {"HOST": "127.0.0.1", "PORT": str(port)} | changes)
        started = Serving(await create_app(config), port)
        await started.opened.wait()
        return started

    return serving


@pytest.fixture
def _signals_as_before() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in server.SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("already_accepted", [True, False], ids=["accepted", "waiting"])
async def test_accepted_connections_are_answered_while_the_process_ends(
    start: Start,
    already_accepted: bool,  # noqa: FBT001
) -> None:
    """Connections that were just accepted, or wait to be, are served after the port has closed."""
    serving = await start()
    waiting = []
    for _ in range(20):  # the event loop does not run here, so none is accepted
        connection = socket.create_connection(("127.0.0.1", serving.port))
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        waiting.append(connection)
    if already_accepted:
        # Handled one iteration of the loop after the connections.
        os.kill(os.getpid(), signal.SIGTERM)
    else:
        serving.signals._stopped.set()  # at once

    await serving.task

    answers = []
    for connection in waiting:
        connection.settimeout(5)
        answers.append(connection.recv(65536))
        connection.close()
    assert [answer[:15] for answer in answers] == [b"HTTP/1.1 200 OK"] * 20


async def test_during_the_drain_delay_requests_are_served_and_readyz_is_503(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """Load balancers notice the 503 late, so new connections are accepted for that time."""
    caplog.set_level(logging.INFO, logger="webapp.server")
    serving = await start(DRAIN_DELAY="1")
    base = f"http://127.0.0.1:{serving.port}"
    os.kill(os.getpid(), signal.SIGTERM)
    while not serving.app[IN_FLIGHT].draining:
        await serving.app[IN_FLIGHT].wait_for_change()
    begun = asyncio.get_running_loop().time()

    async with ClientSession() as client:
        async with client.get(f"{base}/readyz") as ready:
            assert ready.status == 503
        async with client.get(base) as page:
            assert page.status == 200
            assert page.headers["Connection"] == "close"
    await serving.task

    assert asyncio.get_running_loop().time() - begun > 0.9
    assert "ending: not ready any more, and serving for 1 seconds" in caplog.text
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", serving.port))


async def test_idle_connection_is_kept_as_long_as_is_set(start: Start) -> None:
    """KEEP_ALIVE: the app closes an idle connection after these seconds, not before."""
    serving = await start(KEEP_ALIVE="1")
    reader, writer = await asyncio.open_connection("127.0.0.1", serving.port)

    writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    answer = await reader.readuntil(b"alive")
    begun = asyncio.get_running_loop().time()
    async with asyncio.timeout(10):
        rest = await reader.read()
    idle_seconds = asyncio.get_running_loop().time() - begun
    writer.close()
    await writer.wait_closed()
    await serving.end()

    assert answer.startswith(b"HTTP/1.1 200")
    assert b"HTTP" not in rest
    assert 0.9 < idle_seconds < 5


async def test_request_over_a_kept_connection_is_answered_while_draining(start: Start) -> None:
    """A router may still use a connection that it keeps; the answer tells it to close it."""
    serving = await start()
    slow_begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow_body() -> AsyncIterator[bytes]:
        yield b"{"
        slow_begun.set()
        await go_on.wait()
        yield b"}"

    async with ClientSession(headers={"Sec-Fetch-Site": "same-origin"}) as kept:
        base = f"http://127.0.0.1:{serving.port}"
        async with kept.get(f"{base}/readyz") as before:
            assert before.headers.get("Connection") != "close"
        slow = asyncio.ensure_future(
            kept.post(
                f"{base}/api/auth/login",
                data=slow_body(),
                headers={"Content-Type": "application/json"},
            )
        )
        await slow_begun.wait()
        async with kept.get(f"{base}/healthz"):
            pass  # a second connection, kept; by now the request of the first one is in flight
        os.kill(os.getpid(), signal.SIGTERM)
        while not serving.app[IN_FLIGHT].draining:
            await serving.app[IN_FLIGHT].wait_for_change()

        async with kept.get(f"{base}/readyz") as during:
            assert during.status == 503
            assert during.headers["Connection"] == "close"
        go_on.set()
        assert (await slow).status == 422
    await serving.task


async def test_request_that_never_ends_is_cut_off(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Such a request does not keep the process alive."""
    monkeypatch.setattr(server, "DRAIN_SECONDS", 0.2)
    monkeypatch.setattr(server, "SHUTDOWN_SECONDS", 0.1)
    serving = await start()

    async def endless() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    async with ClientSession(headers={"Sec-Fetch-Site": "same-origin"}) as client:
        request = asyncio.ensure_future(
            client.post(
                f"http://127.0.0.1:{serving.port}/api/auth/login",
                data=endless(),
                headers={"Content-Type": "application/json"},
            )
        )
        while not int(serving.app[IN_FLIGHT]):
            await serving.app[IN_FLIGHT].wait_for_change()
        await serving.end()
        await asyncio.wait([request])
        _ = request.exception() or request.result()

    assert "1 requests took too long" in caplog.text


async def test_clean_up_that_hangs_is_cancelled(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The process ends all the same, before the platform kills it."""
    monkeypatch.setattr(server, "CLEANUP_SECONDS", 0.2)
    serving = await start()

    async def hang() -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr("storage.MongoStorage.aclose", lambda _self: hang())

    await serving.end()
    serving.app[DATABASE].client.close()

    assert "the clean-up took too long" in caplog.text


async def test_start_and_end_are_logged(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    """The log says when the port opened, when the end began, and that it is complete."""
    caplog.set_level(logging.INFO, logger="webapp.server")
    serving = await start()
    await serving.end()

    assert [record.getMessage() for record in caplog.records if record.name == "webapp.server"] == [
        f"listening on 127.0.0.1 port {serving.port}",
        "ending: 0 requests in flight",
        "ended",
    ]


class _Full(socket.socket):
    """A listener of a process that has no file descriptor left."""

    asked: asyncio.Event

    def accept(self) -> tuple[socket.socket, object]:
        """Fail as the kernel does."""
        self.asked.set()
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


async def test_process_without_a_free_descriptor_logs_little_and_ends_as_usual(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It tries again once a second, and logs a few lines each time."""
    caplog.set_level(logging.INFO)
    _Full.asked = asyncio.Event()
    listen = server._listen
    monkeypatch.setattr(server, "_listen", lambda config: _Full(fileno=listen(config).detach()))
    serving = await start()

    with socket.create_connection(("127.0.0.1", serving.port)):
        async with asyncio.timeout(PATIENCE_SECONDS):
            await _Full.asked.wait()
        messages = [record.message for record in caplog.records]
        await serving.end()

    assert 0 < sum("out of system resource" in message for message in messages) <= 16
    assert "ended" in [record.message for record in caplog.records]


async def test_connection_whose_head_never_ends_is_closed(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line now and then does not keep it; a connection without a request is kept."""
    monkeypatch.setattr(slow_clients, "HEAD_SECONDS", 0.8)
    serving = await start()
    idle_reader, idle = await asyncio.open_connection("127.0.0.1", serving.port)
    idle.write(HEALTHZ[:-2])
    reader, slow = await asyncio.open_connection("127.0.0.1", serving.port)
    slow.write(HEALTHZ)
    await reader.readuntil(b"alive")  # by now the first head has begun
    idle.write(HEALTHZ[-2:])
    await idle_reader.readuntil(b"alive")

    slow.write(HEALTHZ[:-2])
    received = b""
    async with asyncio.timeout(PATIENCE_SECONDS):
        with suppress(ConnectionError):
            while not reader.at_eof():
                slow.write(b"X: y\r\n")
                with suppress(TimeoutError):
                    received += await asyncio.wait_for(reader.read(4096), 0.03)
        idle.write(HEALTHZ)
        await idle_reader.readuntil(b"alive")

    assert b"HTTP" not in received
    for writer in (idle, slow):
        writer.close()
    await serving.end()


async def test_connection_whose_answers_are_not_read_is_closed(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that reads them slowly keeps its connection."""
    monkeypatch.setattr(slow_clients, "ANSWER_SECONDS", 0.5)
    serving = await start()
    reader, reads = await asyncio.open_connection(sock=_with_small_buffers(serving.port))
    reads.write(STYLE * MORE_THAN_BUFFERS)
    for _ in range(MORE_THAN_BUFFERS):
        await reader.readuntil(b"HTTP/1.1 200 ")

    with _with_small_buffers(serving.port) as never_reads:
        async with asyncio.timeout(PATIENCE_SECONDS):
            with pytest.raises(ConnectionError):
                await asyncio.get_running_loop().sock_sendall(never_reads, STYLE * 100_000)
    reads.write(HEALTHZ)
    async with asyncio.timeout(PATIENCE_SECONDS):
        await reader.readuntil(b"alive")

    reads.close()
    await serving.end()


def _with_small_buffers(port: int) -> socket.socket:
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    # The kernel chooses the buffer of the sender by it: 2.5 MB on this machine otherwise.
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
    connection.connect(("127.0.0.1", port))
    connection.settimeout(0)
    return connection


async def test_refused_body_is_skipped_without_decompressing_it(start: Start) -> None:
    """A body that cannot be decompressed shows it: the next request of the connection is served."""
    serving = await start()
    reader, writer = await asyncio.open_connection("127.0.0.1", serving.port)

    writer.write(
        b"POST /login HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Site: cross-site\r\n"
        b"Content-Encoding: gzip\r\nContent-Length: 15\r\n\r\nthis is no gzip" + HEALTHZ
    )
    async with asyncio.timeout(PATIENCE_SECONDS):
        answers = await reader.readuntil(b"alive")

    assert re.findall(rb"HTTP/1\.1 (\d+) ", answers) == [b"403", b"200"]
    writer.close()
    await serving.end()


async def test_header_of_16_kib_does_not_keep_the_loop_busy(start: Start) -> None:
    """General parsers need up to five seconds for one of these, and nobody is served meanwhile.

    Measured is the CPU time of this thread, which does not depend on what else runs.
    """
    quotes = b"Content-Type: application/json;" + b'"' * 16_000
    long_to_normalise = b"Origin: https://" + "\ufdfa".encode() * 5_000
    serving = await start()

    for header, status in ((quotes, b"400"), (long_to_normalise, b"403")):
        reader, writer = await asyncio.open_connection("127.0.0.1", serving.port)
        begun = time.thread_time()
        writer.write(b"POST /api/auth/login HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n")
        writer.write(header + b"\r\nContent-Length: 0\r\n\r\n")
        answer = await reader.read()
        used_seconds = time.thread_time() - begun
        writer.close()

        assert answer.split()[1] == status
        assert used_seconds < 0.1
    await serving.end()


async def test_client_that_leaves_while_its_body_arrives_causes_no_error(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """Anybody could fill the log with tracebacks, and raise an alarm, otherwise."""
    serving = await start()
    _, writer = await asyncio.open_connection("127.0.0.1", serving.port)

    writer.write(
        b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n"
        b"Content-Type: application/x-www-form-urlencoded\r\n\r\na=b"
    )
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not int(serving.app[IN_FLIGHT]):
            await serving.app[IN_FLIGHT].wait_for_change()
        writer.close()
        await serving.app[IN_FLIGHT].wait_until_none()

    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    await serving.end()


async def test_expect_header_that_is_not_utf8_is_417(start: Start) -> None:
    """Without the replacement aiohttp fails when it repeats the header in its answer."""
    serving = await start()
    reader, writer = await asyncio.open_connection("127.0.0.1", serving.port)

    writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nExpect: caf\xe9\r\n\r\n")
    status_line = await reader.readline()

    assert status_line.startswith(b"HTTP/1.1 417 ")
    writer.close()
    await writer.wait_closed()
    await serving.end()


async def test_target_whose_host_cannot_be_decoded_is_421(start: Start) -> None:
    """Without that, aiohttp fails, and never answers the request or closes the connection."""
    serving = await start()
    reader, writer = await asyncio.open_connection("127.0.0.1", serving.port)

    writer.write(b"GET http://xn--a/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
    async with asyncio.timeout(PATIENCE_SECONDS):
        status_line = await reader.readline()

    assert status_line.startswith(b"HTTP/1.1 421 ")
    writer.close()
    await writer.wait_closed()
    await serving.end()


GET, API = b"GET / HTTP/1.1\r\n", b"GET /api/profile HTTP/1.1\r\n"
SECRET_BYTES = b"private-"


def cookie_of(size: int) -> bytes:
    """Return a cookie header of this many bytes, `Cookie: ` included."""
    return b"Cookie: " + SECRET_BYTES * (size // 8 - 1) + b"\r\n"


@pytest.mark.parametrize(
    ("request_bytes", "status", "kind", "words"),
    [
        pytest.param(GET + cookie_of(16 * 1024), 200, "text/html", "", id="a header of 16 KiB"),
        pytest.param(
            GET + cookie_of(17 * 1024), 431, "text/plain", "longer than 16 KiB", id="17 KiB"
        ),
        pytest.param(
            API + cookie_of(17 * 1024),
            431,
            "application/problem+json",
            '"status": 431, "detail": "A header of this request is longer',
            id="17 KiB, in the API",
        ),
        pytest.param(
            b"GET /" + SECRET_BYTES * 2000 + b" HTTP/1.1\r\n",
            414,
            "text/plain",
            "longer than 8 KiB",
            id="a long address",
        ),
        pytest.param(
            GET + b"private-\x00: 1\r\n", 400, "text/plain", "could not be read", id="a NUL"
        ),
        pytest.param(
            API + b"private : 1\r\n",
            400,
            "application/problem+json",
            '"detail": "This request could not be read."',
            id="a blank in a name, in the API",
        ),
    ],
)
async def test_request_that_cannot_be_parsed_gets_a_sentence_and_is_not_quoted(
    start: Start, request_bytes: bytes, status: int, kind: str, words: str
) -> None:
    """The API answers in its own format; every answer has the headers of the app."""
    serving = await start()
    reader, writer = await asyncio.open_connection("127.0.0.1", serving.port)

    writer.write(request_bytes + b"Host: localhost\r\nConnection: close\r\n\r\n")
    answer = (await reader.readuntil(b"\r\n\r\n")).decode()
    body = (await reader.read(len(words) or 1)).decode()
    while words not in body and (more := await reader.read(4096)):
        body += more.decode()
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()
    await serving.end()

    assert int(answer.split()[1]) == status
    assert f"Content-Type: {kind}" in answer
    assert "Content-Security-Policy: " in answer
    assert words in body
    assert SECRET_BYTES.decode() not in answer + body


async def test_server_listens_on_ipv6(start: Start) -> None:
    """HOST may be an IPv6 address."""
    serving = await start(HOST="::1")
    async with (
        ClientSession() as client,
        client.get(f"http://[::1]:{serving.port}/healthz") as seen,
    ):
        assert seen.status == 200
    await serving.end()


async def test_host_that_is_not_this_machine_is_refused(
    environ: dict[str, str],
) -> None:
    """One sentence names host and port; everything that was opened is closed."""
    config = Config.from_environ(environ | {"HOST": "203.0.113.7", "PORT": "8080"})

    said = r"PORT: 203\.0\.113\.7 port 8080 cannot be opened \([a-z ]+\); stop"
    with pytest.raises(PortRefused, match=said):
        await serve(await create_app(config), StopSignals())


async def test_signal_cancels_the_start() -> None:
    """A start that hangs can be stopped; one that has ended keeps its result or error."""
    signals = StopSignals()

    async def fail() -> None:
        raise LookupError

    assert await unless_stopped(asyncio.sleep(0, "result"), signals) == "result"
    with pytest.raises(LookupError):
        await unless_stopped(fail(), signals)
    os.kill(os.getpid(), signal.SIGINT)
    assert await unless_stopped(asyncio.Event().wait(), signals) is None
    assert await unless_stopped(asyncio.Event().wait(), signals) is None


async def test_signals_are_ignored_while_the_process_ends() -> None:
    """They do not change the exit code."""
    StopSignals().ignore_from_now_on()

    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)

    assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN


async def test_objects_of_the_start_are_left_out_of_garbage_collection(start: Start) -> None:
    """While the app serves: a full collection would walk through all of them and block requests."""
    serving = await start()
    while_serving = gc.get_freeze_count()

    await serving.end()

    assert while_serving > 10_000
    assert gc.get_freeze_count() == 0
