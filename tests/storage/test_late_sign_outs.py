"""Late sign-outs and sign-ins: they end the session that was renewed after their load."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from aiohttp_session import new_session

from storage import MongoStorage, generate_secret
from storage.session import MongoSession
from tests.storage.conftest import Clock, MakeStorage, every_driver, until
from tests.storage.direct import Visit, begun, load, new_cookie, values, visit

Change = Callable[[MongoSession], Any]
NOBODY = {"cart": [1], "step": 1}
ADA = {**NOBODY, "user_id": 7}


def renew(session: MongoSession) -> None:
    """Ask for a new token."""
    session.renew()


def sign_in(session: MongoSession) -> None:
    """Sign in without a renewal or `invalidate()`."""
    session["user_id"] = 7


async def answered(begun: Visit) -> tuple[web.Response, str | None]:
    """Save as the middleware does; return the response too."""
    response = web.Response()
    await begun.storage.save_session(begun.request, response, begun.session)
    return response, new_cookie(begun.request.cookies.get("session"), response)


SIGN_OUTS = [
    pytest.param(lambda session: session.invalidate(), id="invalidate"),
    pytest.param(lambda session: session.clear(), id="clear"),
]


@every_driver
@pytest.mark.parametrize("sign_out", SIGN_OUTS)
@pytest.mark.parametrize("moves", [1, 3])
async def test_late_sign_out_ends_the_renewed_session(
    sign_out: Change, moves: int, storage: MongoStorage
) -> None:
    """However often it was renewed meanwhile; the cookie is deleted."""
    old, late = await begun(storage, ADA)
    new: str | None = old
    for _ in range(moves):
        new = await visit(storage, new, renew)

    sign_out(late.session)
    cookie = await late.save()

    assert cookie is None
    assert await values(storage, new) == {}
    assert [info async for info in storage.sessions(7)] == []


async def test_sign_out_that_is_sent_with_the_old_token_after_a_renewal_ends_nothing(
    storage: MongoStorage,
) -> None:
    """A limit: the old token opens nothing, whoever sends it; no cookie is set or deleted."""
    old = str(await visit(storage, None, lambda session: session.update(user_id=7)))
    new = str(await visit(storage, old, renew))

    signing_out = await load(storage, old)
    signing_out.session.invalidate()
    response, cookie = await answered(signing_out)

    assert cookie == old
    assert len(response.cookies) == 0
    assert await values(storage, new) == {"user_id": 7}


async def test_late_sign_out_after_a_sign_in_of_another_user_leaves_that_one_alone(
    storage: MongoStorage,
) -> None:
    """No forward leads from one owner to the next."""
    old, late = await begun(storage, ADA)
    eve = await visit(storage, old, lambda session: session.update(user_id="eve"))

    late.session.invalidate()
    await late.save()

    assert await values(storage, eve) == {"user_id": "eve"}


@pytest.mark.parametrize("move", [renew, sign_in], ids=["renewal", "sign-in"])
async def test_emptying_an_anonymous_session_that_moved_is_a_removal(
    move: Change, storage: MongoStorage
) -> None:
    """It removes what it has seen, as other removals do; no cookie is set or deleted."""
    old, late = await begun(storage, NOBODY)
    new = await visit(storage, old, lambda session: (move(session), session.update(step=2, own=1)))

    late.session.clear()
    response, _ = await answered(late)

    assert not response.cookies
    found = await values(storage, new)
    assert found.pop("user_id", 7) == 7
    assert found == {"step": 2, "own": 1}


@pytest.mark.parametrize("move", [renew, sign_in], ids=["renewal", "sign-in"])
@pytest.mark.parametrize("written", [{}, {"notice": "signed out"}], ids=["alone", "and a write"])
async def test_late_invalidate_of_an_anonymous_session_writes_nothing_and_sends_no_cookie(
    move: Change, written: dict[str, Any], storage: MongoStorage, collection: Any
) -> None:
    """A planted request can neither sign the user out nor delete the cookie."""
    old, late = await begun(storage, NOBODY)
    await visit(storage, old, move)
    before = await collection.find({}).sort("_id").to_list(None)

    late.session.invalidate()
    late.session.update(written)
    response, _ = await answered(late)

    assert not response.cookies
    assert await collection.find({}).sort("_id").to_list(None) == before


async def test_late_sign_in_after_invalidate_of_an_anonymous_session_succeeds(
    storage: MongoStorage,
) -> None:
    """A double-clicked sign-in with `invalidate()`: both responses carry a valid cookie."""
    old, late = await begun(storage, NOBODY)

    def fresh_sign_in(session: MongoSession) -> None:
        session.invalidate()
        session["user_id"] = 7

    first = await visit(storage, old, fresh_sign_in)
    fresh_sign_in(late.session)
    second = await late.save()

    assert len({old, first, second}) == 3
    assert await values(storage, first) == await values(storage, second) == {"user_id": 7}


def _invalidate_and_write(session: MongoSession) -> None:
    session.invalidate()
    session.update(user_id=7, name="Ada")


LATE: list[Any] = [
    pytest.param(lambda s: s.update(user_id=8), {"user_id": 8}, id="another owner"),
    pytest.param(lambda s: s.pop("user_id"), {**NOBODY, "since": 1}, id="owner removed"),
    pytest.param(_invalidate_and_write, {"user_id": 7, "name": "Ada"}, id="invalidate and write"),
]


@every_driver
@pytest.mark.parametrize(("change", "expected"), LATE)
@pytest.mark.parametrize("moves", [1, 2])
async def test_late_end_of_an_owners_session_ends_it_and_sends_a_new_cookie(
    change: Change, expected: dict[str, Any], moves: int, storage: MongoStorage
) -> None:
    """The moved session ends; what the request has written has a session of its own."""
    old, late = await begun(storage, ADA)
    new: str | None = old
    for _ in range(moves):
        new = await visit(storage, new, renew)
    await visit(storage, new, lambda session: session.update(since=1))

    change(late.session)
    cookie = await late.save()

    assert cookie not in (None, old, new)
    assert await values(storage, cookie) == expected
    assert await values(storage, new) == {}
    assert await storage.count() == 1


@pytest.mark.parametrize(("change", "_expected"), LATE)
async def test_late_end_of_an_owners_session_that_has_ended_writes_nothing(
    change: Change, _expected: object, storage: MongoStorage, collection: Any
) -> None:
    """Signed out after the renewal: a slow request does not sign in again."""
    old, late = await begun(storage, ADA)
    new = await visit(storage, old, renew)
    await visit(storage, new, lambda session: session.invalidate())

    change(late.session)
    response, _ = await answered(late)

    assert not response.cookies
    assert await storage.count() == 0


@pytest.mark.parametrize(("moves", "found"), [(8, True), (9, False)])
@pytest.mark.parametrize("what", ["sign-out", "another owner", "keep"])
async def test_late_ends_follow_up_to_eight_moves(
    what: str, moves: int, storage: MongoStorage, *, found: bool
) -> None:
    """As late saves do."""
    old, late = await begun(storage, ADA)
    new: str | None = old
    for _ in range(moves):
        new = await visit(storage, new, renew)

    if what == "keep":
        assert await storage.revoke_owner(7, keep=late.session) == (0 if found else 1)
        assert (await values(storage, new) == ADA) is found
        return
    if what == "sign-out":
        late.session.invalidate()
    else:
        late.session["user_id"] = 8
    await late.save()

    assert (await values(storage, new) == {}) is found


@pytest.mark.parametrize("stored", [ADA, NOBODY], ids=["owner", "nobody"])
@pytest.mark.parametrize("written", [{"user_id": 9}, {}], ids=["written", "left empty"])
async def test_late_new_session_after_a_load_ends_the_session_of_an_owner(
    stored: dict[str, Any], written: dict[str, Any], storage: MongoStorage
) -> None:
    """Nobody's session that moved is left alone: somebody may have signed in over it."""
    old, late = await begun(storage, stored)
    new = await visit(storage, old, lambda session: (sign_in(session), renew(session)))

    late.session = await new_session(late.request)  # type: ignore[assignment]
    late.session.update(written)
    if not written:
        late.session.invalidate()
    cookie = await late.save()

    assert await values(storage, cookie) == written
    assert (await values(storage, new) == {}) is (stored is ADA)


