"""Counting, clearing and purging sessions, the counters, the clock, and closing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp_session
import pytest
from aiohttp import web
from pytest_aiohttp.plugin import AiohttpServer

from storage import MongoStorage, generate_secret, save_session, setup
from storage.session import MongoSession
from tests.storage.conftest import (
    NOON,
    SESSIONS,
    Clock,
    CommandLog,
    MakeStorage,
    OpenSite,
    Visitor,
    every_driver,
    real_drivers,
    until,
)
from tests.storage.direct import load, values, visit

COUNTERS = {
    "loads", "hits", "misses", "expired", "unreadable",
    "inserts", "updates", "touches", "deletes", "commands", "unavailable", "moved",
}  # fmt: skip


def sign_in(session: Any) -> None:
    """Make 7 the owner."""
    session["user_id"] = 7


@every_driver
async def test_count_includes_active_sessions_only(make_storage: MakeStorage, clock: Clock) -> None:
    """Sessions that have expired by any timeout are not counted, even if they are still stored."""
    storage = make_storage(max_age=1200, absolute_timeout=3600)
    await visit(storage, None, sign_in)
    await visit(storage, None, lambda s: (setattr(s, "max_age", 60), s.update(a=1)))
    assert await storage.count() == 2

    clock.advance(60)
    assert await storage.count() == 1
    clock.advance(1140)
    assert await storage.count() == 0


@every_driver
async def test_clear_ends_every_session_and_keeps_the_indexes(
    make_storage: MakeStorage, collection: Any
) -> None:
    """It returns how many there were."""
    storage = make_storage()
    await storage.create_indexes()
    before = await collection.index_information()
    cookies = [await visit(storage, None, sign_in) for _ in range(3)]

    assert await storage.clear() == 3

    assert await storage.clear() == 0
    assert [await values(storage, cookie) for cookie in cookies] == [{}, {}, {}]
    assert await collection.index_information() == before


@every_driver
async def test_purge_deletes_expired_sessions_only(
    make_storage: MakeStorage, collection: Any, clock: Clock
) -> None:
    """For servers without TTL indexes: it deletes what the index would delete."""
    storage = make_storage(max_age=60)
    await visit(storage, None, sign_in)
    await visit(storage, None, sign_in)
    clock.advance(59)
    active = await visit(storage, None, sign_in)
    clock.advance(1)

    assert await storage.purge() == 2

    assert await storage.purge() == 0
    assert await collection.count_documents({}) == 1
    assert await values(storage, active) == {"user_id": 7}


async def test_counters_count_what_happened(
    make_storage: MakeStorage, collection: Any, clock: Clock
) -> None:
    """All twelve counters, for a few sessions."""
    storage = make_storage(max_age=1200)
    assert dict(storage.counters) == dict.fromkeys(COUNTERS, 0)

    cookie = await visit(storage, None, sign_in)  # insert
    await visit(storage, cookie, dict)  # load: hit
    await visit(storage, cookie, lambda session: session.update(a=1))  # load, update
    clock.advance(60)
    await visit(storage, cookie, dict)  # load, touch
    await visit(storage, "A" * 43, dict)  # load: miss
    await visit(storage, "malformed", dict)  # nothing
    renewed = await visit(storage, cookie, lambda s: s.renew())  # load, insert, delete
    clock.advance(1200)
    await values(storage, renewed)  # load: expired
    clock.advance(-1200)
    await collection.update_one(SESSIONS, {"$set": {"persistent": "?"}})
    await values(storage, renewed)  # load: unreadable
    await storage.revoke_owner(7)  # delete

    counters = dict(storage.counters)
    del counters["commands"]
    assert counters == {
        "loads": 7, "hits": 4, "misses": 1, "expired": 1, "unreadable": 1,
        "inserts": 2, "updates": 1, "touches": 1, "deletes": 2, "unavailable": 0, "moved": 0,
    }  # fmt: skip


async def end_by_sign_out(request: web.Request) -> None:
    """End the session that the cookie names."""
    (await aiohttp_session.get_session(request)).invalidate()


async def end_by_renewal(request: web.Request) -> None:
    """Move the session to a new token."""
    session = await aiohttp_session.get_session(request)
    assert isinstance(session, MongoSession)
    session.renew()


async def end_by_another_session(request: web.Request) -> None:
    """Put a new session in the place of one that was not even loaded."""
    (await aiohttp_session.new_session(request))["user_id"] = 8


async def end_by_revoke(request: web.Request) -> None:
    """End it by its handle."""
    session = await aiohttp_session.get_session(request)
    assert isinstance(session, MongoSession)
    assert isinstance(storage := session.made_by, MongoStorage)
    assert await storage.revoke(str(storage.handle(session)))


@pytest.mark.parametrize(
    "end", [end_by_sign_out, end_by_renewal, end_by_another_session, end_by_revoke]
)
async def test_each_ended_session_is_counted_once(
    storage: MongoStorage, visitor: Visitor, end: Callable[[web.Request], Awaitable[None]]
) -> None:
    """By a sign-out, by a renewal, by another session in its place, or by its handle."""

    async def handler(request: web.Request) -> web.Response:
        await end(request)
        return web.Response()

    await visitor.do(sign_in)
    await visitor.visit(handler)

    assert storage.counters["deletes"] == 1


@every_driver
async def test_wrong_call_is_not_counted_as_unavailable(storage: MongoStorage) -> None:
    """`unavailable` counts failures of MongoDB only: operators set alarms on it."""
    with pytest.raises(ValueError, match="None is nobody"):
        await storage.revoke_owner(None)
    await storage.aclose()
    with pytest.raises(RuntimeError, match=r"^this MongoStorage was closed by aclose"):
        await storage.count()

    assert storage.counters["unavailable"] == 0


@real_drivers
async def test_commands_are_counted_as_they_are_sent(
    make_storage: MakeStorage, log: CommandLog
) -> None:
    """The counter is the number of commands that the driver reports."""
    storage = make_storage()
    await storage.create_indexes()
    cookie = await visit(storage, None, sign_in)
    await visit(storage, cookie, lambda session: session.renew())
    await asyncio.gather(*(visit(storage, None, sign_in) for _ in range(20)))
    await storage.count()
    await storage.clear()

    assert storage.counters["commands"] == len(log.names)


async def test_counters_are_read_only(storage: MongoStorage) -> None:
    """Dashboards expect that counters never decrease."""
    with pytest.raises(TypeError):
        storage.counters["loads"] = 0  # type: ignore[index]


async def test_clock_is_the_system_clock_unless_it_is_replaced(
    collection: Any, clock: Clock
) -> None:
    """It returns seconds since the epoch; a test may replace it at any time."""
    storage = MongoStorage(collection, generate_secret())
    assert storage.clock is time.time

    storage.clock = clock
    cookie = await visit(storage, None, sign_in)

    assert (await load(storage, cookie)).session.created == NOON
    await storage.aclose()


async def test_clock_follows_a_time_that_is_replaced_later(
    collection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tool such as freezegun replaces `time.time` after the storage was made."""
    storage = MongoStorage(collection, generate_secret(), max_age=3600)
    storage._index_work.needed = False
    cookie = await visit(storage, None, sign_in)
    real = time.time

    monkeypatch.setattr(time, "time", lambda: real() + 3601)
    an_hour_later = await values(storage, cookie)
    monkeypatch.undo()

    assert an_hour_later == {}
    assert await values(storage, cookie) != {}
    await storage.aclose()


