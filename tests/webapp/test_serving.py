"""`python -m webapp` as a process, configured by environment variables only."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator

import pytest
from aiohttp import ClientSession

from storage import generate_secret
from tests.processes import LISTENING, Process, free_port, listens, webapp
from tests.waiting import until
from tests.webapp.browsing import PASSWORD, Visitor
from webapp.server import DRAIN_SECONDS


@pytest.fixture
def served(environ: dict[str, str]) -> dict[str, str]:
    """Add a free loopback port to the environment."""
    return environ | {"HOST": "127.0.0.1", "PORT": str(free_port()), "LOG_FORMAT": "json"}


def base_of(environ: dict[str, str]) -> str:
    """Return the address of the app that is started with this environment."""
    return f"http://127.0.0.1:{environ['PORT']}"


def lines_of(process: Process) -> list[dict[str, object]]:
    """Return the log lines; each must be one JSON object."""
    return [json.loads(line) for line in process.output.splitlines()]


async def test_signed_in_users_stay_signed_in_over_a_restart(served: dict[str, str]) -> None:
    """Sign up, sign in, stop, start: the same cookie is still accepted."""
    async with Visitor(base_of(served)) as visitor:
        with webapp(environ=served) as first:
            first.wait_for(LISTENING)
            assert await visitor.sign_up() == 201
            assert await visitor.sign_in() == 200
            assert await visitor.profile() == 200
            first.signal(signal.SIGTERM)
            assert first.wait() == 0

        with webapp(environ=served) as second:
            second.wait_for(LISTENING)
            assert await visitor.profile() == 200
            second.signal(signal.SIGINT)
            assert second.wait() == 0


async def test_two_processes_share_a_session(served: dict[str, str]) -> None:
    """A visitor who signs in at one process is signed in at the other."""
    other = served | {"PORT": str(free_port())}
    with webapp(environ=served) as first, webapp(environ=other) as second:
        first.wait_for(LISTENING)
        second.wait_for(LISTENING)
        async with Visitor(base_of(served)) as visitor:
            assert (await visitor.sign_up(), await visitor.sign_in()) == (201, 200)

            visitor.base = base_of(other)

            assert await visitor.profile() == 200


async def test_request_whose_body_still_arrives_is_answered_and_saved(
    served: dict[str, str],
) -> None:
    """SIGTERM twice during a sign-in: exit 0, and the next process accepts its cookie."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow_body() -> AsyncIterator[bytes]:
        yield b'{"email": "ada@example.com", '
        begun.set()
        await go_on.wait()
        yield json.dumps({"password": PASSWORD}).encode()[1:]

    async with Visitor(base_of(served)) as visitor:
        with webapp(environ=served) as process:
            process.wait_for(LISTENING)
            await visitor.sign_up()
            signing_in = asyncio.ensure_future(visitor.post("/api/auth/login", slow_body()))
            await begun.wait()
            assert await visitor.profile() == 401  # by now the other request is in flight
            process.signal(signal.SIGTERM)
            await asyncio.to_thread(process.wait_for, "ending: 1 requests in flight")
            process.signal(signal.SIGTERM)
            process.signal(signal.SIGINT)
            await asyncio.to_thread(until, lambda: not listens(int(served["PORT"])))
            go_on.set()

            assert await signing_in == (200, "close")
            assert process.wait() == 0

        with webapp(environ=served) as process:
            process.wait_for(LISTENING)
            assert await visitor.profile() == 200


@pytest.mark.long
def test_process_ends_with_its_code_although_a_thread_does_not() -> None:
    """A thread that waits for MongoDB keeps the process for a second at most; output is kept."""
    program = """if True:
        import threading
        from webapp.__main__ import leave
        threading.Thread(target=threading.Event().wait).start()
        print("done", end="")
        leave(7)
    """
    process = Process(sys.executable, "-c", program, environ={"PYTHONUNBUFFERED": ""})

    try:
        assert (process.wait(), process.output) == (7, "done")
    finally:
        process.end()


async def test_idle_connections_do_not_delay_the_end(
    served: dict[str, str],
) -> None:
    """A connection that a browser keeps open does not keep the process alive."""
    with webapp(environ=served) as process:
        process.wait_for(LISTENING)
        async with ClientSession() as client:
            async with client.get(f"{base_of(served)}/healthz") as answer:
                assert answer.headers.get("Connection") != "close"
            begun = time.monotonic()
            process.signal(signal.SIGTERM)

            assert process.wait() == 0
            assert time.monotonic() - begun < DRAIN_SECONDS


