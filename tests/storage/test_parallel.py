"""Parallel requests of one session, in one process and in two: no change is lost."""

from __future__ import annotations

from typing import Any

import pytest

from storage import MongoStorage
from storage.session import MongoSession
from tests.storage.conftest import CommandLog, Visitor, every_driver, real_drivers
from tests.storage.direct import load, values, visit
from tests.storage.overlap import Change, at_once, during

MANY = 200
FEW = 20


def _set(name: str, value: Any) -> Change:
    def change(session: MongoSession) -> None:
        session[name] = value

    return change


@real_drivers
async def test_hundreds_of_parallel_changes_of_one_session_are_all_kept(
    both: tuple[Visitor, Visitor], log: CommandLog
) -> None:
    """All load the session before the first one saves it; they share their commands."""
    log.commands.clear()

    responses = await at_once(
        *((both[number % 2], _set(f"key {number}", number)) for number in range(MANY))
    )

    assert {response.status for response in responses} == {200}
    assert len(log.commands) < MANY // 2  # each alone would send two
    expected = {f"key {number}": number for number in range(MANY)}
    assert await both[0].session() == {"name": "Ada", "cart": [0], "log": [0], **expected}


@every_driver
async def test_parallel_requests_that_remove_and_add_lose_nothing(
    both: tuple[Visitor, Visitor],
) -> None:
    """Removed and added values do not undo each other."""
    before = {f"old {number}": number for number in range(FEW)}
    await both[0].do(lambda session: session.update(before))

    def remove(name: str) -> Change:
        return lambda session: session.pop(name)

    removals = ((both[0], remove(name)) for name in before)
    additions = ((both[1], _set(f"new {n}", n)) for n in range(FEW))
    await at_once(*removals, *additions)

    expected = {f"new {number}": number for number in range(FEW)}
    assert await both[1].session() == {"name": "Ada", "cart": [0], "log": [0], **expected}


@every_driver
async def test_parallel_nested_changes_of_different_values_are_both_kept(
    both: tuple[Visitor, Visitor],
) -> None:
    """Both appends are kept without calling changed()."""
    await at_once(
        (both[0], lambda session: session["cart"].append(1)),
        (both[1], lambda session: session["log"].append(2)),
    )

    assert await both[0].session() == {"name": "Ada", "cart": [0, 1], "log": [0, 2]}


async def test_later_save_of_the_same_value_wins(both: tuple[Visitor, Visitor]) -> None:
    """The order of the saves decides, not the order of the loads."""

    async def meanwhile() -> None:
        await both[1].do(_set("name", "Bob"))

    await during(both[0], meanwhile, _set("name", "Cleo"))

    assert await both[1].session() == {"name": "Cleo", "cart": [0], "log": [0]}


async def test_changes_of_one_request_are_saved_as_one(both: tuple[Visitor, Visitor]) -> None:
    """When many requests write the same pair of values, no mixed pair is stored or read."""

    def pair(number: int) -> Change:
        return lambda session: session.update(left=number, right=number)

    seen: list[tuple[Any, Any]] = []

    def look(session: MongoSession) -> None:
        seen.append((session["left"], session["right"]))

    await both[0].do(pair(-1))
    writers = ((both[number % 2], pair(number)) for number in range(FEW))
    await at_once(*writers, *((both[number % 2], look) for number in range(10)))
    await both[0].do(look)

    assert len(seen) == 11
    assert all(left == right for left, right in seen)


@pytest.mark.parametrize(
    "repeat",
    [
        pytest.param(lambda session: session.update(name="Ada", other=1), id="assigned again"),
        pytest.param(lambda session: (session.changed(), session.update(other=1)), id="changed()"),
    ],
)
async def test_unchanged_value_does_not_overwrite_a_newer_one(
    repeat: Change, both: tuple[Visitor, Visitor]
) -> None:
    """A request that assigns the loaded value again does not write it."""

    async def meanwhile() -> None:
        await both[1].do(_set("name", "Bob"))

    await during(both[0], meanwhile, repeat)

    assert (await both[0].session()) == {"name": "Bob", "cart": [0], "log": [0], "other": 1}


async def test_session_that_parallel_requests_emptied_together_has_ended(
    storage: MongoStorage, caplog: pytest.LogCaptureFixture
) -> None:
    """Each removes what the other leaves: a logout, without a warning; the next save starts new."""
    cookie = await visit(storage, None, lambda session: session.update(a=1, b=2))
    one, other = await load(storage, cookie), await load(storage, cookie)
    del one.session["a"], other.session["b"]
    await one.save()
    await other.save()

    renewed = await visit(storage, cookie, lambda session: session.update(c=3))

    assert renewed != cookie
    assert await values(storage, renewed) == {"c": 3}
    assert await values(storage, cookie) == {}
    assert caplog.records == []
