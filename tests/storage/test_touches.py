"""A touch: the write of a request that changed nothing, at most one per touch interval."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp import web

from storage import SessionTooLarge
from tests.storage.conftest import (
    NOON,
    Clock,
    CommandLog,
    MakeStorage,
    OpenSite,
    Visitor,
    cookie_of,
    every_driver,
    set_cookie_of,
)
from tests.storage.direct import load, loaded, stored, values, visit

AT_NOON = datetime.fromtimestamp(NOON, UTC).replace(tzinfo=None)  # as drivers return it
MINUTE = timedelta(minutes=1)


@pytest.fixture
async def visitor(open_site: OpenSite, make_storage: MakeStorage) -> Visitor:
    """Open a browser with a session of 20 minutes, which is touched once a minute."""
    visitor = await (await open_site(make_storage(max_age=1200))).visitor()
    await visitor.do(lambda session: session.update(a=1, b=[2]))
    return visitor


async def test_read_within_the_touch_interval_writes_nothing_and_sends_no_cookie(
    visitor: Visitor, collection: Any, clock: Clock
) -> None:
    """The most common request: the document stays as it is."""
    before = await collection.find_one({})
    clock.advance(59.999)

    response = await visitor.do(dict)

    assert set_cookie_of(response) == []
    assert await collection.find_one({}) == before


@every_driver
async def test_read_after_the_touch_interval_moves_the_dates_and_nothing_else(
    visitor: Visitor, collection: Any, clock: Clock
) -> None:
    """The cookie is sent again with the same token and the full Max-Age."""
    before, cookie = await collection.find_one({}), visitor.cookie
    clock.advance(60)

    response = await visitor.do(dict)

    assert cookie_of(response).value == cookie
    assert cookie_of(response)["max-age"] == "1200"
    assert await collection.find_one({}) == {
        **before,
        "last_seen_at": AT_NOON + MINUTE,
        "expires_at": AT_NOON + 21 * MINUTE,
    }


async def test_save_within_the_touch_interval_moves_no_date_and_sends_no_cookie(
    visitor: Visitor, collection: Any, clock: Clock
) -> None:
    """A cookie with the old token could arrive late and replace that of a renewed session."""
    clock.advance(59.999)

    response = await visitor.do(lambda session: session.update(a=2))

    assert set_cookie_of(response) == []
    document = await collection.find_one({})
    assert document["last_seen_at"] == AT_NOON
    assert document["expires_at"] == AT_NOON + 20 * MINUTE


async def test_save_after_the_touch_interval_includes_the_touch(
    visitor: Visitor, collection: Any, clock: Clock, log: CommandLog
) -> None:
    """One update for both, and the cookie with it."""
    clock.advance(60)
    log.commands.clear()

    response = await visitor.do(lambda session: session.update(a=2))

    assert log.names == ["find", "update"]
    assert cookie_of(response)["max-age"] == "1200"
    document = await collection.find_one({})
    assert document["last_seen_at"] == AT_NOON + MINUTE
    assert document["created_at"] == AT_NOON


@pytest.mark.parametrize("change", [dict, lambda session: session.update(a=session["a"] + 1)])
async def test_visitor_more_active_than_the_touch_interval_keeps_cookie_and_session(
    visitor: Visitor, clock: Clock, change: Any
) -> None:
    """A request every 20 seconds for longer than max_age: cookie and session do not expire.

    The test stands for the browser: it checks that Max-Age has not passed at any request.
    """
    cookie_ends_at = clock.now + 1200
    for _ in range(80):
        clock.advance(20)
        assert clock.now < cookie_ends_at
        response = await visitor.do(change)
        assert response.status == 200
        if set_cookie_of(response):
            cookie_ends_at = clock.now + int(cookie_of(response)["max-age"])

    assert set(await visitor.session()) == {"a", "b"}


async def test_touch_interval_is_at_most_a_twentieth_of_the_sessions_own_max_age(
    visitor: Visitor, clock: Clock
) -> None:
    """A session of 60 seconds in a storage of 20 minutes is touched every 3 seconds."""
    await visitor.do(lambda session: setattr(session, "max_age", 60))

    clock.advance(2.999)
    early = await visitor.do(dict)
    clock.advance(0.001)
    due = await visitor.do(dict)

    assert set_cookie_of(early) == []
    assert cookie_of(due)["max-age"] == "60"


@every_driver
async def test_dates_move_forward_only(
    make_storage: MakeStorage, collection: Any, clock: Clock
) -> None:
    """A slow request, or a process whose clock is behind, does not shorten a session."""
    ahead, behind = make_storage(max_age=1200), make_storage(max_age=1200)
    cookie = await visit(ahead, None, lambda session: session.update(a=1))
    clock.advance(60)
    slow = await load(behind, cookie)
    behind.clock = lambda: NOON + 70

    clock.advance(600)
    await visit(ahead, cookie, dict)
    slow.session["a"] = 2
    await slow.save()

    document = await collection.find_one({})
    assert document["last_seen_at"] == AT_NOON + 11 * MINUTE
    assert document["expires_at"] == AT_NOON + 31 * MINUTE
    assert await values(ahead, cookie) == {"a": 2}


async def test_clock_that_is_set_back_ends_no_session_and_moves_no_date(
    make_storage: MakeStorage, collection: Any, clock: Clock
) -> None:
    """It can be read, saved, listed and counted while the clock is wrong, and afterwards."""
    storage = make_storage(max_age=1200)
    cookie = await visit(storage, None, lambda session: session.update(user_id=7))

    clock.advance(-86400)
    await visit(storage, cookie, lambda session: session.update(a=1))
    assert await values(storage, cookie) == {"user_id": 7, "a": 1}
    assert len([info async for info in storage.sessions(7)]) == await storage.count() == 1
    assert (await collection.find_one({}))["last_seen_at"] == AT_NOON

    clock.advance(86400)
    assert await values(storage, cookie) == {"user_id": 7, "a": 1}


async def test_visitor_keeps_the_cookie_after_the_clock_was_set_back(
    visitor: Visitor, clock: Clock
) -> None:
    """The last use is in the future; the cookie is sent again all the same."""
    clock.advance(-600)
    before = await visitor.do(dict)
    clock.advance(59)
    between = await visitor.do(dict)
    clock.advance(1)
    after = await visitor.do(dict)

    assert cookie_of(before)["max-age"] == "1200"
    assert set_cookie_of(between) == []
    assert cookie_of(after)["max-age"] == "1200"


async def test_save_that_was_refused_leaves_the_touch_to_the_next_request(
    make_storage: MakeStorage, collection: Any, clock: Clock
) -> None:
    """A refused value must not cost the session its touch."""
    storage = make_storage(max_age=1200, max_bytes=1000)
    cookie = await visit(storage, None, lambda session: session.update(a=1))
    clock.advance(60)

    with pytest.raises(SessionTooLarge):
        await visit(storage, cookie, lambda session: session.update(a="x" * 1000))
    await visit(storage, cookie, dict)

    assert (await collection.find_one({}))["last_seen_at"] == AT_NOON + MINUTE


async def test_record_of_recent_touches_is_bounded(make_storage: MakeStorage, clock: Clock) -> None:
    """A process keeps the times of its latest 4096 touches only."""
    storage = make_storage(max_age=1200)
    cookies = [await visit(storage, None, lambda session: session.update(a=1)) for _ in range(3)]
    clock.advance(60)
    for number in range(5000):
        storage._saving._touched[number.to_bytes(32)] = 0

    for cookie in cookies:
        await visit(storage, cookie, dict)

    assert len(storage._saving._touched) == 4096


async def test_latest_touch_is_among_those_that_a_process_remembers(
    make_storage: MakeStorage, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parallel requests of one session share it, although others have touched theirs before."""
    monkeypatch.setattr("storage.saving.KNOWN_TOUCHES", 1)
    storage = make_storage(max_age=1200)
    other, cookie = await stored(storage, 2)
    parallel = await loaded(storage, [other, cookie, cookie])
    clock.advance(60)

    for begun in parallel:
        await storage.save_session(begun.request, web.Response(), begun.session)

    assert storage.counters["touches"] == 2
