"""Idle and absolute timeout: when a session has expired, whatever is still stored."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from storage.session import MongoSession
from tests.storage.conftest import (
    NOON,
    SESSIONS,
    Clock,
    MakeStorage,
    OpenSite,
    every_driver,
)
from tests.storage.direct import values, visit
from tests.storage.handlers import log_out_and_write

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
    """A millisecond before, it is read; at the instant, it is not."""
    storage = make_storage(**options)
    cookie = await visit(storage, None, lambda session: session.update(a=1))

    clock.now = NOON + seconds
    expired = await values(storage, cookie)
    clock.now = NOON + seconds - 0.001
    active = await values(storage, cookie)

    assert active == {"a": 1}
    assert expired == {}


async def test_idle_timeout_slides_with_use(
    open_site: OpenSite, make_storage: MakeStorage, clock: Clock
) -> None:
    """Each use starts it again, so a visitor who returns in time stays signed in."""
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
    """It counts from the creation; no read and no write extends it."""
    storage = make_storage(max_age=1200, absolute_timeout=3600)
    visitor = await (await open_site(storage)).visitor()
    await visitor.do(lambda session: session.update(visits=0))

    for number in range(1, 12):
        clock.advance(300)
        await visitor.do(lambda session, n=number: session.update(visits=n))  # type: ignore[misc]
        assert await visitor.session() == {"visits": number}

    clock.advance(300)
    assert await visitor.session() == {}


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
    """After a restart with a shorter timeout, older sessions have expired and are not counted."""
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
    """A session of the shorter timeout keeps its end unless it is used; a read is enough."""
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
    """A new token is no new session: `created_at` does not change."""
    visitor = await (await open_site(make_storage(absolute_timeout=3600))).visitor()
    await visitor.do(lambda session: session.update(user_id=7))
    clock.advance(3599)

    await visitor.do(lambda session: session.renew())

    assert await visitor.session() == {"user_id": 7}
    assert (await collection.find_one({}))["created_at"] == CREATED_AT
    clock.advance(1)
    assert await visitor.session() == {}


@pytest.mark.parametrize(
    ("owner", "change"),
    [
        pytest.param(None, lambda session: session.update(user_id=7), id="first owner"),
        pytest.param(7, lambda session: session.update(user_id=8), id="another owner"),
        pytest.param(7, lambda session: session.pop("user_id"), id="owner removed"),
        pytest.param(7, log_out_and_write, id="written after invalidate()"),
    ],
)
async def test_new_lifetime_begins_with_another_owner_or_a_new_session(
    *,
    open_site: OpenSite,
    make_storage: MakeStorage,
    collection: Any,
    clock: Clock,
    owner: int | None,
    change: Callable[[MongoSession], Any],
) -> None:
    """The absolute timeout starts again, under a new token."""
    visitor = await (await open_site(make_storage(absolute_timeout=3600))).visitor()
    await visitor.do(lambda session: session.update(user_id=owner, a=1))
    cookie = visitor.cookie
    clock.advance(3599)

    await visitor.do(change)

    assert visitor.cookie not in (None, cookie)
    (document,) = await collection.find(SESSIONS).to_list(None)
    assert document["created_at"] == CREATED_AT + timedelta(seconds=3599)
    clock.advance(3599)
    assert await visitor.session() != {}
