"""Password hashing does not block the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from time import perf_counter

import pytest
from pytest_aiohttp import AiohttpClient

from tests.webapp.conftest import BROWSER
from tests.webapp.people import sign_in, sign_up
from webapp.accounts.passwords import Cost, Passwords
from webapp.app import create_app
from webapp.config import Config

LOGINS = 50
LONGEST_SECONDS = 0.1


@pytest.mark.parametrize("work", [Passwords.hash, partial(Passwords.verify, phc=None)])
async def test_loop_turns_while_a_password_is_hashed(
    work: Callable[[Passwords, str], Awaitable[object]],
) -> None:
    """However fast the machine is, the loop turns many times during one hash."""
    passwords = Passwords(Cost(passes=20))  # about half a second
    hashing = asyncio.ensure_future(work(passwords, "copper window and slow tea"))
    turns = 0

    while not hashing.done():
        await asyncio.sleep(0)
        turns += 1

    passwords.close()
    assert turns > 100


@pytest.mark.long  # it measures, so the machine must have nothing else to do
async def test_health_answers_within_100_ms_while_fifty_logins_hash(
    environ: dict[str, str], aiohttp_client: AiohttpClient
) -> None:
    """The 99th percentile of `/healthz` stays under 100 ms, and all fifty are answered."""
    app = await create_app(Config.from_environ(environ))
    client = await aiohttp_client(app, headers=BROWSER)
    await sign_up(client)
    logins = asyncio.gather(*(sign_in(client, email=f"{n}@example.org") for n in range(LOGINS)))
    waits = []

    while not logins.done():
        began = perf_counter()
        assert (await client.get("/healthz")).status == 200
        waits.append(perf_counter() - began)

    assert {answer.status for answer in await logins} == {401}
    assert len(waits) > 100
    assert sorted(waits)[int(len(waits) * 0.99)] < LONGEST_SECONDS