async def test_closing_a_storage_that_nobody_uses_waits_for_nothing(
    make_storage: MakeStorage,
) -> None:
    """An app that ends has no time to lose."""
    storage = make_storage()
    await visit(storage, None, sign_in)

    closing = asyncio.create_task(storage.aclose())
    for _turn in range(50):
        await asyncio.sleep(0)

    assert closing.done()


async def test_closing_waits_for_a_load_that_is_under_way(make_storage: MakeStorage) -> None:
    """Its visitor gets an answer, although the client is closed next."""
    storage = make_storage()
    cookie = await visit(storage, None, sign_in)
    loading = asyncio.create_task(values(storage, cookie))
    await until(lambda: bool(storage._store._finds._sent))

    await storage.aclose()
    for _turn in range(5):
        await asyncio.sleep(0)

    assert loading.done()
    assert await loading != {}


async def test_storage_may_be_closed_twice_and_in_parallel(make_storage: MakeStorage) -> None:
    """An app and its sub-apps each close it."""
    storage = make_storage()
    await visit(storage, None, sign_in)

    await asyncio.gather(storage.aclose(), storage.aclose())
    await storage.aclose()


@every_driver
async def test_closing_leaves_the_client_open(make_storage: MakeStorage, collection: Any) -> None:
    """The client belongs to the app, which may still use it."""
    storage = make_storage()
    await visit(storage, None, sign_in)

    await storage.aclose()

    assert await collection.count_documents({}) == 1


