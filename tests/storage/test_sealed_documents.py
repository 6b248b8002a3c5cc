"""What is stored in MongoDB: reading it reveals no value, changing it ends the session."""

from __future__ import annotations

import copy
import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import bson
import pytest
from bson import Binary

from storage import MongoStorage
from storage.tokens import document_id, from_cookie
from tests.storage.conftest import (
    NOON,
    SECRET,
    MakeStorage,
    OpenSite,
    Site,
    Visitor,
    every_driver,
    set_cookie_of,
)

CREATED_AT = datetime.fromtimestamp(NOON, UTC).replace(tzinfo=None)  # as drivers return it


async def only_document(collection: Any) -> dict[str, Any]:
    """Return the only document."""
    documents = await collection.find().to_list(None)
    assert len(documents) == 1
    return dict(documents[0])


async def put(collection: Any, document: dict[str, Any]) -> None:
    """Replace the document with the same id, as an attacker with write access would."""
    await collection.delete_one({"_id": document["_id"]})
    await collection.insert_one(document)


@every_driver
async def test_stored_document_has_the_documented_fields(visitor: Visitor, collection: Any) -> None:
    """Every field of the documented type and length, and no other field."""
    await visitor.do(lambda session: session.update(user_id=7, cart=[1]))

    document = await only_document(collection)

    assert set(document) == {
        "_id", "created_at", "last_seen_at", "expires_at", "max_age", "persistent", "owner",
        "key_id", "values",
    }  # fmt: skip
    assert len(document["_id"]) == 32
    assert document["created_at"] == document["last_seen_at"] == CREATED_AT
    assert document["expires_at"] == CREATED_AT + timedelta(days=14)
    assert document["max_age"] is None
    assert document["persistent"] is True
    assert len(document["owner"]) == 16
    assert len(document["key_id"]) == 4
    assert [len(field) for field in document["values"]] == [16, 16]
    assert all(sealed[:5] == b"\x01" + document["key_id"] for sealed in document["values"].values())


async def test_anonymous_session_has_no_owner_and_no_label(
    visitor: Visitor, collection: Any
) -> None:
    """Absent, not null: the sparse index holds sessions of owners only."""
    await visitor.do(lambda session: session.update(cart=[1]))

    document = await only_document(collection)

    assert "owner" not in document
    assert "label" not in document


async def test_document_id_is_the_hash_of_the_cookie(visitor: Visitor, collection: Any) -> None:
    """The token itself is only in the cookie."""
    await visitor.do(lambda session: session.update(cart=[1]))

    token = from_cookie(visitor.cookie)

    assert token is not None
    assert (await only_document(collection))["_id"] == document_id(token)


async def test_no_name_value_owner_or_token_is_anywhere_in_the_document(
    open_site: OpenSite, make_storage: MakeStorage, collection: Any
) -> None:
    """The BSON of the document is searched for each of them."""
    site = await open_site(make_storage(describe=lambda _request: "Ada's telephone"))
    visitor = await site.visitor()
    await visitor.do(lambda session: session.update(user_id="ada-lovelace", favourite="green tea"))

    raw = bson.encode(await only_document(collection))

    cookie = visitor.cookie
    assert cookie is not None
    token = from_cookie(cookie)
    assert token is not None
    for hidden in (
        b"user_id", b"favourite", b"ada-lovelace", b"green tea", b"telephone",
        cookie.encode(), token, token.hex().encode(), SECRET.encode(),
    ):  # fmt: skip
        assert hidden not in raw


async def test_same_values_of_two_visitors_look_different(site: Site, collection: Any) -> None:
    """Neither field names nor sealed values repeat, so that not even equality is visible."""
    for visitor in (await site.visitor(), await site.visitor()):
        await visitor.do(lambda session: session.update(plan="free"))

    first, second = await collection.find().to_list(None)

    assert not set(first["values"]) & set(second["values"])
    assert not set(first["values"].values()) & set(second["values"].values())


async def test_value_moved_to_another_field_ends_the_session(
    visitor: Visitor, collection: Any
) -> None:
    """Write access to the database does not turn a nickname into a role."""
    await visitor.do(lambda session: session.update(nickname="admin", role="guest"))
    document = await only_document(collection)
    nickname, role = document["values"]

    for values in (
        {nickname: document["values"][role], role: document["values"][nickname]},
        {nickname: document["values"][nickname], role: document["values"][nickname]},
    ):
        await put(collection, {**document, "values": values})
        assert await visitor.session() == {}


