"""What a request costs: the commands that the driver sends, counted and looked into."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp_session import get_session, new_session

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
from tests.storage.direct import id_of, loaded, saved, stored
from tests.storage.overlap import at_once, during
from tests.storage.test_shared_commands import undecodable

pytestmark = real_drivers

TOUCH_SECONDS = 3600
MANY = 50


def _changing(change: Callable[[Any], Any]) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        change(await get_session(request))
        return web.Response()

    return handler


async def _without_session(_request: web.Request) -> web.StreamResponse:
    return web.Response()


async def _new_session(request: web.Request) -> web.StreamResponse:
    (await new_session(request))["name"] = "Bob"
    return web.Response()


def _begin_anew(session: Any) -> None:
    session.invalidate()
    session["name"] = "Bob"


def _ids_asked_for(name: str, command: dict[str, Any]) -> list[Any]:
    """Return what each part of a command says of ``_id``; a missing one raises ``KeyError``."""
    if name == "find":
        return [command["filter"]["_id"]]
    if name == "findAndModify":
        return [command["query"]["_id"]]
    if name == "insert":
        return [document["_id"] for document in command["documents"]]
    return [part["q"]["_id"] for part in command[f"{name}s"]]


def _is_hot(log: CommandLog) -> bool:
    """Tell whether every command names the ids, so that a sharded cluster knows whom to ask."""
    return all(
        isinstance(asked, bytes) or (list(asked) == ["$in"] and None not in asked["$in"])
        for command in log.commands
        for asked in _ids_asked_for(*command)
    )


KNOWN_VISITOR = [
    pytest.param(_without_session, [], id="session not asked for"),
    pytest.param(_changing(len), ["find"], id="read only"),
    pytest.param(_changing(lambda s: s.update(name="Ada")), ["find"], id="same value assigned"),
    pytest.param(_changing(lambda s: s.changed()), ["find"], id="changed() without a change"),
    pytest.param(_changing(lambda s: s.update(name="Bob")), ["find", "update"], id="changed"),
    pytest.param(_changing(lambda s: s["cart"].append(2)), ["find", "update"], id="nested"),
    pytest.param(_changing(lambda s: s.pop("cart")), ["find", "update"], id="removed"),
    pytest.param(
        _changing(lambda s: setattr(s, "max_age", 60)), ["find", "update"], id="other max_age"
    ),
    pytest.param(
        _changing(lambda s: s.update(user_id=7)), ["find", "insert", "findAndModify"], id="login"
    ),
    pytest.param(_changing(lambda s: s.renew()), ["find", "insert", "findAndModify"], id="renewal"),
    pytest.param(_changing(_begin_anew), ["find", "insert", "findAndModify"], id="begun anew"),
    pytest.param(_new_session, ["insert", "delete"], id="new session without a look"),
    pytest.param(_changing(lambda s: s.invalidate()), ["find", "delete"], id="logout"),
]


@pytest.mark.parametrize(("handler", "expected"), KNOWN_VISITOR)
async def test_request_of_a_known_visitor_sends_the_expected_commands(
    handler: Handler, expected: list[str], visitor: Visitor, log: CommandLog
) -> None:
    """Within the touch interval; every command carries the session's ``_id``."""
    await visitor.do(lambda session: session.update(name="Ada", cart=[1]))
    log.commands.clear()

    response = await visitor.visit(handler)

    assert response.status == 200
    assert log.names == expected
    assert _is_hot(log)


@pytest.mark.parametrize(
    "cookie",
    [
        pytest.param(None, id="no cookie"),
        pytest.param("", id="empty"),
        pytest.param("A" * 42, id="a character short"),
        pytest.param("A" * 44, id="a character long"),
        pytest.param("A" * 42 + "!", id="wrong alphabet"),
        pytest.param("A" * 42 + "B", id="spare bits set"),
        pytest.param("A" * 42 + "=", id="padded"),
        pytest.param("../../etc/passwd", id="something else"),
    ],
)
async def test_missing_or_malformed_cookie_costs_nothing(
    cookie: str | None, site: Site, log: CommandLog
) -> None:
    """MongoDB is not asked, and an anonymous visitor who stores nothing gets no cookie."""
    visitor = await site.visitor()
    log.commands.clear()
    headers = {} if cookie is None else {"Cookie": f"session={cookie}"}

    response = await visitor.visit(_changing(len), headers=headers)

    assert response.status == 200
    assert log.names == []
    assert set_cookie_of(response) == []


async def test_unknown_token_costs_one_find(site: Site, log: CommandLog) -> None:
    """It looks like a token, so MongoDB must be asked once."""
    visitor = await site.visitor(generate_secret())
    log.commands.clear()

    await visitor.do(len)

    assert log.names == ["find"]
    assert _is_hot(log)


async def test_first_save_of_a_new_session_costs_one_insert(
    visitor: Visitor, log: CommandLog
) -> None:
    """Nothing is looked up before: the token was just drawn."""
    log.commands.clear()

    await visitor.do(lambda session: session.update(name="Ada", user_id=7))

    assert log.names == ["insert"]
    assert _is_hot(log)


