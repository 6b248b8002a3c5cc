"""Forwards: what a renewal leaves at the old place, who can read it, and that it is no session."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import bson
import pytest
from aiohttp import web
from bson import Binary
from bson.raw_bson import RawBSONDocument

from storage import MongoStorage, generate_secret, renew_session
from storage.errors import Unreadable
from storage.forwards import open_forward
from storage.sealing import Keyring
from storage.session import MongoSession
from storage.tokens import from_cookie
from tests.storage.conftest import (
    SECRET,
    SESSIONS,
    Clock,
    CommandLog,
    MakeStorage,
    Site,
    Visitor,
    every_driver,
    real_drivers,
)
from tests.storage.direct import id_of, load, values, visit

Change = Callable[[MongoSession], Any]
ADA = {"user_id": 7, "cart": [1]}


def renew(session: MongoSession) -> None:
    """Ask for a new token."""
    session.renew()


async def moved(storage: MongoStorage, **stored: Any) -> tuple[str, str]:
    """Store a session and renew it; return the old cookie and the new one."""
    old = str(await visit(storage, None, lambda session: session.update(stored)))
    return old, str(await visit(storage, old, renew))


@every_driver
async def test_renewal_leaves_a_forward_without_anything_of_the_session(
    storage: MongoStorage, collection: Any, clock: Clock
) -> None:
    """No value, owner, label or date of use is left, and it expires after 60 seconds."""
    old, new = await moved(storage, **ADA)

    forward = await collection.find_one({"_id": id_of(old)})

    assert set(forward) == {"_id", "created_at", "expires_at", "forward"}
    assert forward["expires_at"] - forward["created_at"] == timedelta(seconds=60)
    assert await values(storage, new) == ADA


async def test_old_token_opens_nothing_once_the_answer_with_the_new_one_has_begun(
    visitor: Visitor, site: Site, storage: MongoStorage, make_storage: MakeStorage
) -> None:
    """Also where a process has the old session in its cache, and before the answer ends."""
    other, end = make_storage(), asyncio.Event()
    await visitor.do(lambda session: session.update(ADA))
    old = str(visitor.cookie)
    assert await values(other, old) == ADA

    async def stream(request: web.Request) -> web.StreamResponse:
        await renew_session(request)
        response = web.StreamResponse()
        await response.prepare(request)
        await end.wait()
        return response

    async with visitor.client.get(site.path_of(stream)) as begun:
        sent = begun.cookies["session"].value
        assert await values(storage, old) == await values(other, old) == {}
        assert await values(other, sent) == ADA
        end.set()


@every_driver
async def test_forward_is_no_session_for_anybody(
    storage: MongoStorage, collection: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """It opens nothing, is not listed, counted or revoked, and no warning is logged."""
    old, new = await moved(storage, **ADA)
    listed = [info.handle async for info in storage.sessions(7)]

    assert await values(storage, old) == {}
    assert listed == [id_of(new).hex()]
    assert await storage.count() == 1
    assert not await storage.revoke(id_of(old).hex())
    assert await storage.revoke_owner(7) == 1
    assert await collection.count_documents({}) == 1
    assert caplog.records == []


@every_driver
async def test_clear_and_purge_remove_forwards_and_do_not_count_them(
    storage: MongoStorage, collection: Any, clock: Clock
) -> None:
    """`purge` removes expired ones only, as the TTL index does."""
    await moved(storage, **ADA)

    assert await storage.purge() == 0
    assert await collection.count_documents({}) == 2
    clock.advance(60)
    assert await storage.purge() == 0
    assert await collection.count_documents({}) == 1
    await moved(storage, **ADA)
    assert await storage.clear() == 2
    assert await collection.count_documents({}) == 0


@real_drivers
async def test_every_write_to_a_session_excludes_forwards(
    make_storage: MakeStorage, log: CommandLog, clock: Clock
) -> None:
    """The filter of every update, delete and renewal: a forward has not expired either."""
    cookie = str(await visit(make_storage(secrets=[SECRET]), None, lambda s: s.update(ADA)))
    storage = make_storage(secrets=[generate_secret(), SECRET])
    log.commands.clear()

    for change in (
        lambda session: session.update(b=1),  # sealed again, too
        lambda session: clock.advance(7200),
        lambda session: setattr(session, "max_age", 7200),
        renew,
        lambda session: session.update(user_id=8),
        lambda session: session.invalidate(),
    ):
        cookie = str(await visit(storage, cookie, change))
    cookie = str(await visit(storage, None, lambda session: session.update(ADA)))
    late = await load(storage, cookie)
    await visit(storage, cookie, renew)
    late.session["late"] = 1
    await late.save()
    await storage.revoke("0" * 64)
    await storage.revoke_owner(7)
    await storage.clear()

    filters = [
        part["q"]
        for name, command in log.commands
        if name in {"update", "delete"}
        for part in command[f"{name}s"]
    ]
    filters += [command["query"] for name, command in log.commands if name == "findAndModify"]
    of_sessions = [one for one in filters if one.get("forward", None) != {"$ne": None}]
    assert len(of_sessions) > 12
    assert len(filters) - len(of_sessions) == 1  # clear removes forwards too
    assert all("forward" in one and one["forward"] is None for one in of_sessions)


SIGN_INS: list[Any] = [
    pytest.param({"cart": [1]}, renew, True, id="nobody's renewal"),
    pytest.param({"cart": [1]}, lambda s: s.update(user_id=7), True, id="sign-in"),
    pytest.param(ADA, renew, True, id="an owner's renewal"),
    pytest.param(ADA, lambda s: s.update(user_id=8), False, id="another owner"),
    pytest.param(ADA, lambda s: s.pop("user_id"), False, id="owner removed"),
    pytest.param(
        ADA, lambda s: (s.invalidate(), s.update(ADA)), False, id="invalidate, same owner"
    ),
    pytest.param(
        {"cart": [1]}, lambda s: (s.invalidate(), s.update(ADA)), False, id="invalidate, sign-in"
    ),
]


@pytest.mark.parametrize(("stored", "change", "left"), SIGN_INS)
async def test_forward_is_left_only_from_nobody_or_where_the_owner_stays(
    stored: dict[str, Any],
    change: Change,
    left: bool,  # noqa: FBT001 - a case
    storage: MongoStorage,
    collection: Any,
) -> None:
    """Otherwise the old document is deleted, and what comes late for one user reaches no other."""
    old = str(await visit(storage, None, lambda session: session.update(stored)))
    late = await load(storage, old)
    new = await visit(storage, old, change)
    seen = await values(storage, new)

    late.session["late"] = 1
    assert await late.save() == old

    assert (await collection.find_one({"_id": id_of(old)}) is not None) is left
    assert await values(storage, new) == (seen | {"late": 1} if left else seen)
    assert new not in (None, old)


async def test_nothing_follows_from_one_owner_over_nobody_to_the_next(
    storage: MongoStorage,
) -> None:
    """Ada signs out by removing her id, Bob signs in: her slow request does not reach him."""
    ada = str(await visit(storage, None, lambda session: session.update(ADA)))
    late = await load(storage, ada)
    nobody = await visit(storage, ada, lambda session: session.pop("user_id"))
    bob = await visit(storage, nobody, lambda session: session.update(user_id="bob"))

    late.session["note"] = "for Ada's eyes"
    assert await late.save() == ada

    assert await values(storage, bob) == {"user_id": "bob", "cart": [1]}


async def test_database_and_secret_together_open_no_forward(
    storage: MongoStorage, collection: Any
) -> None:
    """The key is derived from the secret and the old token, so that both are needed."""
    old, new = await moved(storage, **ADA)
    forward = await collection.find_one({"_id": id_of(old)})
    token, sealed = from_cookie(old) or b"", forward["forward"]
    known = await load(storage, new)
    assert known.session.snapshot is not None
    created_ms = known.session.snapshot.stored.dates.created_ms

    for keyring, guess in (
        (Keyring(SECRET), bytes(32)),
        (Keyring(SECRET), id_of(old)),
        (Keyring(SECRET), from_cookie(new) or b""),
        (Keyring(generate_secret()), token),
    ):
        with pytest.raises(Unreadable):
            open_forward(keyring.session_keys(guess, id_of(old), created_ms), sealed)
    opened = open_forward(Keyring(SECRET).session_keys(token, id_of(old), created_ms), sealed)
    assert (opened.token, opened.grace_ends_ms) == (from_cookie(new), 0)


async def _damage(collection: Any, old: bytes, _other: bytes) -> None:
    await collection.update_one({"_id": old}, {"$set": {"forward": b"\x01damaged"}})


async def _wrong_type(collection: Any, old: bytes, _other: bytes) -> None:
    await collection.update_one({"_id": old}, {"$set": {"forward": "text"}})


async def _take_from_another(collection: Any, old: bytes, other: bytes) -> None:
    forward = await collection.find_one({"_id": other})
    await collection.update_one({"_id": old}, {"$set": {"forward": forward["forward"]}})


async def _change_the_creation(collection: Any, old: bytes, _other: bytes) -> None:
    forward = await collection.find_one({"_id": old})
    earlier = forward["created_at"] - timedelta(days=1)
    await collection.update_one({"_id": old}, {"$set": {"created_at": earlier}})


async def _no_creation(collection: Any, old: bytes, _other: bytes) -> None:
    await collection.update_one({"_id": old}, {"$unset": {"created_at": ""}})


async def _undecodable(collection: Any, old: bytes, _other: bytes) -> None:
    forward = await collection.find_one({"_id": old})
    await collection.replace_one({"_id": old}, {**forward, "forward": b"?"})
    cut_short = RawBSONDocument(
        bson.encode({**forward, "forward": Binary(b"\x63\0\0\0")}).replace(
            b"\0\x04\0\0\0\0\x63", b"\0\x04\0\0\0\x02\x63"
        )
    )
    await collection.delete_one({"_id": old})
    await collection.insert_one(cut_short)


@pytest.mark.parametrize(
    "damage",
    [_undecodable, _damage, _wrong_type, _take_from_another, _change_the_creation, _no_creation],
)
@pytest.mark.parametrize("late", ["load", "save", "sign-out", "renewal"])
async def test_damaged_forward_is_no_session_with_one_warning(
    damage: Any,
    late: str,
    storage: MongoStorage,
    collection: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Changed, moved to another document, or under another creation date; never an error."""
    old = str(await visit(storage, None, lambda session: session.update(ADA)))
    begun = await load(storage, old)
    new = await visit(storage, old, renew)
    other, _ = await moved(storage, **ADA)
    await damage(collection, id_of(old), id_of(other))

    with caplog.at_level(logging.WARNING, "storage"):
        if late == "load":
            assert await values(storage, old) == {}
        elif late == "sign-out":
            begun.session.invalidate()
            assert await begun.save() is None
        else:
            begun.session.update(late=1)
            if late == "renewal":
                begun.session.renew()
            assert await begun.save() == old

    assert len(caplog.records) == 1
    assert re.match(r"session \w{8} is not readable: ", caplog.messages[0])
    assert await values(storage, new) == ADA


