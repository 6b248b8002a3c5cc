"""What a request costs: the commands that the driver sends, counted and checked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from storage import MongoStorage, generate_secret
from tests.storage.command_log import CommandLog
from tests.storage.conftest import (
    Clock,
    Handler,
    MakeStorage,
    OpenSite,
    Site,
    Visitor,
    real_drivers,
    set_cookie_of,
)
from tests.storage.direct import Visit, changed, load, loaded, saved, stored, values, visit
from tests.storage.handlers import after, log_out_and_write, plain, replace_session
from tests.storage.overlap import at_once, during

pytestmark = real_drivers

TOUCH_SECONDS = 3600
MANY = 50


def _ids_asked_for(name: str, command: dict[str, Any]) -> list[Any]:
    """Return the ``_id`` in each filter or document of a command; raises ``KeyError`` without."""
    if name == "find":
        return [command["filter"]["_id"]]
    if name == "findAndModify":
        return [command["query"]["_id"]]
    if name == "insert":
        return [document["_id"] for document in command["documents"]]
    return [part["q"]["_id"] for part in command[f"{name}s"]]


def _all_by_id(log: CommandLog) -> bool:
    """Tell whether every command contains ids, so that a sharded cluster can target the shards."""
    return all(
        isinstance(asked, bytes) or (list(asked) == ["$in"] and None not in asked["$in"])
        for command in log.commands
        for asked in _ids_asked_for(*command)
    )


KNOWN_VISITOR = [
    pytest.param(plain, [], id="session not used"),
    pytest.param(after(len), ["find"], id="read only"),
    pytest.param(after(lambda s: s.update(name="Ada")), ["find"], id="same value assigned"),
    pytest.param(after(lambda s: s.changed()), ["find"], id="changed() without a change"),
    pytest.param(after(lambda s: s.update(name="Bob")), ["find", "update"], id="changed"),
    pytest.param(after(lambda s: s["cart"].append(2)), ["find", "update"], id="nested"),
    pytest.param(after(lambda s: s.pop("cart")), ["find", "update"], id="removed"),
    pytest.param(
        after(lambda s: setattr(s, "max_age", 60)), ["find", "update"], id="other max_age"
    ),
    pytest.param(
        after(lambda s: s.update(user_id=7)), ["find", "insert", "findAndModify"], id="login"
    ),
    pytest.param(after(lambda s: s.renew()), ["find", "insert", "findAndModify"], id="renewal"),
    pytest.param(
        after(log_out_and_write),
        ["find", "insert", "findAndModify"],
        id="written after logout",
    ),
    pytest.param(replace_session, ["insert", "delete"], id="new_session() without a load"),
    pytest.param(after(lambda s: s.invalidate()), ["find", "delete"], id="logout"),
]


@pytest.mark.parametrize(("handler", "expected"), KNOWN_VISITOR)
async def test_request_of_a_known_visitor_sends_the_expected_commands(
    handler: Handler, expected: list[str], visitor: Visitor, log: CommandLog
) -> None:
    """Within the touch interval; every command contains the ``_id`` of the session."""
    await visitor.do(lambda session: session.update(name="Ada", cart=[1]))
    log.commands.clear()

    response = await visitor.visit(handler)

    assert response.status == 200
    assert log.names == expected
    assert _all_by_id(log)


@pytest.mark.parametrize(
    "cookie",
    [
        pytest.param(None, id="no cookie"),
        pytest.param("", id="empty"),
        pytest.param("A" * 42, id="42 characters"),
        pytest.param("A" * 44, id="44 characters"),
        pytest.param("A" * 42 + "!", id="wrong alphabet"),
        pytest.param("A" * 42 + "B", id="unused bits set"),
        pytest.param("A" * 42 + "=", id="padded"),
        pytest.param("../../etc/passwd", id="something else"),
    ],
)
async def test_missing_or_malformed_cookie_costs_nothing(
    cookie: str | None, site: Site, log: CommandLog
) -> None:
    """No command is sent, and an anonymous visitor who stores nothing gets no cookie."""
    visitor = await site.visitor()
    log.commands.clear()
    headers = {} if cookie is None else {"Cookie": f"session={cookie}"}

    response = await visitor.visit(after(len), headers=headers)

    assert response.status == 200
    assert log.names == []
    assert set_cookie_of(response) == []


async def test_unknown_token_costs_one_find(site: Site, log: CommandLog) -> None:
    """It has the form of a token, so MongoDB must be asked once."""
    visitor = await site.visitor(generate_secret())
    log.commands.clear()

    await visitor.do(len)

    assert log.names == ["find"]
    assert _all_by_id(log)


async def test_first_save_of_a_new_session_costs_one_insert(
    visitor: Visitor, log: CommandLog
) -> None:
    """No find is needed: the token is new and random."""
    log.commands.clear()

    await visitor.do(lambda session: session.update(name="Ada", user_id=7))

    assert log.names == ["insert"]
    assert _all_by_id(log)


async def test_change_writes_the_changed_value_only_and_never_upserts(
    visitor: Visitor, log: CommandLog
) -> None:
    """One `$set` for the changed value and one `$unset` for the removed one, nothing else."""
    await visitor.do(lambda session: session.update(name="Ada", cart=[1], step=1, colour="red"))
    log.commands.clear()

    def change(session: Any) -> None:
        session["cart"].append(2)
        session["name"] = "Ada"
        del session["step"]

    await visitor.do(change)

    (update,) = log.commands[1][1]["updates"]
    assert [field.split(".")[0] for field in update["u"].pop("$set")] == ["values"]
    assert [field.split(".")[0] for field in update["u"].pop("$unset")] == ["values"]
    assert update["u"] == {}
    assert not update.get("upsert")


async def test_due_touch_costs_one_update_of_the_dates(
    visitor: Visitor, log: CommandLog, clock: Clock
) -> None:
    """The dates only move forward (`$max`), and no value is written."""
    await visitor.do(lambda session: session.update(name="Ada"))
    clock.advance(TOUCH_SECONDS)
    log.commands.clear()

    response = await visitor.do(len)

    (update,) = log.commands[1][1]["updates"]
    assert log.names == ["find", "update"]
    assert _all_by_id(log)
    assert {operator: set(fields) for operator, fields in update["u"].items()} == {
        "$max": {"last_seen_at", "expires_at"}
    }
    assert not update.get("upsert")
    assert len(set_cookie_of(response)) == 1


async def test_parallel_requests_share_one_touch(
    visitor: Visitor, log: CommandLog, clock: Clock
) -> None:
    """Fifty parallel reads of a session with a due touch: one update, one cookie."""
    await visitor.do(lambda session: session.update(name="Ada"))
    clock.advance(TOUCH_SECONDS)
    log.commands.clear()

    responses = await at_once(*((visitor, len) for _ in range(MANY)))

    assert log.names.count("update") == 1
    assert len(log.commands[-1][1]["updates"]) == 1
    assert sum(len(set_cookie_of(response)) for response in responses) == 1
    assert _all_by_id(log)


@pytest.mark.usefixtures("never_idle")
async def test_parallel_requests_of_many_visitors_share_their_commands(
    site: Site, log: CommandLog
) -> None:
    """Fifty visitors log in, change, read and log out: every shared command contains ids too."""
    visitors = [await site.visitor() for _ in range(MANY)]
    for change in (
        lambda session: session.update(cart=[1]),
        lambda session: session.update(user_id=7),
        lambda session: session["cart"].append(2),
        len,
        lambda session: session.invalidate(),
    ):
        log.commands.clear()
        await at_once(*((visitor, change) for visitor in visitors))

        shared = [name for name in log.names if name != "findAndModify"]
        assert len(shared) < MANY
        assert _all_by_id(log)


async def test_sealing_again_after_a_rotation_costs_one_more_update_by_id(
    visitor: Visitor, make_storage: MakeStorage, open_site: OpenSite, log: CommandLog
) -> None:
    """Once, with the first save under the new secret; a read within the touch interval is free."""
    old, new = generate_secret(), generate_secret()
    before = await (await open_site(make_storage(secrets=old))).visitor()
    await before.do(lambda session: session.update(name="Ada"))
    after = await (await open_site(make_storage(secrets=[new, old]))).visitor(before.cookie)

    for change, expected in (
        (len, ["find"]),
        (lambda session: session.update(name="Bob"), ["find", "update", "update"]),
        (lambda session: session.update(name="Cleo"), ["find", "update"]),
    ):
        log.commands.clear()
        await after.do(change)

        assert log.names == expected
        assert _all_by_id(log)


async def test_finding_the_ended_sessions_of_a_bulk_write_costs_one_find_by_id(
    storage: MongoStorage, log: CommandLog
) -> None:
    """A bulk write only returns how many matched; one find of the same ids shows who has ended."""
    _cookies, visits = await changed(storage, MANY)
    await storage.revoke(str(storage.handle(visits[7].session)))
    log.commands.clear()

    await saved(visits)

    assert log.names == ["update", "find"]
    assert set(log.commands[1][1]["projection"]) == {"_id", "created_at", "expires_at", "forward"}
    assert _all_by_id(log)


async def test_renewal_with_a_parallel_change_costs_three_more_commands_by_id(
    visitor: Visitor, log: CommandLog
) -> None:
    """It is refused, so that the change can be read and copied to the new session before."""
    await visitor.do(lambda session: session.update(name="Ada"))

    async def meanwhile() -> None:
        await visitor.do(lambda session: session.update(cart=[1]))
        log.commands.clear()

    await during(visitor, meanwhile, lambda session: session.renew())

    assert log.names == ["insert", "findAndModify", "find", "update", "findAndModify"]
    assert _all_by_id(log)


async def test_renewal_of_a_session_that_has_ended_goes_by_id(
    storage: MongoStorage, visitor: Visitor, log: CommandLog
) -> None:
    """A find shows that it was not renewed, and the new document is deleted again."""
    await visitor.do(lambda session: session.update(name="Ada"))

    async def end() -> None:
        assert await storage.clear() == 1
        log.commands.clear()

    await during(visitor, end, lambda session: session.renew())

    assert log.names == ["insert", "findAndModify", "find", "delete"]
    assert _all_by_id(log)


async def test_revoking_one_session_of_an_owner_goes_by_id(
    storage: MongoStorage, log: CommandLog
) -> None:
    """The handle contains the id; the owner is one more condition."""
    (begun,) = await loaded(storage, await stored(storage, 1))
    log.commands.clear()

    assert await storage.revoke(str(storage.handle(begun.session)), owner=0)

    assert log.names == ["delete"]
    assert _all_by_id(log)


async def _late(
    storage: MongoStorage, log: CommandLog, count: int, moves: int, stored: dict[str, Any]
) -> list[Visit]:
    """Begin slow requests, and renew their sessions meanwhile; the log is empty afterwards."""
    late = []
    for _ in range(count):
        cookie = str(await visit(storage, None, lambda session: session.update(stored)))
        late.append(await load(storage, cookie))
        for _ in range(moves):
            cookie = str(await visit(storage, cookie, lambda session: session.renew()))
    log.commands.clear()
    return late


@pytest.mark.parametrize("stored", [{"a": 1}, {"a": 1, "user_id": 7}], ids=["nobody", "owner"])
async def test_save_after_a_renewal_costs_two_finds_and_one_update_more(
    stored: dict[str, Any], storage: MongoStorage, log: CommandLog
) -> None:
    """The update that finds a forward, the forward, the session, and its update."""
    (late,) = await _late(storage, log, 1, 1, stored)
    late.session["b"] = 2

    await late.save()

    assert log.names == ["update", "find", "find", "update"]
    assert log.commands[1][1]["projection"] == {
        "_id": True, "created_at": True, "expires_at": True, "forward": True,
    }  # fmt: skip
    assert _all_by_id(log)


async def test_save_after_two_renewals_costs_two_finds_and_one_update_for_the_second_one(
    storage: MongoStorage, log: CommandLog
) -> None:
    """The update changes nothing: its answer says that no failover can undo that renewal."""
    (late,) = await _late(storage, log, 1, 2, {"a": 1})
    late.session["b"] = 2

    await late.save()

    assert log.names == ["update", "find", "find", "update", "find", "find", "update"]
    assert _all_by_id(log)


async def test_save_after_a_renewal_and_an_end_costs_three_finds_and_one_update_more(
    storage: MongoStorage, collection: Any, log: CommandLog
) -> None:
    """The last update changes nothing: its answer is durable, unlike that of a find."""
    (late,) = await _late(storage, log, 1, 1, {"a": 1})
    await collection.delete_many({"forward": None})
    log.commands.clear()
    late.session["b"] = 2

    await late.save()

    assert log.names == ["update", "find", "find", "update", "find"]
    assert _all_by_id(log)


@pytest.mark.usefixtures("never_idle")
async def test_late_saves_at_the_same_time_share_their_commands(
    storage: MongoStorage, log: CommandLog
) -> None:
    """Fifty of them cost as many commands as one, apart from the first to leave."""
    late = await _late(storage, log, MANY, 1, {"a": 1})
    for begun in late:
        begun.session["b"] = 2

    await saved(late)

    assert len(log.commands) <= 12
    assert _all_by_id(log)


@pytest.mark.parametrize("moves", [1, 3])
async def test_sign_out_after_renewals_costs_a_find_and_a_delete_more_for_each(
    moves: int, storage: MongoStorage, log: CommandLog
) -> None:
    """Each delete finds a forward, until the last one finds the session."""
    (late,) = await _late(storage, log, 1, moves, {"a": 1, "user_id": 7})
    late.session.invalidate()

    await late.save()

    assert log.names == ["delete", *["find", "delete"] * moves]
    assert _all_by_id(log)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param(lambda s: s.update(a=2), ["update", "find"], id="changed"),
        pytest.param(lambda s: s.invalidate(), ["delete", "find"], id="logout"),
        pytest.param(
            lambda s: s.renew(), ["insert", "findAndModify", "find", "delete"], id="renewal"
        ),
        pytest.param(
            lambda s: s.update(user_id=8),
            ["insert", "findAndModify", "find", "delete"],
            id="another owner",
        ),
    ],
)
async def test_save_of_a_session_that_has_ended_costs_one_find_more(
    change: Callable[[Any], Any], expected: list[str], storage: MongoStorage, log: CommandLog
) -> None:
    """It shows that nothing was left to follow."""
    cookie = str(await visit(storage, None, lambda session: session.update(a=1, user_id=7)))
    begun = await load(storage, cookie)
    await storage.clear()
    log.commands.clear()

    change(begun.session)
    await begun.save()

    assert log.names == expected
    assert _all_by_id(log)


async def test_renewal_after_a_renewal_costs_one_find_more_and_writes_nothing_else(
    storage: MongoStorage, log: CommandLog
) -> None:
    """Of two at once one counts; a change of the other costs what a late save costs."""
    (late,) = await _late(storage, log, 1, 1, {"a": 1})
    late.session.renew()

    await late.save()

    assert log.names == ["insert", "findAndModify", "find", "delete"]
    assert _all_by_id(log)


async def test_load_by_grace_costs_one_find_more(storage: MongoStorage, log: CommandLog) -> None:
    """The forward, and the session at its new place."""
    old = str(await visit(storage, None, lambda session: session.update(a=1)))
    await visit(storage, old, lambda session: session.renew(10_000))
    log.commands.clear()

    assert await values(storage, old) == {"a": 1}

    assert log.names == ["find", "find"]
    assert _all_by_id(log)


async def test_keeping_a_session_costs_revoke_owner_one_find_more(
    storage: MongoStorage, log: CommandLog
) -> None:
    """It shows whether that session was renewed meanwhile."""
    cookie = str(await visit(storage, None, lambda session: session.update(user_id=7)))
    begun = await load(storage, cookie)
    log.commands.clear()

    await storage.revoke_owner(7)
    await storage.revoke_owner(7, keep=begun.session)

    assert log.names == ["delete", "find", "delete"]
