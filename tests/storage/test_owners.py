"""The sessions of an owner: listed, revoked by handle, and revoked all together."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp import web
from aiohttp_session import Session, get_session

from storage import MongoStorage, SessionInfo
from storage.session import MongoSession
from tests.storage.conftest import (
    NOON,
    Clock,
    CommandLog,
    MakeStorage,
    OpenSite,
    every_driver,
    real_drivers,
)
from tests.storage.direct import load, values, visit

AT_NOON = datetime.fromtimestamp(NOON, UTC)


def sign_in(owner: object) -> Any:
    """Return a change that sets the owner."""

    def change(session: MongoSession) -> None:
        session["user_id"] = owner

    return change


async def listed(storage: MongoStorage, owner: object) -> list[SessionInfo]:
    """Return what `sessions()` yields."""
    return [info async for info in storage.sessions(owner)]


@every_driver
async def test_sessions_are_listed_with_handle_dates_and_label(
    make_storage: MakeStorage, clock: Clock
) -> None:
    """Handle, dates as aware UTC, and the label; no token, no value."""
    storage = make_storage(max_age=1200, describe=lambda _request: "Firefox on Linux")
    cookie = await visit(storage, None, sign_in(7))
    session = (await load(storage, cookie)).session
    clock.advance(90)
    await visit(storage, cookie, dict)

    (info,) = await listed(storage, 7)

    assert info == SessionInfo(
        handle=storage.handle(session) or "",
        created_at=AT_NOON,
        last_seen_at=AT_NOON + timedelta(seconds=90),
        expires_at=AT_NOON + timedelta(seconds=90 + 1200),
        label="Firefox on Linux",
    )
    assert info.created_at.tzinfo is UTC
    assert str(cookie) not in repr(info)


@every_driver
async def test_sessions_come_newest_activity_first(make_storage: MakeStorage, clock: Clock) -> None:
    """The order of their creation does not matter."""
    storage = make_storage(max_age=1200)
    cookies = []
    for _ in range(4):
        cookies.append(await visit(storage, None, sign_in(7)))
        clock.advance(100)
    await visit(storage, cookies[1], dict)
    handles = [storage.handle((await load(storage, cookie)).session) for cookie in cookies]

    order = [handles.index(info.handle) for info in await listed(storage, 7)]

    assert order == [1, 3, 2, 0]


@every_driver
async def test_list_has_the_active_sessions_of_one_owner_only(
    make_storage: MakeStorage, clock: Clock
) -> None:
    """No sessions of other owners, no anonymous ones, and no expired ones."""
    storage = make_storage(max_age=1200, absolute_timeout=1800)
    await visit(storage, None, sign_in(7))  # will have expired
    clock.advance(1199)
    await visit(storage, None, sign_in(7))
    await visit(storage, None, sign_in(8))
    await visit(storage, None, lambda session: session.update(cart=[1]))
    clock.advance(1)

    assert len(await listed(storage, 7)) == 1
    assert len(await listed(storage, 8)) == 1
    assert await listed(storage, 9) == []


@pytest.mark.parametrize(
    ("stored", "asked"),
    [
        pytest.param(7, "7", id="a number, asked as text"),
        pytest.param("7", 7, id="text, asked as a number"),
        pytest.param("é🙂", "é🙂", id="any script"),
        pytest.param("\udcff", "\udcff", id="a lone surrogate"),
        pytest.param(0, "0", id="zero"),
        pytest.param(False, "False", id="false"),
        pytest.param([1, "a"], "[1, 'a']", id="a list"),
    ],
)
async def test_owners_are_compared_as_text(
    make_storage: MakeStorage, stored: object, asked: object
) -> None:
    """An app that stored 7 may ask for "7"; the stored value itself is loaded as it was."""
    storage = make_storage()

    cookie = await visit(storage, None, sign_in(stored))

    assert await values(storage, cookie) == {"user_id": stored}
    assert len(await listed(storage, asked)) == 1
    assert await storage.revoke_owner(asked) == 1


@pytest.mark.parametrize("nobody", [None, ""], ids=["None", "empty text"])
async def test_nobody_is_refused_as_an_owner(make_storage: MakeStorage, nobody: object) -> None:
    """It does not mean all owners, and anonymous sessions have no owner."""
    storage = make_storage()
    await visit(storage, None, lambda session: session.update(cart=[1]))
    await visit(storage, None, sign_in(nobody))

    with pytest.raises(ValueError, match=r"^owner: .* is nobody"):
        await listed(storage, nobody)
    with pytest.raises(ValueError, match=r"^owner: .* is nobody"):
        await storage.revoke_owner(nobody)

    assert await storage.count() == 2


async def test_handle_is_known_for_a_stored_session_only(make_storage: MakeStorage) -> None:
    """A new session has none, a saved one has one, and an ended one has none again."""
    storage = make_storage()
    new = await load(storage)
    assert storage.handle(new.session) is None
    new.session["a"] = 1
    cookie = await new.save()
    assert storage.handle(new.session) == storage.handle((await load(storage, cookie)).session)

    ending = await load(storage, cookie)
    ending.session.invalidate()
    await ending.save()

    assert storage.handle(ending.session) is None


async def test_handle_is_no_valid_cookie(make_storage: MakeStorage) -> None:
    """Neither the whole handle nor its first 43 characters are a token."""
    storage = make_storage()
    cookie = await visit(storage, None, sign_in(7))
    handle = storage.handle((await load(storage, cookie)).session) or ""

    assert await values(storage, handle) == {}
    assert await values(storage, handle[:43]) == {}


async def test_handle_changes_with_the_token(make_storage: MakeStorage) -> None:
    """A renewed session has another handle: the old one revokes nothing."""
    storage = make_storage()
    cookie = await visit(storage, None, sign_in(7))
    before = (await listed(storage, 7))[0].handle

    await visit(storage, cookie, lambda session: session.renew())

    assert (await listed(storage, 7))[0].handle != before
    assert await storage.revoke(before, owner=7) is False


@every_driver
async def test_nobody_revokes_the_session_of_another_owner(make_storage: MakeStorage) -> None:
    """With `owner`, the handle of another owner or of an anonymous session ends nothing."""
    storage = make_storage()
    cookie = await visit(storage, None, sign_in(7))
    anonymous = await visit(storage, None, lambda session: session.update(cart=[1]))
    handle = (await listed(storage, 7))[0].handle
    anonymous_handle = storage.handle((await load(storage, anonymous)).session) or ""

    assert await storage.revoke(handle, owner=8) is False
    assert await storage.revoke(handle, owner="") is False
    assert await storage.revoke(anonymous_handle, owner=7) is False
    assert await values(storage, cookie) == {"user_id": 7}

    assert await storage.revoke(handle, owner="7") is True
    assert await storage.revoke(handle, owner="7") is False
    assert await storage.revoke(anonymous_handle) is True


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "0" * 64,
        "g" * 64,
        "0" * 63,
        "\udcff" * 64,
        None,
        7,
        {"$ne": None},
        b"0" * 64,
    ],
)
async def test_text_that_names_no_session_revokes_nothing(
    make_storage: MakeStorage, text: Any
) -> None:
    """Whatever a form contains: the result is False, and no session ends."""
    storage = make_storage()
    await visit(storage, None, sign_in(7))

    assert await storage.revoke(text, owner=7) is False
    assert await storage.revoke(text) is False
    assert await storage.count() == 1


async def test_text_that_is_no_handle_costs_no_command(
    storage: MongoStorage, log: CommandLog
) -> None:
    """It cannot be a handle, so MongoDB is not asked."""
    await storage.revoke("nonsense")

    assert log.names == []


@every_driver
async def test_all_sessions_of_an_owner_end_except_the_one_that_is_kept(
    open_site: OpenSite, make_storage: MakeStorage
) -> None:
    """For "sign out everywhere else" in a handler."""
    storage = make_storage()
    site = await open_site(storage)
    here, there, other = [await site.visitor() for _ in range(3)]
    await here.do(sign_in(7))
    await there.do(sign_in(7))
    await other.do(sign_in(8))

    async def elsewhere(request: web.Request) -> web.StreamResponse:
        session = await get_session(request)
        return web.json_response(await storage.revoke_owner(session["user_id"], keep=session))

    ended = await (await here.visit(elsewhere)).json()

    assert ended == 1
    assert await here.session() == {"user_id": 7}
    assert await there.session() == {}
    assert await other.session() == {"user_id": 8}


async def test_session_to_keep_is_a_session_not_its_handle(make_storage: MakeStorage) -> None:
    """A handle or a session of another library is refused before anything is deleted."""
    storage = make_storage()
    cookie = await visit(storage, None, lambda session: session.update(user_id=7))
    handle = storage.handle((await load(storage, cookie)).session)

    with pytest.raises(TypeError, match="keep: str is not accepted; use a session of this storage"):
        await storage.revoke_owner(7, keep=handle)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="keep: Session is not accepted"):
        await storage.revoke_owner(7, keep=Session(None, data=None, new=True))

    assert await storage.count() == 1


async def test_all_sessions_of_an_owner_end_without_one_to_keep(make_storage: MakeStorage) -> None:
    """For a password reset, or when an account is deleted."""
    storage = make_storage()
    cookies = [await visit(storage, None, sign_in(7)) for _ in range(5)]
    unsaved = (await load(storage)).session

    assert await storage.revoke_owner(7, keep=unsaved) == 5
    assert await storage.revoke_owner(7) == 0
    assert [await values(storage, cookie) for cookie in cookies] == [{}] * 5


async def test_owner_key_may_be_another_name_empty_or_none(make_storage: MakeStorage) -> None:
    """Any session key may contain the owner, even the empty one; with None there are no owners."""
    for owner_key in ("account", ""):
        storage = make_storage(owner_key=owner_key)
        cookie = await visit(storage, None, lambda s, k=owner_key: s.update({k: 7}))  # type: ignore[misc]
        assert await values(storage, cookie) == {owner_key: 7}
        assert len(await listed(storage, 7)) == 1
        assert await storage.revoke_owner(7) == 1

    ownerless = make_storage(owner_key=None)
    cookie = await visit(ownerless, None, sign_in(7))
    assert await values(ownerless, cookie) == {"user_id": 7}
    assert await listed(ownerless, 7) == []


@real_drivers
async def test_owners_sessions_are_found_through_the_index_in_one_command(
    storage: MongoStorage, collection: Any, log: CommandLog
) -> None:
    """The projection excludes the sealed values."""
    await storage.create_indexes()
    await visit(storage, None, sign_in(7))
    log.commands.clear()

    await listed(storage, 7)

    ((name, command),) = log.commands
    assert name == "find"
    assert command["projection"] == {"values": False}
    plan = await collection.database.command(
        "explain", {"find": "sessions", "filter": command["filter"]}
    )
    assert "owner_1" in str(plan["queryPlanner"]["winningPlan"])
