"""`session.max_age`: a session's own idle timeout, kept from request to request."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from storage.session import MongoSession
from tests.storage.conftest import (
    NOON,
    Clock,
    MakeStorage,
    OpenSite,
    Visitor,
    cookie_of,
    every_driver,
    set_cookie_of,
)
from tests.storage.direct import load, values, visit

AT_NOON = datetime.fromtimestamp(NOON, UTC).replace(tzinfo=None)  # as drivers return it
DAYS_90 = 90 * 86400


def choose(max_age: Any) -> Any:
    """Return a change that sets `session.max_age`."""

    def change(session: MongoSession) -> None:
        session.max_age = max_age

    return change


@pytest.fixture
async def visitor(open_site: OpenSite, make_storage: MakeStorage) -> Visitor:
    """Open a browser with a session of 20 minutes."""
    visitor = await (await open_site(make_storage(max_age=1200))).visitor()
    await visitor.do(lambda session: session.update(a=1))
    return visitor


async def max_age_of(visitor: Visitor) -> Any:
    """Return the max_age that the next request reads."""
    return await (await visitor.do(lambda session: session.max_age)).json()


@every_driver
async def test_chosen_max_age_is_sent_at_once_and_kept(
    visitor: Visitor, collection: Any, clock: Clock
) -> None:
    """One assignment means "remember me": for the cookie, the document and later requests."""
    response = await visitor.do(choose(DAYS_90))

    assert cookie_of(response)["max-age"] == str(DAYS_90)
    assert cookie_of(response).value == visitor.cookie
    document = await collection.find_one({})
    assert document["max_age"] == DAYS_90
    assert document["expires_at"] == AT_NOON + timedelta(days=90)
    assert await max_age_of(visitor) == DAYS_90
    clock.advance(DAYS_90 - 1)
    touched = await visitor.do(dict)
    assert await touched.json() == {"a": 1}
    assert cookie_of(touched)["max-age"] == str(DAYS_90)


async def test_max_age_can_be_chosen_before_the_first_save(
    open_site: OpenSite, make_storage: MakeStorage
) -> None:
    """In the request that creates the session."""
    visitor = await (await open_site(make_storage())).visitor()

    response = await visitor.do(lambda s: (choose(60)(s), s.update(a=1)))

    assert cookie_of(response)["max-age"] == "60"
    assert await max_age_of(visitor) == 60


async def test_browser_session_can_be_chosen_before_the_first_save(
    open_site: OpenSite, make_storage: MakeStorage, clock: Clock
) -> None:
    """The choice is stored: a touch sends no Max-Age either."""
    visitor = await (await open_site(make_storage(max_age=1200))).visitor()

    created = await visitor.do(lambda s: (choose(None)(s), s.update(a=1)))
    clock.advance(60)
    touched = await visitor.do(lambda session: session.max_age)

    assert cookie_of(created)["max-age"] == ""
    assert await touched.json() is None
    assert cookie_of(touched)["max-age"] == ""


async def test_max_age_alone_does_not_store_a_session(
    open_site: OpenSite, make_storage: MakeStorage, collection: Any
) -> None:
    """An anonymous visitor who stored nothing gets no cookie."""
    visitor = await (await open_site(make_storage())).visitor()

    response = await visitor.do(choose(60))

    assert set_cookie_of(response) == []
    assert await collection.count_documents({}) == 0


async def test_none_makes_the_cookie_end_with_the_browser_and_is_kept(
    visitor: Visitor, collection: Any, clock: Clock
) -> None:
    """No Max-Age and no Expires; the idle timeout at the server is the storage's."""
    response = await visitor.do(choose(None))

    assert cookie_of(response)["max-age"] == ""
    assert cookie_of(response)["expires"] == ""
    assert (await collection.find_one({}))["persistent"] is False
    assert await max_age_of(visitor) is None
    clock.advance(1199)
    touched = await visitor.do(dict)
    assert cookie_of(touched)["max-age"] == ""
    clock.advance(1200)
    assert await visitor.session() == {}


