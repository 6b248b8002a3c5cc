"""Rotation of a secret in three steps: `[old, new]`, `[new, old]`, `[new]`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from storage import generate_secret
from storage.sealing import Keyring
from storage.session import MongoSession
from tests.storage.conftest import (
    SESSIONS,
    Clock,
    CommandLog,
    MakeStorage,
    OpenSite,
    every_driver,
    set_cookie_of,
)
from tests.storage.direct import load, values, visit

OLD, NEW = generate_secret(), generate_secret()
OLD_ID, NEW_ID = Keyring(OLD).first.key_id, Keyring(NEW).first.key_id
FULL = {"user_id": 7, "a": 1, "nested": {"b": [1, 2]}}


async def key_ids(collection: Any) -> set[bytes]:
    """Return the id of every secret that something in the collection needs."""
    needed: set[bytes] = set()
    for document in await collection.find(SESSIONS).to_list(None):
        sealed = [*document["values"].values(), document.get("label", b"\x01" + NEW_ID)]
        claimed = {bytes(document["key_id"]), *map(bytes, document.get("later_key_ids", []))}
        assert {bytes(value[1:5]) for value in sealed} <= claimed | {NEW_ID}
        needed |= claimed
    return needed


@every_driver
async def test_visitor_keeps_cookie_and_values_through_the_three_steps(
    open_site: OpenSite, make_storage: MakeStorage, collection: Any
) -> None:
    """Processes restart one after another; nobody is signed out and no token changes."""
    first = await (await open_site(make_storage(secrets=OLD))).visitor()
    await first.do(lambda session: session.update(user_id=7, visits=1))
    cookie = first.cookie

    for secrets, step in (([OLD, NEW], 2), ([NEW, OLD], 3), ([NEW], 4)):
        site = await open_site(make_storage(secrets=secrets))
        visitor = await site.visitor(cookie)
        response = await visitor.do(lambda session: session.update(visits=session["visits"] + 1))

        assert set_cookie_of(response) == []
        assert await visitor.session() == {"user_id": 7, "visits": step}
    assert await key_ids(collection) == {NEW_ID}


async def test_save_seals_everything_again_under_the_first_secret(
    make_storage: MakeStorage, collection: Any
) -> None:
    """Values that did not change, the hash of the owner and the label too."""
    described = {"describe": lambda _request: "Firefox"}
    cookie = await visit(make_storage(secrets=OLD, **described), None, lambda s: s.update(FULL))
    rotating = make_storage(secrets=[NEW, OLD], **described)

    await visit(rotating, cookie, lambda session: session.update(a="changed"))

    assert rotating.counters["updates"] == 2
    assert await key_ids(collection) == {NEW_ID}
    (document,) = await collection.find().to_list(None)
    assert document["owner"] == Keyring(NEW).owner_hash("7")
    finished = make_storage(secrets=[NEW])
    assert await values(finished, cookie) == {**FULL, "a": "changed"}
    assert [info.label async for info in finished.sessions(7)] == ["Firefox"]


async def test_damaged_label_does_not_stop_a_rotation(
    make_storage: MakeStorage, collection: Any
) -> None:
    """It was unreadable before and is empty afterwards; the values are sealed again."""
    cookie = await visit(make_storage(secrets=OLD), None, lambda session: session.update(FULL))
    await collection.update_one({}, {"$set": {"label": b"\x01damaged"}})
    rotating = make_storage(secrets=[NEW, OLD])

    await visit(rotating, cookie, lambda session: session.update(a="changed"))

    assert await key_ids(collection) == {NEW_ID}
    assert await values(make_storage(secrets=NEW), cookie) == {**FULL, "a": "changed"}
    assert [info.label async for info in rotating.sessions(7)] == [""]


@every_driver
async def test_touch_seals_everything_again(
    make_storage: MakeStorage, collection: Any, clock: Clock
) -> None:
    """The sessions of visitors who only read are sealed again at their next touch."""
    cookie = await visit(make_storage(secrets=OLD), None, lambda session: session.update(FULL))
    rotating = make_storage(secrets=[NEW, OLD])
    clock.advance(3600)

    await visit(rotating, cookie, dict)

    assert await key_ids(collection) == {NEW_ID}
    assert await values(make_storage(secrets=NEW), cookie) == FULL


async def test_renewal_seals_everything_under_the_first_secret(
    make_storage: MakeStorage, collection: Any
) -> None:
    """A login during the rotation leaves nothing of the old secret behind."""
    cookie = await visit(make_storage(secrets=OLD), None, lambda session: session.update(a=1, b=2))
    rotating = make_storage(secrets=[NEW, OLD])

    renewed = await visit(rotating, cookie, lambda session: session.update(user_id=7))

    assert await key_ids(collection) == {NEW_ID}
    assert await values(make_storage(secrets=NEW), renewed) == {"a": 1, "b": 2, "user_id": 7}


@every_driver
@pytest.mark.parametrize(
    ("meanwhile", "expected"),
    [
        pytest.param(lambda session: session.update(b=2), {"b": 2}, id="changed"),
        pytest.param(
            lambda session: (session.pop("b"), session.update(c=3)),
            {"c": 3},
            id="removed and added",
        ),
    ],
)
async def test_resealing_does_not_undo_parallel_changes(
    make_storage: MakeStorage, meanwhile: Callable[[MongoSession], Any], expected: dict[str, Any]
) -> None:
    """A request that loaded older values seals none of them again."""
    before, rotating = make_storage(secrets=[OLD, NEW]), make_storage(secrets=[NEW, OLD])
    cookie = await visit(before, None, lambda session: session.update(a=1, b=1))
    slow = await load(rotating, cookie)

    await visit(before, cookie, meanwhile)
    slow.session["a"] = "ours"
    await slow.save()

    assert await values(rotating, cookie) == {"a": "ours", **expected}


async def test_session_whose_resealing_had_to_wait_still_counts_as_retired(
    make_storage: MakeStorage, collection: Any
) -> None:
    """The count is never too small: at zero the operator removes the old secret."""
    before, rotating = make_storage(secrets=[OLD, NEW]), make_storage(secrets=[NEW, OLD])
    cookie = await visit(before, None, lambda session: session.update(a=1))
    slow = await load(rotating, cookie)

    await visit(before, cookie, lambda session: session.update(b="sealed under the old secret"))
    slow.session["a"] = "sealed under the new secret"
    await slow.save()

    assert rotating.counters["updates"] == 1  # the change; nothing was sealed again
    assert OLD_ID in await key_ids(collection)
    assert await rotating.count(retired=True) == 1
    await visit(rotating, cookie, lambda session: session.update(c=1))
    assert await rotating.count(retired=True) == 0
    assert await key_ids(collection) == {NEW_ID}


async def test_saves_of_processes_that_disagree_about_the_first_secret_all_count(
    make_storage: MakeStorage,
) -> None:
    """During a rolling restart each process seals under its own first secret; all are counted."""
    before, rotating = make_storage(secrets=[OLD, NEW]), make_storage(secrets=[NEW, OLD])
    cookie = await visit(before, None, lambda session: session.update(a=1))
    await visit(rotating, cookie, lambda session: session.update(a=2))

    together = [await load(before, cookie) for _ in range(2)]
    together[0].session["b"], together[1].session["c"] = 1, 1
    await asyncio.gather(*(begun.save() for begun in together))
    assert await rotating.count(retired=True) == 1

    await visit(rotating, cookie, lambda session: session.update(a=3))
    slow = await load(rotating, cookie)
    await visit(before, cookie, lambda session: session.update(d=1))
    slow.session["e"] = 1
    await slow.save()
    assert await rotating.count(retired=True) == 1
    assert await before.count(retired=True) == 1

    await visit(rotating, cookie, lambda session: session.update(a=4))
    assert await rotating.count(retired=True) == 0
    kept = {"a": 4, "b": 1, "c": 1, "d": 1, "e": 1}
    assert await values(make_storage(secrets=NEW), cookie) == kept


async def test_label_sealed_in_parallel_under_the_old_secret_counts_as_retired(
    make_storage: MakeStorage, clock: Clock
) -> None:
    """A touch writes no value, but a label, sealed under the first secret of its process."""
    described = {"describe": lambda _request: "Firefox"}
    before = make_storage(secrets=[OLD, NEW], **described)
    rotating = make_storage(secrets=[NEW, OLD])
    cookie = await visit(make_storage(secrets=OLD), None, lambda session: session.update(a=1))
    clock.advance(2 * 3600)
    slow = await load(rotating, cookie)

    await visit(before, cookie, dict)
    slow.session["a"] = 2
    await slow.save()

    assert await rotating.count(retired=True) == 1
    await visit(rotating, cookie, lambda session: session.update(a=3))
    assert await rotating.count(retired=True) == 0


async def test_resealing_does_not_restore_a_logged_out_session(
    make_storage: MakeStorage, collection: Any
) -> None:
    """A slow save under the new secret writes nothing."""
    rotating = make_storage(secrets=[NEW, OLD])
    cookie = await visit(make_storage(secrets=OLD), None, lambda session: session.update(FULL))
    slow = await load(rotating, cookie)

    await visit(rotating, cookie, lambda session: session.clear())
    slow.session["a"] = "late"
    await slow.save()

    assert await collection.count_documents({}) == 0


async def test_processes_of_both_steps_share_a_session(
    make_storage: MakeStorage, collection: Any
) -> None:
    """During a restart, processes with either order open what the others sealed."""
    sides = [make_storage(secrets=[OLD, NEW]), make_storage(secrets=[NEW, OLD])]
    cookie = await visit(sides[0], None, lambda session: session.update(user_id=7))

    for number in range(8):
        side = sides[number % 2]
        await visit(side, cookie, lambda s, n=number: s.update({str(n): n}))  # type: ignore[misc]

    expected = {"user_id": 7, **{str(number): number for number in range(8)}}
    assert await values(sides[0], cookie) == await values(sides[1], cookie) == expected
    (document,) = await collection.find().to_list(None)
    assert len(document["values"]) == 9


@every_driver
async def test_count_of_retired_sessions_falls_to_zero_as_visitors_return(
    make_storage: MakeStorage, clock: Clock
) -> None:
    """At zero the operator can remove the old secret."""
    before = make_storage(secrets=OLD)
    cookies = [await visit(before, None, lambda session: session.update(a=1)) for _ in range(3)]
    rotating = make_storage(secrets=[NEW, OLD])
    await visit(rotating, None, lambda session: session.update(a="created under the new secret"))
    clock.advance(3600)

    seen = [await rotating.count(retired=True)]
    for cookie in cookies:
        await visit(rotating, cookie, dict)
        seen.append(await rotating.count(retired=True))

    assert seen == [3, 2, 1, 0]
    assert await rotating.count() == 4
    assert await before.count(retired=True) == 4  # its first secret is the old one


async def test_expired_sessions_do_not_count_as_retired(
    make_storage: MakeStorage, clock: Clock
) -> None:
    """An expired session no longer needs its secret."""
    await visit(make_storage(secrets=OLD, max_age=60), None, lambda session: session.update(a=1))
    clock.advance(60)

    assert await make_storage(secrets=[NEW, OLD], max_age=60).count(retired=True) == 0


@every_driver
async def test_owner_is_found_under_every_secret(make_storage: MakeStorage) -> None:
    """Listing, revoking one session and revoking all work during a rotation."""
    cookies = [
        await visit(make_storage(secrets=secrets), None, lambda session: session.update(user_id=7))
        for secrets in (OLD, NEW, OLD)
    ]
    rotating = make_storage(secrets=[NEW, OLD])

    listed = [info.handle async for info in rotating.sessions(7)]
    revoked = await rotating.revoke(listed[0], owner=7)
    others = await rotating.revoke_owner(7)

    assert len(listed) == 3
    assert revoked
    assert others == 2
    assert [await values(rotating, cookie) for cookie in cookies] == [{}, {}, {}]


@pytest.mark.parametrize("secrets", [1, 2])
async def test_revoke_of_an_owner_looks_twice_during_a_rotation(
    make_storage: MakeStorage, log: CommandLog, secrets: int
) -> None:
    """A session that is sealed again meanwhile may have moved behind the first look."""
    storage = make_storage(secrets=[generate_secret() for _ in range(secrets)])
    await visit(storage, None, lambda session: session.update(user_id=7))
    log.commands.clear()

    assert await storage.revoke_owner(7) == 1

    assert log.names == ["delete"] * secrets


async def test_sessions_of_a_removed_secret_have_ended(
    open_site: OpenSite, make_storage: MakeStorage
) -> None:
    """The request gets no error and no cookie, and the list of the owner is empty."""
    first = await (await open_site(make_storage(secrets=OLD))).visitor()
    await first.do(lambda session: session.update(user_id=7))
    finished = make_storage(secrets=NEW)
    visitor = await (await open_site(finished)).visitor(first.cookie)

    response = await visitor.do(dict)

    assert response.status == 200
    assert await response.json() == {}
    assert set_cookie_of(response) == []
    assert [info async for info in finished.sessions(7)] == []


async def test_five_secrets_open_and_the_first_one_seals(
    make_storage: MakeStorage, collection: Any
) -> None:
    """Several rotations may overlap."""
    secrets = [generate_secret() for _ in range(5)]
    cookies = [
        await visit(make_storage(secrets=secret), None, lambda session: session.update(a=1))
        for secret in secrets
    ]
    storage = make_storage(secrets=secrets)

    for cookie in cookies:
        await visit(storage, cookie, lambda session: session.update(a=2))

    assert [await values(storage, cookie) for cookie in cookies] == [{"a": 2}] * 5
    documents = await collection.find().to_list(None)
    assert {bytes(d["key_id"]) for d in documents} == {Keyring(secrets[0]).first.key_id}
