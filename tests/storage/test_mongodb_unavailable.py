"""MongoDB frozen, killed and back again: refused in time, never signed out, served again."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from aiohttp import ClientResponse, web
from pymongo import WriteConcern

from storage import MongoStorage, StorageUnavailable
from storage.session import MongoSession
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
from tests.storage.direct import values
from webapp.database.mongod import Mongod, find_mongod

pytestmark = real_drivers

TIMEOUT = 0.5
# An answer within this comes from the operation timeout, on the busiest machine too: without it,
# the driver looks for a server for 30 s, and waits for the answer of a frozen one without end.
IN_TIME = 15.0


@pytest.fixture(scope="module")
def server(mongod: Mongod, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mongod]:
    """Run a mongod of this module's own, on a port that it comes back to."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    directory = tmp_path_factory.mktemp("fragile")
    with Mongod(find_mongod(os.environ), directory, port=port) as server:
        yield server


@pytest.fixture
def mongo_uri(server: Mongod) -> str:
    """Send this module's tests to its own server."""
    return server.uri


def _states(pid: int) -> Iterator[str]:
    """Yield the state of each thread of a process: "T" is stopped."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        yield (task / "stat").read_text().rpartition(") ")[2][0]


@contextmanager
def frozen(server: Mongod) -> Iterator[None]:
    """Stop a server in mid-air: connections stay open, and nothing is answered."""
    os.kill(server.pid, signal.SIGSTOP)
    try:
        # The signal has been sent, not obeyed: on a busy machine a thread may go on for a while.
        while set(_states(server.pid)) != {"T"}:
            pass
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


@contextmanager
def killed(server: Mongod) -> Iterator[None]:
    """Kill a server without warning; start it again on its files at the end."""
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
async def guest(site: Site, visitor: Visitor) -> Visitor:
    """Open a browser with a stored session."""
    await visitor.do(lambda session: session.update(name="Ada"))
    return visitor


async def freeze_and_go_on(
    visitor: Visitor, server: Mongod, change: Callable[[MongoSession], Any]
) -> ClientResponse:
    """Freeze the server after the session was loaded; it runs again when the answer is there."""
    with ExitStack() as until_the_answer:

        def freeze_and_change(session: MongoSession) -> dict[str, Any]:
            until_the_answer.enter_context(frozen(server))
            change(session)
            return dict(session)

        return await visitor.do(freeze_and_change)


def assert_refused(response: ClientResponse) -> None:
    """Check that an answer is a 503 that changes nothing at the browser."""
    assert response.status == 503
    assert int(response.headers["Retry-After"]) >= 1
    assert set_cookie_of(response) == []


@pytest.mark.parametrize("trouble", [frozen, killed])
async def test_unavailable_mongodb_is_a_503_in_time_and_not_an_empty_session(
    guest: Visitor,
    make_storage: MakeStorage,
    open_site: OpenSite,
    server: Mongod,
    trouble: Any,
) -> None:
    """The handler is never given an empty session: it would sign the visitor out."""
    storage = make_storage(operation_timeout=TIMEOUT)
    visitor = await (await open_site(storage)).visitor(guest.cookie)
    seen = []
    with trouble(server):
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
    """A killed server that is started again needs no restart of the app, and nobody is out."""
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


async def test_first_request_after_a_frozen_server_wakes_is_served(
    guest: Visitor, server: Mongod
) -> None:
    """A driver whose operation ran out of time is not left broken."""
    with frozen(server):
        assert_refused(await guest.do(dict))

    response = await guest.do(dict)

    assert (response.status, await response.json()) == (200, {"name": "Ada"})


async def test_every_request_to_a_frozen_server_is_answered_in_time(
    make_storage: MakeStorage, open_site: OpenSite, guest: Visitor, server: Mongod
) -> None:
    """Twenty requests at a time, for several operation timeouts: each gets its answer."""
    site = await open_site(make_storage(operation_timeout=TIMEOUT))
    others = [await site.visitor(guest.cookie) for _ in range(20)]
    slowest = 0.0

    async def visit(visitor: Visitor) -> None:
        nonlocal slowest
        start = monotonic()
        assert_refused(await visitor.do(lambda session: session.update(lost=True)))
        slowest = max(slowest, monotonic() - start)

    with frozen(server):
        for _round in range(3):
            await asyncio.gather(*(visit(visitor) for visitor in others))
    first = await guest.do(dict)

    assert slowest < IN_TIME
    assert (first.status, await first.json()) == (200, {"name": "Ada"})


async def test_new_session_that_cannot_be_stored_gets_no_cookie(site: Site, server: Mongod) -> None:
    """A cookie for a session that may not exist would be a promise that nobody keeps."""
    visitor = await site.visitor()

    with frozen(server):
        response = await visitor.do(lambda session: session.update(name="Bob"))

    assert_refused(response)
    assert visitor.cookie is None


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
    guest: Visitor, site: Site, server: Mongod, change: Any
) -> None:
    """Neither is a changed session confirmed, nor a logout that may not have happened."""
    response = await freeze_and_go_on(guest, server, change)

    assert_refused(response)
    assert (await guest.do(dict)).status == 200


async def test_handler_without_session_is_served_without_mongodb(
    guest: Visitor, server: Mongod, storage: MongoStorage
) -> None:
    """A health check with a session cookie costs nothing and waits for nothing."""

    async def handler(request: web.Request) -> web.Response:
        return web.Response(text="well")

    loads = storage.counters["loads"]
    with frozen(server):
        response = await guest.visit(handler)

    assert (response.status, await response.text()) == (200, "well")
    assert storage.counters["loads"] == loads


async def test_read_only_request_whose_touch_fails_is_served_without_a_cookie(
    guest: Visitor,
    server: Mongod,
    storage: MongoStorage,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The visitor has read what there was to read; a later request touches instead."""
    clock.advance(7200)

    response = await freeze_and_go_on(guest, server, dict)

    assert (response.status, await response.json()) == (200, {"name": "Ada"})
    assert set_cookie_of(response) == []
    assert "not touched" in caplog.text
    assert storage.counters["touches"] == 0
    # The server may have carried out the frozen touch when it woke: the one after it is due later.
    clock.advance(7200)
    assert len(set_cookie_of(await guest.do(dict))) == 1


