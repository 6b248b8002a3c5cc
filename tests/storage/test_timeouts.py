"""Idle and absolute timeout: when a session is over, whatever lies in MongoDB."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp import web
from aiohttp_session import get_session, new_session

from storage import renew_session
from storage.session import MongoSession
from tests.storage.conftest import (
    NOON,
    Clock,
    MakeStorage,
    OpenSite,
    Visitor,
    every_driver,
    set_cookie_of,
)
from tests.storage.direct import load, values, visit

CREATED_AT = datetime.fromtimestamp(NOON, UTC).replace(tzinfo=None)  # as drivers return it


@every_driver
@pytest.mark.parametrize(
    ("options", "seconds"),
    [
        pytest.param({}, 14 * 86400, id="14 days by default"),
        pytest.param({"max_age": 1200}, 1200, id="as configured"),
        pytest.param({"max_age": timedelta(minutes=2)}, 120, id="a timedelta"),
        pytest.param({"max_age": 0.5}, 0.5, id="half a second"),
        pytest.param({"max_age": None}, 14 * 86400, id="14 days where the cookie has no Max-Age"),
        pytest.param(
            {"max_age": 1200, "absolute_timeout": 60}, 60, id="a shorter absolute timeout"
        ),
    ],
)
async def test_unused_session_has_expired_after_its_idle_timeout(
    make_storage: MakeStorage, clock: Clock, options: dict[str, Any], seconds: float
) -> None:
    """A millisecond before it is there; at the instant it is not."""
    storage = make_storage(**options)
    cookie = await visit(storage, None, lambda session: session.update(a=1))

    clock.now = NOON + seconds
    over = await values(storage, cookie)
    clock.now = NOON + seconds - 0.001
    alive = await values(storage, cookie)

    assert alive == {"a": 1}
    assert over == {}


async def test_idle_timeout_slides_with_use(
    open_site: OpenSite, make_storage: MakeStorage, clock: Clock
) -> None:
    """Whoever comes back in time stays signed in for as long as they like."""
    visitor = await (await open_site(make_storage(max_age=1200))).visitor()
    await visitor.do(lambda session: session.update(user_id=7))

    for _ in range(10):
        clock.advance(1199)
        assert await visitor.session() == {"user_id": 7}

    clock.advance(1200)
    assert await visitor.session() == {}


async def test_absolute_timeout_ends_the_most_active_session(
    open_site: OpenSite, make_storage: MakeStorage, clock: Clock
) -> None:
    """It counts from creation; neither reading nor writing puts it off."""
    storage = make_storage(max_age=1200, absolute_timeout=3600)
    visitor = await (await open_site(storage)).visitor()
    await visitor.do(lambda session: session.update(visits=0))

    for number in range(1, 12):
        clock.advance(300)
        await visitor.do(lambda session, n=number: session.update(visits=n))  # type: ignore[misc]
        assert await visitor.session() == {"visits": number}

    clock.advance(300)
    assert await visitor.session() == {}


async def test_expired_session_is_no_session_and_its_token_is_not_used_again(
    open_site: OpenSite, make_storage: MakeStorage, clock: Clock
) -> None:
    """A read of it sends no cookie; a save starts anew."""
    storage = make_storage(max_age=60)
    visitor = await (await open_site(storage)).visitor()
    await visitor.do(lambda session: session.update(a=1))
    cookie = visitor.cookie
    clock.advance(60)

    response = await visitor.do(dict)
    assert set_cookie_of(response) == []
    await visitor.do(lambda session: session.update(b=2))

    assert visitor.cookie not in (None, cookie)
    assert await visitor.session() == {"b": 2}
    assert await values(storage, cookie) == {}


@every_driver
async def test_touch_and_save_do_not_revive_a_session_that_ended_meanwhile(
    make_storage: MakeStorage, collection: Any, clock: Clock
) -> None:
    """A request that was under way when the session ended writes nothing."""
    storage = make_storage(max_age=60)
    cookie = await visit(storage, None, lambda session: session.update(a=1))
    reading, writing = await load(storage, cookie), await load(storage, cookie)
    before = await collection.find_one({})

    clock.advance(60)
    writing.session["b"] = 2
    await writing.save()
    await reading.save()

    assert await collection.find_one({}) == before
    assert await values(storage, cookie) == {}


@pytest.mark.parametrize(
    "lowered",
    [
        pytest.param({"max_age": 600}, id="idle"),
        pytest.param({"max_age": 86400, "absolute_timeout": 600}, id="absolute"),
    ],
)
async def test_lowered_timeout_takes_effect_at_once(
    make_storage: MakeStorage, clock: Clock, lowered: dict[str, Any]
) -> None:
    """After a restart with less, sessions that were stored for longer are over, and uncounted."""
    cookie = await visit(make_storage(max_age=86400), None, lambda s: s.update(user_id=7))
    storage = make_storage(**lowered)

    clock.advance(599)
    assert await storage.count() == 1
    assert len([info async for info in storage.sessions(7)]) == 1

    clock.advance(1)
    assert await values(storage, cookie) == {}
    assert await storage.count() == 0
    assert [info async for info in storage.sessions(7)] == []


async def test_raised_timeout_takes_effect_with_the_next_request(
    make_storage: MakeStorage, clock: Clock
) -> None:
    """What was stored for a short time ends on time unless it is used, even for a read."""
    short, long = make_storage(max_age=600), make_storage(max_age=86400)
    unused = await visit(short, None, lambda session: session.update(a=1))
    used = await visit(short, None, lambda session: session.update(a=1))

    clock.advance(599)
    await visit(long, used, dict)
    clock.advance(3600 - 599)
    await visit(long, used, dict)
    clock.advance(3600)

    assert await values(long, unused) == {}
    assert await values(long, used) == {"a": 1}


async def test_renewed_session_keeps_its_absolute_timeout(
    open_site: OpenSite, make_storage: MakeStorage, collection: Any, clock: Clock
) -> None:
    """A new token is no new session: `created_at` stays."""
    visitor = await (await open_site(make_storage(absolute_timeout=3600))).visitor()
    await visitor.do(lambda session: session.update(user_id=7))
    clock.advance(3599)

    await visitor.do(lambda session: session.renew())

    assert await visitor.session() == {"user_id": 7}
    assert (await collection.find_one({}))["created_at"] == CREATED_AT
    clock.advance(1)
    assert await visitor.session() == {}


async def test_renewal_by_renew_session_is_the_same(
    open_site: OpenSite, make_storage: MakeStorage, collection: Any, clock: Clock
) -> None:
    """The function of the public face keeps the creation too, and gives another token."""
    visitor = await (await open_site(make_storage())).visitor()
    await visitor.do(lambda session: session.update(user_id=7))
    cookie = visitor.cookie
    clock.advance(60)

    async def handler(request: web.Request) -> web.StreamResponse:
        return web.json_response(dict(await renew_session(request)))

    response = await visitor.visit(handler)

    assert await response.json() == {"user_id": 7}
    assert visitor.cookie not in (None, cookie)
    assert (await collection.find_one({}))["created_at"] == CREATED_AT


def _log_in(session: MongoSession) -> None:
    session["user_id"] = 8


def _log_out(session: MongoSession) -> None:
    del session["user_id"]


def _start_over(session: MongoSession) -> None:
    session.invalidate()
    session.update(user_id=7, a=2)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(_log_in, id="another owner"),
        pytest.param(_log_out, id="no owner any more"),
        pytest.param(_start_over, id="invalidate, then a write"),
    ],
)
async def test_new_lifetime_begins_with_another_owner_or_a_new_session(
    open_site: OpenSite, make_storage: MakeStorage, collection: Any, clock: Clock, change: Any
) -> None:
    """The absolute timeout counts from there, and the token is another."""
    visitor = await (await open_site(make_storage(absolute_timeout=3600))).visitor()
    await visitor.do(lambda session: session.update(user_id=7, a=1))
    cookie = visitor.cookie
    clock.advance(3599)

    await visitor.do(change)

    assert visitor.cookie not in (None, cookie)
    (document,) = await collection.find().to_list(None)
    assert document["created_at"] == CREATED_AT + timedelta(seconds=3599)
    clock.advance(3599)
    assert await visitor.session() != {}


async def test_new_lifetime_begins_with_new_session(
    visitor: Visitor, collection: Any, clock: Clock
) -> None:
    """`aiohttp_session.new_session` starts another session, and the old one is gone."""
    await visitor.do(lambda session: session.update(user_id=7))
    clock.advance(60)

    async def handler(request: web.Request) -> web.StreamResponse:
        await get_session(request)
        (await new_session(request))["a"] = 2
        return web.Response()

    await visitor.visit(handler)

    assert await visitor.session() == {"a": 2}
    (document,) = await collection.find().to_list(None)
    assert document["created_at"] == CREATED_AT + timedelta(seconds=60)