def test_repeated_signals_do_not_change_the_exit_code(
    served: dict[str, str],
) -> None:
    """SIGTERM after SIGTERM until the process has ended: 0."""
    with webapp(environ=served) as process:
        process.wait_for(LISTENING)
        while process._process.poll() is None:
            process.signal(signal.SIGTERM)
        assert process.wait() == 0


def test_start_that_waits_for_mongodb_can_be_stopped(served: dict[str, str]) -> None:
    """SIGTERM ends it at once with 0."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent_uri = f"mongodb://127.0.0.1:{silent.getsockname()[1]}"
        with webapp(environ=served | {"MONGO_URI": silent_uri, "LOG_LEVEL": "DEBUG"}) as process:
            silent.accept()[0].close()  # it has begun to connect, so its signals are in place
            process.signal(signal.SIGTERM)
            assert process.wait() == 0
    assert LISTENING not in process.output


def test_port_in_use_is_one_sentence(served: dict[str, str]) -> None:
    """Code 1, a sentence with the port, no traceback."""
    address = ("127.0.0.1", int(served["PORT"]))
    with socket.create_server(address), webapp(environ=served) as process:
        assert process.wait() == 1

    assert process.output.splitlines()[-1].startswith("PORT: 127.0.0.1 port")
    assert "Traceback" not in process.output


async def test_access_lines_have_the_documented_fields_and_no_secrets(
    served: dict[str, str],
) -> None:
    """One JSON line per request, its id exactly once; no cookie, password, path or query."""
    token = generate_secret()
    with webapp(environ=served | {"LOG_LEVEL": "DEBUG", "METRICS_TOKEN": token}) as process:
        process.wait_for(LISTENING)
        async with Visitor(base_of(served)) as visitor:
            await visitor.sign_up()
            await visitor.sign_in()
            await visitor.profile()
            cookie = next(iter(visitor._session.cookie_jar)).value
        async with ClientSession() as client:
            headers = {"X-Request-Id": "the-id-of-this-request", "Authorization": f"Bearer {token}"}
            await client.get(f"{base_of(served)}/metrics?what=private", headers=headers)
            await client.get(f"{base_of(served)}/no/such/private/path")
        process.signal(signal.SIGTERM)
        process.wait()

    lines = lines_of(process)
    mine = [line for line in lines if line.get("request_id") == "the-id-of-this-request"]
    events = [line["event"] for line in lines]
    assert len(mine) == 1
    assert set(mine[0]) == {
        *("time", "level", "event", "request_id", "address"),
        *("method", "route", "status", "milliseconds"),
    }
    assert mine[0]["route"] == "/metrics"
    assert (mine[0]["status"], mine[0]["address"]) == (200, "127.0.0.1")
    assert {"sign_up", "sign_in", "request", "log"} <= set(events)
    assert "py.warnings" not in process.output
    secrets = (cookie, PASSWORD, token, served["SESSION_SECRET"], "private", "$argon2")
    assert not [secret for secret in secrets if secret in process.output]


async def test_unreadable_requests_are_logged_like_others(served: dict[str, str]) -> None:
    """They are answered with the app's headers and logged, and never quoted."""
    raw = (
        b"GET / HTTP/1.1\r\nHost: localhost\r\nCookie: session=private" + b"x" * 17000 + b"\r\n\r\n"
    )
    with webapp(environ=served | {"LOG_LEVEL": "DEBUG"}) as process:
        process.wait_for(LISTENING)
        reader, writer = await asyncio.open_connection("127.0.0.1", int(served["PORT"]))
        writer.write(raw)
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        process.signal(signal.SIGTERM)
        process.wait()

    line = next(line for line in lines_of(process) if line["event"] == "request")
    assert (line["status"], line["route"], line["address"]) == (431, "unmatched", "127.0.0.1")
    assert answer.startswith(b"HTTP/1.0 431")
    assert b"Content-Security-Policy" in answer
    assert b"X-Request-Id: " + str(line["request_id"]).encode() in answer
    assert b"private" not in answer
    assert "private" not in process.output