async def test_new_session_without_a_load_does_not_follow(
    storage: MongoStorage, commands_sent: Callable[[], int]
) -> None:
    """It has seen nothing of the session; its cost stays one insert and one delete."""
    old, _ = await begun(storage, ADA)
    new = await visit(storage, old, renew)
    request = make_mocked_request("GET", "/", headers={"Cookie": f"session={old}"})
    before = commands_sent()

    session = await storage.new_session()
    session["user_id"] = 9
    response = web.Response()
    await storage.save_session(request, response, session)

    assert commands_sent() - before == 2
    assert await values(storage, new) == ADA
    assert await values(storage, new_cookie(None, response)) == {"user_id": 9}


@pytest.fixture
def commands_sent(storage: MongoStorage) -> Callable[[], int]:
    """Count the commands of the storage."""
    return lambda: storage.counters["commands"]


async def test_sign_out_ends_the_renewed_session_of_every_cookie_of_the_request(
    storage: MongoStorage,
) -> None:
    """A browser that still sends an old token beside another one is signed out of both."""
    bob = str(await visit(storage, None, lambda session: session.update(user_id="bob")))
    old, _ = await begun(storage, ADA)
    new = await visit(storage, old, renew)
    both = await load(storage, f"{bob}; session={old}")

    both.session.invalidate()
    await both.save()

    assert await values(storage, bob) == await values(storage, new) == {}


