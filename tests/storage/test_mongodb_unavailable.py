"""MongoDB is frozen or killed: 503 in time, nobody is signed out, and it recovers by itself."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from aiohttp import ClientResponse, web
from pymongo import MongoClient, WriteConcern

from storage import MongoStorage, SessionEnded, StorageUnavailable, save_session, watching
from storage.session import MongoSession
from tests.conftest import NewMongod
from tests.processes import free_port
from tests.storage.conftest import (
    Clock,
    MakeStorage,
    OpenSite,
    Site,
    Visitor,
    real_drivers,
    set_cookie_of,
    until,
)
from tests.storage.direct import load, stored, values, visit
from webapp.database.mongod import Mongod

pytestmark = real_drivers

TIMEOUT = 0.5
# An answer within this time comes from the operation timeout, on a busy machine too: without it,
# the driver looks for a server for 30 s, and waits for a frozen one for ever.
IN_TIME = 15.0


@pytest.fixture(scope="module")
def server(new_mongod: NewMongod) -> Iterator[Mongod]:
    """Run a mongod for this module, which restarts on the same port."""
    with new_mongod(port=free_port()) as server:
        yield server


@pytest.fixture
def mongo_uri(server: Mongod) -> str:
    """Send this module's tests to its own server."""
    return server.uri


