"""A session that ends during a request stays ended: its save writes nothing, sends no cookie."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from aiohttp import web

from storage import MongoStorage
from storage.session import MongoSession
from tests.storage.conftest import (
    Clock,
    MakeStorage,
    OpenSite,
    Visitor,
    cookie_of,
    every_driver,
    real_drivers,
    set_cookie_of,
)
from tests.storage.direct import changed, load, values, visit
from tests.storage.overlap import during

TWO_HOURS = 2 * 3600
TWO_WEEKS = 14 * 24 * 3600


@dataclass
class Elsewhere:
    """Another process of the site, with the same session."""

    storage: MongoStorage
    visitor: Visitor
    handle: str
    clock: Clock
    collection: Any

    async def documents(self) -> list[dict[str, Any]]:
        """Return everything that is stored."""
        found = await self.collection.find({}).to_list(None)
        return sorted(found, key=lambda document: document["_id"])


@pytest.fixture
async def elsewhere(
    visitor: Visitor,
    open_site: OpenSite,
    make_storage: MakeStorage,
    clock: Clock,
    collection: Any,
) -> Elsewhere:
    """Sign the visitor in, and open a second process with the same session."""
    await visitor.do(lambda session: session.update(user_id=7, cart=[1], name="Ada"))
    storage = make_storage()
    site = await open_site(storage)
    other = await site.visitor(visitor.cookie)
    handle = await (await other.do(storage.handle)).json()
    return Elsewhere(storage, other, handle, clock, collection)


async def _log_out(there: Elsewhere) -> None:
    await there.visitor.do(lambda session: session.invalidate())


async def _revoke(there: Elsewhere) -> None:
    assert await there.storage.revoke(there.handle)


async def _revoke_owner(there: Elsewhere) -> None:
    assert await there.storage.revoke_owner(7) == 1


async def _expire(there: Elsewhere) -> None:
    there.clock.advance(TWO_WEEKS)


async def _clear(there: Elsewhere) -> None:
    assert await there.storage.clear() == 1


async def _sign_in_as_somebody_else(there: Elsewhere) -> None:
    await there.visitor.do(lambda session: session.update(user_id=8))


ENDINGS = [
    pytest.param(_log_out, id="logout"),
    pytest.param(_revoke, id="revoke"),
    pytest.param(_revoke_owner, id="revoke_owner"),
    pytest.param(_expire, id="expiry"),
    pytest.param(_clear, id="clear"),
    pytest.param(_sign_in_as_somebody_else, id="another login"),
]


def _set_max_age(session: MongoSession) -> None:
    session.max_age = 60


def _log_out_and_write(session: MongoSession) -> None:
    session.invalidate()
    session.update(user_id=7, name="Ada")


SAVES = [
    pytest.param(lambda session: session.update(name="Bob"), id="changed value"),
    pytest.param(lambda session: session["cart"].append(2), id="nested change"),
    pytest.param(lambda session: session.pop("name"), id="removed value"),
    pytest.param(_set_max_age, id="other max_age"),
    pytest.param(lambda session: session.renew(), id="renewal"),
    pytest.param(lambda session: session.update(user_id=9), id="other owner"),
    pytest.param(lambda session: session.pop("user_id"), id="owner removed"),
    pytest.param(_log_out_and_write, id="written after invalidate()"),
]


async def _save_after(
    ending: Callable[[Elsewhere], Awaitable[None]],
    change: Callable[[MongoSession], Any],
    there: Elsewhere,
    visitor: Visitor,
) -> list[str]:
    """Save after the end; check that nothing was written; return the Set-Cookie lines."""
    expected: list[dict[str, Any]] = []

    async def meanwhile() -> None:
        await ending(there)
        expected.extend(await there.documents())

    response = await during(visitor, meanwhile, change)

    assert response.status == 200
    assert await there.documents() == expected
    return set_cookie_of(response)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("change", SAVES)
async def test_save_after_the_session_ended_elsewhere_writes_nothing_and_sends_no_cookie(
    ending: Callable[[Elsewhere], Awaitable[None]],
    change: Callable[[MongoSession], Any],
    elsewhere: Elsewhere,
    visitor: Visitor,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The response has no cookie, and one line of the log says why."""
    caplog.set_level(logging.INFO, "storage")

    cookies = await _save_after(ending, change, elsewhere, visitor)

    assert cookies == []
    # A change of the owner has another line, which says how many values were dropped.
    lines = [(r.levelname, r.message) for r in caplog.records if "dropped" not in r.message]
    assert lines == [
        ("INFO", f"session {elsewhere.handle[:8]} ended during a request; its save wrote nothing")
    ]


