"""A replica set loses its primary in several ways, under load from two processes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest

from tests.faults.conftest import App, Remark, Report, StartApp
from tests.faults.load import VISITORS, Load, Record
from tests.faults.replica_set import ReplicaSet, replica_set

pytestmark = pytest.mark.long

# Number of requests that are answered before and after a fault.
REQUESTS_AROUND = 200
# Share of the changes that a renewal follows: many, so that some are under way at the fault.
RENEWALS = 0.4
# Requests that change the session during each renewal.
PARALLEL = 3
# After a step-down, another member asks for votes at once.
FIRST_VOTE_SECONDS = 1.5


class BreakIt(Protocol):
    """Breaks the primary under load, and records what happens."""

    async def __call__(self, name: str, fault: Callable[[], None], times: int = 1) -> Record:
        """Break it; `fault` returns when there is a primary again."""


@pytest.fixture(scope="module")
def members(mongod_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReplicaSet]:
    """Run three members with MongoDB's default timeouts."""
    with replica_set(mongod_binary, tmp_path_factory.mktemp("members")) as whole:
        yield whole


@pytest.fixture
def apps(members: ReplicaSet, start_app: StartApp) -> tuple[App, App]:
    """Run two app processes, one with each driver."""
    return start_app(members.uri, driver="motor"), start_app(members.uri, driver="pymongo")


@pytest.fixture
def break_it(members: ReplicaSet, apps: tuple[App, App], report: Report, remark: Remark) -> BreakIt:
    """Do something to the primary several times under load; return the record."""

    async def do(name: str, fault: Callable[[], None], times: int = 1) -> Record:
        elections = []
        async with Load([app.base for app in apps], renewals=RENEWALS, parallel=PARALLEL) as load:
            for _ in range(times):
                await load.answers(REQUESTS_AROUND)
                begun = time.monotonic()
                await asyncio.to_thread(fault)
                elections.append(f"{time.monotonic() - begun:.1f}")
                await load.answers(REQUESTS_AROUND)
                await asyncio.to_thread(members.wait_until_whole)
        report(f"{name}, {times} ×", load.record, VISITORS)
        remark(f"{name}: {load.record.late} changes beside a renewal, {load.record.late_lost} lost")
        remark(f"{name}: the fault and its election took {', '.join(elections)} s")
        assert load.record.late > 0
        return load.record

    return do


async def test_nothing_is_lost_when_the_primary_is_killed(
    members: ReplicaSet, break_it: BreakIt
) -> None:
    """After a SIGKILL the others elect a primary; the killed one starts again with its data."""

    def kill() -> None:
        old = members.primary()
        old.kill()
        members.primary(other_than=old)
        old.mongod.start()

    record = await break_it("primary killed with SIGKILL", kill, 2)

    record.assert_in_order()


async def test_no_request_fails_when_the_primary_steps_down(
    members: ReplicaSet, break_it: BreakIt
) -> None:
    """As in a rolling upgrade, the drivers repeat interrupted commands, and no request is refused.

    If the first vote elects no primary, a request in flight may be refused, once per visitor.
    """
    second_votes = 0

    def step_down() -> None:
        nonlocal second_votes
        begun = time.monotonic()
        members.primary().step_down()
        members.primary()
        second_votes += time.monotonic() - begun > FIRST_VOTE_SECONDS

    record = await break_it("primary stepped down", step_down, 5)

    record.assert_in_order()
    assert record.refused <= VISITORS * (1 + PARALLEL) * second_votes


async def test_nothing_is_lost_when_the_primary_freezes(
    members: ReplicaSet, break_it: BreakIt
) -> None:
    """SIGSTOP until the others have elected, then SIGCONT: the old primary answers late."""

    def freeze() -> None:
        old = members.primary()
        old.freeze()
        try:
            members.primary(other_than=old)
        finally:
            old.resume()

    record = await break_it("primary frozen with SIGSTOP", freeze, 1)

    record.assert_kept()


async def test_nothing_is_lost_when_the_primary_is_cut_off(
    members: ReplicaSet, break_it: BreakIt
) -> None:
    """No data passes between it and the others until they have elected; then all data passes."""

    def cut_off() -> None:
        old = members.primary()
        members.cut_off(old)
        try:
            members.primary(other_than=old)
        finally:
            members.heal()

    record = await break_it("primary disconnected from everybody", cut_off, 1)

    record.assert_kept()


async def test_nothing_is_lost_when_an_app_is_cut_off_together_with_the_primary(
    members: ReplicaSet, apps: tuple[App, App], break_it: BreakIt
) -> None:
    """One app reaches only the old primary, the other app the rest, which elects a new one."""

    def split() -> None:
        old = members.primary()
        members.cut_off(old, with_apps={apps[1].process.pid})
        try:
            members.primary(other_than=old)
        finally:
            members.heal()

    record = await break_it("primary and one app disconnected from the rest", split, 1)

    record.assert_kept()
