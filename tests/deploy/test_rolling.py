"""Restarts and rotations under load: the app refuses nobody, and nobody is signed out."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from storage import generate_secret
from tests.deploy.conftest import Fleet, Router
from tests.processes import run_webapp
from tests.webapp.browsing import Visitor

pytestmark = pytest.mark.long

VISITORS = 4


@dataclass
class Load:
    """The answers that the visitors have got so far."""

    statuses: Counter[int] = field(default_factory=Counter)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def note(self, status: int) -> None:
        """Count one answer."""
        async with self.changed:
            self.statuses[status] += 1
            self.changed.notify_all()

    async def wait_for_more(self, good: int) -> None:
        """Return after this number of further good answers."""
        goal = self.statuses[200] + good
        async with self.changed:
            await self.changed.wait_for(lambda: self.statuses[200] >= goal)


@asynccontextmanager
async def signed_in_load(router: Router) -> AsyncIterator[Load]:
    """Let visitors request their profiles without a pause; at the end all are still signed in."""
    load = Load()
    visitors = [router.visitor(f"visitor{n}@example.com") for n in range(VISITORS)]
    ended = asyncio.Event()

    async def keep_looking(visitor: Visitor) -> None:
        while not ended.is_set():
            await load.note(await visitor.profile())

    try:
        for visitor in visitors:
            assert (await visitor.sign_up(), await visitor.sign_in(remember=False)) == (201, 200)
        async with asyncio.TaskGroup() as group:
            for visitor in visitors:
                group.create_task(keep_looking(visitor))
            try:
                yield load
            finally:
                ended.set()
        assert [await visitor.profile() for visitor in visitors] == [200] * VISITORS
    finally:
        for visitor in visitors:
            await visitor.close()


def nothing_was_lost(load: Load, router: Router) -> None:
    """Assert that every failure was nginx at a closed port, and that nothing else failed."""
    errors = router.errors()
    refused = [line for line in errors if "connect() failed (111: Connection refused)" in line]
    assert errors == refused
    assert load.statuses.keys() <= {200, 502}, load.statuses
    assert load.statuses[502] == len(refused)


async def test_rolling_restart_loses_no_request_and_no_session(
    fleet: Fleet, router: Router
) -> None:
    """Under load each process gets two SIGTERMs and is started again, twice."""
    for port in fleet.ports:
        fleet.start(port)

    async with signed_in_load(router) as load:
        for port in fleet.ports * 2:
            await load.wait_for_more(100)
            await asyncio.to_thread(fleet.restart, port, router)
        await load.wait_for_more(100)

    nothing_was_lost(load, router)
    assert "Traceback" not in fleet.output()


async def test_secret_rotation_in_three_steps_signs_nobody_out(
    fleet: Fleet, router: Router
) -> None:
    """First `old,new` everywhere, then `new,old`, then `new` once stats show that none is left."""
    old, new = fleet.environ["SESSION_SECRET"], generate_secret()
    fleet.environ["SESSION_MAX_AGE"] = "20"  # so that every session is touched once a second
    for port in fleet.ports:
        fleet.start(port)

    async def restart_all(secrets: str) -> None:
        fleet.environ["SESSION_SECRET"] = secrets
        for port in fleet.ports:
            await asyncio.to_thread(fleet.restart, port, router)
        await load.wait_for_more(20)

    async with signed_in_load(router) as load:
        await restart_all(f"{old},{new}")
        await restart_all(f"{new},{old}")
        while (await _stats(fleet))["retired_sessions"]:
            await load.wait_for_more(20)
        assert (await _stats(fleet))["live_sessions"] == VISITORS
        await restart_all(new)

    nothing_was_lost(load, router)


async def _stats(fleet: Fleet) -> dict[str, int]:
    """Run `sessions stats`, as an operator does."""
    code, output = await asyncio.to_thread(
        run_webapp, "sessions", "stats", "--json", environ=fleet.environ
    )
    assert code == 0, output
    counted: dict[str, int] = json.loads(output)["rows"][0]
    return counted
