"""The sentences of the security page about what an attacker *can* do: they are true as well.

What they cannot do is shown in tests/storage/test_sealed_documents.py.
"""

from __future__ import annotations

import secrets
from collections import Counter
from typing import Any

from storage.lifetime import from_datetime
from storage.sealing import Keyring
from storage.tokens import document_id, to_cookie
from tests.storage.conftest import SECRET, Clock, MakeStorage, OpenSite, Site, Visitor


async def test_copied_cookie_is_signed_in_from_anywhere_until_the_session_ends(
    site: Site, visitor: Visitor
) -> None:
    """Nothing binds it to a device; its owner can end it."""
    await visitor.do(lambda session: session.update(user_id="ada"))
    thief = await site.visitor(visitor.cookie)

    stolen = await thief.session()
    await visitor.do(lambda session: session.invalidate())

    assert stolen == {"user_id": "ada"}
    assert await thief.session() == {}


async def test_writer_can_put_back_an_older_copy_of_a_session(
    visitor: Visitor, collection: Any
) -> None:
    """Also of one that was signed out: the copy is genuine."""
    await visitor.do(lambda session: session.update(user_id="ada"))
    cookie, copy = visitor.cookie, await collection.find_one()
    await visitor.do(lambda session: session.invalidate())

    await collection.insert_one(copy)
    visitor.cookie = cookie

    assert await visitor.session() == {"user_id": "ada"}


async def test_writer_cannot_put_a_session_back_past_its_absolute_timeout(
    make_storage: MakeStorage, open_site: OpenSite, collection: Any, clock: Clock
) -> None:
    """Whatever dates are written beside it: its creation is bound into every seal."""
    site = await open_site(make_storage(absolute_timeout=3600))
    visitor = await site.visitor()
    await visitor.do(lambda session: session.update(user_id="ada"))
    copy = await collection.find_one()
    later = copy["expires_at"].replace(year=copy["expires_at"].year + 1)

    clock.advance(3601)
    await collection.replace_one({}, {**copy, "expires_at": later, "last_seen_at": later})

    assert await visitor.session() == {}


async def test_writer_can_take_out_single_values(visitor: Visitor, collection: Any) -> None:
    """None of them vouches for another, unless it says whose session it is."""
    await visitor.do(lambda session: session.update(limit="may not pay", color="red"))
    fields = list((await collection.find_one())["values"])

    await collection.update_one({}, {"$unset": {f"values.{fields[0]}": ""}})

    assert len(await visitor.session()) == 1


async def test_writer_can_stretch_the_idle_timeout(
    visitor: Visitor, collection: Any, clock: Clock
) -> None:
    """`last_seen_at`, `max_age` and `expires_at` are in the clear."""
    await visitor.do(lambda session: session.update(user_id="ada"))
    document = await collection.find_one()
    later = document["expires_at"].replace(year=document["expires_at"].year + 1)
    await collection.update_one({}, {"$set": {"max_age": 360 * 86400, "expires_at": later}})

    clock.advance(30 * 86400)

    assert await visitor.session() == {"user_id": "ada"}


async def test_copy_of_the_database_shows_which_sessions_are_of_one_owner(
    site: Site, collection: Any
) -> None:
    """The same hash stands in each of them, and nothing tells whose it is."""
    for user in ("ada", "ada", "bob"):
        visitor = await site.visitor()
        await visitor.do(lambda session, user=user: session.update(user_id=user))

    owners = Counter([document["owner"] async for document in collection.find()])

    assert sorted(owners.values()) == [1, 2]


async def test_secret_and_database_tell_whether_a_guessed_user_is_there(
    visitor: Visitor, collection: Any
) -> None:
    """And they open labels; values they do not open."""
    await visitor.do(lambda session: session.update(user_id="ada"))
    document = await collection.find_one()

    assert Keyring(SECRET).owner_hash("ada") == document["owner"]
    assert Keyring(SECRET).owner_hash("bob") != document["owner"]


async def test_secret_and_write_access_can_add_a_session_of_anybodys(
    site: Site, visitor: Visitor, collection: Any
) -> None:
    """With a token of their own choice, under the dates of any session that is there."""
    await visitor.do(lambda session: session.update(user_id="bob"))
    document, token = await collection.find_one(), secrets.token_bytes(32)
    created_ms = from_datetime(document["created_at"])
    keyring, identifier = Keyring(SECRET), document_id(token)
    keys = keyring.session_keys(token, identifier, created_ms)
    field = keys.field("user_id")
    forged = {
        **document,
        "_id": identifier,
        "owner": keyring.owner_hash("ada"),
        "values": {field: keys.seal(field, "user_id", '"ada"')},
    }

    await collection.insert_one(forged)

    assert await (await site.visitor(to_cookie(token))).session() == {"user_id": "ada"}