async def test_renewal_that_fails_leaves_no_second_session(
    guest: Visitor, collection: Any, server: Mongod
) -> None:
    """The session that no cookie will ever name is taken away again."""
    assert_refused(await freeze_and_go_on(guest, server, MongoSession.renew))

    async def lone() -> bool:
        return bool(await collection.count_documents({}) <= 1)

    await until(lone)


async def test_calls_outside_of_requests_raise_storage_unavailable(
    storage: MongoStorage, guest: Visitor, server: Mongod
) -> None:
    """Lists and ends of sessions raise the same error as requests do."""
    handle = "0" * 64
    with frozen(server):
        with pytest.raises(StorageUnavailable):
            await storage.revoke(handle)
        with pytest.raises(StorageUnavailable):
            await storage.revoke_owner(7)
        with pytest.raises(StorageUnavailable):
            assert [info async for info in storage.sessions(7)] == []
        for call in (storage.count, storage.clear, storage.purge, storage.create_indexes):
            with pytest.raises(StorageUnavailable):
                await call()


async def test_closing_waits_no_longer_than_the_operation_timeout(
    make_storage: MakeStorage, guest: Visitor, server: Mongod
) -> None:
    """A server that does not answer does not keep an app from ending."""
    storage = make_storage(operation_timeout=TIMEOUT)
    with frozen(server):
        with pytest.raises(StorageUnavailable):
            await values(storage, guest.cookie)
        start = monotonic()
        await storage.aclose()
        elapsed = monotonic() - start

    assert elapsed < IN_TIME
    assert storage.queued == 0
