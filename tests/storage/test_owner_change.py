"""When the owner of a session changes, its token changes too."""

from __future__ import annotations

import json
from enum import Enum
from typing import Any

import pytest

from storage import MongoStorage, SessionNotSerializable
from tests.storage.conftest import (
    SESSIONS,
    Clock,
    MakeStorage,
    OpenSite,
    Site,
    Visitor,
    every_driver,
    set_cookie_of,
)
from tests.storage.direct import load, values, visit
from tests.storage.overlap import at_once, during

Both = tuple[Visitor, Visitor]


def sign_in(session: Any) -> None:
    """Sign in as owner 7, as an app does that does not think of session fixation."""
    session["user_id"] = 7


@every_driver
async def test_login_gives_a_new_token_and_ends_the_old_one(
    visitor: Visitor, site: Site, collection: Any
) -> None:
    """An attacker who set the token before the login has no session (session fixation)."""
    await visitor.do(lambda session: session.update(cart=[1]))
    attacker = await site.visitor(visitor.cookie)

    await visitor.do(sign_in)

    assert visitor.cookie != attacker.cookie
    assert await visitor.session() == {"cart": [1], "user_id": 7}
    assert await attacker.session() == {}
    assert await collection.count_documents(SESSIONS) == 1


async def test_login_keeps_values_saved_in_parallel(
    both: Both,
) -> None:
    """What another tab puts into the cart of the anonymous session meanwhile is not lost."""

    async def meanwhile() -> None:
        await both[1].do(lambda session: session["cart"].append(1))

    await during(both[0], meanwhile, sign_in)

    assert await both[0].session() == {"name": "Ada", "cart": [0, 1], "log": [0], "user_id": 7}


@every_driver
async def test_double_clicked_login_signs_in_twice(
    both: Both, site: Site, storage: MongoStorage
) -> None:
    """Both responses carry a valid cookie, so the visitor is signed in with either."""
    responses = await at_once((both[0], sign_in), (both[1], sign_in))

    for response in responses:
        (line,) = set_cookie_of(response)
        browser = await site.visitor(line.removeprefix("session=").split(";")[0])
        assert (await browser.session())["user_id"] == 7
    assert len([info async for info in storage.sessions(7)]) == 2


@pytest.mark.parametrize("end", ["logout", "expiry"])
async def test_login_succeeds_when_the_anonymous_session_ended_meanwhile(
    end: str, both: Both, clock: Clock
) -> None:
    """A correct password is not refused because the anonymous session has ended."""

    async def meanwhile() -> None:
        if end == "expiry":
            clock.advance(15 * 24 * 3600)
        else:
            await both[1].do(lambda session: session.invalidate())

    await during(both[0], meanwhile, sign_in)

    assert (await both[0].session())["user_id"] == 7


async def test_another_owner_gets_none_of_the_loaded_values(
    visitor: Visitor, site: Site, collection: Any
) -> None:
    """The new session has only the values that the request assigned itself."""
    await visitor.do(lambda session: session.update(user_id=7, cart=[1], name="Ada", step=1))
    ada = await site.visitor(visitor.cookie)

    def change(session: Any) -> None:
        session["user_id"] = 8
        session["name"] = "Bob"
        session["cart"].append(2)

    await visitor.do(change)

    assert await visitor.session() == {"user_id": 8, "name": "Bob"}
    assert await ada.session() == {}
    assert await collection.count_documents(SESSIONS) == 1


async def test_another_owner_gets_no_values_saved_in_parallel(both: Both, collection: Any) -> None:
    """A value that a parallel request of the first owner saved is not copied either."""
    await both[0].do(sign_in)
    both[1].cookie = both[0].cookie

    async def meanwhile() -> None:
        await both[1].do(lambda session: session.update(note="for Ada's eyes", cart=[9]))

    await during(both[0], meanwhile, lambda session: session.update(user_id=8))

    assert await both[0].session() == {"user_id": 8}
    assert await collection.count_documents(SESSIONS) == 1


@pytest.mark.parametrize("removed", [True, False], ids=["deleted", "set to None"])
async def test_removing_the_owner_gives_a_new_token(
    removed: bool,  # noqa: FBT001 - a case
    visitor: Visitor,
    site: Site,
    storage: MongoStorage,
) -> None:
    """The values stay in an anonymous session, and the old token is invalid."""
    await visitor.do(lambda session: session.update(user_id=7, cart=[1]))
    signed_in = await site.visitor(visitor.cookie)

    def sign_out(session: Any) -> None:
        if removed:
            del session["user_id"]
        else:
            session["user_id"] = None

    await visitor.do(sign_out)

    assert (await visitor.session()).pop("cart") == [1]
    assert await signed_in.session() == {}
    assert [info async for info in storage.sessions(7)] == []