USES: dict[str, Callable[[MongoStorage], Awaitable[Any]]] = {
    "a load with a cookie": lambda storage: load(storage, "A" * 43),
    "a load without a cookie": load,
    "sessions": lambda storage: anext(storage.sessions(7)),
    "revoke": lambda storage: storage.revoke("0" * 64),
    "revoke_owner": lambda storage: storage.revoke_owner(7),
    "count": lambda storage: storage.count(),
    "clear": lambda storage: storage.clear(),
    "purge": lambda storage: storage.purge(),
    "create_indexes": lambda storage: storage.create_indexes(),
}


@pytest.mark.parametrize("use", USES)
async def test_closed_storage_refuses_every_use(make_storage: MakeStorage, use: str) -> None:
    """The `RuntimeError` says what to do; nothing waits for a closed client."""
    storage = make_storage()
    await storage.aclose()

    with pytest.raises(
        RuntimeError, match=r"^this MongoStorage was closed by aclose\(\); make a new one"
    ):
        await USES[use](storage)


async def test_save_after_closing_is_refused(make_storage: MakeStorage) -> None:
    """A session that was loaded before cannot be saved, neither by hand nor with an answer."""
    storage = make_storage()
    begun = await load(storage)
    begun.session["a"] = 1
    await storage.aclose()

    with pytest.raises(RuntimeError, match=r"^this MongoStorage was closed by aclose"):
        await begun.save()
    with pytest.raises(RuntimeError, match=r"^this MongoStorage was closed by aclose"):
        await save_session(begun.request)


async def test_app_with_a_closed_storage_does_not_start(
    make_storage: MakeStorage, open_site: OpenSite
) -> None:
    """The mistake is reported at the start, and not by each request."""
    storage = make_storage()
    await storage.aclose()

    with pytest.raises(RuntimeError, match=r"^this MongoStorage was closed by aclose"):
        await open_site(storage)


async def test_stopping_the_app_closes_the_storage_before_the_client(
    make_storage: MakeStorage, aiohttp_server: AiohttpServer
) -> None:
    """Sessions can be used in `on_shutdown`; the clean-up, which closes the client, is later."""
    storage = make_storage()
    app = web.Application()
    seen = []

    async def count_sessions(_app: web.Application) -> None:
        seen.append(f"{await storage.count()} sessions")

    async def close_client(_app: web.Application) -> None:
        with pytest.raises(RuntimeError):
            await storage.count()
        seen.append("closed")

    app.on_shutdown.append(count_sessions)
    app.on_cleanup.append(close_client)
    setup(app, storage)
    server = await aiohttp_server(app)

    await server.close()

    assert seen == ["0 sessions", "closed"]


async def test_aiohttp_session_setup_leaves_closing_to_the_app(
    open_site: OpenSite, make_storage: MakeStorage
) -> None:
    """`aiohttp_session.setup` does not close the storage: it works until `aclose()`."""
    storage = make_storage()
    site = await open_site(storage, aiohttp_session.setup)
    visitor = await site.visitor()
    await visitor.do(sign_in)

    await site.server.close()

    assert await storage.count() == 1
