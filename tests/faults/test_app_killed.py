"""App processes are killed or restarted under load; what they acknowledged is kept."""

from __future__ import annotations

import asyncio
import signal

import pytest

from tests.faults.conftest import App, Report, StartApp
from tests.faults.load import RENEWALS, VISITORS, Load
from webapp.database.mongod import Mongod

pytestmark = pytest.mark.long


@pytest.fixture
def apps(mongod: Mongod, database_name: str, start_app: StartApp) -> tuple[App, App]:
    """Run two processes, one with each driver."""
    uri, own = f"{mongod.uri}/?journal=true", ("--database", database_name)
    return start_app(uri, *own, driver="motor"), start_app(uri, *own, driver="pymongo")


async def end_in_turn(
    apps: tuple[App, App],
    number: signal.Signals,
    times: int,
    *,
    renewals: float = RENEWALS,
    parallel: int = 0,
) -> Load:
    """Stop the processes in turn under load, and start each again at once."""

    def exchange(app: App) -> None:
        app.process.signal(number)
        app.process.wait()
        app.restart()

    async with Load([app.base for app in apps], renewals=renewals, parallel=parallel) as load:
        for turn in range(times):
            await load.answers(50)
            await asyncio.to_thread(exchange, apps[turn % 2])
    return load


async def test_nothing_acknowledged_is_lost_when_a_process_is_killed_during_a_save(
    apps: tuple[App, App], report: Report
) -> None:
    """After two SIGKILLs, each interrupted request was applied completely or not at all.

    Also where it was a renewal, and others have changed the session beside it.
    """
    load = await end_in_turn(apps, signal.SIGKILL, 2, renewals=0.4, parallel=3)

    report("app process killed with SIGKILL, 2 times", load.record, VISITORS)
    load.record.assert_in_order()
    assert load.record.late > 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])
async def test_twenty_restarts_in_a_row_lose_nothing(
    apps: tuple[App, App], report: Report, number: signal.Signals
) -> None:
    """Two processes restart twenty times in turn: nobody is signed out, no session comes back."""
    load = await end_in_turn(apps, number, 20)

    report(f"app process restarted with {number.name}, 20 times", load.record, VISITORS)
    load.record.assert_in_order()
    assert load.record.refused == 0