async def test_owner_as_number_and_as_text_is_the_same_owner(visitor: Visitor) -> None:
    """From 7 to "7" no new token is needed; the value is stored as it was assigned."""
    await visitor.do(sign_in)
    token = visitor.cookie

    response = await visitor.do(lambda session: session.update(user_id="7"))

    assert set_cookie_of(response) == []
    assert visitor.cookie == token
    assert await visitor.session() == {"user_id": "7"}


async def test_signing_in_again_as_the_same_owner_keeps_the_token(visitor: Visitor) -> None:
    """Nothing has changed; an app can renew the session itself."""
    await visitor.do(sign_in)

    response = await visitor.do(sign_in)

    assert set_cookie_of(response) == []


async def test_token_changes_with_the_value_that_owner_key_names(
    make_storage: MakeStorage, open_site: OpenSite
) -> None:
    """With another owner_key, user_id is an ordinary value."""
    storage = make_storage(owner_key="account")
    visitor = await (await open_site(storage)).visitor()
    await visitor.do(lambda session: session.update(user_id=1))

    ordinary = await visitor.do(lambda session: session.update(user_id=2))
    login = await visitor.do(lambda session: session.update(account="ada"))

    assert set_cookie_of(ordinary) == []
    assert len(set_cookie_of(login)) == 1
    assert len([info async for info in storage.sessions("ada")]) == 1


async def test_without_an_owner_key_no_token_changes_and_no_owner_is_stored(
    make_storage: MakeStorage, open_site: OpenSite, collection: Any
) -> None:
    """user_id is an ordinary value then."""
    visitor = await (await open_site(make_storage(owner_key=None))).visitor()
    await visitor.do(lambda session: session.update(user_id=1))

    response = await visitor.do(lambda session: session.update(user_id=2))

    assert set_cookie_of(response) == []
    assert await visitor.session() == {"user_id": 2}
    assert "owner" not in await collection.find_one(SESSIONS)


async def test_owner_set_after_a_save_gets_no_values_saved_before(
    make_storage: MakeStorage,
) -> None:
    """What the first save of a request has written belongs to the owner at that time."""
    storage = make_storage()
    begun = await load(storage, await visit(storage, None, lambda s: s.update(user_id="ada")))
    begun.session["secret"] = "of Ada"
    await begun.save()

    begun.session["user_id"] = "eve"
    cookie = await begun.save()

    assert await values(storage, cookie) == {"user_id": "eve"}


class Role(str, Enum):  # noqa: UP042 - a StrEnum is the same text for both
    """Text for JSON, and another text for ``str``."""

    ADMIN = "admin"


@pytest.mark.parametrize("owner", [("shop", 7), Role.ADMIN, {1: 2}], ids=["tuple", "enum", "dict"])
@pytest.mark.parametrize("known", [False, True], ids=["sign-in", "signed in"])
async def test_owner_that_changes_when_stored_is_refused_by_name(
    make_storage: MakeStorage, owner: object, *, known: bool
) -> None:
    """JSON turns a tuple into a list: the sessions of such an owner could not be found."""
    storage = make_storage()
    cookie = None
    if known:
        same = json.loads(json.dumps(owner))
        cookie = await visit(storage, None, lambda session: session.update(user_id=same))

    with pytest.raises(SessionNotSerializable, match=r"session\['user_id'\]: this .* use text"):
        await visit(storage, cookie, lambda session: session.update(user_id=owner))

    assert storage.counters["inserts"] == known


@pytest.mark.parametrize(
    ("stored", "left"),
    [
        pytest.param({"user_id": 1}, {}, id="owner under the old name"),
        pytest.param({"account": "ada"}, {}, id="no owner, a value under the new name"),
        pytest.param({"cart": [1]}, {"cart": [1]}, id="neither"),
    ],
)
async def test_sessions_with_either_name_end_when_the_app_changes_its_owner_key(
    make_storage: MakeStorage,
    open_site: OpenSite,
    stored: dict[str, object],
    left: dict[str, object],
) -> None:
    """Nobody gets a session that is not in the list of its owner."""
    before = await (await open_site(make_storage(owner_key="user_id"))).visitor()
    await before.do(lambda session: session.update(stored))

    after = await (await open_site(make_storage(owner_key="account"))).visitor(before.cookie)

    assert await after.session() == left