async def test_sign_out_and_renewal_at_the_same_time_leave_no_session(
    storage: MongoStorage, make_storage: MakeStorage
) -> None:
    """Whichever is first, in two processes: twenty rounds with different delays."""
    other = make_storage()
    for turns in range(20):
        old, leaving = await begun(storage, ADA)
        renewing = await load(other, old)
        leaving.session.invalidate()
        renewing.session.renew()

        renewal = asyncio.ensure_future(renewing.save())
        for _ in range(turns):
            await asyncio.sleep(0)
        await asyncio.gather(leaving.save(), renewal)

        assert await storage.count() == 0


async def test_late_sign_out_is_completed_when_the_visitor_disconnects_at_any_step(
    storage: MongoStorage,
) -> None:
    """The request is cancelled after each number of turns of the event loop."""
    for turns in range(1, 30):
        old, late = await begun(storage, ADA)
        await visit(storage, old, renew)
        late.session.invalidate()

        request = asyncio.ensure_future(late.save())
        for _ in range(turns):
            await asyncio.sleep(0)
        request.cancel()
        await asyncio.wait({request})

        async def ended() -> bool:
            return await storage.count() == 0

        await until(ended, 5)


async def test_late_sign_out_after_more_than_a_minute_deletes_the_cookie(
    storage: MongoStorage, clock: Clock
) -> None:
    """A limit: the renewed session stays, as `sessions()` shows."""
    old, late = await begun(storage, ADA)
    await visit(storage, old, renew)

    clock.advance(60)
    late.session.invalidate()

    assert await late.save() is None
    assert len([info async for info in storage.sessions(7)]) == 1


async def test_without_owners_a_late_sign_out_leaves_the_renewed_session(
    make_storage: MakeStorage,
) -> None:
    """A limitation: with `owner_key=None` every session is nobody's, and only removals follow."""
    storage = make_storage(owner_key=None)
    old, late = await begun(storage, ADA)
    new = await visit(storage, old, renew)

    late.session.invalidate()
    response, _ = await answered(late)

    assert not response.cookies
    assert await values(storage, new) == ADA


@pytest.mark.parametrize("moves", [0, 1, 3])
@every_driver
async def test_revoke_owner_keeps_the_session_that_was_renewed_meanwhile(
    moves: int, storage: MongoStorage
) -> None:
    """`keep` is the session of a request, and other requests may have renewed it."""
    old, late = await begun(storage, ADA)
    await visit(storage, None, lambda session: session.update(ADA))
    new: str | None = old
    for _ in range(moves):
        new = await visit(storage, new, renew)

    ended = await storage.revoke_owner(7, keep=late.session)

    assert ended == 1
    assert await values(storage, new) == ADA


async def test_revoke_owner_keeps_no_session_that_was_anonymous_in_its_request(
    storage: MongoStorage,
) -> None:
    """A planted request cannot keep the session of the user who signed in with its token."""
    old, late = await begun(storage, NOBODY)
    new = await visit(storage, old, sign_in)

    assert await storage.revoke_owner(7, keep=late.session) == 1
    assert await values(storage, new) == {}


async def test_revoke_owner_between_the_two_steps_of_a_renewal_ends_both(
    storage: MongoStorage, make_storage: MakeStorage, collection: Any
) -> None:
    """In two processes, with different delays: nothing of the owner is left."""
    other = make_storage()
    for turns in range(25):
        _old, renewing = await begun(other, ADA)
        renewing.session.renew()

        renewal = asyncio.ensure_future(renewing.save())
        for _ in range(turns):
            await asyncio.sleep(0)
        await storage.revoke_owner(7)
        cookie = await renewal

        # A renewal that began later, or had ended before, keeps its session.
        left = [info async for info in storage.sessions(7)]
        assert len(left) <= 1
        assert (await values(storage, cookie) == {}) is (left == [])
        await storage.revoke_owner(7)


async def test_revoke_owner_deletes_twice_while_secrets_rotate(
    make_storage: MakeStorage, log: Any
) -> None:
    """A session that is sealed again meanwhile changes its place in the owner's index."""
    one, two = generate_secret(), generate_secret()
    for secrets, deletes in (([one], 1), ([two, one], 2)):
        storage = make_storage(secrets=secrets)
        await visit(storage, None, lambda session: session.update(ADA))
        log.commands.clear()

        assert await storage.revoke_owner(7) == 1

        assert log.names == ["delete"] * deletes