def _states(pid: int) -> Iterator[str]:
    """Yield the state of each thread of a process: "T" is stopped."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        yield (task / "stat").read_text().rpartition(") ")[2][0]


@pytest.fixture(autouse=True)
async def created(make_storage: MakeStorage) -> None:
    """Create the collection before a storage that does not wait long needs it."""
    await make_storage().create_indexes()


@contextmanager
def frozen(server: Mongod) -> Iterator[None]:
    """Stop the process of a server: connections stay open, and nothing is answered."""
    os.kill(server.pid, signal.SIGSTOP)
    try:
        # On a busy machine a thread may run for a while after the signal was sent.
        while set(_states(server.pid)) != {"T"}:
            pass
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)
        # On a busy machine it may need longer than the operation timeout until it answers again.
        with MongoClient[Any](server.uri) as client:
            client.admin.command("ping")


@contextmanager
def killed(server: Mongod) -> Iterator[None]:
    """Kill a server; start it again with the same files at the end."""
    # Without a replica set an acknowledged write is in the journal only 0.1 s later.
    with MongoClient[Any](server.uri) as client:
        client.admin.command("fsync")
    os.kill(server.pid, signal.SIGKILL)
    server.stop()
    try:
        yield
    finally:
        server.start()


@pytest.fixture
def storage(make_storage: MakeStorage) -> MongoStorage:
    """Make a storage that does not wait long."""
    return make_storage(operation_timeout=TIMEOUT)


@pytest.fixture
async def known_visitor(site: Site, visitor: Visitor) -> Visitor:
    """Open a browser with a stored session."""
    await visitor.do(lambda session: session.update(name="Ada"))
    return visitor


async def freeze_after_load(
    visitor: Visitor, server: Mongod, change: Callable[[MongoSession], Any]
) -> ClientResponse:
    """Freeze the server after the load of the session, until the response is there."""
    with ExitStack() as until_the_answer:

        def freeze_and_change(session: MongoSession) -> dict[str, Any]:
            until_the_answer.enter_context(frozen(server))
            change(session)
            return dict(session)

        return await visitor.do(freeze_and_change)


def assert_refused(response: ClientResponse) -> None:
    """Check that a response is a 503 without a cookie."""
    assert response.status == 503
    assert int(response.headers["Retry-After"]) >= 1
    assert set_cookie_of(response) == []


@pytest.mark.parametrize("fault", [frozen, killed])
async def test_unavailable_mongodb_is_a_503_in_time_and_not_an_empty_session(
    known_visitor: Visitor,
    make_storage: MakeStorage,
    open_site: OpenSite,
    server: Mongod,
    fault: Any,
) -> None:
    """The handler does not get an empty session, which would sign the visitor out."""
    storage = make_storage(operation_timeout=TIMEOUT)
    visitor = await (await open_site(storage)).visitor(known_visitor.cookie)
    seen = []
    with fault(server):
        start = monotonic()
        response = await visitor.do(lambda session: seen.append(dict(session)))
        elapsed = monotonic() - start

    assert_refused(response)
    assert elapsed < IN_TIME
    assert seen == []
    assert storage.counters["unavailable"] == 1


async def test_next_request_after_a_restart_of_mongodb_is_served(
    make_storage: MakeStorage, open_site: OpenSite, collection: Any, server: Mongod
) -> None:
    """The app needs no restart, and nobody is signed out."""
    # Journaled, since w=1 alone may be acknowledged a moment before it would survive a kill.
    journaled = collection.with_options(write_concern=WriteConcern(w=1, j=True))
    site = await open_site(make_storage(journaled, operation_timeout=2))
    visitor = await site.visitor()
    await visitor.do(lambda session: session.update(name="Ada"))
    with killed(server):
        assert_refused(await visitor.do(dict))

    response = await visitor.do(lambda session: session.update(visits=1))

    assert response.status == 200
    assert await visitor.session() == {"name": "Ada", "visits": 1}


async def test_every_request_to_a_frozen_server_is_answered_in_time(
    make_storage: MakeStorage, open_site: OpenSite, known_visitor: Visitor, server: Mongod
) -> None:
    """Twenty requests at a time, for three operation timeouts; then requests are served again."""
    site = await open_site(make_storage(operation_timeout=TIMEOUT))
    others = [await site.visitor(known_visitor.cookie) for _ in range(20)]
    slowest = 0.0

    async def visit(visitor: Visitor) -> None:
        nonlocal slowest
        start = monotonic()
        assert_refused(await visitor.do(lambda session: session.update(lost=True)))
        slowest = max(slowest, monotonic() - start)

    with frozen(server):
        for _round in range(3):
            await asyncio.gather(*(visit(visitor) for visitor in others))
    first = await others[0].do(dict)

    assert slowest < IN_TIME
    assert (first.status, await first.json()) == (200, {"name": "Ada"})


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda session: session.update(name="Bob"), id="change"),
        pytest.param(lambda session: session.update(user_id=7), id="login"),
        pytest.param(lambda session: session.invalidate(), id="logout"),
        pytest.param(lambda session: setattr(session, "max_age", 60), id="max_age"),
        pytest.param(lambda session: session.renew(), id="renewal"),
    ],
)
async def test_save_that_fails_is_a_503_without_a_cookie(
    known_visitor: Visitor, site: Site, server: Mongod, change: Any
) -> None:
    """No change and no logout is confirmed that may not have been stored."""
    response = await freeze_after_load(known_visitor, server, change)

    assert_refused(response)
    assert (await known_visitor.do(dict)).status == 200


async def test_handler_without_session_is_served_without_mongodb(
    known_visitor: Visitor, server: Mongod, storage: MongoStorage
) -> None:
    """A health check with a session cookie sends no command."""

    async def handler(request: web.Request) -> web.Response:
        return web.Response(text="well")

    loads = storage.counters["loads"]
    with frozen(server):
        response = await known_visitor.visit(handler)

    assert (response.status, await response.text()) == (200, "well")
    assert storage.counters["loads"] == loads


async def test_renewal_that_fails_leaves_no_second_session(
    known_visitor: Visitor, collection: Any, server: Mongod
) -> None:
    """The new session, whose token no browser has, is deleted again."""
    assert_refused(await freeze_after_load(known_visitor, server, MongoSession.renew))

    async def at_most_one() -> bool:
        return bool(await collection.count_documents({}) <= 1)

    await until(at_most_one)


async def test_calls_outside_of_requests_raise_storage_unavailable(
    storage: MongoStorage, known_visitor: Visitor, server: Mongod
) -> None:
    """Every method raises the error that a request answers with."""
    calls: list[Awaitable[object]] = [
        storage.revoke("0" * 64),
        storage.revoke_owner(7),
        anext(storage.sessions(7)),
        *(call() for call in (storage.count, storage.clear, storage.purge, storage.create_indexes)),
    ]

    with frozen(server):
        raised = await asyncio.gather(*calls, return_exceptions=True)

    assert [type(error) for error in raised] == [StorageUnavailable] * len(calls)


async def test_closing_waits_no_longer_than_the_operation_timeout(
    make_storage: MakeStorage, known_visitor: Visitor, server: Mongod
) -> None:
    """An app can stop while the server does not answer."""
    storage = make_storage(operation_timeout=TIMEOUT)
    with frozen(server):
        with pytest.raises(StorageUnavailable):
            await values(storage, known_visitor.cookie)
        start = monotonic()
        await storage.aclose()
        elapsed = monotonic() - start

    assert elapsed < IN_TIME
    assert storage.queued == 0


async def test_closing_does_not_wait_for_a_list_of_sessions_that_broke_off(
    make_storage: MakeStorage, server: Mongod, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is asked to drop its cursor, and may not answer."""
    monkeypatch.setattr("storage.driver.READ_AT_ONCE", 2)
    storage = make_storage(operation_timeout=TIMEOUT)
    for _ in range(5):
        await visit(storage, None, lambda session: session.update(user_id=7))
    listed = storage.sessions(7)
    await anext(listed)

    with frozen(server):
        with pytest.raises(StorageUnavailable):
            assert [info async for info in listed] == []
        await asyncio.wait_for(storage.aclose(), IN_TIME)


