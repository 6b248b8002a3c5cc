"""`max_sessions_per_owner`: a sign-in beyond it ends the least recently used sessions."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Any

import pytest

from storage import MongoStorage, generate_secret
from storage.driver import READ_AT_ONCE
from storage.session import MongoSession
from tests.storage.command_log import CommandLog
from tests.storage.conftest import Clock, MakeStorage, every_driver, real_drivers
from tests.storage.direct import id_of, load, values, visit

OWNER = "ada"


async def sign_in(storage: MongoStorage, owner: str = OWNER, cookie: str | None = None) -> str:
    """Sign in and return the cookie."""
    signed_in = await visit(storage, cookie, lambda session: session.update(user_id=owner))
    assert signed_in
    return signed_in


async def signed_in(storage: MongoStorage, *cookies: str) -> list[bool]:
    """Tell of each cookie whether it still opens a session."""
    return [bool(await values(storage, cookie)) for cookie in cookies]


async def count(storage: MongoStorage, owner: str = OWNER) -> int:
    """Count the listed sessions of an owner."""
    return len([info async for info in storage.sessions(owner)])


@every_driver
async def test_sign_in_beyond_the_limit_ends_the_least_recently_used_session(
    make_storage: MakeStorage, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Not the oldest one: it was used after the second one was. A line of the log says so."""
    caplog.set_level(logging.INFO, "storage")
    storage = make_storage(max_sessions_per_owner=2, max_age=1200)
    first = await sign_in(storage)
    clock.advance(100)
    second = await sign_in(storage)
    clock.advance(100)
    await visit(storage, first, dict)  # a touch
    clock.advance(100)

    third = await sign_in(storage)

    assert await signed_in(storage, first, second, third) == [True, False, True]
    assert caplog.messages == [f"session {id_of(third).hex()[:8]} is new; 1 of its owner ended"]


@every_driver
async def test_new_session_stays_where_all_were_used_at_the_same_time(
    make_storage: MakeStorage,
) -> None:
    """Of sessions with the same last use the new one is never the one that ends."""
    storage = make_storage(max_sessions_per_owner=1)

    for _ in range(5):
        cookie = await sign_in(storage)
        assert await signed_in(storage, cookie) == [True]

    assert await count(storage) == 1


async def test_sessions_of_others_and_of_nobody_do_not_count(make_storage: MakeStorage) -> None:
    """The limit is per owner; a visitor who is not signed in has none."""
    storage = make_storage(max_sessions_per_owner=1)
    ada = await sign_in(storage)
    grace = await sign_in(storage, "grace")
    nobody = await visit(storage, None, lambda session: session.update(cart=[1]))

    assert nobody
    assert await signed_in(storage, ada, grace, nobody) == [True] * 3


async def test_sign_in_from_a_session_of_nobody_counts(
    make_storage: MakeStorage, clock: Clock
) -> None:
    """A login moves the session of a visitor to a new token; that is a sign-in too."""
    storage = make_storage(max_sessions_per_owner=1)
    first = await sign_in(storage)
    clock.advance(1)
    visitor = await visit(storage, None, lambda session: session.update(cart=[1]))

    second = await sign_in(storage, cookie=visitor)

    assert await signed_in(storage, first, second) == [False, True]
    assert await values(storage, second) == {"cart": [1], "user_id": OWNER}


@real_drivers
async def test_ten_sign_ins_at_once_leave_as_many_sessions_as_allowed(
    make_storage: MakeStorage, clock: Clock
) -> None:
    """Of sign-ins at once every one ends the same sessions, and never all of them."""
    storages = [make_storage(max_sessions_per_owner=3) for _ in range(10)]
    visits = [await load(storage) for storage in storages]
    for number, begun in enumerate(visits):
        begun.session["user_id"] = OWNER
        begun.storage.clock = partial(float, clock.now + number / 1000)

    cookies = [str(cookie) for cookie in await asyncio.gather(*(one.save() for one in visits))]

    assert await count(storages[0]) == 3
    assert await signed_in(storages[0], *cookies[-3:]) == [True] * 3


async def test_session_that_is_older_than_the_allowed_ones_ends_itself(
    make_storage: MakeStorage, clock: Clock
) -> None:
    """Of two sign-ins at once with a limit of one, the later one stays, in any order of saves."""
    storage = make_storage(max_sessions_per_owner=1)
    clock.advance(1)
    later = await sign_in(storage)
    clock.advance(-1)

    earlier = await sign_in(storage)

    assert await signed_in(storage, earlier, later) == [False, True]