async def test_values_moved_to_another_session_end_it(site: Site, collection: Any) -> None:
    """Write access does not copy the values of an administrator into another session."""
    admin, thief = await site.visitor(), await site.visitor()
    await thief.do(lambda session: session.update(user_id="thief"))
    theirs = await only_document(collection)
    await admin.do(lambda session: session.update(user_id="admin"))
    admins = await collection.find_one({"_id": {"$ne": theirs["_id"]}})

    for stolen in (
        {**admins, "_id": theirs["_id"]},
        {**theirs, "values": admins["values"]},
        {**theirs, "values": {**theirs["values"], **admins["values"]}},
    ):
        await put(collection, stolen)
        assert await thief.session() == {}
    assert await admin.session() == {"user_id": "admin"}


async def test_moved_creation_date_ends_the_session(visitor: Visitor, collection: Any) -> None:
    """Write access does not extend the absolute timeout, not even by a millisecond."""
    await visitor.do(lambda session: session.update(cart=[1]))
    document = await only_document(collection)

    for moved in (timedelta(milliseconds=1), timedelta(days=1), timedelta(days=-1)):
        await put(collection, {**document, "created_at": document["created_at"] + moved})
        assert await visitor.session() == {}

    await put(collection, document)
    assert await visitor.session() == {"cart": [1]}


async def test_later_expires_at_does_not_extend_the_session(
    visitor: Visitor, collection: Any, clock: Any
) -> None:
    """`expires_at` alone is not trusted: a load checks the last use and the creation too."""
    await visitor.do(lambda session: session.update(cart=[1]))
    document = await only_document(collection)
    await put(collection, {**document, "expires_at": datetime(2222, 2, 2)})  # noqa: DTZ001

    clock.advance(14 * 86400)

    assert await visitor.session() == {}


async def test_session_given_to_another_owner_ends(site: Site, collection: Any) -> None:
    """Otherwise the list of an owner could be filled with sessions of others."""
    ada, bob = await site.visitor(), await site.visitor()
    await ada.do(lambda session: session.update(user_id="ada"))
    adas = await only_document(collection)
    await bob.do(lambda session: session.update(user_id="bob"))
    bobs = await collection.find_one({"_id": {"$ne": adas["_id"]}})

    await put(collection, {**adas, "owner": bobs["owner"]})

    assert await ada.session() == {}


async def test_session_whose_owner_was_removed_ends(
    visitor: Visitor, collection: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Without the hash of its owner it would survive "sign out everywhere"; the log says so."""
    await visitor.do(lambda session: session.update(user_id="ada"))
    document = await only_document(collection)
    del document["owner"]

    await put(collection, document)

    assert await visitor.session() == {}
    (message,) = caplog.messages
    assert message.endswith(" is not readable: its field 'owner' does not belong to its values")


async def test_anonymous_session_that_was_given_an_owner_ends(
    visitor: Visitor, collection: Any
) -> None:
    """The hash of the owner must match the values in both directions."""
    await visitor.do(lambda session: session.update(cart=[1]))
    document = await only_document(collection)

    await put(collection, {**document, "owner": Binary(bytes(16))})

    assert await visitor.session() == {}


@pytest.mark.parametrize("part", ["version", "key id", "nonce", "text", "tag"])
async def test_flipped_bit_in_a_stored_value_is_no_session_and_no_error_page(
    visitor: Visitor, collection: Any, caplog: pytest.LogCaptureFixture, part: str
) -> None:
    """One WARNING with the first eight characters of the handle and the reason; no cookie."""
    await visitor.do(lambda session: session.update(cart="full of things"))
    document = await only_document(collection)
    position = {"version": 0, "key id": 3, "nonce": 10, "text": 20, "tag": -1}[part]
    damaged = copy.deepcopy(document)
    ((field, sealed),) = document["values"].items()
    changed = bytearray(sealed)
    changed[position] ^= 4
    damaged["values"][field] = bytes(changed)
    await put(collection, damaged)

    with caplog.at_level(logging.INFO, logger="storage"):
        response = await visitor.do(dict)

    assert response.status == 200
    assert await response.json() == {}
    assert set_cookie_of(response) == []
    (line,) = caplog.records
    assert line.levelno == logging.WARNING
    assert document["_id"].hex()[:8] in line.getMessage()
    assert document["_id"].hex() not in line.getMessage()


async def test_database_and_secret_together_do_not_open_a_session(
    visitor: Visitor, storage: MongoStorage, collection: Any
) -> None:
    """A storage with the correct secret is asked with every id and hash of the document."""
    await visitor.do(lambda session: session.update(user_id="ada"))
    document = await only_document(collection)
    guesses = [document["_id"], document["owner"] * 2, bytes(32), *document["values"].values()]

    for guess in guesses:
        token = bytes(guess)[:32]
        snapshot = await storage._store.load([token], int(NOON * 1000))
        assert snapshot is None

        await put(collection, {**document, "_id": document_id(token)})
        snapshot = await storage._store.load([token], int(NOON * 1000))
        assert snapshot is None