async def test_change_that_is_undone_after_a_failed_save_is_undone_in_mongodb_too(
    make_storage: MakeStorage, server: Mongod
) -> None:
    """A save that has failed may be carried out all the same, after its request has given up."""

    def sign_in(session: MongoSession) -> None:
        session.update(n=[], removed=1)
        session.max_age = 600

    storage = make_storage(operation_timeout=TIMEOUT)
    cookie = str(await visit(storage, None, sign_in))
    begun = await load(storage, cookie)
    begun.session["n"].append(1)
    begun.session["added"] = True
    del begun.session["removed"]
    begun.session.max_age = 60
    with frozen(server), pytest.raises(StorageUnavailable):
        await save_session(begun.request)

    async def is_carried_out() -> bool:
        return await values(make_storage(), cookie) == {"n": [1], "added": True}

    await until(is_carried_out)
    begun.session["n"].pop()
    begun.session["removed"] = 1
    del begun.session["added"]
    begun.session.max_age = 600
    await save_session(begun.request)

    there = (await load(storage, cookie)).session
    assert (dict(there), there.max_age) == ({"n": [], "removed": 1}, 600)


@pytest.mark.parametrize("fault", [frozen, killed])
async def test_watch_goes_on_without_mongodb_and_says_so_once(
    make_storage: MakeStorage, server: Mongod, fault: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Also one that begins meanwhile; an end is noticed once MongoDB answers again."""
    caplog.set_level(logging.INFO, "storage.watching")
    storage = make_storage(operation_timeout=0.1)
    cookies = await stored(make_storage(), 2)
    begun = [await load(make_storage(), cookie) for cookie in cookies]

    async def watched(number: int) -> None:
        async with storage.watch(begun[number].session, seconds=0.05, keep_alive=True):
            await asyncio.Event().wait()

    def looks() -> int:
        return storage.counters["commands"]

    def said() -> list[str]:
        records = [record for record in caplog.records if record.name == "storage.watching"]
        return [record.getMessage() for record in records if record.levelname == "WARNING"]

    tasks = [asyncio.create_task(watched(0))]
    await until(lambda: storage._watches._places != {} and looks() > 1)
    with fault(server):
        await until(lambda: storage._watches._away)
        tasks.append(asyncio.create_task(watched(1)))
        before, warned = looks(), said()
        await until(lambda: looks() >= before + 3)
        assert said() == warned
        away = "watched sessions: they cannot be looked at, and connections stay open meanwhile: "
        assert warned[-1].startswith(f"{away}MongoDB ")
        places = list(storage._watches._places.values())
        assert [watch._entered for place in places for watch in place.watches] == [True, True]
    await until(lambda: not storage._watches._away)
    assert "watched sessions: MongoDB answers again" in caplog.messages
    assert not any(task.done() for task in tasks)
    assert await make_storage(operation_timeout=10).clear() == 2
    ended = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 30)

    assert [type(error) for error in ended] == [SessionEnded, SessionEnded]
    assert storage.counters["unavailable"] == 0


async def test_watches_of_many_sessions_wait_for_one_look_without_mongodb(
    make_storage: MakeStorage, server: Mongod, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each further one would take as long before it fails."""
    monkeypatch.setattr(watching, "BATCH_SIZE", 1)
    storage = make_storage(operation_timeout=0.1)
    cookies = await stored(make_storage(), 3)
    sessions = [(await load(make_storage(), cookie)).session for cookie in cookies]

    async with AsyncExitStack() as blocks:
        for session in sessions:
            block = storage.watch(session, seconds=20, keep_alive=True)
            await blocks.enter_async_context(block)
        with frozen(server):
            storage._watches.look_at_all()
            await until(lambda: storage._watches._away)

            assert not storage._watches._at_once


async def test_absolute_timeout_ends_a_watch_without_mongodb(
    make_storage: MakeStorage, server: Mongod, clock: Clock
) -> None:
    """Nothing can extend it, so MongoDB need not be asked."""
    storage = make_storage(operation_timeout=0.1, absolute_timeout=3600)
    (cookie,) = await stored(make_storage(), 1)
    session = (await load(make_storage(), cookie)).session

    async def watched() -> None:
        async with storage.watch(session, seconds=0.05, keep_alive=True):
            await asyncio.Event().wait()

    with frozen(server):
        task = asyncio.create_task(watched())
        await until(lambda: storage._watches._away)
        clock.advance(3600)

        with pytest.raises(SessionEnded):
            await asyncio.wait_for(task, 30)
