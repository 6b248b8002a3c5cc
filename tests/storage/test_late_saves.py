"""Late saves: the session was renewed after their load, and their changes reach the new place."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from storage import MongoStorage, SessionTooLarge, StorageUnavailable, generate_secret
from storage.session import MongoSession
from tests.storage.conftest import (
    Clock,
    MakeStorage,
    Site,
    every_driver,
    real_drivers,
    set_cookie_of,
    until,
)
from tests.storage.direct import begun, id_of, load, values, visit
from tests.storage.overlap import at_once

Change = Callable[[MongoSession], Any]
NOBODY = {"cart": [1], "step": 1, "log": []}
ADA = {**NOBODY, "user_id": 7}
SIGN_IN = {"user_id": 7}
# A renewal from nobody to nobody, a sign-in, and the renewal of an owner.
MOVES: list[Any] = [
    pytest.param(NOBODY, {}, id="nobody"),
    pytest.param(NOBODY, SIGN_IN, id="sign-in"),
    pytest.param(ADA, {}, id="owner"),
]


async def renewed(storage: MongoStorage, cookie: str, change: Change | None = None) -> str:
    """Renew a session, with the changes of that request."""

    def renew(session: MongoSession) -> None:
        session.renew()
        if change is not None:
            change(session)

    new = str(await visit(storage, cookie, renew))
    assert new not in ("None", cookie)
    return new


@every_driver
@pytest.mark.parametrize(("stored", "own"), MOVES)
async def test_late_save_reaches_the_renewed_session_and_sends_no_cookie(
    stored: dict[str, Any], own: dict[str, Any], storage: MongoStorage
) -> None:
    """New, changed, nested and removed values."""
    old, late = await begun(storage, stored)
    new = await renewed(storage, old, lambda session: session.update(own))

    late.session["colour"] = "red"
    late.session["step"] = 2
    late.session["cart"].append(2)
    del late.session["log"]
    cookie = await late.save()

    assert cookie == old
    expected = {**stored, **own, "cart": [1, 2], "step": 2, "colour": "red"}
    del expected["log"]
    assert await values(storage, new) == expected
    assert await values(storage, old) == {}
    assert storage.counters["updates"] == 1


@real_drivers
@pytest.mark.parametrize("own", [{}, SIGN_IN], ids=["renewal", "sign-in"])
async def test_forty_rounds_of_five_changes_around_a_renewal_lose_none(
    own: dict[str, Any], storage: MongoStorage, make_storage: MakeStorage
) -> None:
    """200 parallel changes in two processes: all are in the session of the newest cookie."""
    storages = [storage, make_storage()]

    async def one_round(number: int) -> int:
        old = str(await visit(storage, None, lambda session: session.update(NOBODY)))
        writers = [await load(storages[n % 2], old) for n in range(5)]
        renewing = await load(storages[number % 2], old)
        renewing.session.renew()
        renewing.session.update(own)
        for n, writer in enumerate(writers):
            writer.session[f"key {n}"] = n
        half = number % 6
        saves = [writer.save() for writer in writers]
        new, *others = await asyncio.gather(renewing.save(), *saves[:half])
        others += await asyncio.gather(*saves[half:])
        assert set(others) <= {old}
        found = await values(storage, new)
        return sum(f"key {n}" not in found for n in range(5))

    lost = [await one_round(number) for number in range(40)]

    assert sum(lost) == 0


@pytest.mark.parametrize(("stored", "own"), MOVES)
@pytest.mark.parametrize("by", ["the renewal", "another late save", "somebody since"])
async def test_late_save_changes_only_what_is_still_as_it_was_loaded(
    by: str, stored: dict[str, Any], own: dict[str, Any], storage: MongoStorage
) -> None:
    """What the renewal or anybody since has changed, removed or added stays."""
    old, late = await begun(storage, stored)
    other = await load(storage, old)

    def change(session: MongoSession) -> None:
        session.update(step="theirs", colour="theirs")
        del session["log"]

    renews = by == "the renewal"
    new = await renewed(storage, old, lambda s: (s.update(own), change(s) if renews else None))
    if by == "another late save":
        change(other.session)
        await other.save()
    elif by == "somebody since":
        await visit(storage, new, change)

    late.session.update(step="late", colour="late", log=["late"], cart=["late"], size="late")
    await late.save()

    assert await values(storage, new) == {
        "step": "theirs",
        "colour": "theirs",
        "cart": ["late"],
        "size": "late",
        **{name: 7 for name in ("user_id",) if own or stored is ADA},
    }


@real_drivers
@pytest.mark.parametrize("batch", [True, False], ids=["at once", "one after another"])
async def test_first_of_two_late_saves_of_one_value_wins(
    storage: MongoStorage, make_storage: MakeStorage, *, batch: bool
) -> None:
    """In one batch and over two processes; their other changes are all kept."""
    old, _ = await begun(storage, ADA)
    storages = [storage, make_storage()]
    late = [await load(storages[n % 2], old) for n in range(6)]
    new = await renewed(storage, old)
    for n, writer in enumerate(late):
        writer.session.update({"step": f"late {n}", f"own {n}": n})

    if batch:
        await asyncio.gather(*(writer.save() for writer in late))
    else:
        for writer in late:
            await writer.save()

    found = await values(storage, new)
    step = found.pop("step")
    assert step == "late 0" if not batch else step in {f"late {n}" for n in range(6)}
    assert found == {"cart": [1], "log": [], "user_id": 7, **{f"own {n}": n for n in range(6)}}


@pytest.mark.parametrize(("stored", "own"), MOVES)
async def test_late_save_whose_values_were_all_changed_meanwhile_writes_nothing(
    stored: dict[str, Any], own: dict[str, Any], storage: MongoStorage, collection: Any
) -> None:
    """What others have written stays, and the request goes on."""
    old, late = await begun(storage, stored)
    new = await renewed(storage, old, lambda session: session.update(own, step="theirs"))
    before = await collection.find_one({"_id": id_of(new)})

    late.session["step"] = "late"
    assert await late.save() == old

    assert await collection.find_one({"_id": id_of(new)}) == before
    assert not late.session.abandoned


def between_look_and_update(
    monkeypatch: pytest.MonkeyPatch, storage: MongoStorage, *actions: Callable[[], Any]
) -> None:
    """Do something after a late save has looked at the renewed session, before it writes."""
    store = storage._store
    update, left = store.update_if_unchanged, list(actions)

    async def delayed(*args: Any, **options: Any) -> Any:
        if left:
            await left.pop(0)()
        return await update(*args, **options)

    monkeypatch.setattr(store, "update_if_unchanged", delayed)


@every_driver
async def test_value_that_somebody_changes_during_a_late_save_stays(
    storage: MongoStorage, make_storage: MakeStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The late save looks again, and writes what is still as it was loaded."""
    other = make_storage()
    old, late = await begun(storage, ADA)
    new = await renewed(storage, old)

    async def change(name: str) -> None:
        await visit(other, new, lambda session: session.update({name: "theirs"}))

    between_look_and_update(monkeypatch, storage, lambda: change("step"), lambda: change("colour"))
    late.session.update(step="late", colour="late", size="late")
    del late.session["log"]
    await late.save()

    assert await values(storage, new) == {
        "user_id": 7, "cart": [1], "step": "theirs", "colour": "theirs", "size": "late",
    }  # fmt: skip


