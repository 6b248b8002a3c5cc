"""The session cache saves work and changes no result: MongoDB is asked every time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from storage import MongoStorage, cache, generate_secret
from storage.snapshot import Snapshot
from tests.storage.conftest import Clock, MakeStorage
from tests.storage.direct import id_of, load, stored, values, visit


async def snapshot_of(storage: Any, cookie: str) -> Snapshot:
    """Load a session; return its snapshot."""
    snapshot = (await load(storage, cookie)).session.snapshot
    assert snapshot is not None
    return snapshot


async def test_unchanged_session_is_opened_once(make_storage: MakeStorage) -> None:
    """The second load sends a find too, but opens nothing."""
    storage = make_storage()
    [cookie] = await stored(storage, 1)
    first = await snapshot_of(storage, cookie)
    commands = storage.counters["commands"]

    assert await snapshot_of(storage, cookie) is first
    assert storage.counters["commands"] == commands + 1


async def test_only_the_changed_value_of_a_session_is_opened_again(
    make_storage: MakeStorage,
) -> None:
    """Even if another process has changed it."""
    storage, elsewhere = make_storage(), make_storage()
    [cookie] = await stored(storage, 1)
    before = await snapshot_of(storage, cookie)

    await visit(elsewhere, cookie, lambda session: session["n"].append(1))

    after = await snapshot_of(storage, cookie)
    assert after.keys is before.keys
    assert after.values["user_id"] is before.values["user_id"]
    assert after.values["n"] is not before.values["n"]
    assert await values(storage, cookie) == {"user_id": 0, "n": [1]}


async def test_parallel_requests_of_one_session_share_no_objects(
    make_storage: MakeStorage,
) -> None:
    """A nested change that is not saved is seen by no other request."""
    storage = make_storage()
    [cookie] = await stored(storage, 1)
    one, two = await asyncio.gather(load(storage, cookie), load(storage, cookie))

    one.session["n"].append("unsaved")

    assert two.session["n"] == []
    assert await values(storage, cookie) == {"user_id": 0, "n": []}


async def test_cached_session_expires(make_storage: MakeStorage, clock: Clock) -> None:
    """The cache does not extend a session."""
    storage = make_storage(max_age=60)
    [cookie] = await stored(storage, 1)
    assert await values(storage, cookie)

    clock.advance(60)

    assert await values(storage, cookie) == {}


async def test_saved_value_is_not_opened_again_by_the_next_request(
    make_storage: MakeStorage,
) -> None:
    """A save puts the values that it wrote into the cache."""
    storage = make_storage()
    [cookie] = await stored(storage, 1)
    await visit(storage, cookie, lambda session: session.update(count=1))
    opened = await snapshot_of(storage, cookie)

    await visit(storage, cookie, lambda session: session.update(count=2))

    saved = storage._store._cache.get(id_of(cookie)).snapshot
    assert saved is not opened
    loaded = (await snapshot_of(storage, cookie)).values
    assert all(loaded[name] is value for name, value in saved.values.items())
    assert await values(storage, cookie) == {"user_id": 0, "n": [], "count": 2}


@pytest.mark.parametrize(
    "theirs", [{"count": 3}, {"other": 3}, {"other": 300}, {"new": True}], ids=str
)
@pytest.mark.parametrize("where", ["same process", "another process"])
async def test_later_save_of_another_request_is_seen(
    make_storage: MakeStorage, where: str, theirs: dict[str, Any]
) -> None:
    """What a save puts into the cache is compared with what MongoDB has then."""
    storage = make_storage()
    elsewhere = storage if where == "same process" else make_storage()
    [cookie] = await stored(storage, 1)
    await visit(storage, cookie, lambda session: session.update(count=1, other=1))
    other = await load(elsewhere, cookie)
    other.session.update(theirs)

    await visit(storage, cookie, lambda session: session.update(count=2))
    await other.save()

    expected = {"user_id": 0, "n": [], "count": 2, "other": 1} | theirs
    assert await values(storage, cookie) == expected
    assert await values(elsewhere, cookie) == expected


async def test_dates_that_a_save_did_not_move_are_the_stored_ones(
    make_storage: MakeStorage, clock: Clock
) -> None:
    """A clock that was set back moves no date back, neither in MongoDB nor in the cache."""
    storage = make_storage()
    [cookie] = await stored(storage, 1)
    await visit(storage, cookie, lambda session: session.update(count=1))
    before = await snapshot_of(storage, cookie)

    clock.advance(-7200)
    await visit(storage, cookie, lambda session: session.update(count=2))

    assert (await snapshot_of(storage, cookie)).stored.dates == before.stored.dates


async def test_next_request_sees_what_is_stored_and_not_what_was_assigned(
    make_storage: MakeStorage,
) -> None:
    """The encoder of an app may round: every request gets the rounded value."""
    storage = make_storage(owner_key=None, encoder=lambda value: f"{value:.1f}", decoder=float)
    cookie = str(await visit(storage, None, lambda session: session.update(n=1.0)))
    assert await values(storage, cookie) == {"n": 1.0}

    await visit(storage, cookie, lambda session: session.update(n=1.26))

    assert await values(storage, cookie) == {"n": 1.3}


@pytest.mark.parametrize("field", ["created_at", "last_seen_at", "owner", "values"])
async def test_cached_session_is_refused_when_its_document_was_changed(
    make_storage: MakeStorage, collection: Any, field: str
) -> None:
    """The cache is used only where MongoDB has the same bytes at this moment."""
    storage = make_storage()
    first, second = await stored(storage, 2)
    assert await values(storage, first)
    other = await collection.find_one({"_id": id_of(second)})
    foreign = {"created_at": other["created_at"].replace(year=2001), "last_seen_at": "never"}

    await collection.update_one(
        {"_id": id_of(first)}, {"$set": {field: foreign.get(field, other[field])}}
    )

    assert await values(storage, first) == {}
    assert storage.counters["unreadable"] == 1


async def test_cache_is_bounded_and_drops_the_least_recently_used_session(
    make_storage: MakeStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With room for two sessions, the third one replaces the one that was used longest ago."""
    monkeypatch.setattr(cache, "SESSIONS_KEPT", 2)
    storage = make_storage()
    first, second, third = await stored(storage, 3)
    for cookie in (first, second, first, third):
        await snapshot_of(storage, cookie)

    kept = [storage._store._cache.get(id_of(c)) is not None for c in (first, second, third)]

    assert kept == [True, False, True]


