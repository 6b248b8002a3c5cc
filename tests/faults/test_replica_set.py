"""A replica set loses its primary in every way there is, under load from two processes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest

from tests.faults.conftest import App, Remark, Report, StartApp
from tests.faults.load import VISITORS, Books, Load
from tests.faults.replica_set import ReplicaSet, replica_set

# How many requests go well before a fault and after it.
CALM = 200
# A step-down hands over to a member that asks for votes at once.
FIRST_VOTE_SECONDS = 1.5


class BreakIt(Protocol):
    """Breaks the primary under load, and keeps books."""

    async def __call__(self, name: str, fault: Callable[[], None], times: int = 1) -> Books:
        """Do so; `fault` returns when there is a primary again."""


@pytest.fixture(scope="module")
def members(mongod_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReplicaSet]:
    """Run three members with MongoDB's own timeouts."""
    with replica_set(mongod_binary, tmp_path_factory.mktemp("members")) as whole:
        yield whole


@pytest.fixture
def apps(members: ReplicaSet, start_app: StartApp) -> tuple[App, App]:
    """Run two app processes, one with each driver."""
    return start_app(members.uri, driver="motor"), start_app(members.uri, driver="pymongo")


def kept_every_promise(books: Books) -> None:
    """Check what holds whatever happened to the servers."""
    assert books.wrong == []
    assert (books.lost, books.resurrected, books.half) == (0, 0, 0)


@pytest.fixture
def break_it(members: ReplicaSet, apps: tuple[App, App], report: Report, remark: Remark) -> BreakIt:
    """Do something to the primary, again and again, under load; return the books."""

    async def do(name: str, fault: Callable[[], None], times: int = 1) -> Books:
        elections = []
        async with Load([app.base for app in apps]) as load:
            for _ in range(times):
                await load.answers(CALM)
                begun = time.monotonic()
                await asyncio.to_thread(fault)
                elections.append(f"{time.monotonic() - begun:.1f}")
                await load.answers(CALM)
                await asyncio.to_thread(members.wait_until_whole)
        report(f"{name}, {times} ×", load.books, VISITORS)
        remark(f"{name}: the fault and its election took {', '.join(elections)} s")
        return load.books

    return do


@pytest.mark.long
async def test_nothing_is_lost_when_the_primary_is_killed(
    members: ReplicaSet, break_it: BreakIt
) -> None:
    """SIGKILL; the others elect; the dead one comes back on what its disk holds."""

    def kill() -> None:
        victim = members.primary()
        victim.kill()
        members.primary(other_than=victim)
        victim.mongod.start()

    books = await break_it("primary killed with SIGKILL", kill, 2)

    kept_every_promise(books)
    assert (books.stale, books.overtaken) == (0, 0)


@pytest.mark.long
async def test_nobody_notices_that_the_primary_steps_down(
    members: ReplicaSet, break_it: BreakIt
) -> None:
    """As a rolling upgrade does: the drivers' retries bridge it, no request is refused.

    Unless the first vote elects nobody: what was under way then may be refused, once per visitor.
    """
    second_votes = 0

    def step_down() -> None:
        nonlocal second_votes
        begun = time.monotonic()
        members.primary().step_down()
        members.primary()
        second_votes += time.monotonic() - begun > FIRST_VOTE_SECONDS

    books = await break_it("primary stepped down", step_down, 5)

    kept_every_promise(books)
    assert (books.stale, books.overtaken) == (0, 0)
    assert books.refused <= VISITORS * second_votes


@pytest.mark.long
async def test_nothing_is_lost_when_the_primary_freezes(
    members: ReplicaSet, break_it: BreakIt
) -> None:
    """SIGSTOP until the others have elected, then SIGCONT: what it had read it answers late."""

    def freeze() -> None:
        victim = members.primary()
        victim.freeze()
        try:
            members.primary(other_than=victim)
        finally:
            victim.thaw()

    books = await break_it("primary frozen with SIGSTOP", freeze, 1)

    kept_every_promise(books)


@pytest.mark.long
async def test_nothing_is_lost_when_the_primary_is_cut_off(
    members: ReplicaSet, break_it: BreakIt
) -> None:
    """No byte passes between it and anybody until the others have elected, and then all do."""

    def cut_off() -> None:
        victim = members.primary()
        members.cut_off(victim)
        try:
            members.primary(other_than=victim)
        finally:
            members.heal()

    books = await break_it("primary cut off from everybody", cut_off, 1)

    kept_every_promise(books)


@pytest.mark.long
async def test_nothing_is_lost_when_an_app_is_cut_off_together_with_the_primary(
    members: ReplicaSet, apps: tuple[App, App], break_it: BreakIt
) -> None:
    """One app sees the old primary alone, the other the rest, which elects a new one."""

    def split() -> None:
        victim = members.primary()
        members.cut_off(victim, with_apps={apps[1].process.pid})
        try:
            members.primary(other_than=victim)
        finally:
            members.heal()

    books = await break_it("primary and one app cut off from the rest", split, 1)

    kept_every_promise(books)
