"""MongoDB fails at one step of a save: the response is a 503, and the session stays."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from aiohttp import web
from aiohttp_session import get_session
from pymongo import AsyncMongoClient, MongoClient

from storage import MongoStorage, StorageUnavailable
from tests.conftest import NewMongod
from tests.storage.command_log import CommandLog
from tests.storage.conftest import (
    HANDLERS,
    Clock,
    Handler,
    MakeStorage,
    OpenSite,
    SetUp,
    Site,
    cookie_of,
    each_set_up,
    set_cookie_of,
    until,
)
from tests.storage.direct import load, loaded, saved, stored, values, visit
from tests.storage.handlers import after, log_out_and_write, replace_session
from tests.storage.overlap import during
from webapp.database.mongod import Mongod

BAD_VALUE = 2
NOT_WRITABLE_PRIMARY = 10107


@pytest.fixture(scope="module")
def faulty_mongod(new_mongod: NewMongod) -> Iterator[Mongod]:
    """Run a second server with fail points."""
    with new_mongod("--setParameter", "enableTestCommands=1") as server:
        yield server


@pytest.fixture
async def collection(faulty_mongod: Mongod) -> AsyncIterator[Any]:
    """Open a collection on that server."""
    async with AsyncMongoClient[dict[str, Any]](faulty_mongod.uri) as client:
        await client.drop_database("faulty")
        yield client["faulty"]["sessions"]


def fail(
    server: Mongod,
    command: str,
    times: int = 1,
    error_code: int | None = None,
    blocked_ms: int | None = None,
) -> None:
    """Let the server refuse the next commands of that name, or block them; else it hangs up."""
    how: dict[str, object] = {"closeConnection": True}
    if error_code is not None:
        how = {"errorCode": error_code}
    elif blocked_ms is not None:
        how = {"blockConnection": True, "blockTimeMS": blocked_ms}
    with MongoClient[dict[str, Any]](server.uri) as client:
        client.admin.command(
            "configureFailPoint",
            "failCommand",
            mode={"times": times} if times else "off",
            data={"failCommands": [command], **how},
        )


@contextmanager
def unconfirmed(server: Mongod, *commands: str, skip: int = 0) -> Iterator[None]:
    """Let the server run commands of these names, but answer with a write concern error.

    The first `skip` of them are answered as usual. A failover may undo the others.
    """
    too_few = {"code": 64, "errmsg": "waiting for replication timed out"}
    data = {"failCommands": commands, "writeConcernError": too_few}
    with MongoClient[dict[str, Any]](server.uri) as client:
        mode = {"skip": skip}
        client.admin.command("configureFailPoint", "failCommand", mode=mode, data=data)
        try:
            yield
        finally:
            client.admin.command("configureFailPoint", "failCommand", mode="off")


async def test_write_concern_error_is_a_503_without_a_cookie(
    site: Site, faulty_mongod: Mongod
) -> None:
    """Alone or in a batch: each visitor gets a 503."""
    visitors = [await site.visitor() for _ in range(4)]

    with unconfirmed(faulty_mongod, "insert"):
        answers = await asyncio.gather(
            *(visitor.do(lambda session: session.update(name="Ada")) for visitor in visitors)
        )

    assert [answer.status for answer in answers] == [503] * 4
    assert all(set_cookie_of(answer) == [] for answer in answers)


@each_set_up
@pytest.mark.parametrize("step", ["find", "update"])
async def test_request_that_a_middleware_repeats_after_a_503_is_saved(
    *,
    step: str,
    set_up: SetUp,
    open_site: OpenSite,
    storage: MongoStorage,
    faulty_mongod: Mongod,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its answer says that all is well, so that nothing may be lost."""

    @web.middleware
    async def retry(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except StorageUnavailable:
            return await handler(request)

    def set_up_inside(app: web.Application, storage: MongoStorage) -> None:
        app.middlewares.append(retry)
        set_up(app, storage)

    calls = []

    async def visit(request: web.Request) -> web.StreamResponse:
        request.app[HANDLERS][request.match_info["number"]] = visit
        calls.append(request)
        session = await get_session(request)
        session["n"] += 1
        return web.Response()

    visitor = await (await open_site(storage, set_up_inside)).visitor()
    await visitor.do(lambda session: session.update(n=1))
    # The driver would repeat a find that was cut off.
    fail(faulty_mongod, step, error_code=BAD_VALUE)

    response = await visitor.visit(visit)

    assert (response.status, len(calls)) == (200, 2)
    assert await visitor.session() == {"n": 2}
    assert "could not be loaded" not in caplog.text


async def test_load_that_a_handler_tries_again_is_no_warning_for_its_route(
    site: Site, faulty_mongod: Mongod, caplog: pytest.LogCaptureFixture
) -> None:
    """Its answer knows the session."""
    visitor = await site.visitor()
    await visitor.do(lambda session: session.update(n=1))
    fail(faulty_mongod, "find", error_code=BAD_VALUE)

    async def handler(request: web.Request) -> web.Response:
        with pytest.raises(StorageUnavailable):
            await get_session(request)
        return web.json_response(dict(await get_session(request)))

    assert await (await visitor.visit(handler)).json() == {"n": 1}
    assert "could not be loaded" not in caplog.text


async def test_renewal_that_a_failover_may_undo_is_a_503_without_a_cookie(
    site: Site, faulty_mongod: Mongod
) -> None:
    """The forward is there, but too few members have it: the old token might come back."""
    visitor = await site.visitor()
    await visitor.do(lambda session: session.update(name="Ada"))

    with unconfirmed(faulty_mongod, "findAndModify", "update"):
        failed = await visitor.do(lambda session: session.renew())

    assert failed.status == 503
    assert set_cookie_of(failed) == []


async def test_renewal_whose_answer_comes_too_late_is_a_503(
    open_site: OpenSite, make_storage: MakeStorage, faulty_mongod: Mongod
) -> None:
    """A limitation: there is no time for a look, and the visitor may have to sign in again."""
    site = await open_site(make_storage(operation_timeout=0.3))
    visitor = await site.visitor()
    await visitor.do(lambda session: session.update(name="Ada"))
    data = {"failCommands": ["findAndModify"], "blockConnection": True, "blockTimeMS": 600}
    with MongoClient[dict[str, Any]](faulty_mongod.uri) as client:
        client.admin.command("configureFailPoint", "failCommand", mode={"times": 1}, data=data)

        failed = await visitor.do(lambda session: session.renew())

        client.admin.command("configureFailPoint", "failCommand", mode="off")
    assert failed.status == 503
    assert set_cookie_of(failed) == []


async def test_change_of_owner_whose_answer_was_lost_is_a_503(
    site: Site, faulty_mongod: Mongod, collection: Any
) -> None:
    """A limitation: nothing is left at the old place, so that nobody knows who has ended it."""
    visitor = await site.visitor()
    await visitor.do(lambda session: session.update(user_id=7))

    with unconfirmed(faulty_mongod, "findAndModify"):
        failed = await visitor.do(lambda session: session.update(user_id=8))

    async def all_deleted() -> bool:
        return bool(await collection.count_documents({}) == 0)

    assert failed.status == 503
    assert set_cookie_of(failed) == []
    await until(all_deleted)
    assert await visitor.session() == {}


async def test_failed_touch_does_not_fail_the_read_and_sends_no_cookie(
    open_site: OpenSite,
    make_storage: MakeStorage,
    faulty_mongod: Mongod,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The page is served, the log has a warning, and the next request touches."""
    visitor = await (await open_site(make_storage(max_age=1200))).visitor()
    await visitor.do(lambda session: session.update(a=1))
    clock.advance(60)
    fail(faulty_mongod, "update")

    with caplog.at_level(logging.WARNING, logger="storage"):
        failed = await visitor.do(dict)
    following = await visitor.do(dict)

    assert failed.status == 200
    assert await failed.json() == {"a": 1}
    assert set_cookie_of(failed) == []
    assert [m for m in caplog.messages if re.match(r"session \w{8} was not touched: ", m)]
    assert cookie_of(following)["max-age"] == "1200"


async def test_failed_touch_is_not_repeated_by_the_same_request(
    site: Site, storage: MongoStorage, faulty_mongod: Mongod, clock: Clock
) -> None:
    """A file response is saved before it is sent, and checked again when it starts."""
    visitor = await site.visitor()
    await visitor.do(lambda session: session.update(name="Ada"))
    clock.advance(2 * 3600)
    fail(faulty_mongod, "update")
    sent = storage.counters["commands"]

    async def handler(request: web.Request) -> web.StreamResponse:
        await get_session(request)
        return web.FileResponse(__file__)

    response = await visitor.visit(handler)

    assert response.status == 200
    assert set_cookie_of(response) == []
    assert storage.counters["commands"] - sent == 2


async def test_failed_save_with_a_due_touch_is_a_503(
    open_site: OpenSite, make_storage: MakeStorage, faulty_mongod: Mongod, clock: Clock
) -> None:
    """The change is not stored, no cookie is sent, and the next request touches."""
    visitor = await (await open_site(make_storage(max_age=1200))).visitor()
    await visitor.do(lambda session: session.update(a=1))
    clock.advance(60)
    fail(faulty_mongod, "update")

    failed = await visitor.do(lambda session: session.update(a=2))
    following = await visitor.do(dict)

    assert failed.status == 503
    assert set_cookie_of(failed) == []
    assert await following.json() == {"a": 1}
    assert cookie_of(following)["max-age"] == "1200"


async def test_failed_save_of_a_max_age_is_a_503(
    open_site: OpenSite, make_storage: MakeStorage, faulty_mongod: Mongod
) -> None:
    """A "remember me" that was not stored is not confirmed."""
    visitor = await (await open_site(make_storage(max_age=1200))).visitor()
    await visitor.do(lambda session: session.update(a=1))
    fail(faulty_mongod, "update")

    failed = await visitor.do(lambda session: setattr(session, "max_age", 86400))

    assert failed.status == 503
    assert set_cookie_of(failed) == []


@pytest.mark.parametrize(
    ("handler", "step"),
    [
        pytest.param(after(lambda s: s.update(name="Bob")), "update", id="change"),
        pytest.param(after(lambda s: s.invalidate()), "delete", id="logout"),
        pytest.param(after(lambda s: s.renew()), "insert", id="renewal, first step"),
        pytest.param(after(lambda s: s.renew()), "findAndModify", id="renewal, second step"),
        pytest.param(after(lambda s: s.update(user_id=7)), "insert", id="login, first step"),
        pytest.param(
            after(lambda s: s.update(user_id=7)), "findAndModify", id="login, second step"
        ),
        pytest.param(after(log_out_and_write), "insert", id="written after logout, first step"),
        pytest.param(
            after(log_out_and_write), "findAndModify", id="written after logout, second step"
        ),
        pytest.param(replace_session, "insert", id="new session, first step"),
        pytest.param(replace_session, "delete", id="new session, second step"),
    ],
)
async def test_failed_step_of_a_save_leaves_the_session_as_it_was(
    handler: Handler, step: str, site: Site, faulty_mongod: Mongod, collection: Any
) -> None:
    """503 and no cookie; the old session still works, and a new document is deleted again."""
    visitor = await site.visitor()
    await visitor.do(lambda session: session.update(name="Ada"))
    fail(faulty_mongod, step)

    failed = await visitor.visit(handler)

    assert failed.status == 503
    assert failed.headers["Retry-After"] == "1"
    assert set_cookie_of(failed) == []
    assert await visitor.session() == {"name": "Ada"}

    async def deleted_again() -> bool:
        return bool(await collection.count_documents({}) == 1)

    await until(deleted_again)


@pytest.mark.parametrize(
    ("change", "step"),
    [
        pytest.param(lambda s: s.update(a=2), "update", id="in a batch"),
        pytest.param(lambda s: s.renew(), "findAndModify", id="alone"),
    ],
)
async def test_write_that_the_driver_sends_to_a_former_primary_is_sent_again(
    change: Callable[[Any], Any],
    step: str,
    open_site: OpenSite,
    make_storage: MakeStorage,
    faulty_mongod: Mongod,
) -> None:
    """PyMongo 4.20 does not repeat it if it has learned of a step-down while it was connecting."""
    # How soon the driver asks again who is primary: no step-down tells it here.
    uri = f"{faulty_mongod.uri}/?heartbeatFrequencyMS=500"
    async with AsyncMongoClient[dict[str, Any]](uri) as client:
        site = await open_site(make_storage(client["faulty"]["sessions"]))
        visitor = await site.visitor()
        await visitor.do(lambda session: session.update(a=1))
        fail(faulty_mongod, step, error_code=NOT_WRITABLE_PRIMARY)
        expected = {}

        response = await visitor.do(lambda session: (change(session), expected.update(session)))

        assert response.status == 200
        assert await visitor.session() == expected


async def test_kinds_of_writes_of_one_batch_share_its_time(
    make_storage: MakeStorage, faulty_mongod: Mongod
) -> None:
    """What a slow save has taken is not left for the sign-out that is sent after it."""
    log = CommandLog()
    async with AsyncMongoClient[dict[str, Any]](faulty_mongod.uri, event_listeners=[log]) as client:
        storage = make_storage(client["faulty"]["sessions"])
        leaving, changing = await loaded(storage, await stored(storage, 2))
        leaving.session.invalidate()
        changing.session["n"] = [1]
        fail(faulty_mongod, "update", blocked_ms=200)
        log.commands.clear()

        await saved([leaving, changing])

    limits = [command["maxTimeMS"] for _name, command in log.commands]
    assert log.names == ["update", "delete"]
    assert limits[1] <= limits[0] - 200


@pytest.mark.parametrize("count", [1, 2])
async def test_look_for_what_became_of_a_write_has_the_rest_of_its_time(
    count: int, make_storage: MakeStorage, faulty_mongod: Mongod
) -> None:
    """Of a save that has waited for MongoDB nobody waits for twice the operation timeout."""
    log = CommandLog()
    async with AsyncMongoClient[dict[str, Any]](faulty_mongod.uri, event_listeners=[log]) as client:
        storage = make_storage(client["faulty"]["sessions"])
        leaving = await loaded(storage, cookies := await stored(storage, count))
        for each in leaving:
            each.session["n"] = [1]
        for cookie in cookies:
            await visit(storage, cookie, lambda session: session.invalidate())
        fail(faulty_mongod, "update", blocked_ms=200)
        log.commands.clear()

        await saved(leaving)

    limits = [command["maxTimeMS"] for _name, command in log.commands]
    assert log.names == ["update", "find"]
    assert limits[1] <= limits[0] - 200


async def test_failed_first_save_sends_no_cookie(
    site: Site, faulty_mongod: Mongod, collection: Any
) -> None:
    """No browser gets the token of a session that was not stored."""
    visitor = await site.visitor()
    fail(faulty_mongod, "insert")

    failed = await visitor.do(lambda session: session.update(name="Ada"))

    assert failed.status == 503
    assert set_cookie_of(failed) == []
    assert await collection.count_documents({}) == 0


async def test_change_of_a_value_during_a_renewal_that_has_not_copied_it_yet_is_kept(
    storage: MongoStorage, make_storage: MakeStorage, faulty_mongod: Mongod
) -> None:
    """The value was changed after the load of the renewal, and is changed again now."""
    slow_client = AsyncMongoClient[dict[str, Any]](faulty_mongod.uri, appName="slow")
    async with slow_client, AsyncMongoClient[dict[str, Any]](faulty_mongod.uri) as client:
        slow = make_storage(slow_client["faulty"]["sessions"])
        cookie = await visit(storage, None, lambda session: session.update(user_id=7))
        renewing = await load(slow, cookie)
        await visit(storage, cookie, lambda session: session.update(n=1))
        changing = await load(storage, cookie)
        changing.session["n"] = 2
        renewing.session.renew()
        wait = {"failCommands": ["update"], "appName": "slow"}
        wait |= {"blockConnection": True, "blockTimeMS": 200}
        point = await client.admin.command(
            "configureFailPoint", "failCommand", mode="alwaysOn", data=wait
        )

        saving = asyncio.create_task(renewing.save())
        await client.admin.command(
            "waitForFailPoint", "failCommand", timesEntered=point["count"] + 1, maxTimeMS=20_000
        )
        await changing.save()
        renewed = await saving

        await client.admin.command("configureFailPoint", "failCommand", mode="off")
        assert await values(storage, renewed) == {"user_id": 7, "n": 2}


@pytest.mark.parametrize("refused", [True, False], ids=["is refused", "a failover may undo"])
@pytest.mark.parametrize("stored", [{"user_id": 7}, {"a": 1}], ids=["owner", "nobody"])
async def test_renewal_whose_copy_of_a_parallel_change_fails_is_a_503_and_leaves_the_session(
    *,
    refused: bool,
    stored: dict[str, Any],
    site: Site,
    faulty_mongod: Mongod,
    collection: Any,
) -> None:
    """What others have changed is copied before the old session ends, so that nothing is lost."""
    visitor = await site.visitor()
    await visitor.do(lambda session: session.update(stored, cart=[0]))
    other = await site.visitor(visitor.cookie)

    with ExitStack() as failing:

        async def meanwhile() -> None:
            await other.do(lambda session: session["cart"].append(1))
            if refused:
                fail(faulty_mongod, "update")
            else:
                failing.enter_context(unconfirmed(faulty_mongod, "update"))

        failed = await during(visitor, meanwhile, lambda session: session.renew())

    async def deleted_again() -> bool:
        return bool(await collection.count_documents({}) == 1)

    assert failed.status == 503
    assert set_cookie_of(failed) == []
    assert await visitor.session() == {**stored, "cart": [0, 1]}
    await until(deleted_again)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda session: session.update(step="theirs"), id="changed"),
        pytest.param(lambda session: session.pop("step"), id="removed"),
        pytest.param(lambda session: session.invalidate(), id="signed out"),
    ],
)
async def test_late_save_that_leaves_its_value_to_an_unconfirmed_write_is_a_503(
    change: Callable[[Any], Any], site: Site, faulty_mongod: Mongod
) -> None:
    """A failover may undo that write, and then neither of the two changes would be there."""
    visitor = await site.visitor()
    await visitor.do(lambda session: session.update(user_id=7, step=1))
    other = await site.visitor(visitor.cookie)
    theirs = []

    with ExitStack() as failing:

        async def meanwhile() -> None:
            await other.do(lambda session: session.renew())
            with unconfirmed(faulty_mongod, "update", "delete"):
                theirs.append(await other.do(change))
            # The late save's first update finds the forward, and nothing to write.
            failing.enter_context(unconfirmed(faulty_mongod, "update", skip=1))

        late = await during(visitor, meanwhile, lambda session: session.update(step="late"))

    assert [answer.status for answer in theirs] == [503]
    assert late.status == 503


@pytest.mark.parametrize("started", [True, False], ids=["in the handler", "by the server"])
async def test_stream_with_a_failed_save_is_a_complete_503(
    started: bool,  # noqa: FBT001 - a case
    site: Site,
    faulty_mongod: Mongod,
) -> None:
    """The error page is not mixed with the stream that did not start."""
    visitor = await site.visitor()
    fail(faulty_mongod, "insert")

    async def handler(request: web.Request) -> web.StreamResponse:
        (await get_session(request))["name"] = "Ada"
        response = web.StreamResponse()
        if started:
            await response.prepare(request)
        return response

    failed = await visitor.visit(handler)

    assert failed.status == 503
    assert "try again" in await failed.text()
    assert set_cookie_of(failed) == []


async def test_sign_in_succeeds_although_older_sessions_cannot_be_ended(
    open_site: OpenSite,
    make_storage: MakeStorage,
    faulty_mongod: Mongod,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The limit of an owner's sessions is kept again by the next sign-in."""
    storage = make_storage(max_sessions_per_owner=1)
    site = await open_site(storage)
    first, second, third = [await site.visitor() for _ in range(3)]
    await first.do(lambda session: session.update(user_id=7))

    fail(faulty_mongod, "delete")
    answer = await second.do(lambda session: session.update(user_id=7))
    assert answer.status == 200
    assert await second.session() == await first.session() == {"user_id": 7}
    assert [
        m for m in caplog.messages if m.startswith("the sessions of one owner were not limited: ")
    ]

    await third.do(lambda session: session.update(user_id=7))
    assert len([info async for info in storage.sessions(7)]) == 1
