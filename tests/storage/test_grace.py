"""Grace: `renew_session(request, grace=...)` lets the old token open the session for seconds."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from aiohttp import web

from storage import MongoStorage, renew_session
from storage.session import MongoSession
from tests.storage.conftest import Clock, Site, Visitor, every_driver, set_cookie_of
from tests.storage.direct import id_of, load, values, visit

Change = Callable[[MongoSession], Any]
NOBODY = {"cart": [1], "step": 1}
ADA = {**NOBODY, "user_id": 7}
OWNERS = [pytest.param(ADA, id="owner"), pytest.param(NOBODY, id="nobody")]


def with_grace(session: MongoSession) -> None:
    """Renew with ten seconds of grace."""
    session.renew(10_000)


async def renewed(
    storage: MongoStorage, stored: dict[str, Any], change: Change = with_grace
) -> tuple[str, str]:
    """Store a session and renew it; return the old cookie and the new one."""
    old = str(await visit(storage, None, lambda session: session.update(stored)))
    return old, str(await visit(storage, old, change))


@every_driver
@pytest.mark.parametrize("stored", OWNERS)
@pytest.mark.parametrize("grace", [10, 10.0, timedelta(seconds=10)], ids=["int", "float", "delta"])
async def test_old_token_opens_the_session_until_the_grace_ends(
    stored: dict[str, Any], grace: Any, visitor: Visitor, site: Site, clock: Clock
) -> None:
    """Requests that were sent before the new cookie arrived read and change the same session."""
    await visitor.do(lambda session: session.update(stored))
    late = await site.visitor(visitor.cookie)

    async def renew(request: web.Request) -> web.Response:
        await renew_session(request, grace=grace)
        return web.Response()

    await visitor.visit(renew)
    clock.advance(9.9)
    seen = await late.session()
    response = await late.do(lambda session: session.update(step=2))
    clock.advance(0.1)

    assert seen == stored
    assert set_cookie_of(response) == []
    assert await visitor.session() == {**stored, "step": 2}
    assert await late.session() == {}


@pytest.mark.parametrize(
    ("grace", "error"),
    [
        (True, TypeError),
        ("10", TypeError),
        (None, TypeError),
        (-1, ValueError),
        (60.001, ValueError),
        (float("nan"), ValueError),
        (float("inf"), ValueError),
        (timedelta(minutes=2), ValueError),
        (timedelta(seconds=-1), ValueError),
    ],
)
async def test_wrong_grace_is_refused_by_name(
    grace: Any, error: type[Exception], visitor: Visitor
) -> None:
    """Nothing is renewed then."""
    await visitor.do(lambda session: session.update(ADA))

    async def renew(request: web.Request) -> web.Response:
        with pytest.raises(error, match=r"^grace: .*; use seconds or a timedelta, from 0 to 60"):
            await renew_session(request, grace=grace)
        return web.Response()

    response = await visitor.visit(renew)

    assert response.status == 200
    assert set_cookie_of(response) == []


@pytest.mark.parametrize("grace", [0, 60, 60.0, timedelta(0), timedelta(minutes=1)])
async def test_grace_at_its_bounds_is_accepted(grace: Any, visitor: Visitor, site: Site) -> None:
    """0 is no grace, which is the default too."""
    await visitor.do(lambda session: session.update(ADA))
    late = await site.visitor(visitor.cookie)

    async def renew(request: web.Request) -> web.Response:
        await renew_session(request, grace)
        return web.Response()

    response = await visitor.visit(renew)

    assert response.status == 200
    assert await late.session() == (ADA if grace else {})


async def test_without_a_grace_the_old_token_opens_nothing(
    storage: MongoStorage, clock: Clock
) -> None:
    """Not even in a process whose clock is behind."""
    old, _new = await renewed(storage, ADA, lambda session: session.renew())

    clock.advance(-30)

    assert await values(storage, old) == {}


@pytest.mark.parametrize("stored", OWNERS)
async def test_request_by_grace_gets_no_cookie_of_the_session(
    stored: dict[str, Any], storage: MongoStorage, clock: Clock
) -> None:
    """No touch and no Max-Age; a renewal that it asks for counts as done."""
    old, new = await renewed(storage, stored, lambda session: session.renew(60_000))
    begun = [await load(storage, old) for _ in range(4)]
    clock.advance(7200)

    for by_grace, change in zip(
        begun,
        (
            lambda session: None,
            lambda session: session.update(step=2),
            lambda session: session.renew(),
            lambda session: setattr(session, "max_age", 9000),
        ),
        strict=True,
    ):
        change(by_grace.session)
        assert await by_grace.save() == old

    found = await load(storage, new)
    assert dict(found.session) == {**stored, "step": 2}
    assert found.session.max_age == 9000
    # The next request with the new token gets the cookie that those requests did not get.
    response = web.Response()
    await storage.save_session(found.request, response, found.session)
    assert response.cookies["session"]["max-age"] == 9000


async def test_touch_of_a_request_by_grace_is_left_to_the_next_one(
    storage: MongoStorage, clock: Clock, collection: Any
) -> None:
    """It writes nothing, so that the next request still finds its touch due."""
    old, new = await renewed(storage, ADA, lambda session: session.renew(60_000))
    by_grace = await load(storage, old)
    before = await collection.find_one({"_id": id_of(new)})
    clock.advance(7200)

    assert await by_grace.save() == old

    assert await collection.find_one({"_id": id_of(new)}) == before


ENDS: list[Any] = [
    pytest.param(lambda s: s.invalidate(), id="sign-out"),
    pytest.param(lambda s: s.update(user_id=8), id="sign-in"),
    pytest.param(lambda s: (s.invalidate(), s.update(a=1)), id="invalidate and write"),
]


@pytest.mark.parametrize("stored", OWNERS)
@pytest.mark.parametrize("end", ENDS)
async def test_end_of_the_session_ends_its_grace(
    stored: dict[str, Any], end: Change, storage: MongoStorage
) -> None:
    """The old token opens neither the session nor what has taken its place."""
    old, new = await renewed(storage, stored)

    newest = await visit(storage, new, end)

    assert await values(storage, old) == {}
    assert await values(storage, new) == {}
    assert newest != new


async def test_revoke_ends_a_grace(storage: MongoStorage) -> None:
    """By the handle of the session, or of all sessions of the owner."""
    old, new = await renewed(storage, ADA)
    other, _ = await renewed(storage, ADA)

    assert await storage.revoke(id_of(new).hex())
    assert await values(storage, old) == {}
    assert await storage.revoke_owner(7) == 1
    assert await values(storage, other) == {}


async def test_sign_in_by_grace_is_answered_with_every_cookie_of_the_new_session(
    storage: MongoStorage,
) -> None:
    """It is the session of this request, also where the answer changes it once more."""
    old, _new = await renewed(storage, {"cart": [1]}, lambda session: session.renew(10_000))
    late = await load(storage, old)
    response = web.Response()

    late.session["user_id"] = 7
    await storage.save_session(late.request, response, late.session)
    late.session.max_age = 300
    await storage.save_session(late.request, response, late.session)

    assert response.cookies["session"].value == late.session.identity
    assert response.cookies["session"]["max-age"] == 300


async def test_sign_in_with_a_grace_has_none(storage: MongoStorage) -> None:
    """An attacker who planted the token must not read the session of the user."""
    old, new = await renewed(
        storage, NOBODY, lambda session: (with_grace(session), session.update(user_id=7))
    )

    assert await values(storage, old) == {}
    assert (await values(storage, new))["user_id"] == 7


@pytest.mark.parametrize("end", ENDS)
async def test_request_by_grace_can_end_the_session(end: Change, storage: MongoStorage) -> None:
    """A sign-out that was on its way is final; a sign-in gets a cookie of its own."""
    old, new = await renewed(storage, ADA)

    cookie = await visit(storage, old, end)

    assert await values(storage, new) == {}
    assert await values(storage, old) == {}
    assert cookie not in (old, new)


async def test_chain_of_graces_is_followed_while_each_one_lasts(
    storage: MongoStorage, clock: Clock
) -> None:
    """A page that renews every few seconds; a renewal without a grace ends it."""
    old, second = await renewed(storage, ADA)
    clock.advance(6)
    third = await visit(storage, second, with_grace)

    assert await values(storage, old) == ADA
    clock.advance(4)
    assert await values(storage, old) == {}
    assert await values(storage, second) == ADA
    await visit(storage, third, lambda session: session.renew())
    assert await values(storage, second) == {}


@pytest.mark.parametrize(("moves", "found"), [(8, True), (9, False)])
async def test_chain_of_graces_is_followed_over_eight_moves(
    moves: int, storage: MongoStorage, *, found: bool
) -> None:
    """Longer ones end there: no load costs more finds."""
    old, new = await renewed(storage, ADA)
    for _ in range(moves - 1):
        new = str(await visit(storage, new, with_grace))

    assert await values(storage, old) == (ADA if found else {})


async def test_database_writer_cannot_lengthen_a_grace(
    storage: MongoStorage, clock: Clock, collection: Any
) -> None:
    """Its end is inside the seal."""
    old, _new = await renewed(storage, ADA)
    forward = await collection.find_one({"_id": id_of(old)})
    later = forward["expires_at"] + timedelta(days=1)
    await collection.update_one({"_id": id_of(old)}, {"$set": {"expires_at": later}})

    clock.advance(10)

    assert await values(storage, old) == {}


async def test_grace_of_another_cookie_does_not_hide_a_sign_in(storage: MongoStorage) -> None:
    """A request with an old anonymous token and the cookie of a user is signed in."""
    old, _ = await renewed(storage, NOBODY)
    ada = str(await visit(storage, None, lambda session: session.update(ADA)))

    assert await values(storage, f"{old}; session={ada}") == ADA
    assert await values(storage, f"{ada}; session={old}") == ADA


async def test_signed_in_session_in_its_grace_counts_before_an_anonymous_one(
    storage: MongoStorage,
) -> None:
    """As it does with its new token."""
    old, _ = await renewed(storage, ADA)
    nobody = str(await visit(storage, None, lambda session: session.update(NOBODY)))

    assert await values(storage, f"{nobody}; session={old}") == ADA
    assert await values(storage, f"{old}; session={nobody}") == ADA


async def test_loads_are_counted_as_hits_and_misses(storage: MongoStorage, clock: Clock) -> None:
    """A load by grace is a hit; a forward without one is a miss."""
    old, _ = await renewed(storage, ADA)
    before = dict(storage.counters)

    await values(storage, old)
    clock.advance(10)
    await values(storage, old)

    gained = {name: storage.counters[name] - before[name] for name in before}
    assert (gained["loads"], gained["hits"], gained["misses"]) == (2, 1, 1)
    assert gained["commands"] == 3