async def test_storage_without_max_age_makes_browser_session_cookies_of_14_days(
    open_site: OpenSite, make_storage: MakeStorage, collection: Any, clock: Clock
) -> None:
    """A session may still choose a max_age of its own."""
    visitor = await (await open_site(make_storage(max_age=None))).visitor()

    response = await visitor.do(lambda session: session.update(a=1))
    assert cookie_of(response)["max-age"] == ""
    assert await max_age_of(visitor) is None
    assert (await collection.find_one({}))["expires_at"] == AT_NOON + timedelta(days=14)

    response = await visitor.do(choose(60))
    assert cookie_of(response)["max-age"] == "60"
    clock.advance(60)
    assert await visitor.session() == {}


async def test_shorter_max_age_shortens_the_session_at_once(
    visitor: Visitor, collection: Any, clock: Clock
) -> None:
    """It is the only change that moves `expires_at` back."""
    await visitor.do(choose(DAYS_90))
    clock.advance(1)

    response = await visitor.do(choose(60))

    assert cookie_of(response)["max-age"] == "60"
    assert (await collection.find_one({}))["expires_at"] == AT_NOON + timedelta(seconds=61)
    clock.advance(60)
    assert await visitor.session() == {}


async def test_same_max_age_again_writes_nothing_and_sends_no_cookie(
    visitor: Visitor, collection: Any, clock: Clock
) -> None:
    """So an app may assign it in every request."""
    await visitor.do(choose(DAYS_90))
    before = await collection.find_one({})
    clock.advance(1)

    response = await visitor.do(choose(float(DAYS_90)))

    assert set_cookie_of(response) == []
    assert await collection.find_one({}) == before


@pytest.mark.parametrize("minutes", [0, 2], ids=["plain save", "save with a touch"])
async def test_stale_parallel_save_does_not_undo_remember_me(
    make_storage: MakeStorage, collection: Any, clock: Clock, minutes: int
) -> None:
    """A request that loaded the session earlier writes its own value and nothing else."""
    one, other = make_storage(max_age=1200), make_storage(max_age=1200)
    cookie = await visit(one, None, lambda session: session.update(a=1))
    clock.advance(60 * minutes)
    stale = await load(other, cookie)

    await visit(one, cookie, choose(DAYS_90))
    clock.advance(1)
    stale.session["a"] = 2
    await stale.save()

    document = await collection.find_one({})
    assert document["max_age"] == DAYS_90
    assert document["expires_at"] == AT_NOON + timedelta(minutes=minutes, days=90)
    assert await values(one, cookie) == {"a": 2}


async def test_next_request_corrects_the_cookie_of_a_stale_touch(
    open_site: OpenSite, make_storage: MakeStorage, clock: Clock
) -> None:
    """The stale touch sent the shorter Max-Age; the next request sends the chosen one."""
    one, other = make_storage(max_age=1200), make_storage(max_age=1200)
    cookie = await visit(one, None, lambda session: session.update(a=1))
    clock.advance(60)
    stale = await load(other, cookie)
    await visit(one, cookie, choose(DAYS_90))
    clock.advance(1)
    await stale.save()

    visitor = await (await open_site(make_storage(max_age=1200))).visitor(cookie)
    following = await visitor.do(dict)

    assert cookie_of(following)["max-age"] == str(DAYS_90)


async def test_max_age_survives_a_renewal_and_ends_with_the_owner(
    visitor: Visitor, clock: Clock
) -> None:
    """A renewed session is the same session; that of another owner is not."""
    await visitor.do(lambda session: session.update(user_id=7))
    await visitor.do(choose(DAYS_90))

    renewed = await visitor.do(lambda session: session.renew())
    assert cookie_of(renewed)["max-age"] == str(DAYS_90)
    assert await max_age_of(visitor) == DAYS_90

    other = await visitor.do(lambda session: session.update(user_id=8))
    assert cookie_of(other)["max-age"] == "1200"


