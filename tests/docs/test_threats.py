"""The attacks that the security page calls possible are possible.

tests/storage/test_sealed_documents.py tests what an attacker cannot do.
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
    """The session is not bound to a device; its owner can end it."""
    await visitor.do(lambda session: session.update(user_id="ada"))
    thief = await site.visitor(visitor.cookie)

    stolen = await thief.session()
    await visitor.do(lambda session: session.invalidate())

    assert stolen == {"user_id": "ada"}
    assert await thief.session() == {}


async def test_writer_can_restore_an_older_copy_of_a_session(
    visitor: Visitor, collection: Any
) -> None:
    """This is also possible after a sign-out, because the copy is genuine."""
    await visitor.do(lambda session: session.update(user_id="ada"))
    cookie, copy = visitor.cookie, await collection.find_one()
    await visitor.do(lambda session: session.invalidate())

    await collection.insert_one(copy)
    visitor.cookie = cookie

    assert await visitor.session() == {"user_id": "ada"}


async def test_writer_cannot_restore_a_session_after_its_absolute_timeout(
    make_storage: MakeStorage, open_site: OpenSite, collection: Any, clock: Clock
) -> None:
    """The creation date is bound into every seal, whatever dates are written to the document."""
    site = await open_site(make_storage(absolute_timeout=3600))
    visitor = await site.visitor()
    await visitor.do(lambda session: session.update(user_id="ada"))
    copy = await collection.find_one()
    later = copy["expires_at"].replace(year=copy["expires_at"].year + 1)

    clock.advance(3601)
    await collection.replace_one({}, {**copy, "expires_at": later, "last_seen_at": later})

    assert await visitor.session() == {}


async def test_writer_can_remove_single_values(visitor: Visitor, collection: Any) -> None:
    """No value guarantees that another one is there, except the owner."""
    await visitor.do(lambda session: session.update(limit="may not pay", color="red"))
    fields = list((await collection.find_one())["values"])

    await collection.update_one({}, {"$unset": {f"values.{fields[0]}": ""}})

    assert len(await visitor.session()) == 1


async def test_writer_can_extend_the_idle_timeout(
    visitor: Visitor, collection: Any, clock: Clock
) -> None:
    """`last_seen_at`, `max_age` and `expires_at` are not protected."""
    await visitor.do(lambda session: session.update(user_id="ada"))
    document = await collection.find_one()
    later = document["expires_at"].replace(year=document["expires_at"].year + 1)
    await collection.update_one({}, {"$set": {"max_age": 360 * 86400, "expires_at": later}})

    clock.advance(30 * 86400)

    assert await visitor.session() == {"user_id": "ada"}


async def test_copy_of_the_database_shows_which_sessions_have_the_same_owner(
    site: Site, collection: Any
) -> None:
    """Sessions of one owner have the same hash, which does not say who the owner is."""
    for user in ("ada", "ada", "bob"):
        visitor = await site.visitor()
        await visitor.do(lambda session, user=user: session.update(user_id=user))

    owners = Counter([document["owner"] async for document in collection.find()])

    assert sorted(owners.values()) == [1, 2]


async def test_secret_and_database_confirm_a_guessed_user(
    visitor: Visitor, collection: Any
) -> None:
    """They show whether a guessed user has a session."""
    await visitor.do(lambda session: session.update(user_id="ada"))
    document = await collection.find_one()

    assert Keyring(SECRET).owner_hash("ada") == document["owner"]
    assert Keyring(SECRET).owner_hash("bob") != document["owner"]


async def test_secret_and_write_access_can_add_a_session_for_any_user(
    site: Site, visitor: Visitor, collection: Any
) -> None:
    """The attacker chooses a token and uses the dates of an existing session."""
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