async def test_large_session_is_not_cached(make_storage: MakeStorage) -> None:
    """The cache of a process stays at a few megabytes."""
    storage = make_storage()
    cookie = str(await visit(storage, None, lambda session: session.update(big="x" * 5000)))

    first = await snapshot_of(storage, cookie)

    assert await snapshot_of(storage, cookie) is not first
    assert storage._store._cache.get(id_of(cookie)) is None


async def test_session_of_just_the_largest_size_is_cached(
    make_storage: MakeStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte more, and it is not; after a save only the sealed values are counted."""
    storage = make_storage()
    [cookie] = await stored(storage, 1)
    first = await snapshot_of(storage, cookie)
    document = storage._store._cache.get(id_of(cookie)).raw
    sealed = sum(len(value.sealed) for value in first.values.values())

    monkeypatch.setattr(cache, "LARGEST_BYTES", len(document))
    storage._store._cache.clear()
    first = await snapshot_of(storage, cookie)
    assert await snapshot_of(storage, cookie) is first

    monkeypatch.setattr(cache, "LARGEST_BYTES", sealed)
    storage._store._cache.update(first)
    assert storage._store._cache.get(id_of(cookie)) is not None

    monkeypatch.setattr(cache, "LARGEST_BYTES", sealed - 1)
    storage._store._cache.update(first)
    assert storage._store._cache.get(id_of(cookie)) is None


async def test_expired_session_is_not_opened(
    make_storage: MakeStorage, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """After a secret was removed, sessions that had expired before cause no warnings."""
    [cookie] = await stored(make_storage(secrets=generate_secret(), max_age=60), 1)
    storage = make_storage(max_age=60)
    clock.advance(60)

    assert await values(storage, cookie) == {}

    assert (storage.counters["expired"], storage.counters["unreadable"]) == (1, 0)
    assert caplog.text == ""


async def test_session_that_a_save_made_large_is_removed_from_the_cache(
    make_storage: MakeStorage,
) -> None:
    """At once, and not with the next load, which may never come."""
    storage = make_storage()
    [cookie] = await stored(storage, 1)
    await visit(storage, cookie, lambda session: session.update(big="x"))
    await snapshot_of(storage, cookie)

    await visit(storage, cookie, lambda session: session.update(big="x" * 5000))

    assert storage._store._cache.get(id_of(cookie)) is None


async def test_session_that_another_process_made_large_is_removed_from_the_cache(
    make_storage: MakeStorage,
) -> None:
    """The next load removes the smaller one that was cached."""
    storage, elsewhere = make_storage(), make_storage()
    [cookie] = await stored(storage, 1)
    await snapshot_of(storage, cookie)
    await visit(elsewhere, cookie, lambda session: session.update(big="x" * 5000))

    await snapshot_of(storage, cookie)

    assert storage._store._cache.get(id_of(cookie)) is None


async def _log_out(storage: MongoStorage, cookie: str) -> None:
    await visit(storage, cookie, lambda session: session.invalidate())


async def _renew(storage: MongoStorage, cookie: str) -> None:
    await visit(storage, cookie, lambda session: session.renew())


async def _revoke(storage: MongoStorage, cookie: str) -> None:
    assert await storage.revoke(id_of(cookie).hex())


async def _clear(storage: MongoStorage, _cookie: str) -> None:
    assert await storage.clear() == 1


async def _close(storage: MongoStorage, _cookie: str) -> None:
    await storage.aclose()


async def _sign_in_beyond_the_limit(storage: MongoStorage, _cookie: str) -> None:
    await visit(storage, None, lambda session: session.update(user_id=0))
    assert await storage.count() == 1


ENDS = [_log_out, _renew, _revoke, _clear, _close, _sign_in_beyond_the_limit]


@pytest.mark.parametrize("end", ENDS)
async def test_ended_session_is_removed_from_the_cache(
    make_storage: MakeStorage, end: Callable[[MongoStorage, str], Awaitable[None]]
) -> None:
    """A process that has ended a session keeps no value and no key of it."""
    storage = make_storage(max_sessions_per_owner=1)
    [cookie] = await stored(storage, 1)
    await snapshot_of(storage, cookie)

    await end(storage, cookie)

    assert storage._store._cache.get(id_of(cookie)) is None


async def test_session_that_another_process_ended_is_removed_from_the_cache(
    make_storage: MakeStorage,
) -> None:
    """The next load removes it."""
    storage, elsewhere = make_storage(), make_storage()
    [cookie] = await stored(storage, 1)
    await snapshot_of(storage, cookie)
    await _revoke(elsewhere, cookie)

    assert await values(storage, cookie) == {}

    assert storage._store._cache.get(id_of(cookie)) is None


async def test_session_that_does_not_open_any_more_is_removed_from_the_cache(
    make_storage: MakeStorage, collection: Any
) -> None:
    """Its values are those of a document that somebody has replaced."""
    storage = make_storage()
    [cookie] = await stored(storage, 1)
    await snapshot_of(storage, cookie)
    await collection.update_one({}, {"$set": {"persistent": "yes"}})

    assert await values(storage, cookie) == {}

    assert storage._store._cache.get(id_of(cookie)) is None


async def test_load_during_a_logout_leaves_nothing_in_the_cache(
    make_storage: MakeStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A load just before the delete puts the session into the cache; the logout removes it."""
    storage = make_storage()
    [cookie] = await stored(storage, 1)
    ending = await load(storage, cookie)
    submit = storage._store._writes.submit

    async def load_and_submit(write: Any, deadline: float) -> bool:
        await load(storage, cookie)
        return await submit(write, deadline)

    monkeypatch.setattr(storage._store._writes, "submit", load_and_submit)

    ending.session.invalidate()
    await ending.save()

    assert storage._store._cache.get(id_of(cookie)) is None


async def test_revoke_owner_removes_the_ended_sessions_from_the_cache(
    make_storage: MakeStorage,
) -> None:
    """All but the session to keep; sessions of other owners stay."""
    storage = make_storage()
    cookies = [
        str(await visit(storage, None, lambda session: session.update(user_id="ada", n=1)))
        for _ in range(2)
    ]
    cookies += await stored(storage, 1)
    _ended, kept, other = [await load(storage, cookie) for cookie in cookies]

    await storage.revoke_owner("ada", keep=kept.session)

    assert set(storage._store._cache._sessions) == {id_of(cookies[1]), id_of(cookies[2])}
    assert await values(storage, cookies[0]) == {}
    assert other.session["user_id"] == 0


async def test_session_that_a_save_finds_ended_is_removed_from_the_cache(
    make_storage: MakeStorage,
) -> None:
    """Ended by another process, of which this one learns by its save."""
    storage, elsewhere = make_storage(), make_storage()
    [cookie] = await stored(storage, 1)
    begun = await load(storage, cookie)
    await visit(elsewhere, cookie, lambda session: session.invalidate())

    begun.session["n"] = 1
    await begun.save()

    assert not storage._store._cache._sessions


async def test_session_that_a_save_finds_renewed_is_removed_from_the_cache(
    make_storage: MakeStorage,
) -> None:
    """Renewed by another process: what this one has kept opens nothing any more."""
    storage, elsewhere = make_storage(), make_storage()
    [cookie] = await stored(storage, 1)
    begun = await load(storage, cookie)
    await _renew(elsewhere, cookie)

    begun.session["n"] = 1
    await begun.save()

    assert storage._store._cache.get(id_of(cookie)) is None