async def test_cookie_of_a_long_max_age_ends_at_the_absolute_timeout(
    open_site: OpenSite, make_storage: MakeStorage, collection: Any, clock: Clock
) -> None:
    """Neither the cookie nor the document lasts longer."""
    storage = make_storage(max_age=1200, absolute_timeout=3600)
    visitor = await (await open_site(storage)).visitor()
    await visitor.do(lambda session: session.update(a=1))
    clock.advance(600)

    response = await visitor.do(choose(DAYS_90))

    assert cookie_of(response)["max-age"] == "3000"
    assert (await collection.find_one({}))["expires_at"] == AT_NOON + timedelta(hours=1)
    clock.advance(3000)
    assert await visitor.session() == {}


@every_driver
async def test_fractions_of_seconds_are_kept(make_storage: MakeStorage, clock: Clock) -> None:
    """The session expires to the millisecond."""
    storage = make_storage()
    cookie = await visit(storage, None, lambda s: (choose(1.5)(s), s.update(a=1)))

    assert (await load(storage, cookie)).session.max_age == 1.5
    clock.advance(1.499)
    assert await values(storage, cookie) == {"a": 1}
    clock.advance(0.001)
    assert await values(storage, cookie) == {}


@pytest.mark.parametrize(
    ("value", "error"),
    [
        pytest.param(0, ValueError, id="zero"),
        pytest.param(-1, ValueError, id="below zero"),
        pytest.param(0.0001, ValueError, id="under a millisecond"),
        pytest.param(float("nan"), ValueError, id="not a number"),
        pytest.param(float("inf"), ValueError, id="infinite"),
        pytest.param(10**12, ValueError, id="31 thousand years"),
        pytest.param(10**400, ValueError, id="more than a float holds"),
        pytest.param("3600", TypeError, id="text"),
        pytest.param(True, TypeError, id="true"),
        pytest.param(timedelta(0), ValueError, id="a timedelta of zero"),
    ],
)
async def test_wrong_max_age_is_refused_by_name_where_it_is_assigned(
    make_storage: MakeStorage, collection: Any, value: Any, error: type[Exception]
) -> None:
    """The traceback shows the line of the mistake, and the session does not change."""
    storage = make_storage()
    cookie = await visit(storage, None, lambda session: session.update(a=1))
    before = await collection.find_one({})
    visiting = await load(storage, cookie)

    with pytest.raises(error, match=r"^session\.max_age: .*; use seconds \(a number above zero\)"):
        visiting.session.max_age = value
    await visiting.save()

    assert visiting.session.max_age == 14 * 86400
    assert await collection.find_one({}) == before


async def test_session_written_after_invalidate_has_the_max_age_of_the_storage(
    make_storage: MakeStorage,
) -> None:
    """The choice of "remember me" ends with the session."""
    storage = make_storage(max_age=1200)
    cookie = await visit(storage, None, lambda s: (s.update(a=1), choose(600)(s)))

    cookie = await visit(storage, cookie, lambda s: (s.invalidate(), s.update(a=2)))

    assert (await load(storage, cookie)).session.max_age == 1200


@pytest.mark.parametrize(
    ("before", "chosen"),
    [
        pytest.param(1200, 600, id="first owner chose the default"),
        pytest.param(600, 600, id="first owner chose the same"),
        pytest.param(None, None, id="both chose the browser session"),
    ],
)
async def test_max_age_chosen_at_the_login_of_another_owner_is_kept(
    make_storage: MakeStorage, before: int | None, chosen: int | None
) -> None:
    """It is the choice of the new owner, even if the first owner chose the same."""
    storage = make_storage(max_age=1200)

    def sign_in(owner: str, max_age: int | None) -> Any:
        return lambda session: (session.update(user_id=owner), choose(max_age)(session))

    cookie = await visit(storage, None, sign_in("ada", before))
    cookie = await visit(storage, cookie, sign_in("eve", chosen))

    assert (await load(storage, cookie)).session.max_age == chosen


async def test_new_session_has_no_changed_max_age() -> None:
    """Before the first save there is no stored max_age to differ from."""
    session = MongoSession(max_age=60)
    session.max_age = 30

    assert not session.max_age_changed
