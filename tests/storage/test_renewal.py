"""Renewal: one session under a new token, whatever parallel requests do."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp_session import SimpleCookieStorage
from aiohttp_session import setup as plain_setup
from pymongo import AsyncMongoClient, MongoClient, monitoring

from storage import MongoStorage, renew_session
from storage.session import MongoSession
from tests.storage.conftest import (
    SESSIONS,
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

Both = tuple[Visitor, Visitor]
OLDEST = [("$natural", 1)]


async def renew(request: web.Request) -> web.Response:
    """Renew as an app does."""
    session = await renew_session(request)
    return web.json_response(dict(session))


@every_driver
async def test_renewed_session_keeps_its_values_under_a_new_token(
    visitor: Visitor, site: Site, collection: Any
) -> None:
    """The old token is invalid, the new one works, and one session is stored."""
    await visitor.do(lambda session: session.update(name="Ada", cart=[1]))
    old_token = visitor.cookie

    response = await visitor.visit(renew)

    thief = await site.visitor(old_token)
    assert await response.json() == {"name": "Ada", "cart": [1]}
    assert visitor.cookie not in {old_token, None}
    assert await visitor.session() == {"name": "Ada", "cart": [1]}
    assert await thief.session() == {}
    assert await collection.count_documents(SESSIONS) == 1


async def test_renewal_saves_the_changes_of_its_request(visitor: Visitor) -> None:
    """New, nested and removed values are saved under the new token."""
    await visitor.do(lambda session: session.update(name="Ada", cart=[1], step=1))

    async def handler(request: web.Request) -> web.Response:
        session = await renew_session(request)
        session["cart"].append(2)
        session["colour"] = "red"
        del session["step"]
        return web.Response()

    await visitor.visit(handler)

    assert await visitor.session() == {"name": "Ada", "cart": [1, 2], "colour": "red"}


async def test_renewal_keeps_the_creation_date(
    visitor: Visitor, collection: Any, clock: Clock
) -> None:
    """A renewal does not extend the absolute timeout."""
    await visitor.do(lambda session: session.update(name="Ada"))
    created_at = (await collection.find_one(SESSIONS))["created_at"]

    clock.advance(600)
    await visitor.visit(renew)

    stored = await collection.find_one(SESSIONS)
    assert stored["created_at"] == created_at
    assert (stored["last_seen_at"] - created_at).total_seconds() == 600


@every_driver
@pytest.mark.parametrize("times", [2, 20], ids=["two", "twenty"])
async def test_parallel_renewals_leave_exactly_one_session(
    times: int, both: Both, site: Site, collection: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """One response has the cookie with the new token; the others have none, and no warning."""
    caplog.set_level(logging.INFO, "storage")

    responses = await at_once(*((both[number % 2], renew) for number in range(times)))

    cookies = [line for response in responses for line in set_cookie_of(response)]
    assert [response.status for response in responses] == [200] * times
    assert len(cookies) == 1
    assert await collection.count_documents(SESSIONS) == 1
    assert caplog.records == []
    token = cookies[0].removeprefix("session=").split(";")[0]
    assert (await (await site.visitor(token)).session())["name"] == "Ada"


@every_driver
async def test_renewal_keeps_values_saved_in_parallel(both: Both) -> None:
    """Changed, nested, new and removed values of a parallel request are kept."""

    async def meanwhile() -> None:
        def change(session: Any) -> None:
            session["name"] = "Bob"
            session["cart"].append(1)
            session["colour"] = "red"
            del session["log"]

        await both[1].do(change)

    await during(both[0], meanwhile, lambda session: session.renew())

    assert await both[0].session() == {"name": "Bob", "cart": [0, 1], "colour": "red"}


async def test_own_changes_win_over_parallel_ones_in_a_renewal(both: Both) -> None:
    """Of the same value the later save wins, in a renewal too."""

    async def meanwhile() -> None:
        await both[1].do(lambda session: session.update(name="Bob", log=[9], cart=[9]))

    def change(session: Any) -> None:
        session.renew()
        session["name"] = "Cleo"
        session["cart"].append(1)
        del session["log"]

    await during(both[0], meanwhile, change)

    assert await both[0].session() == {"name": "Cleo", "cart": [0, 1]}


async def test_renewal_keeps_a_max_age_saved_in_parallel(both: Both, collection: Any) -> None:
    """A parallel "remember me" is not undone, and the cookie has its Max-Age."""

    async def meanwhile() -> None:
        await both[1].do(lambda session: setattr(session, "max_age", 100))

    response = await during(both[0], meanwhile, lambda session: session.renew())

    stored = await collection.find_one(SESSIONS)
    assert stored["max_age"] == 100
    assert (stored["expires_at"] - stored["last_seen_at"]).total_seconds() == 100
    assert ["Max-Age=100;" in line for line in set_cookie_of(response)] == [True]


async def test_max_age_that_comes_with_a_renewal_has_priority_over_a_parallel_one(
    both: Both, collection: Any
) -> None:
    """As with values: of two parallel changes that of the renewal stays."""

    def remember(session: MongoSession) -> None:
        session.renew()
        session.max_age = 200

    async def meanwhile() -> None:
        await both[1].do(lambda session: setattr(session, "max_age", 100))

    await during(both[0], meanwhile, remember)

    assert (await collection.find_one(SESSIONS))["max_age"] == 200


@every_driver
async def test_renewal_during_parallel_writes_loses_no_acknowledged_value(
    both: Both, storage: MongoStorage, site: Site
) -> None:
    """Each parallel write is in the renewed session, unless it was not acknowledged."""
    written = storage.counters["updates"]

    def put(number: int) -> Any:
        return lambda session: session.update({f"key {number}": number})

    writers = [(both[0], put(number)) for number in range(10)]
    responses = await at_once(*writers[:5], (both[0], renew), *writers[5:])

    token = set_cookie_of(responses[5])[0].removeprefix("session=").split(";")[0]
    values = await (await site.visitor(token)).session()
    kept = [name for name in values if name.startswith("key ")]
    assert len(kept) == storage.counters["updates"] - written


async def test_renewing_an_empty_session_stores_nothing(visitor: Visitor, collection: Any) -> None:
    """Without values there is no session."""
    response = await visitor.visit(renew)

    assert set_cookie_of(response) == []
    assert await collection.count_documents(SESSIONS) == 0


async def test_every_renewal_in_a_row_gives_another_token(visitor: Visitor) -> None:
    """Six tokens after five renewals."""
    await visitor.do(lambda session: session.update(name="Ada"))
    tokens = {visitor.cookie}

    for _ in range(5):
        await visitor.visit(renew)
        tokens.add(visitor.cookie)

    assert len(tokens) == 6
    assert await visitor.session() == {"name": "Ada"}


async def test_second_save_after_a_renewal_does_not_restore_a_removed_value(
    make_storage: MakeStorage,
) -> None:
    """A value that a parallel request removed stays removed after both saves."""
    storage = make_storage()
    cookie = await visit(storage, None, lambda session: session.update(a=1, b=2))
    renewing = await load(storage, cookie)
    await visit(storage, cookie, lambda session: session.pop("b"))

    renewing.session.renew()
    cookie = await renewing.save()
    await renewing.save()

    assert dict(renewing.session) == {"a": 1}
    assert await values(storage, cookie) == {"a": 1}


async def test_second_save_after_a_renewal_does_not_write_what_was_moved_again(
    make_storage: MakeStorage,
) -> None:
    """Somebody may have changed it meanwhile at the new place."""
    storage = make_storage()
    cookie = await visit(storage, None, lambda session: session.update(a=1, b=2))
    renewing = await load(storage, cookie)
    await visit(storage, cookie, lambda session: session.update(b=3))

    renewing.session.renew()
    cookie = await renewing.save()
    await visit(storage, cookie, lambda session: session.update(b=4))
    renewing.session["a"] = 5
    await renewing.save()

    assert await values(storage, cookie) == {"a": 5, "b": 4}


async def test_session_written_after_invalidate_gets_one_new_token(
    make_storage: MakeStorage,
) -> None:
    """The second save of the request does not renew it again."""
    storage = make_storage()
    begun = await load(storage, await visit(storage, None, lambda s: s.update(a=1)))
    begun.session.invalidate()
    begun.session["a"] = 2
    await begun.save()

    await begun.save()

    assert storage.counters["inserts"] == 2


async def test_renewing_a_session_of_another_storage_is_refused(
    open_site: OpenSite, storage: MongoStorage
) -> None:
    """`renew_session` says that the session must be from a `MongoStorage`."""

    def set_up(app: web.Application, _storage: MongoStorage) -> None:
        plain_setup(app, SimpleCookieStorage())

    visitor = await (await open_site(storage, set_up)).visitor()

    async def refused(request: web.Request) -> web.Response:
        with pytest.raises(TypeError, match="Session is not from a MongoStorage"):
            await renew_session(request)
        return web.Response(text="refused")

    assert await (await visitor.visit(refused)).text() == "refused"


async def test_renewal_succeeds_when_the_old_document_was_damaged_meanwhile(
    visitor: Visitor, collection: Any
) -> None:
    """No parallel changes can be read from it; the values that were loaded are kept."""
    await visitor.do(lambda session: session.update(name="Ada"))

    async def renew(request: web.Request) -> web.Response:
        await renew_session(request)
        await collection.update_one({}, {"$set": {"key_id": "damaged"}})
        return web.Response()

    answer = await visitor.visit(renew)

    assert len(set_cookie_of(answer)) == 1
    assert await visitor.session() == {"name": "Ada"}


async def test_renewal_succeeds_when_a_parallel_change_cannot_be_decoded(
    make_storage: MakeStorage,
) -> None:
    """A decoder of the app's own that fails at random; the values that were loaded are kept."""
    calls: list[str] = []

    def decoder(encoded: str) -> Any:
        calls.append(encoded)
        if calls.count('["fails"]') == 2:
            raise ValueError
        return json.loads(encoded)

    storage, other = make_storage(decoder=decoder), make_storage()
    cookie = await visit(storage, None, lambda session: session.update(a=[1], b=1))
    begun = await load(storage, cookie)
    await visit(other, cookie, lambda session: session.update(a=["fails"]))
    begun.session.renew()

    renewed = await begun.save()

    assert renewed not in (cookie, None)
    assert (await values(other, renewed))["b"] == 1