async def test_value_that_is_put_back_during_a_late_save_is_changed_by_it(
    storage: MongoStorage, make_storage: MakeStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a failover undoes the change that the late save would have left alone."""
    other = make_storage()
    old, late = await begun(storage, ADA)
    new = await renewed(storage, old, lambda session: session.update(step="theirs"))
    between_look_and_update(
        monkeypatch, storage, lambda: visit(other, new, lambda session: session.update(step=1))
    )

    late.session.update(step="late", colour="late")
    await late.save()

    assert await values(storage, new) == {**ADA, "step": "late", "colour": "late"}


async def test_value_that_somebody_removes_during_a_late_save_is_removed_once(
    storage: MongoStorage, make_storage: MakeStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both remove the same value: the late save finds nothing left to do."""
    other = make_storage()
    old, late = await begun(storage, ADA)
    new = await renewed(storage, old)
    between_look_and_update(
        monkeypatch, storage, lambda: visit(other, new, lambda session: session.pop("log"))
    )

    del late.session["log"]
    assert await late.save() == old

    assert await values(storage, new) == {"user_id": 7, "cart": [1], "step": 1}
    assert not late.session.abandoned


async def test_session_that_is_renewed_again_during_a_late_save_is_followed(
    storage: MongoStorage, make_storage: MakeStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The update finds the next forward."""
    other = make_storage()
    old, late = await begun(storage, ADA)
    new = await renewed(storage, old)
    newest: list[str] = []

    async def renew_again() -> None:
        newest.append(await renewed(other, new))

    between_look_and_update(monkeypatch, storage, renew_again)
    late.session["colour"] = "red"
    assert await late.save() == old

    assert await values(storage, newest[0]) == {**ADA, "colour": "red"}


async def test_session_that_ends_during_a_late_save_stays_ended(
    storage: MongoStorage, make_storage: MakeStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The update finds nothing."""
    other = make_storage()
    old, late = await begun(storage, ADA)
    await renewed(storage, old)
    between_look_and_update(monkeypatch, storage, lambda: other.revoke_owner(7))

    late.session["colour"] = "red"
    assert await late.save() == old

    assert late.session.abandoned
    assert await storage.count() == 0


async def test_max_age_that_somebody_changes_during_a_late_save_stays(
    storage: MongoStorage,
    make_storage: MakeStorage,
    collection: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The late save looks again, and writes its values alone."""
    other = make_storage()
    old, late = await begun(storage, ADA)
    new = await renewed(storage, old)
    between_look_and_update(
        monkeypatch,
        storage,
        lambda: visit(other, new, lambda session: setattr(session, "max_age", 9000)),
    )

    _set_max_age(late.session)
    await late.save()

    assert (await collection.find_one({"_id": id_of(new)}))["max_age"] == 9000
    assert (await values(storage, new))["colour"] == "red"


async def test_late_save_that_others_overtake_again_and_again_is_a_503(
    storage: MongoStorage, make_storage: MakeStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was not stored is not acknowledged, however often others change the same values."""
    other = make_storage()
    names = [f"name {number}" for number in range(20)]
    old, late = await begun(storage, ADA)
    new = await renewed(storage, old)

    def change(name: str) -> Callable[[], Any]:
        return lambda: visit(other, new, lambda session: session.update({name: "theirs"}))

    between_look_and_update(monkeypatch, storage, *map(change, names))
    late.session.update(dict.fromkeys(names, "late"))
    with pytest.raises(StorageUnavailable):
        await late.save()

    assert "late" not in (await values(storage, new)).values()


@pytest.mark.parametrize("to", [None, ""], ids=["None", "empty text"])
async def test_owner_key_never_follows(to: str | None, storage: MongoStorage) -> None:
    """A planted request that sets it to nobody does not make the session of the user unreadable."""
    old, late = await begun(storage, NOBODY)
    new = await renewed(storage, old, lambda session: session.update(SIGN_IN))

    late.session.update(user_id=to, colour="red")
    await late.save()

    assert await values(storage, new) == {**ADA, "colour": "red"}
    assert len([info async for info in storage.sessions(7)]) == 1


async def test_other_spelling_of_the_owner_does_not_follow(storage: MongoStorage) -> None:
    """7 and "7" are the same owner; the renewed session keeps its spelling."""
    old, late = await begun(storage, ADA)
    new = await renewed(storage, old)

    late.session.update(user_id="7", colour="red")
    await late.save()

    assert await values(storage, new) == {**ADA, "colour": "red"}


def _set_max_age(session: MongoSession) -> None:
    session.max_age = 60
    session["colour"] = "red"


@pytest.mark.parametrize("sign_in", [True, False], ids=["sign-in", "renewal"])
async def test_neither_max_age_nor_label_follows_from_nobody(
    make_storage: MakeStorage, collection: Any, *, sign_in: bool
) -> None:
    """A planted request can neither shorten the session of the user nor name the device."""
    storage = make_storage(describe=lambda _request: "the user's own")
    attacker = make_storage(describe=lambda _request: "the attacker's")
    old, _ = await begun(storage, NOBODY)
    late = await load(attacker, old)
    new = await renewed(storage, old, lambda s: s.update(SIGN_IN if sign_in else {}))
    before = await collection.find_one({"_id": id_of(new)})

    _set_max_age(late.session)
    assert await late.save() == old

    after = await collection.find_one({"_id": id_of(new)})
    assert len(after["values"]) == len(before["values"]) + 1
    assert {**after, "values": None} == {**before, "values": None}


async def test_max_age_alone_from_nobody_writes_nothing(
    storage: MongoStorage, collection: Any
) -> None:
    """There is nothing else that would follow."""
    old, late = await begun(storage, NOBODY)
    new = await renewed(storage, old, lambda session: session.update(SIGN_IN))
    before = await collection.find_one({"_id": id_of(new)})

    late.session.max_age = 60
    assert await late.save() == old

    assert await collection.find_one({"_id": id_of(new)}) == before


@pytest.mark.parametrize("seconds", [60, 86_400 * 30, None])
async def test_max_age_of_an_owner_follows_and_the_next_request_sends_its_cookie(
    seconds: int | None, site: Site, storage: MongoStorage
) -> None:
    """The late response sends none: the browser may have the new token already."""
    visitor = await site.visitor()
    await visitor.do(lambda session: session.update(ADA))
    late = await load(storage, visitor.cookie)
    await visitor.do(lambda session: session.renew())
    old = late.request.cookies["session"]

    late.session.max_age = seconds
    assert await late.save() == old
    response = await visitor.do(lambda session: session.max_age)

    assert await response.json() == seconds
    (line,) = set_cookie_of(response)
    assert ("Max-Age" in line) is (seconds is not None)
    assert seconds is None or f"Max-Age={seconds};" in line


async def test_max_age_that_was_changed_meanwhile_is_not_changed_by_a_late_save(
    storage: MongoStorage, collection: Any
) -> None:
    """Somebody's "remember me" stays; the changed values follow."""
    old, late = await begun(storage, ADA)
    new = await renewed(storage, old, lambda session: setattr(session, "max_age", 9000))

    _set_max_age(late.session)
    await late.save()

    assert (await collection.find_one({"_id": id_of(new)}))["max_age"] == 9000
    assert (await values(storage, new))["colour"] == "red"


@pytest.mark.parametrize("end", ["sign-out", "revoke_owner", "another owner", "expiry"])
async def test_late_save_into_a_session_that_has_ended_writes_nothing(
    end: str, storage: MongoStorage, clock: Clock, collection: Any
) -> None:
    """After the renewal the session was signed out, revoked, taken over or has expired."""
    old, late = await begun(storage, {**ADA})
    late.session["colour"] = "red"
    new = await renewed(
        storage, old, lambda session: setattr(session, "max_age", 30 if end == "expiry" else 9000)
    )
    newest: str | None = new
    if end == "sign-out":
        newest = await visit(storage, new, lambda session: session.invalidate())
    elif end == "revoke_owner":
        assert await storage.revoke_owner(7) == 1
    elif end == "another owner":
        newest = await visit(storage, new, lambda session: session.update(user_id=8))
    else:
        clock.advance(30)
    before = await collection.find({}).to_list(None)

    assert await late.save() == old

    assert await collection.find({}).to_list(None) == before
    assert late.session.abandoned
    assert "colour" not in await values(storage, newest)


async def test_late_save_reaches_a_session_whose_end_is_undone(
    storage: MongoStorage, collection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a failover undoes a sign-out: the late save makes sure before it gives up."""
    old, late = await begun(storage, ADA)
    new = await renewed(storage, old)
    document = await collection.find_one_and_delete({"_id": id_of(new)})
    is_there = storage._store.is_there

    async def undone(*args: Any) -> bool:
        await collection.insert_one(document)
        return await is_there(*args)

    monkeypatch.setattr(storage._store, "is_there", undone)
    late.session["colour"] = "red"
    await late.save()

    assert await values(storage, new) == {**ADA, "colour": "red"}


async def test_late_save_reaches_a_session_whose_second_renewal_is_undone(
    storage: MongoStorage, collection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a failover between the two steps of the renewal, whose new session is given up then."""
    old, late = await begun(storage, ADA)
    new = await renewed(storage, old)
    document = await collection.find_one({"_id": id_of(new)})
    newest = await renewed(storage, new)
    is_there = storage._store.is_there

    async def undone(*args: Any) -> bool:
        await collection.replace_one({"_id": document["_id"]}, document)
        return await is_there(*args)

    monkeypatch.setattr(storage._store, "is_there", undone)
    late.session["colour"] = "red"
    await late.save()

    assert await values(storage, new) == {**ADA, "colour": "red"}
    assert await values(storage, newest) == ADA


@pytest.mark.parametrize("moves", [1, 2, 8, 9])
async def test_late_save_follows_up_to_eight_moves(moves: int, storage: MongoStorage) -> None:
    """A session that was renewed more often within a minute is not found any more."""
    old, late = await begun(storage, ADA)
    new = old
    for _ in range(moves):
        new = await renewed(storage, new)

    late.session["colour"] = "red"
    assert await late.save() == old

    assert ("colour" in await values(storage, new)) is (moves <= 8)


@pytest.mark.parametrize(("seconds", "found"), [(59, True), (60, False)])
async def test_late_save_follows_for_sixty_seconds(
    seconds: int, clock: Clock, storage: MongoStorage, *, found: bool
) -> None:
    """Afterwards nothing is written and no cookie is sent, as after a sign-out."""
    old, late = await begun(storage, ADA)
    new = await renewed(storage, old)

    clock.advance(seconds)
    late.session["colour"] = "red"
    assert await late.save() == old

    assert ("colour" in await values(storage, new)) is found


async def test_values_added_before_a_sign_in_follow_unless_the_app_invalidates_first(
    storage: MongoStorage,
) -> None:
    """A sign-in that calls `invalidate()` takes no anonymous value, early or late."""
    old, late = await begun(storage, NOBODY)

    def sign_in(session: MongoSession) -> None:
        session.invalidate()
        session.update(SIGN_IN)

    new = await visit(storage, old, sign_in)
    late.session["planted"] = True
    assert await late.save() == old

    assert await values(storage, new) == SIGN_IN


async def test_anonymous_request_sees_nothing_of_the_sign_in_and_still_follows(
    storage: MongoStorage,
) -> None:
    """A planted WebSocket that saves stays at the old place, whatever it saves afterwards."""
    old, late = await begun(storage, NOBODY)
    new = await renewed(storage, old, lambda s: s.update(SIGN_IN, secret="Ada's", step="Ada's"))

    late.session["first"] = 1
    await late.save()
    late.session.update(first=2, second=2, step="attacker's")
    await late.save()
    late.session.renew()
    assert await late.save() == old
    late.session.invalidate()
    assert await late.save() == old

    assert storage.handle(late.session) == id_of(old).hex()
    assert dict(late.session) == {}
    assert await values(storage, new) == {**ADA, "secret": "Ada's", "step": "Ada's"} | {
        "first": 2,
        "second": 2,
    }


@pytest.mark.parametrize("sign_in", [True, False], ids=["sign-in", "renewal"])
async def test_planted_request_cannot_claim_to_have_loaded_what_others_have_written(
    storage: MongoStorage, *, sign_in: bool
) -> None:
    """It guesses the new value, or removes what is gone, and changes it with its next save."""
    old, late = await begun(storage, NOBODY)

    def change(session: MongoSession) -> None:
        session.update(SIGN_IN if sign_in else {}, step="theirs", colour="theirs")
        del session["log"]

    new = await renewed(storage, old, change)
    expected = await values(storage, new)
    late.session.update(step="theirs", colour="theirs")
    del late.session["log"]
    await late.save()
    late.session.update(step="attacker's", log="attacker's", size=1)
    del late.session["colour"]
    await late.save()
    late.session.update(step="theirs", size=2)
    await late.save()

    assert await values(storage, new) == {**expected, "size": 2}


async def test_request_of_an_owner_continues_at_the_new_place_with_its_own_values(
    storage: MongoStorage,
) -> None:
    """What others have written is neither seen nor removed by its next save; no cookie is sent."""
    old, late = await begun(storage, ADA)
    new = await renewed(storage, old, lambda s: s.update(theirs=1, step="theirs"))

    late.session["first"] = 1
    await late.save()
    seen = dict(late.session)
    late.session.update(first=2, step=3)
    del late.session["log"]
    assert await late.save() == old
    newer = await renewed(storage, new)
    late.session["third"] = 3
    assert await late.save() == old

    assert seen == {**ADA, "first": 1}
    assert storage.handle(late.session) == id_of(newer).hex()
    assert await values(storage, newer) == {
        "user_id": 7, "cart": [1], "theirs": 1, "step": 3, "first": 2, "third": 3,
    }  # fmt: skip


async def test_request_whose_save_followed_never_gets_the_cookie_of_the_session(
    storage: MongoStorage, clock: Clock
) -> None:
    """No touch, no Max-Age, and a renewal asked for in it counts as carried out."""
    old, late = await begun(storage, ADA)
    new = await renewed(storage, old)
    late.session["first"] = 1
    await late.save()

    clock.advance(7200)
    for change in (
        lambda session: None,
        lambda session: session.update(step=2),
        lambda session: setattr(session, "max_age", 100),
        lambda session: session.renew(),
    ):
        change(late.session)
        assert await late.save() == old

    assert (await values(storage, new))["step"] == 2
    assert storage.handle(late.session) == id_of(new).hex()


async def test_sign_in_in_a_request_whose_save_followed_sends_its_own_cookie(
    storage: MongoStorage,
) -> None:
    """Another owner: the session of the first one ends; the new one can be renewed again."""
    old, late = await begun(storage, ADA)
    new = await renewed(storage, old)
    late.session["first"] = 1
    await late.save()

    late.session["user_id"] = 8
    cookie = await late.save()
    late.session.renew()
    newest = await late.save()

    assert cookie not in (None, old, new)
    assert newest not in (None, old, new, cookie)
    assert await values(storage, newest) == {"user_id": 8}
    assert await values(storage, new) == {}


async def test_parallel_renewals_leave_one_session_with_the_changes_of_both(
    storage: MongoStorage, collection: Any
) -> None:
    """The second one counts as carried out; only the first one sends a cookie."""
    old, late = await begun(storage, ADA)
    new = await renewed(storage, old, lambda session: session.update(first=1))

    late.session.renew()
    late.session["second"] = 2
    assert await late.save() == old

    assert await values(storage, new) == {**ADA, "first": 1, "second": 2}
    assert await storage.count() == 1
    assert await collection.count_documents({}) == 2


async def test_late_touch_writes_nothing_and_sends_no_cookie(
    storage: MongoStorage, clock: Clock, collection: Any
) -> None:
    """The renewal has recorded the use already."""
    old, late = await begun(storage, ADA)
    clock.advance(7200)
    new = await renewed(storage, old)
    before = await collection.find_one({"_id": id_of(new)})

    assert await late.save() == old
    assert await late.save() == old

    assert await collection.find_one({"_id": id_of(new)}) == before
    assert not late.session.abandoned


async def test_late_save_that_makes_the_session_too_large_is_refused(
    make_storage: MakeStorage,
) -> None:
    """`max_bytes` counts what the session has at its new place."""
    storage = make_storage(max_bytes=1000)
    old, late = await begun(storage, ADA)
    new = await renewed(storage, old, lambda session: session.update(big="x" * 500))

    late.session["more"] = "x" * 300
    with pytest.raises(SessionTooLarge, match=r"session\['more'\]"):
        await late.save()

    assert "more" not in await values(storage, new)


async def test_late_save_may_make_a_session_smaller_that_is_too_large(
    make_storage: MakeStorage,
) -> None:
    """Under a lowered `max_bytes`: what is at the new place already may stay."""
    small, large = make_storage(max_bytes=1000), make_storage()
    old, _ = await begun(large, {**ADA, "note": "x" * 100})
    late = await load(small, old)
    new = await renewed(large, old, lambda session: session.update(big="x" * 2000))

    late.session["note"] = "x"
    await late.save()

    assert (await values(large, new))["note"] == "x"


async def test_secret_may_rotate_between_a_renewal_and_a_late_save(
    make_storage: MakeStorage,
) -> None:
    """The forward is opened under any listed secret, and the values are sealed under the first."""
    first, second = generate_secret(), generate_secret()
    before = make_storage(secrets=[first, second])
    after = make_storage(secrets=[second, first])
    old, _ = await begun(before, ADA)
    late = await load(after, old)
    new = await renewed(before, old)

    late.session["colour"] = "red"
    await late.save()

    assert await values(before, new) == {**ADA, "colour": "red"}
    assert await after.count(retired=True) == 1  # the other values, until the next save


async def test_value_that_was_sealed_again_meanwhile_can_still_be_changed(
    make_storage: MakeStorage,
) -> None:
    """Plain values are compared: the same value under another secret has not changed."""
    first, second = generate_secret(), generate_secret()
    rotating = make_storage(secrets=[second, first])
    old, late = await begun(make_storage(secrets=[first]), ADA)
    late = await load(rotating, old)
    new = await renewed(rotating, old)

    late.session["step"] = 2
    await late.save()

    assert (await values(rotating, new))["step"] == 2


async def test_late_save_is_completed_when_the_visitor_disconnects_at_any_step(
    storage: MongoStorage,
) -> None:
    """The request is cancelled after each number of turns of the event loop."""
    for turns in range(1, 40):
        old, late = await begun(storage, ADA)
        new = await renewed(storage, old)
        late.session["colour"] = "red"

        request = asyncio.ensure_future(late.save())
        for _ in range(turns):
            await asyncio.sleep(0)
        request.cancel()
        await asyncio.wait({request})

        async def arrived(cookie: str = new) -> bool:
            return "colour" in await values(storage, cookie)

        await until(arrived, 5)


async def test_closing_waits_for_a_late_save_whose_write_was_answered_just_now(
    make_storage: MakeStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request has not run since: what follows is begun in the next turn of the event loop."""
    here, storage = make_storage(), make_storage()
    old, late = await begun(storage, ADA)
    new = await renewed(here, old)
    late.session["colour"] = "red"
    submit, sent = storage._store._writes.submit, []

    def recorded(*args: Any) -> asyncio.Future[Any]:
        sent.append(submit(*args))
        return sent[-1]

    monkeypatch.setattr(storage._store._writes, "submit", recorded)
    request = asyncio.ensure_future(late.save())
    async with asyncio.timeout(5):
        # Each turn, not with an event: that would come after the request has run.
        while not (sent and sent[0].done()):  # noqa: ASYNC110
            await asyncio.sleep(0)
    request.cancel()
    await storage.aclose()

    assert "colour" in await values(here, new)


async def test_closing_waits_for_a_late_save_whose_visitor_has_disconnected(
    make_storage: MakeStorage,
) -> None:
    """An app that ends meanwhile loses no change."""
    here = make_storage()
    for turns in range(1, 20):
        storage = make_storage()
        old, late = await begun(storage, ADA)
        new = await renewed(here, old)
        late.session["colour"] = "red"

        request = asyncio.ensure_future(late.save())
        for _ in range(turns):
            await asyncio.sleep(0)
        request.cancel()
        await storage.aclose()

        assert "colour" in await values(here, new), turns


async def test_nothing_follows_a_cancelled_write_whose_batch_has_failed(
    storage: MongoStorage,
) -> None:
    """Its result is not known, and the visitor has disconnected."""
    cancelled: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    cancelled.cancel()
    outcomes = []

    async def then(outcome: Any) -> None:
        outcomes.append(outcome)

    storage._store.finish_after(cancelled, then)
    await storage._store.drained()

    assert outcomes == []


@every_driver
async def test_late_saves_of_many_sessions_share_their_commands_and_are_not_mixed(
    storage: MongoStorage,
) -> None:
    """Twenty sessions that were renewed: each gets the change of its own slow requests."""
    visits = [await begun(storage, {"user_id": n}) for n in range(20)]
    again = [await load(storage, old) for old, _late in visits]
    news = [await renewed(storage, old) for old, _late in visits]
    for n, (_old, late) in enumerate(visits):
        late.session["colour"] = n
        again[n].session["shape"] = n

    await asyncio.gather(*(late.save() for _old, late in visits), *(one.save() for one in again))

    found = [await values(storage, new) for new in news]
    assert found == [{"user_id": n, "colour": n, "shape": n} for n in range(20)]


async def test_parallel_requests_around_a_sign_in_over_http_lose_nothing(
    both: tuple[Any, Any], site: Site
) -> None:
    """Over real HTTP: ten parallel changes, and one of the requests signs in."""
    changes = [(both[n % 2], lambda s, n=n: s.update({f"key {n}": n})) for n in range(10)]

    responses = await at_once(*changes, (both[0], lambda session: session.update(SIGN_IN)))

    (line,) = [line for response in responses for line in set_cookie_of(response)]
    browser = await site.visitor(line.removeprefix("session=").split(";")[0])
    assert set(await browser.session()) >= {"user_id", *(f"key {n}" for n in range(10))}