@real_drivers
async def test_only_sign_ins_pay_for_the_limit(
    make_storage: MakeStorage, log: CommandLog, clock: Clock
) -> None:
    """One find, and one delete when there is something to end; no other request pays."""
    storage = make_storage(max_sessions_per_owner=2, max_age=1200)
    cookie = await sign_in(storage)
    assert log.names == ["insert", "find"]
    log.commands.clear()
    clock.advance(100)

    cookie = await visit(storage, cookie, lambda session: session.update(page=1))
    await visit(storage, None, lambda session: session.update(page=1))
    cookie = await visit(storage, cookie, MongoSession.renew)
    assert log.names == ["find", "update", "insert", "find", "insert", "findAndModify"]

    await sign_in(storage)
    log.commands.clear()
    await sign_in(storage)
    assert log.names == ["insert", "find", "delete"]


@real_drivers
async def test_sign_in_ends_a_thousand_sessions_from_before_the_limit(
    make_storage: MakeStorage, collection: Any, log: CommandLog
) -> None:
    """The work of one sign-in is bounded; the next one goes on."""
    await pile_up(make_storage(), collection, 1100)
    storage = make_storage(max_sessions_per_owner=10)

    await sign_in(storage)
    assert await count(storage) == 101
    await sign_in(storage)

    assert await count(storage) == 10


@real_drivers
async def test_long_list_gives_the_loop_a_turn_with_each_batch(
    make_storage: MakeStorage, collection: Any
) -> None:
    """Other requests are served while somebody reads a list of thousands."""
    storage = make_storage()
    await pile_up(storage, collection, 2000)
    turns, in_this_turn, most = 0, 0, 0
    last_turn = -1

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    turning = asyncio.ensure_future(turn())
    found = 0
    async for _info in storage.sessions(OWNER):
        found += 1
        in_this_turn = in_this_turn + 1 if turns == last_turn else 1
        last_turn, most = turns, max(most, in_this_turn)
    turning.cancel()

    assert found == 2000
    assert most <= 100


@every_driver
async def test_caller_that_stops_early_reads_one_batch(
    make_storage: MakeStorage, collection: Any, log: CommandLog
) -> None:
    """The first sessions of a long list cost one find."""
    storage = make_storage()
    await pile_up(storage, collection, 250)
    log.commands.clear()

    sessions = storage.sessions(OWNER)
    await anext(sessions)
    await sessions.aclose()

    assert log.names in (["find"], [])


@pytest.mark.parametrize(
    "length", [READ_AT_ONCE - 1, READ_AT_ONCE, READ_AT_ONCE + 1, 2 * READ_AT_ONCE]
)
async def test_every_session_is_listed_once_whatever_the_batches(
    make_storage: MakeStorage, collection: Any, length: int
) -> None:
    """No session is left out and none comes twice where one batch ends."""
    storage = make_storage()
    await pile_up(storage, collection, length)

    handles = [info.handle async for info in storage.sessions(OWNER)]

    assert len(handles) == len(set(handles)) == length


def test_limit_without_owners_is_refused(collection: Any) -> None:
    """A limit that could never have an effect is a mistake."""
    with pytest.raises(ValueError, match="max_sessions_per_owner: needs an owner_key"):
        MongoStorage(collection, generate_secret(), owner_key=None, max_sessions_per_owner=5)


async def pile_up(storage: MongoStorage, collection: Any, length: int) -> None:
    """Store so many sessions of the owner: one that is real, and copies under other ids."""
    await sign_in(storage)
    document = await collection.find_one({})
    copies = [document | {"_id": number.to_bytes(32)} for number in range(length - 1)]
    await collection.insert_many(copies)


async def test_session_that_is_renewed_while_it_is_ended_keeps_its_forward(
    make_storage: MakeStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Late saves find it; the next sign-in ends it."""
    storage, other = make_storage(max_sessions_per_owner=1), make_storage()
    old = str(await visit(storage, None, lambda session: session.update(user_id=7)))
    late, renewed = await load(storage, old), []
    find_all = storage._driver.find_all

    async def find_and_renew(*args: Any, **options: Any) -> Any:
        found = await find_all(*args, **options)
        renewed.append(await visit(other, old, lambda session: session.renew()))
        return found

    monkeypatch.setattr(storage._driver, "find_all", find_and_renew)
    await visit(storage, None, lambda session: session.update(user_id=7))
    late.session["late"] = True
    await late.save()

    assert await values(storage, renewed[0]) == {"user_id": 7, "late": True}