class Meddles(monitoring.CommandListener):
    """Does something to the sessions before each findAndModify of a renewal."""

    def __init__(self, uri: str, database: str, do: Callable[[Any], Any]) -> None:
        self._uri, self._database, self._do = uri, database, do

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        """Do it through another client."""
        if event.command_name == "findAndModify":
            with MongoClient[dict[str, Any]](self._uri) as client:
                self._do(client[self._database]["sessions"])

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Ignore it."""

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """Ignore it."""


def _delete_all(sessions: Any) -> None:
    sessions.delete_many({})


def _change_the_old_one(sessions: Any) -> Any:
    longer = {"$add": [{"$ifNull": ["$max_age", 60]}, 1]}
    return sessions.find_one_and_update({}, [{"$set": {"max_age": longer}}], sort=OLDEST)


def _delete_the_new_one(sessions: Any) -> None:
    old = _change_the_old_one(sessions)
    sessions.delete_many({"_id": {"$ne": old["_id"]}})


@pytest.mark.parametrize(
    ("do", "status", "left"),
    [
        pytest.param(_delete_all, 200, 0, id="both end"),
        pytest.param(_delete_the_new_one, 200, 0, id="the new one ends"),
        pytest.param(_change_the_old_one, 503, 1, id="the old one changes again and again"),
    ],
)
async def test_renewal_during_which_a_session_ends_or_never_rests_sends_no_cookie(
    *,
    do: Callable[[Any], Any],
    status: int,
    left: int,
    mongo_uri: str,
    database_name: str,
    make_storage: MakeStorage,
    open_site: OpenSite,
) -> None:
    """Where either of the two has ended both end; where others change it all the time: 503."""
    meddles = Meddles(mongo_uri, database_name, do)
    async with AsyncMongoClient[dict[str, Any]](mongo_uri, event_listeners=[meddles]) as client:
        storage = make_storage(client[database_name]["sessions"])
        visitor = await (await open_site(storage)).visitor()
        await visitor.do(
            lambda session: (session.update(name="Ada"), setattr(session, "max_age", 9))
        )

        answer = await visitor.do(lambda session: session.renew())
        await storage.aclose()

        assert answer.status == status
        assert set_cookie_of(answer) == []
        assert await client[database_name]["sessions"].count_documents({}) == left


@pytest.mark.parametrize(
    "own",
    [pytest.param({}, id="a renewal"), pytest.param({"user_id": 7}, id="a login")],
)
async def test_renewal_does_not_restore_values_removed_in_parallel(
    storage: MongoStorage, collection: Any, own: dict[str, Any]
) -> None:
    """Two requests have removed one value each while the third one renews or logs in."""
    cookie = await visit(storage, None, lambda session: session.update(a=1, b=2))
    renewing, one, other = [await load(storage, cookie) for _ in range(3)]
    renewing.session.renew()
    renewing.session.update(own)
    del one.session["a"], other.session["b"]
    await one.save()
    await other.save()

    renewed = await renewing.save()

    assert await values(storage, renewed) == own
    assert await collection.count_documents(SESSIONS) == len(own)
    assert (renewed != cookie) is bool(own)