@pytest.mark.parametrize("late", ["load", "save"])
async def test_forward_of_a_dropped_secret_is_no_session_with_one_warning(
    late: str, make_storage: MakeStorage, caplog: pytest.LogCaptureFixture
) -> None:
    """The session itself was sealed again; the forward was not."""
    first, second = generate_secret(), generate_secret()
    before = make_storage(secrets=[first])
    after = make_storage(secrets=[second])
    old = str(await visit(make_storage(secrets=[second]), None, lambda s: s.update(ADA)))
    begun = await load(after, old)
    both = make_storage(secrets=[first, second])
    new = await visit(both, old, renew)

    with caplog.at_level(logging.WARNING, "storage"):
        if late == "load":
            assert await values(after, old) == {}
        else:
            begun.session["late"] = 1
            assert await begun.save() == old

    assert [r.message.split(": ")[1] for r in caplog.records] == [
        "it is sealed under a secret that is not configured"
    ]
    assert await values(before, new) == ADA


async def test_database_writer_cannot_point_a_forward_elsewhere_or_extend_it(
    storage: MongoStorage, collection: Any, clock: Clock
) -> None:
    """Where it leads and when it ends are inside the seal; `expires_at` is for the TTL index."""
    old = str(await visit(storage, None, lambda session: session.update(ADA)))
    late = await load(storage, old)
    new = await visit(storage, old, renew)
    forward = await collection.find_one({"_id": id_of(old)})
    later = forward["expires_at"] + timedelta(days=1)

    await collection.update_one({"_id": id_of(old)}, {"$set": {"expires_at": later}})
    clock.advance(60)
    late.session["late"] = 1
    assert await late.save() == old

    assert await values(storage, new) == ADA


async def test_database_writer_can_put_the_session_of_before_a_renewal_back(
    storage: MongoStorage, collection: Any
) -> None:
    """A limitation, as for every session that has ended: the old token opens it again."""
    old = str(await visit(storage, None, lambda session: session.update(ADA)))
    copy = await collection.find_one({"_id": id_of(old)})
    await visit(storage, old, lambda session: (renew(session), session.update(cart=[2])))

    await collection.replace_one({"_id": id_of(old)}, copy)

    assert await values(storage, old) == ADA


async def test_session_that_a_database_writer_made_a_forward_is_no_session(
    storage: MongoStorage, collection: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """It can end a session, as always; the request gets no error."""
    cookie = str(await visit(storage, None, lambda session: session.update(ADA)))
    begun = await load(storage, cookie)
    await collection.update_one({}, {"$set": {"forward": b"anything"}})

    with caplog.at_level(logging.WARNING, "storage"):
        begun.session["late"] = 1
        assert await begun.save() == cookie
        assert await values(storage, cookie) == {}

    assert len(caplog.records) == 2
    assert await collection.count_documents(SESSIONS) == 0
