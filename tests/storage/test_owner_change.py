"""When a session becomes somebody's, somebody else's or nobody's, its token changes."""

from __future__ import annotations

import json
from enum import Enum
from typing import Any

import pytest

from storage import MongoStorage, SessionNotSerializable
from tests.storage.conftest import (
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

Twins = tuple[Visitor, Visitor]


def sign_in(session: Any) -> None:
    """Sign in as number 7, as an app that knows nothing of session fixation does."""
    session["user_id"] = 7


@every_driver
async def test_login_gives_a_new_token_and_ends_the_old_one(
    visitor: Visitor, site: Site, collection: Any
) -> None:
    """Who planted the token before the login gets nothing (session fixation)."""
    await visitor.do(lambda session: session.update(cart=[1]))
    attacker = await site.visitor(visitor.cookie)

    await visitor.do(sign_in)

    assert visitor.cookie != attacker.cookie
    assert await visitor.session() == {"cart": [1], "user_id": 7}
    assert await attacker.session() == {}
    assert await collection.count_documents({}) == 1


async def test_login_keeps_values_saved_in_parallel(
    twins: Twins,
) -> None:
    """A cart that was filled in another tab meanwhile is not lost."""

    async def meanwhile() -> None:
        await twins[1].do(lambda session: session["cart"].append(1))

    await during(twins[0], meanwhile, sign_in)

    assert await twins[0].session() == {"name": "Ada", "cart": [0, 1], "log": [0], "user_id": 7}


@every_driver
async def test_double_clicked_login_signs_in_twice(
    twins: Twins, site: Site, storage: MongoStorage
) -> None:
    """Whichever answer the browser keeps, the visitor is signed in; no answer undoes the other."""
    responses = await at_once((twins[0], sign_in), (twins[1], sign_in))

    for response in responses:
        (line,) = set_cookie_of(response)
        browser = await site.visitor(line.removeprefix("session=").split(";")[0])
        assert (await browser.session())["user_id"] == 7
    assert len([info async for info in storage.sessions(7)]) == 2


@pytest.mark.parametrize("end", ["logout", "expiry"])
async def test_login_succeeds_when_the_anonymous_session_ended_meanwhile(
    end: str, twins: Twins, clock: Clock
) -> None:
    """A password that was right is not refused because a cart has run out."""

    async def meanwhile() -> None:
        if end == "expiry":
            clock.advance(15 * 24 * 3600)
        else:
            await twins[1].do(lambda session: session.invalidate())

    await during(twins[0], meanwhile, sign_in)

    assert (await twins[0].session())["user_id"] == 7


async def test_another_owner_gets_none_of_the_loaded_values(
    visitor: Visitor, site: Site, collection: Any
) -> None:
    """Only what the request of the change itself assigned is in the new owner's session."""
    await visitor.do(lambda session: session.update(user_id=7, cart=[1], name="Ada", step=1))
    ada = await site.visitor(visitor.cookie)

    def change(session: Any) -> None:
        session["user_id"] = 8
        session["name"] = "Bob"
        session["cart"].append(2)

    await visitor.do(change)

    assert await visitor.session() == {"user_id": 8, "name": "Bob"}
    assert await ada.session() == {}
    assert await collection.count_documents({}) == 1


async def test_another_owner_gets_no_values_saved_in_parallel(
    twins: Twins, collection: Any
) -> None:
    """A value that a parallel request of the first owner saved does not move along either."""
    await twins[0].do(sign_in)
    twins[1].cookie = twins[0].cookie

    async def meanwhile() -> None:
        await twins[1].do(lambda session: session.update(note="for Ada's eyes", cart=[9]))

    await during(twins[0], meanwhile, lambda session: session.update(user_id=8))

    assert await twins[0].session() == {"user_id": 8}
    assert await collection.count_documents({}) == 1


@pytest.mark.parametrize("removed", [True, False], ids=["deleted", "set to None"])
async def test_removing_the_owner_gives_a_new_token(
    removed: bool,  # noqa: FBT001 - a case
    visitor: Visitor,
    site: Site,
    storage: MongoStorage,
) -> None:
    """The values stay, the session is nobody's, and the signed-in token is dead."""
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


@pytest.mark.parametrize("before", ["nobody's", "somebody else's"])
async def test_change_of_owner_starts_a_new_absolute_lifetime(
    before: str, visitor: Visitor, collection: Any, clock: Clock
) -> None:
    """What the next owner has begins when it becomes theirs."""
    if before == "nobody's":
        await visitor.do(lambda session: session.update(cart=[1]))
    else:
        await visitor.do(lambda session: session.update(user_id=8))
    created_at = (await collection.find_one({}))["created_at"]

    clock.advance(600)
    await visitor.do(sign_in)

    stored = await collection.find_one({})
    assert (stored["created_at"] - created_at).total_seconds() == 600


async def test_owner_as_number_and_as_text_is_the_same_owner(visitor: Visitor) -> None:
    """7 and "7" are one owner: no new token, and the value is stored as it was given."""
    await visitor.do(sign_in)
    token = visitor.cookie

    response = await visitor.do(lambda session: session.update(user_id="7"))

    assert set_cookie_of(response) == []
    assert visitor.cookie == token
    assert await visitor.session() == {"user_id": "7"}


async def test_signing_in_again_as_the_same_owner_keeps_the_token(visitor: Visitor) -> None:
    """Nothing changed, so nothing is renewed unless the app asks for it."""
    await visitor.do(sign_in)

    response = await visitor.do(sign_in)

    assert set_cookie_of(response) == []


async def test_token_changes_with_the_value_that_owner_key_names(
    make_storage: MakeStorage, open_site: OpenSite
) -> None:
    """With another owner_key, user_id is a value like any other."""
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
    """Nothing renews by itself, and no owner is stored."""
    visitor = await (await open_site(make_storage(owner_key=None))).visitor()
    await visitor.do(lambda session: session.update(user_id=1))

    response = await visitor.do(lambda session: session.update(user_id=2))

    assert set_cookie_of(response) == []
    assert await visitor.session() == {"user_id": 2}
    assert "owner" not in await collection.find_one({})


async def test_owner_set_after_a_save_gets_no_values_saved_before(
    make_storage: MakeStorage,
) -> None:
    """What one save of a request has written belongs to the owner of that save."""
    storage = make_storage()
    begun = await load(storage, await visit(storage, None, lambda s: s.update(user_id="ada")))
    begun.session["secret"] = "of Ada"
    await begun.save()

    begun.session["user_id"] = "eve"
    cookie = await begun.save()

    assert await values(storage, cookie) == {"user_id": "eve"}


class Role(str, Enum):  # noqa: UP042 - a StrEnum would be the same text
    """Text to JSON, and another text to ``str``."""

    ADMIN = "admin"


@pytest.mark.parametrize("owner", [("shop", 7), Role.ADMIN, {1: 2}], ids=["tuple", "enum", "dict"])
@pytest.mark.parametrize("known", [False, True], ids=["sign-in", "signed in"])
async def test_owner_that_changes_when_stored_is_refused_by_name(
    make_storage: MakeStorage, owner: object, *, known: bool
) -> None:
    """JSON gives back a list for a tuple: nobody could list or end such an owner's sessions."""
    storage = make_storage()
    cookie = None
    if known:
        same = json.loads(json.dumps(owner))
        cookie = await visit(storage, None, lambda session: session.update(user_id=same))

    with pytest.raises(SessionNotSerializable, match=r"session\['user_id'\]: this .* use text"):
        await visit(storage, cookie, lambda session: session.update(user_id=owner))

    assert storage.counters["inserts"] == known