@pytest.mark.parametrize("ending", ENDINGS)
async def test_due_touch_does_not_restore_a_session_that_ended_elsewhere(
    ending: Callable[[Elsewhere], Awaitable[None]],
    elsewhere: Elsewhere,
    visitor: Visitor,
) -> None:
    """A slow request that only reads does not write an ended session again."""

    def read_slowly(session: MongoSession) -> None:
        elsewhere.clock.advance(TWO_HOURS)
        assert session["name"] == "Ada"

    cookies = await _save_after(ending, read_slowly, elsewhere, visitor)

    assert cookies == []


@pytest.mark.parametrize("ending", ENDINGS)
async def test_logout_of_a_session_that_ended_elsewhere_still_deletes_the_cookie(
    ending: Callable[[Elsewhere], Awaitable[None]],
    elsewhere: Elsewhere,
    visitor: Visitor,
) -> None:
    """A visitor who signs out loses the cookie, whatever happened meanwhile."""

    async def meanwhile() -> None:
        await ending(elsewhere)

    response = await during(visitor, meanwhile, lambda session: session.invalidate())

    deleted = cookie_of(response)
    assert (deleted.value, deleted["max-age"]) == ("", "0")


@every_driver
async def test_session_that_ended_before_the_request_is_no_session(
    elsewhere: Elsewhere, visitor: Visitor
) -> None:
    """The next request after a revoke gets an empty new session, and no cookie."""
    await _revoke(elsewhere)

    response = await visitor.do(lambda session: [session.new, len(session)])

    assert await response.json() == [True, 0]
    assert set_cookie_of(response) == []


@every_driver
@pytest.mark.parametrize("count", [1, 3], ids=["alone", "in one batch"])
async def test_saves_of_expired_sessions_write_nothing(
    make_storage: MakeStorage, clock: Clock, count: int
) -> None:
    """The filter of an update excludes expired sessions; the result says how many matched."""
    storage = make_storage(max_age=60)
    _cookies, visits = await changed(storage, count)
    clock.advance(60)
    responses = [web.Response() for _ in visits]

    await asyncio.gather(
        *(
            storage.save_session(begun.request, response, begun.session)
            for begun, response in zip(visits, responses, strict=True)
        )
    )

    assert [response.headers.getall("Set-Cookie", []) for response in responses] == [[]] * count
    assert storage.counters["updates"] == 0


@real_drivers
async def test_batch_stores_the_save_before_the_expiry_and_not_the_one_after_it(
    make_storage: MakeStorage, clock: Clock
) -> None:
    """Each save of a batch is checked against the time at which it was made."""
    storage = make_storage(max_age=60)
    _cookies, (in_time, late) = await changed(storage, 2)
    clock.advance(59)

    async def save_late() -> None:
        clock.advance(1)
        await late.save()

    sent = storage.counters["commands"]
    await asyncio.gather(in_time.save(), save_late())

    assert (
        storage.counters["commands"] - sent == 2
    )  # the bulk write, and the find of the ended ones
    assert [begun.session.abandoned for begun in (in_time, late)] == [False, True]


async def test_session_written_after_invalidate_gets_no_values_saved_in_parallel(
    make_storage: MakeStorage,
) -> None:
    """A session that is written after a logout is a new one."""
    storage = make_storage()
    cookie = str(await visit(storage, None, lambda session: session.update(name="Ada")))
    begun = await load(storage, cookie)
    begun.session.invalidate()
    begun.session["notice"] = "signed out"
    await visit(storage, cookie, lambda session: session.update(name="Grace", late=True))

    after = await begun.save()

    assert await values(storage, after) == {"notice": "signed out"}
