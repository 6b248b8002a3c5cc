"""Watched connections: a block that ends with its session, over every kind of connection."""

from __future__ import annotations

import asyncio
import gc
import logging
import resource
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import (
    ClientPayloadError,
    ClientResponse,
    ClientWebSocketResponse,
    WSCloseCode,
    WSMsgType,
    web,
)
from aiohttp_session import get_session

from storage import MongoStorage, SessionEnded, watch_session, watching
from tests.storage.command_log import CommandLog, ids_asked_for
from tests.storage.conftest import (
    Clock,
    Handler,
    MakeStorage,
    Site,
    Visitor,
    every_driver,
    real_drivers,
    until,
)
from tests.storage.direct import id_of, load, stored, values, visit

SOON = 0.05
ADA = {"user_id": 7, "cart": [1]}
# A program of its own: clears the collection that its arguments name.
CLEAR = """
import asyncio, sys
from pymongo import AsyncMongoClient
from storage import MongoStorage, generate_secret

async def main(uri, database, name):
    async with AsyncMongoClient(uri) as client:
        storage = MongoStorage(client[database][name], generate_secret())
        await storage.clear()
        await storage.aclose()

asyncio.run(main(*sys.argv[1:]))
"""


def echo(*, every: float = SOON, **options: Any) -> Handler:
    """Return a handler that answers over a WebSocket as long as the session lives."""

    async def handler(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async with watch_session(request, every, **options):
            await socket.send_str("watched")
            async for message in socket:
                await socket.send_str(message.data)
        return socket

    return handler


def events(content_type: str) -> Handler:
    """Return a handler that streams for ever."""

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": content_type})
        await response.prepare(request)
        async with watch_session(request, SOON):
            await response.write(b"data: watched\n\n")
            await asyncio.Event().wait()
        return response

    return handler


@asynccontextmanager
async def connected(
    visitor: Visitor, handler: Handler, path_of: Callable[[Handler], str]
) -> AsyncIterator[ClientWebSocketResponse]:
    """Open a WebSocket, and wait until its session is watched."""
    async with visitor.client.ws_connect(path_of(handler)) as socket:
        assert await socket.receive_str(timeout=10) == "watched"
        yield socket


async def end_of(socket: ClientWebSocketResponse) -> int | None:
    """Wait until the server closes, which says why; return the code."""
    message = await socket.receive(timeout=10)
    assert message.type is WSMsgType.CLOSE, message
    if message.data == WSCloseCode.POLICY_VIOLATION:
        assert message.extra == "session ended"
    return socket.close_code


async def _sign_out(storage: MongoStorage, cookie: str, _clock: Clock) -> None:
    await visit(storage, cookie, lambda session: session.invalidate())


async def _revoke(storage: MongoStorage, cookie: str, _clock: Clock) -> None:
    session = (await load(storage, cookie)).session
    assert await storage.revoke(str(storage.handle(session)))


async def _revoke_owner(storage: MongoStorage, _cookie: str, _clock: Clock) -> None:
    assert await storage.revoke_owner(7) == 1


async def _clear(storage: MongoStorage, _cookie: str, _clock: Clock) -> None:
    assert await storage.clear() == 1


async def _sign_in_as_another(storage: MongoStorage, cookie: str, _clock: Clock) -> None:
    await visit(storage, cookie, lambda session: session.update(user_id=8))


async def _expire(_storage: MongoStorage, _cookie: str, clock: Clock) -> None:
    clock.advance(15 * 24 * 3600)


End = Callable[[MongoStorage, str, Clock], Awaitable[None]]
HERE: list[Any] = [
    pytest.param(_sign_out, id="signed out"),
    pytest.param(_revoke, id="revoked"),
    pytest.param(_revoke_owner, id="all revoked"),
    pytest.param(_clear, id="deleted"),
    pytest.param(_sign_in_as_another, id="another owner"),
]
ENDS = [*HERE, pytest.param(_expire, id="expired")]


@every_driver
@pytest.mark.parametrize("end", ENDS)
async def test_websocket_is_closed_when_its_session_ends_in_another_process(
    end: End,
    visitor: Visitor,
    make_storage: MakeStorage,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Within the interval, with a close code of its own, and without a traceback."""
    await visitor.do(lambda session: session.update(ADA))
    async with connected(visitor, echo(), visitor.path_of) as socket:
        await socket.send_str("still here?")
        assert await socket.receive_str(timeout=10) == "still here?"

        await end(make_storage(), str(visitor.cookie), clock)

        assert await end_of(socket) == WSCloseCode.POLICY_VIOLATION
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("end", HERE)
async def test_websocket_is_closed_at_once_when_its_session_ends_in_this_process(
    end: End, site: Site, visitor: Visitor, storage: MongoStorage, clock: Clock
) -> None:
    """The interval is longer than the test may take."""
    await visitor.do(lambda session: session.update(ADA))
    async with connected(visitor, echo(every=20), site.path_of) as socket:
        await end(storage, str(visitor.cookie), clock)

        assert await end_of(socket) == WSCloseCode.POLICY_VIOLATION


@pytest.mark.parametrize("content_type", ["text/event-stream", "application/octet-stream"])
async def test_stream_ends_when_its_session_ends(
    content_type: str, site: Site, visitor: Visitor, storage: MongoStorage
) -> None:
    """The body ends properly, and the connection is closed."""
    await visitor.do(lambda session: session.update(ADA))
    stream: ClientResponse = await visitor.client.get(site.path_of(events(content_type)))
    assert await stream.content.readline() == b"data: watched\n"

    await storage.revoke_owner(7)

    assert await asyncio.wait_for(stream.content.read(), 10) == b"\n"


async def test_response_that_ends_before_its_length_closes_the_connection(
    site: Site, visitor: Visitor, storage: MongoStorage
) -> None:
    """Otherwise the browser would wait for the rest."""
    await visitor.do(lambda session: session.update(ADA))

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        async with watch_session(request):
            await response.write(b"watched\n")
            await asyncio.Event().wait()
        return response

    stream = await visitor.client.get(site.path_of(handler))
    assert await stream.content.readline() == b"watched\n"
    await storage.revoke_owner(7)

    with pytest.raises(ClientPayloadError):
        await asyncio.wait_for(stream.content.read(), 10)


async def test_request_is_answered_with_401_when_its_session_ends_before_the_answer(
    visitor: Visitor, storage: MongoStorage
) -> None:
    """There is no stream to end yet."""
    await visitor.do(lambda session: session.update(ADA))

    async def handler(request: web.Request) -> web.StreamResponse:
        async with watch_session(request, 20):
            await storage.revoke_owner(7)
            await asyncio.Event().wait()
        raise AssertionError

    response = await visitor.visit(handler)

    assert response.status == 401
    assert await response.text() == "The session has ended; sign in again."
    assert response.headers.getall("Set-Cookie", []) == []


@every_driver
async def test_renewal_with_the_same_owner_is_followed(
    site: Site, visitor: Visitor, storage: MongoStorage, make_storage: MakeStorage
) -> None:
    """Twice, by another process and by this one; the end under the newest token is noticed."""
    await visitor.do(lambda session: session.update(ADA))
    other = make_storage()
    async with connected(visitor, echo(), site.path_of) as socket:
        cookie = str(visitor.cookie)
        for renewing in (other, storage):
            cookie = str(await visit(renewing, cookie, lambda session: session.renew()))
            newest = await _place_of(storage, cookie)
            await until(lambda there=newest: there in storage._watches._places)
        await socket.send_str("still here?")
        assert await socket.receive_str(timeout=10) == "still here?"

        await other.revoke_owner(7)

        assert await end_of(socket) == WSCloseCode.POLICY_VIOLATION


async def _place_of(storage: MongoStorage, cookie: str) -> bytes:
    return bytes.fromhex(str(storage.handle((await load(storage, cookie)).session)))


@pytest.mark.parametrize("own", [{}, {"user_id": 7}], ids=["renewal", "sign-in"])
async def test_watch_of_nobodys_session_ends_with_a_sign_in_only(
    own: dict[str, Any], site: Site, visitor: Visitor, storage: MongoStorage
) -> None:
    """The person who planted the cookie before must not go on."""
    await visitor.do(lambda session: session.update(cart=[1]))
    async with connected(visitor, echo(every=20), site.path_of) as socket:

        def renew(session: Any) -> None:
            session.renew()
            session.update(own)

        cookie = str(await visit(storage, visitor.cookie, renew))

        if own:
            assert await end_of(socket) == WSCloseCode.POLICY_VIOLATION
        else:
            newest = await _place_of(storage, cookie)
            await until(lambda: newest in storage._watches._places)
            await socket.send_str("still here?")
            assert await socket.receive_str(timeout=10) == "still here?"
            await storage.clear()
            assert await end_of(socket) == WSCloseCode.POLICY_VIOLATION


@real_drivers
@pytest.mark.parametrize(("count", "finds"), [(1, 1), (64, 1), (65, 2), (130, 3)])
async def test_watched_sessions_share_their_finds(
    count: int, finds: int, storage: MongoStorage, log: CommandLog
) -> None:
    """Each reads dates and owners of 64 sessions; two connections of a session are read once."""
    begun = [await load(storage, cookie) for cookie in await stored(storage, count)]
    inside = asyncio.Event()
    blocks = [
        asyncio.create_task(_stay(one.request, inside, every=0.5)) for one in (*begun, begun[0])
    ]
    await until(lambda: len(_places(storage)) == count and _all_entered(storage))
    due = min(storage._watches._due_at.values())
    log.commands.clear()

    await until(lambda: min(storage._watches._due_at.values()) > due)
    await until(lambda: len(log.commands) >= finds)
    await until(lambda: not storage._watches._due)

    # On a busy machine the next interval may have begun.
    looks = log.commands[:finds]
    assert [name for name, _command in looks] == ["find"] * finds
    asked = [ids_asked_for(command) for _name, command in looks]
    assert len({one for ids in asked for one in ids}) == sum(map(len, asked)) == count
    assert {tuple(command["projection"]) for _name, command in looks} == {
        ("_id", "created_at", "last_seen_at", "expires_at", "max_age", "owner", "forward")
    }
    inside.set()
    await asyncio.gather(*blocks)


def _places(storage: MongoStorage) -> list[Any]:
    return list(storage._watches._places.values())


def _all_entered(storage: MongoStorage) -> bool:
    places = _places(storage)
    return bool(places) and all(watch._entered for place in places for watch in place.watches)


async def _stay(
    request: web.Request, leave: asyncio.Event, *, every: float = SOON, keep_alive: bool = True
) -> None:
    async with watch_session(request, every, keep_alive), asyncio.timeout(20):
        await leave.wait()


async def test_leaving_the_last_block_leaves_nothing_running(storage: MongoStorage) -> None:
    """One task for all, which ends with the last of them."""
    one, two = [await load(storage, cookie) for cookie in await stored(storage, 2)]
    before = asyncio.all_tasks()

    async with watch_session(one.request, 20):
        async with watch_session(two.request, 20):
            assert len(asyncio.all_tasks() - before) == 1
        (task,) = asyncio.all_tasks() - before
    await until(task.done, 5)

    assert asyncio.all_tasks() <= before
    assert _places(storage) == []


async def test_block_is_looked_at_again_after_the_shared_task_was_cancelled(
    storage: MongoStorage, make_storage: MakeStorage
) -> None:
    """The next block, which has another interval, starts the task for all."""
    cookies = await stored(storage, 2)
    one, two = [await load(storage, cookie) for cookie in cookies]

    async def block() -> None:
        async with watch_session(one.request, SOON), asyncio.timeout(20):
            task = storage._watches._task
            assert task is not None
            task.cancel()
            await until(task.done, 5)
            async with watch_session(two.request, 20):
                await visit(make_storage(), cookies[0], lambda session: session.invalidate())
                await asyncio.Event().wait()

    with pytest.raises(SessionEnded):
        await block()


async def test_cancellation_from_outside_wins(storage: MongoStorage) -> None:
    """As with asyncio.timeout, also where the session ends in the same moment."""
    (cookie,) = await stored(storage, 1)
    request = (await load(storage, cookie)).request
    inside = asyncio.Event()

    async def block() -> None:
        async with watch_session(request):
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(block())
    await inside.wait()
    (place,) = _places(storage)
    place.watches[0].end()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert _places(storage) == []


async def test_cancellation_does_not_remain_after_the_block(storage: MongoStorage) -> None:
    """Nested blocks of two sessions: the one that ended says so, the task is not cancelled."""
    outer, inner = [await load(storage, cookie) for cookie in await stored(storage, 2)]
    reached = []
    task = asyncio.current_task()
    assert task is not None

    async def ends(request: web.Request, owner: int) -> None:
        async with watch_session(request, SOON):
            await storage.revoke_owner(owner)
            await asyncio.Event().wait()

    async def both_end() -> None:
        async with watch_session(outer.request, SOON):
            with pytest.raises(SessionEnded):
                await ends(inner.request, 1)
            reached.append(task.cancelling())
            await ends(outer.request, 0)

    with pytest.raises(SessionEnded):
        await both_end()

    assert reached == [0]
    assert task.cancelling() == 0


async def test_timeout_of_the_app_inside_a_block_stays_a_timeout(storage: MongoStorage) -> None:
    """Only the watch's own end is SessionEnded."""
    (cookie,) = await stored(storage, 1)
    request = (await load(storage, cookie)).request

    with pytest.raises(TimeoutError):
        async with watch_session(request), asyncio.timeout(0):
            await asyncio.Event().wait()


async def test_block_of_a_session_that_has_ended_does_not_begin(
    storage: MongoStorage, make_storage: MakeStorage
) -> None:
    """It looks once when the block begins."""
    (cookie,) = await stored(storage, 1)
    request = (await load(storage, cookie)).request
    await make_storage().revoke_owner(0)

    with pytest.raises(SessionEnded):
        async with watch_session(request, 20):
            raise AssertionError

    assert _places(storage) == []


async def test_request_that_gives_up_while_the_block_begins_leaves_nothing(
    storage: MongoStorage,
) -> None:
    """The first look is under way when it is cancelled."""
    (cookie,) = await stored(storage, 1)
    request = (await load(storage, cookie)).request
    task = asyncio.create_task(_stay(request, asyncio.Event()))
    await until(lambda: bool(_places(storage)))
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert _places(storage) == []


async def test_session_that_is_not_stored_cannot_be_watched(storage: MongoStorage) -> None:
    """There is nothing to look at."""
    begun = await load(storage)

    with pytest.raises(RuntimeError, match=r"^watch_session: the session is not stored yet"):
        async with watch_session(begun.request):
            raise AssertionError


@pytest.mark.parametrize(
    ("arguments", "kind", "named"),
    [
        pytest.param({"every": "5"}, TypeError, "every: str", id="text"),
        pytest.param({"every": True}, TypeError, "every: bool", id="true"),
        pytest.param({"every": None}, TypeError, "every: NoneType", id="none"),
        pytest.param({"every": 0.049}, ValueError, "every: 0.049", id="too short"),
        pytest.param({"every": 20.1}, ValueError, "every: 20.1", id="too long"),
        pytest.param({"every": float("nan")}, ValueError, "every: nan", id="not a number"),
        pytest.param({"keep_alive": 1}, TypeError, "keep_alive: int", id="keep_alive"),
        pytest.param({"request": "GET /"}, TypeError, "request: str", id="request"),
    ],
)
async def test_wrong_argument_of_a_watch_is_refused_by_name(
    arguments: dict[str, Any], kind: type[Exception], named: str, storage: MongoStorage
) -> None:
    """At the call, before anything is looked at."""
    request = (await load(storage)).request

    with pytest.raises(kind, match=f"{named}.*; use (seconds or a timedelta, from 0.05|True|the)"):
        watch_session(**{"request": request, **arguments})


@every_driver
async def test_open_connection_touches_when_half_of_the_idle_timeout_has_passed(
    site: Site, visitor: Visitor, storage: MongoStorage, clock: Clock, collection: Any
) -> None:
    """Without a cookie; the next request finds its touch due and sends it.

    A stored end that is a millisecond early marks that the cookie has not been sent.
    """
    await visitor.do(lambda session: session.update(ADA))
    async with connected(visitor, echo(), site.path_of) as socket:
        for touches in range(3):
            clock.advance(6.9 * 24 * 3600)
            looks = storage.counters["commands"]
            await until(lambda before=looks: storage.counters["commands"] >= before + 2)
            assert storage.counters["touches"] == touches
            clock.advance(0.1 * 24 * 3600)
            await until(lambda before=touches: storage.counters["touches"] > before)
        await socket.send_str("still here?")
        assert await socket.receive_str(timeout=10) == "still here?"
        document = await collection.find_one({})
        assert document["expires_at"] - document["last_seen_at"] == timedelta(
            days=14, milliseconds=-1
        )

        answer = await visitor.do(len)

    assert answer.headers.getall("Set-Cookie", []) != []
    assert storage.counters["touches"] == 4


async def test_open_connection_does_not_count_as_use_without_keep_alive(
    site: Site, visitor: Visitor, storage: MongoStorage, clock: Clock
) -> None:
    """The session expires while the connection is open."""
    await visitor.do(lambda session: session.update(ADA))
    async with connected(visitor, echo(keep_alive=False), site.path_of) as socket:
        clock.advance(8 * 24 * 3600)
        await socket.send_str("still here?")
        assert await socket.receive_str(timeout=10) == "still here?"
        clock.advance(7 * 24 * 3600)

        assert await end_of(socket) == WSCloseCode.POLICY_VIOLATION
    assert storage.counters["touches"] == 0


async def test_short_idle_timeout_is_looked_at_in_time(
    site: Site, visitor: Visitor, storage: MongoStorage
) -> None:
    """Before its second half has passed, whatever interval the app has asked for."""

    def change(session: Any) -> None:
        session.update(ADA)
        session.max_age = 2

    await visitor.do(change)
    async with connected(visitor, echo(every=20), site.path_of):
        assert list(storage._watches._due_at) == [0.5]


async def test_block_may_begin_right_after_the_last_one_was_left(storage: MongoStorage) -> None:
    """The task that looked for the last one is ending still."""
    (cookie,) = await stored(storage, 1)
    request = (await load(storage, cookie)).request

    async with asyncio.timeout(20):
        for _ in range(2):
            async with watch_session(request, 20):
                pass


async def test_idle_timeout_that_was_shortened_meanwhile_is_looked_at_in_time(
    storage: MongoStorage, make_storage: MakeStorage
) -> None:
    """From the next look on."""
    (cookie,) = await stored(storage, 1)

    async with watch_session((await load(storage, cookie)).request, 20):
        await visit(make_storage(), cookie, lambda session: setattr(session, "max_age", 2))
        storage._watches.look_at_all()
        await until(lambda: 0.5 in storage._watches._due_at, 10)


async def test_ends_elsewhere_are_noticed_within_five_seconds_unless_the_app_says_otherwise(
    storage: MongoStorage,
) -> None:
    """The default of `every`."""
    (cookie,) = await stored(storage, 1)

    async with watch_session((await load(storage, cookie)).request):
        assert list(storage._watches._due_at) == [5]


async def test_next_look_is_not_more_than_one_interval_away(storage: MongoStorage) -> None:
    """For the first connection, and for one that comes while others are watched."""
    one, two = [await load(storage, cookie) for cookie in await stored(storage, 2)]

    async with watch_session(one.request, 20), watch_session(two.request, 10):
        now = asyncio.get_running_loop().time()
        due_at = dict(storage._watches._due_at)

    assert sorted(due_at) == [10, 20]
    assert [every for every, at in due_at.items() if not now < at <= now + every] == []


async def test_absolute_timeout_ends_a_watched_session(
    make_storage: MakeStorage, clock: Clock
) -> None:
    """However active its connection is."""
    storage = make_storage(absolute_timeout=3600)
    (cookie,) = await stored(storage, 1)
    request = (await load(storage, cookie)).request
    clock.advance(3599)

    async def too_long() -> None:
        async with watch_session(request, SOON):
            clock.advance(1)
            await asyncio.Event().wait()

    with pytest.raises(SessionEnded):
        await too_long()


async def test_values_are_unaffected_by_a_watch(storage: MongoStorage) -> None:
    """A watch reads dates and owner alone."""
    (cookie,) = await stored(storage, 1)
    request = (await load(storage, cookie)).request

    async with watch_session(request):
        assert dict(await get_session(request)) == {"user_id": 0, "n": []}

    assert await values(storage, cookie) == {"user_id": 0, "n": []}


@every_driver
@pytest.mark.parametrize(
    "damage",
    [
        pytest.param({"owner": b"short"}, id="owner of another shape"),
        pytest.param({"owner": bytes(16)}, id="another owner"),
        pytest.param({"expires_at": "tomorrow"}, id="no date"),
        pytest.param({"forward": 7}, id="forward of another shape"),
        pytest.param({"forward": b"x" * 90}, id="forward that does not open"),
    ],
)
async def test_damaged_document_ends_the_watch(
    damage: dict[str, Any], storage: MongoStorage, collection: Any
) -> None:
    """It is no session, and the watches beside it go on."""
    cookies = await stored(storage, 2)
    damaged, other = [await load(storage, cookie) for cookie in cookies]
    leave = asyncio.Event()
    others = asyncio.create_task(_stay(other.request, leave))
    task = asyncio.create_task(_stay(damaged.request, leave))
    await until(lambda: _all_entered(storage))

    await collection.update_one({"_id": id_of(cookies[0])}, {"$set": damage})

    with pytest.raises(SessionEnded):
        await asyncio.wait_for(task, 10)
    leave.set()
    await others


async def test_forward_that_has_ended_is_not_followed(
    storage: MongoStorage, make_storage: MakeStorage, clock: Clock
) -> None:
    """A database writer can keep it longer, but its end is sealed."""
    (cookie,) = await stored(storage, 1)
    begun = await load(storage, cookie)
    await visit(make_storage(), cookie, lambda session: session.renew())
    clock.advance(60)

    with pytest.raises(SessionEnded):
        await _stay(begun.request, asyncio.Event())


@real_drivers
async def test_each_session_is_looked_at_in_its_own_interval(
    storage: MongoStorage, log: CommandLog
) -> None:
    """One with a long interval is not in the finds of the others."""
    often, rarely = [await load(storage, cookie) for cookie in await stored(storage, 2)]
    async with watch_session(rarely.request, 20), watch_session(often.request, SOON):
        log.commands.clear()
        await until(lambda: len(log.commands) >= 3)

    asked = [ids_asked_for(command) for _name, command in log.commands]
    assert asked == [[bytes.fromhex(str(storage.handle(often.session)))]] * len(asked)


async def test_two_connections_of_one_session_end_together(
    storage: MongoStorage, make_storage: MakeStorage
) -> None:
    """Opened before and after a renewal, with different intervals; one of them leaves before."""
    (cookie,) = await stored(storage, 1)
    before = await load(storage, cookie)
    leave, never = asyncio.Event(), asyncio.Event()
    leaving = asyncio.create_task(_stay(before.request, leave, every=20))
    staying = [asyncio.create_task(_stay(before.request, never))]
    other = make_storage()
    new = str(await visit(other, cookie, lambda session: session.renew()))
    after = await load(storage, new)
    staying.append(asyncio.create_task(_stay(after.request, never, every=20)))
    await until(lambda: [len(place.watches) for place in _places(storage)] == [3])
    leave.set()
    await leaving

    await other.revoke_owner(0)
    ended = await asyncio.gather(*staying, return_exceptions=True)

    assert [type(error) for error in ended] == [SessionEnded, SessionEnded]


async def test_session_is_watched_although_its_most_frequent_watch_has_left(
    storage: MongoStorage, make_storage: MakeStorage
) -> None:
    """Then at the interval of those that remain."""
    (cookie,) = await stored(storage, 1)
    begun = await load(storage, cookie)
    leave, never = asyncio.Event(), asyncio.Event()
    leaving = asyncio.create_task(_stay(begun.request, leave, every=0.1))
    await until(lambda: bool(storage._watches._due_at))
    staying = asyncio.create_task(_stay(begun.request, never, every=0.4))
    await until(lambda: [w._entered for p in _places(storage) for w in p.watches] == [True] * 2)
    looks = storage.counters["commands"]
    await until(lambda: storage.counters["commands"] > looks)
    await until(lambda: not storage._store._driver._tasks)
    leave.set()
    await leaving
    await make_storage().revoke_owner(0)

    with pytest.raises(SessionEnded):
        await asyncio.wait_for(staying, 10)


async def test_connection_that_leaves_during_a_look_is_left_alone(
    storage: MongoStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was found comes too late for it."""
    one, two = [await load(storage, cookie) for cookie in await stored(storage, 2)]
    find, leave = storage._store.find_watched, asyncio.Event()
    task = asyncio.create_task(_stay(one.request, leave))
    await until(lambda: _all_entered(storage))

    async def slow(identifiers: Any) -> Any:
        found = await find(identifiers)
        if one.session.snapshot.stored.identifier in identifiers:  # type: ignore[union-attr]
            leave.set()
            await until(task.done)
        return found

    monkeypatch.setattr(storage._store, "find_watched", slow)
    async with watch_session(two.request, 20):
        await until(task.done)
        assert len(_places(storage)) == 1

    assert task.exception() is None


async def test_closed_storage_watches_nothing(storage: MongoStorage) -> None:
    """Open blocks stay open; no new one begins."""
    (cookie,) = await stored(storage, 1)
    request = (await load(storage, cookie)).request
    leave = asyncio.Event()
    task = asyncio.create_task(_stay(request, leave))
    await until(lambda: _all_entered(storage))

    await storage.aclose()
    with pytest.raises(RuntimeError, match="closed"):
        await _stay(request, leave)
    leave.set()

    await task


async def test_connection_of_a_stolen_token_survives_a_renewal_until_all_are_revoked(
    site: Site, visitor: Visitor, storage: MongoStorage
) -> None:
    """A renewal ends no open connection of the same user, and `keep` keeps it too."""
    await visitor.do(lambda session: session.update(ADA))
    thief = await site.visitor(visitor.cookie)
    async with connected(thief, echo(every=20), site.path_of) as socket:
        await visitor.do(lambda session: session.renew())
        await visitor.do(lambda session: storage.revoke_owner(7, keep=session))
        await socket.send_str("still here?")
        assert await socket.receive_str(timeout=10) == "still here?"

        await storage.revoke_owner(7)

        assert await end_of(socket) == WSCloseCode.POLICY_VIOLATION


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


async def _clear_elsewhere(mongo_uri: str, collection: Any) -> None:
    """End every session from another process."""
    names = collection.database.name, collection.name
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", CLEAR, mongo_uri, *names)
    async with asyncio.timeout(60):
        assert await process.wait() == 0


@pytest.mark.long
async def test_thousand_watched_websockets_end_within_the_interval_when_revoked_elsewhere(
    site: Site,
    visitor: Visitor,
    storage: MongoStorage,
    collection: Any,
    *,
    mongo_uri: str,
    log: CommandLog,
) -> None:
    """Sixteen finds in each interval, constant memory, and two rounds of finds close all."""
    count, finds = 1000, 16
    cookies = await stored(storage, count)
    sockets = []

    async def open_one(cookie: str) -> None:
        headers = {"Cookie": f"session={cookie}"}
        path = site.path_of(echo(every=1, keep_alive=False))
        socket = await visitor.client.ws_connect(path, headers=headers)
        assert await socket.receive_str(timeout=30) == "watched"
        sockets.append(socket)

    for first in range(0, count, 100):
        await asyncio.gather(*map(open_one, cookies[first : first + 100]))
    watches = storage._watches

    async def one_interval() -> int:
        due = watches._due_at[1]
        log.commands.clear()
        await until(lambda: watches._due_at[1] > due and not watches._due)
        return len(log.commands)

    await one_interval()
    gc.collect()
    before = _resident_bytes()
    counted = [await one_interval() for _ in range(3)]
    grown = _resident_bytes() - before
    log.commands.clear()
    await _clear_elsewhere(mongo_uri, collection)
    codes = await asyncio.gather(*(end_of(socket) for socket in sockets))

    assert counted == [finds] * 3
    assert grown < 2**20
    assert codes == [WSCloseCode.POLICY_VIOLATION] * count
    assert log.names.count("find") <= 2 * finds
    await until(lambda: not _places(storage))
    for socket in sockets:
        await socket.close()


async def test_session_that_ends_in_a_task_group_closes_the_connection_quietly(
    site: Site, visitor: Visitor, storage: MongoStorage, caplog: pytest.LogCaptureFixture
) -> None:
    """The exception arrives in a group; an unsaved change is not logged either."""
    await visitor.do(lambda session: session.update(ADA))

    async def watch(request: web.Request) -> None:
        async with watch_session(request, 20):
            await asyncio.Event().wait()

    async def handler(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        session = await get_session(request)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(watch(request))
            await until(lambda: _all_entered(storage))
            session["late"] = True
            await socket.send_str("watched")
            await socket.receive()
        return socket

    async with connected(visitor, handler, site.path_of) as socket:
        await storage.revoke_owner(7)

        assert await end_of(socket) == WSCloseCode.POLICY_VIOLATION
    gc.collect()
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


async def test_end_of_a_session_that_the_request_has_not_loaded_is_answered_with_401(
    visitor: Visitor,
) -> None:
    """An app may raise it itself."""

    async def handler(_request: web.Request) -> web.StreamResponse:
        raise SessionEnded

    assert (await visitor.visit(handler)).status == 401


async def test_other_error_beside_the_end_of_a_session_is_not_hidden(
    visitor: Visitor, caplog: pytest.LogCaptureFixture
) -> None:
    """A group that holds more than the end of a session is an error as any other."""

    async def handler(_request: web.Request) -> web.StreamResponse:
        raise BaseExceptionGroup("two", [SessionEnded(), ValueError("wrong")])

    response = await visitor.visit(handler)

    assert response.status == 500
    assert [record.levelname for record in caplog.records] == ["ERROR"]


@real_drivers
async def test_only_the_sessions_of_a_revoked_owner_are_looked_at(
    storage: MongoStorage, log: CommandLog
) -> None:
    """And nothing is looked at for an owner whom nobody watches."""
    one, two = [await load(storage, cookie) for cookie in await stored(storage, 2)]
    leave = asyncio.Event()
    tasks = [asyncio.create_task(_stay(b.request, leave, every=20)) for b in (one, two)]
    await until(lambda: [w._entered for p in _places(storage) for w in p.watches] == [True] * 2)
    log.commands.clear()

    await storage.revoke_owner("somebody else")
    await storage.revoke_owner(0)
    with pytest.raises(SessionEnded):
        await tasks[0]
    leave.set()
    await tasks[1]

    assert log.names == ["delete", "delete", "find"]
    assert len(ids_asked_for(log.commands[2][1])) == 1


async def test_sessions_are_looked_at_in_the_order_of_their_watches(
    storage: MongoStorage, log: CommandLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there are more than one batch, nobody waits for others who came later."""
    monkeypatch.setattr(watching, "BATCH_SIZE", 2)
    cookies = await stored(storage, 5)
    visits = [await load(storage, cookie) for cookie in cookies]
    leave = asyncio.Event()
    log.commands.clear()

    def asked() -> list[bytes]:
        batches = [ids_asked_for(command) for _name, command in log.commands]
        assert all(len(batch) <= 2 for batch in batches)
        return [identifier for batch in batches for identifier in batch]

    tasks = [asyncio.create_task(_stay(begun.request, leave, every=20)) for begun in visits]
    await until(lambda: len(asked()) == 5)
    leave.set()
    await asyncio.gather(*tasks)

    assert asked() == [id_of(cookie) for cookie in cookies]


@pytest.mark.parametrize("every", [SOON, 20], ids=["in its interval", "at once"])
async def test_connection_that_leaves_before_its_look_does_not_stop_the_looks_at_others(
    storage: MongoStorage, make_storage: MakeStorage, monkeypatch: pytest.MonkeyPatch, every: float
) -> None:
    """Its session waited for the find that is under way for another one."""
    monkeypatch.setattr(watching, "BATCH_SIZE", 1)
    one, two = [await load(storage, cookie) for cookie in await stored(storage, 2)]
    leave, watches = asyncio.Event(), storage._watches
    staying = asyncio.create_task(_stay(one.request, asyncio.Event(), every=every))
    leaving = asyncio.create_task(_stay(two.request, leave, every=every))
    await until(lambda: [w._entered for p in _places(storage) for w in p.watches] == [True] * 2)
    if every == 20:
        watches.look_at_all()
    waiting = id_of(two.request.cookies["session"])
    await until(lambda: [waiting] in (list(watches._at_once), list(watches._due)))
    leave.set()
    await leaving

    await make_storage().clear()
    watches.look_at_all()

    with pytest.raises(SessionEnded):
        await asyncio.wait_for(staying, 10)


async def test_first_look_is_not_in_the_log(
    storage: MongoStorage, caplog: pytest.LogCaptureFixture
) -> None:
    """The line that MongoDB answers again is logged after an outage only."""
    (cookie,) = await stored(storage, 1)
    begun = await load(storage, cookie)

    with caplog.at_level(logging.INFO, "storage"):
        async with watch_session(begun.request):
            pass

    assert caplog.records == []


async def test_block_that_begins_while_the_storage_is_closed_is_not_left_waiting(
    storage: MongoStorage,
) -> None:
    """It begins without a look."""
    (cookie,) = await stored(storage, 1)
    request = (await load(storage, cookie)).request
    leave = asyncio.Event()
    task = asyncio.create_task(_stay(request, leave))
    await until(lambda: bool(_places(storage)))

    await storage.aclose()
    leave.set()

    await asyncio.wait_for(task, 10)
