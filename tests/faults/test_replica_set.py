"""A replica set loses its primary in every way there is, under load from two processes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.conftest import App, Report, StartApp
from tests.faults.load import VISITORS, Books, Load
from tests.faults.replica_set import ReplicaSet, replica_set

# How many requests go well before a fault and after it.
CALM = 200


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


async def break_it(
    members: ReplicaSet, apps: tuple[App, App], fault: Callable[[], None], times: int
) -> Books:
    """Do something to the primary again and again, under load; return the books."""
    async with Load([app.base for app in apps]) as load:
        for _ in range(times):
            await load.answers(CALM)
            await asyncio.to_thread(fault)
            await load.answers(CALM)
            await asyncio.to_thread(members.wait_until_whole)
    return load.books


@pytest.mark.long
async def test_nothing_is_lost_when_the_primary_is_killed(
    members: ReplicaSet, apps: tuple[App, App], report: Report
) -> None:
    """SIGKILL; the others elect; the dead one comes back on what its disk holds."""

    def kill() -> None:
        victim = members.primary()
        victim.kill()
        members.primary(other_than=victim)
        victim.mongod.start()

    books = await break_it(members, apps, kill, 2)

    report("primary killed with SIGKILL, 2 times", books, VISITORS)
    kept_every_promise(books)
    assert (books.stale, books.overtaken) == (0, 0)


@pytest.mark.long
async def test_nobody_notices_that_the_primary_steps_down(
    members: ReplicaSet, apps: tuple[App, App], report: Report
) -> None:
    """As a rolling upgrade does: the drivers' retries bridge it, no request is refused."""

    def step_down() -> None:
        members.primary().step_down()
        members.primary()

    books = await break_it(members, apps, step_down, 5)

    report("primary stepped down, 5 times", books, VISITORS)
    kept_every_promise(books)
    assert (books.stale, books.overtaken) == (0, 0)
    assert books.refused == 0


@pytest.mark.long
async def test_nothing_is_lost_when_the_primary_freezes(
    members: ReplicaSet, apps: tuple[App, App], report: Report
) -> None:
    """SIGSTOP until the others have elected, then SIGCONT: what it had read it answers late."""

    def freeze() -> None:
        victim = members.primary()
        victim.freeze()
        try:
            members.primary(other_than=victim)
        finally:
            victim.thaw()

    books = await break_it(members, apps, freeze, 2)

    report("primary frozen with SIGSTOP, 2 times", books, VISITORS)
    kept_every_promise(books)


@pytest.mark.long
async def test_nothing_is_lost_when_the_primary_is_cut_off(
    members: ReplicaSet, apps: tuple[App, App], report: Report
) -> None:
    """No byte passes between it and anybody until the others have elected, and then all do."""

    def cut_off() -> None:
        victim = members.primary()
        members.cut_off(victim)
        try:
            members.primary(other_than=victim)
        finally:
            members.heal()

    books = await break_it(members, apps, cut_off, 2)

    report("primary cut off from everybody, 2 times", books, VISITORS)
    kept_every_promise(books)


@pytest.mark.long
async def test_nothing_is_lost_when_an_app_is_cut_off_together_with_the_primary(
    members: ReplicaSet, apps: tuple[App, App], report: Report
) -> None:
    """One app sees the old primary alone, the other the rest, which elects a new one."""

    def split() -> None:
        victim = members.primary()
        members.cut_off(victim, with_apps={apps[1].process.pid})
        try:
            members.primary(other_than=victim)
        finally:
            members.heal()

    books = await break_it(members, apps, split, 2)

    report("primary and one app cut off from the rest, 2 times", books, VISITORS)
    kept_every_promise(books)