async def test_change_writes_the_changed_value_only_and_never_upserts(
    visitor: Visitor, log: CommandLog
) -> None:
    """One field of `values` for one value that changed, one for one that went, nothing else."""
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
    """They only ever move forward, and no value is written."""
    await visitor.do(lambda session: session.update(name="Ada"))
    clock.advance(TOUCH_SECONDS)
    log.commands.clear()

    response = await visitor.do(len)

    (update,) = log.commands[1][1]["updates"]
    assert log.names == ["find", "update"]
    assert _is_hot(log)
    assert {operator: set(fields) for operator, fields in update["u"].items()} == {
        "$max": {"last_seen_at", "expires_at"}
    }
    assert not update.get("upsert")
    assert len(set_cookie_of(response)) == 1


async def test_parallel_requests_share_one_touch(
    visitor: Visitor, log: CommandLog, clock: Clock
) -> None:
    """However many look at a session whose touch is due: one update, one cookie."""
    await visitor.do(lambda session: session.update(name="Ada"))
    clock.advance(TOUCH_SECONDS)
    log.commands.clear()

    responses = await at_once(*((visitor, len) for _ in range(MANY)))

    assert log.names.count("update") == 1
    assert len(log.commands[-1][1]["updates"]) == 1
    assert sum(len(set_cookie_of(response)) for response in responses) == 1
    assert _is_hot(log)


async def test_parallel_requests_of_many_visitors_share_their_commands(
    site: Site, log: CommandLog
) -> None:
    """Fifty logins, changes and reads of fifty visitors: every shared command goes by ids too."""
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
        assert _is_hot(log)


async def test_sealing_again_after_a_rotation_costs_one_more_update_by_id(
    visitor: Visitor, make_storage: MakeStorage, open_site: OpenSite, log: CommandLog
) -> None:
    """A session that hangs on an older secret: one update for that, one for the change."""
    old, new = generate_secret(), generate_secret()
    before = await (await open_site(make_storage(secrets=old))).visitor()
    await before.do(lambda session: session.update(name="Ada"))
    after = await (await open_site(make_storage(secrets=[new, old]))).visitor(before.cookie)
    log.commands.clear()

    await after.do(lambda session: session.update(name="Bob"))

    assert log.names == ["find", "update", "update"]
    assert _is_hot(log)


async def test_finding_the_ended_sessions_of_a_bulk_write_costs_one_find_by_id(
    storage: MongoStorage, log: CommandLog
) -> None:
    """A bulk write counts its matches only: one find of the same ids tells who is missing."""
    visits = await loaded(storage, await stored(storage, MANY))
    for begun in visits:
        begun.session["n"].append(1)
    await storage.revoke(str(storage.handle(visits[7].session)))
    log.commands.clear()

    await saved(visits)

    assert log.names == ["update", "find"]
    assert _is_hot(log)


async def test_document_that_cannot_be_decoded_costs_its_batch_nothing(
    storage: MongoStorage, collection: Any, log: CommandLog
) -> None:
    """The driver decodes none of them: one find, as ever."""
    cookies = await stored(storage, 3)
    await collection.delete_one({"_id": id_of(cookies[1])})
    await collection.insert_one(undecodable(id_of(cookies[1])))
    log.commands.clear()

    await loaded(storage, cookies)

    assert log.names == ["find"]
    assert _is_hot(log)


async def test_renewal_with_a_parallel_change_costs_one_more_update_by_id(
    visitor: Visitor, log: CommandLog
) -> None:
    """What was changed meanwhile moves to the new session with one more update."""
    await visitor.do(lambda session: session.update(name="Ada"))

    async def neighbour() -> None:
        await visitor.do(lambda session: session.update(cart=[1]))
        log.commands.clear()

    await during(visitor, neighbour, lambda session: session.renew())

    assert log.names == ["insert", "findAndModify", "update"]
    assert _is_hot(log)


async def test_renewal_of_a_session_that_has_ended_goes_by_id(
    storage: MongoStorage, visitor: Visitor, log: CommandLog
) -> None:
    """The new document is taken back."""
    await visitor.do(lambda session: session.update(name="Ada"))

    async def end() -> None:
        assert await storage.clear() == 1
        log.commands.clear()

    await during(visitor, end, lambda session: session.renew())

    assert log.names == ["insert", "findAndModify", "delete"]
    assert _is_hot(log)


async def test_revoking_one_session_of_an_owner_goes_by_id(
    storage: MongoStorage, log: CommandLog
) -> None:
    """Its handle is its id; the owner only has to agree."""
    (begun,) = await loaded(storage, await stored(storage, 1))
    log.commands.clear()

    assert await storage.revoke(str(storage.handle(begun.session)), owner=0)

    assert log.names == ["delete"]
    assert _is_hot(log)
