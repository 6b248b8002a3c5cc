"""A visitor who comes with a session of another storage gets one of ours, and the old one ends."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp_session
import pytest
from aiohttp import CookieJar, web
from aiohttp.test_utils import make_mocked_request
from aiohttp_session import AbstractStorage, Session, get_session, new_session
from aiohttp_session.redis_storage import RedisStorage
from bson import ObjectId, json_util
from pymongo import AsyncMongoClient
from pytest_aiohttp.plugin import AiohttpClient
from redis.asyncio import Redis

from storage import MongoStorage, StorageUnavailable, moving, renew_session, setup
from tests.processes import free_port
from tests.storage.conftest import (
    Clock,
    CommandLog,
    Handler,
    MakeStorage,
    OpenSite,
    Site,
    Visitor,
    set_cookie_of,
    until,
)
from tests.storage.direct import load, visit
from tests.storage.handlers import file, redirect, stream
from tests.storage.old_storages import IN_COOKIES, ON_SERVERS, OwnStorage, old_storage, server

each_kind = pytest.mark.parametrize("kind", [*IN_COOKIES, *ON_SERVERS])
each_kind_on_a_server = pytest.mark.parametrize("kind", ON_SERVERS)
both_names = pytest.mark.parametrize("name", ["session", "OLD"], ids=["same name", "another name"])
ADA = {"user_id": 7, "cart": ["tea"]}
SINCE = datetime(1999, 12, 31, tzinfo=UTC)
NOT_READABLE = [
    "A" * 43,  # an unknown token of ours
    "1" * 42 + "0",  # another one, which is a number in JSON
    "x" * 300,  # longer than a key of Memcached
    "[1]",
    "7",
    '{"session": 7}',
    '{"session": {"a": 1}, "created": "now"}',
    '"' + "[" * 3000 + '"',
    "caf\xe9 \x80",
    "%20 %00",
]
BSON_TEXT = {"encoder": json_util.dumps, "decoder": json_util.loads}

MakeOld = Callable[..., Awaitable[AbstractStorage]]
Browse = Callable[..., Awaitable[Visitor]]


@pytest.fixture(scope="module")
def port_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], int | None]]:
    """Return where the server of a kind of storage listens; it starts when first asked for."""
    programs = {"redis": "redis-server", "memcached": "memcached"}
    ports: dict[str, int] = {}
    with ExitStack() as stack:

        def port_of(kind: str) -> int | None:
            if kind in programs and kind not in ports:
                folder = tmp_path_factory.mktemp(kind)
                ports[kind] = stack.enter_context(server(programs[kind], folder))
            return ports.get(kind)

        yield port_of


@pytest.fixture
async def make_old(port_of: Callable[[str], int | None], collection: Any) -> AsyncIterator[MakeOld]:
    """Make old storages, closed when the test ends."""
    async with AsyncExitStack() as stack:

        async def make(kind: str, name: str = "OLD", **options: Any) -> AbstractStorage:
            made = old_storage(kind, port_of(kind), collection, cookie_name=name, **options)
            return await stack.enter_async_context(made)

        yield make


@pytest.fixture
def own() -> OwnStorage:
    """Make a storage of the app's own, under another cookie name."""
    return OwnStorage(cookie_name="OLD")


@pytest.fixture
async def browse(open_site: OpenSite, aiohttp_client: AiohttpClient) -> Browse:
    """Visit apps with one browser: the app of before, and then the one with our storage."""
    jar = CookieJar(unsafe=True)
    sites: dict[AbstractStorage, Site] = {}

    async def at(storage: Any, jar: CookieJar = jar, **options: Any) -> Visitor:
        if storage not in sites:
            if not isinstance(storage, MongoStorage):
                options.setdefault("set_up", aiohttp_session.setup)
            sites[storage] = await open_site(storage, **options)
        return Visitor(sites[storage], await aiohttp_client(sites[storage].server, cookie_jar=jar))

    return at


async def sign_in(visitor: Visitor, **values: Any) -> None:
    """Begin a session, as before the move."""
    response = await visitor.do(lambda session: session.update(values or ADA))
    assert response.status == 200


async def begin_before(
    old: AbstractStorage, make_storage: MakeStorage, browse: Browse, **options: Any
) -> tuple[MongoStorage, Visitor]:
    """Begin a session in the app of before, and open the app that moves it."""
    storage = make_storage(moving_from=old, **options)
    await sign_in(await browse(old))
    return storage, await browse(storage)


def cookies(visitor: Visitor) -> dict[str, str]:
    """Return the cookies that a browser would send."""
    jar: Any = visitor.client.session.cookie_jar
    sent = jar.filter_cookies(visitor.client.make_url("/"))
    return {name: morsel.value for name, morsel in sent.items()}


def send(visitor: Visitor, **named: str) -> None:
    """Let a browser have these cookies and no other."""
    visitor.client.session.cookie_jar.clear()
    visitor.client.session.cookie_jar.update_cookies(named, visitor.client.make_url("/"))


# What moves


@each_kind
@both_names
async def test_visitor_of_each_storage_moves_at_the_first_read_and_stays_signed_in(
    kind: str, name: str, make_old: MakeOld, make_storage: MakeStorage, browse: Browse
) -> None:
    """Values and owner are the same; the second request finds a session of ours."""
    old = await make_old(kind, name)
    storage, visitor = await begin_before(old, make_storage, browse)

    moved = await visitor.do(dict)
    again = await visitor.do(dict)

    assert await moved.json() == await again.json() == ADA
    assert set_cookie_of(again) == []
    assert [info.handle async for info in storage.sessions(7)] != []
    assert (storage.counters["moved"], storage.counters["inserts"]) == (1, 1)


@each_kind
@both_names
async def test_sign_out_after_the_move_is_final(
    kind: str, name: str, make_old: MakeOld, make_storage: MakeStorage, browse: Browse
) -> None:
    """The next request has no session, neither ours nor the old one."""
    old = await make_old(kind, name)
    storage, visitor = await begin_before(old, make_storage, browse)
    await visitor.session()

    await visitor.do(lambda session: session.invalidate())

    assert await visitor.session() == {}
    assert await storage.count() == 0
    assert await (await browse(old)).session() == {}


@each_kind
@both_names
async def test_sign_out_in_the_request_that_would_move_the_session_is_final(
    kind: str, name: str, make_old: MakeOld, make_storage: MakeStorage, browse: Browse
) -> None:
    """Nothing is stored, and the old session ends."""
    old = await make_old(kind, name)
    storage, visitor = await begin_before(old, make_storage, browse)

    await visitor.do(lambda session: session.invalidate())

    assert await visitor.session() == {}
    assert await (await browse(old)).session() == {}
    assert (storage.counters["moved"], storage.counters["inserts"]) == (0, 0)


@each_kind_on_a_server
async def test_old_session_has_ended_for_a_visitor_who_kept_its_cookie(
    kind: str, make_old: MakeOld, make_storage: MakeStorage, browse: Browse, clock: Clock
) -> None:
    """A server forgets it at the move; a minute later its cookie is no session here and there."""
    old = await make_old(kind)
    storage = make_storage(moving_from=old)
    before = await browse(old)
    await sign_in(before)
    kept = cookies(before)
    await (await browse(storage)).session()
    thief = await browse(storage, CookieJar(unsafe=True))
    clock.advance(60)

    send(thief, **kept)

    assert await thief.session() == {}
    assert await (await browse(old, thief.client.session.cookie_jar)).session() == {}


@pytest.mark.parametrize("kind", IN_COOKIES)
async def test_copy_of_a_cookie_that_holds_the_session_itself_moves_again(
    kind: str, make_old: MakeOld, make_storage: MakeStorage, browse: Browse
) -> None:
    """Nobody can end such a cookie: that is so before the move, and until it has expired."""
    old = await make_old(kind)
    storage = make_storage(moving_from=old)
    before = await browse(old)
    await sign_in(before)
    kept = cookies(before)
    visitor = await browse(storage)
    await visitor.session()
    await visitor.do(lambda session: session.invalidate())

    send(visitor, **kept)

    assert await visitor.session() == ADA
    assert storage.counters["moved"] == 2


@pytest.mark.parametrize("before", [[get_session], []], ids=["after a load", "without a load"])
@pytest.mark.parametrize("kind", ["redis", "encrypted cookie"])
async def test_new_session_ends_the_old_one_for_good(
    kind: str,
    before: list[Any],
    make_old: MakeOld,
    make_storage: MakeStorage,
    browse: Browse,
) -> None:
    """After a later sign-out the session of before does not come back."""
    old = await make_old(kind)
    storage, visitor = await begin_before(old, make_storage, browse)

    async def start_new_session(request: web.Request) -> web.Response:
        for ask in before:
            await ask(request)
        (await new_session(request))["user_id"] = 8
        return web.Response()

    await visitor.visit(start_new_session)
    signed_in = await visitor.session()
    await visitor.do(lambda session: session.invalidate())

    assert signed_in == {"user_id": 8}
    assert await visitor.session() == {}
    assert storage.counters["moved"] == 0


async def test_sign_out_ends_an_old_session_beside_ours(
    own: OwnStorage, make_storage: MakeStorage, browse: Browse
) -> None:
    """A process that still runs the old code may have begun one after the move."""
    storage = make_storage(moving_from=own)
    visitor = await browse(storage)
    await sign_in(visitor)
    await sign_in(await browse(own))

    await visitor.do(lambda session: session.invalidate())

    assert own.kept == {}
    assert await visitor.session() == {}


async def test_sign_out_is_completed_if_the_visitor_goes_while_the_old_storage_is_asked(
    own: OwnStorage, make_storage: MakeStorage
) -> None:
    """The old storage answers later, and both sessions end."""
    storage = make_storage(moving_from=own)
    cookie = await visit(storage, None, lambda session: session.update(ADA))
    begun = await load(storage, cookie)
    begun.session.invalidate()
    asked, answering = asyncio.Event(), asyncio.Event()

    async def slowly() -> None:
        asked.set()
        await answering.wait()

    own.before_load = slowly
    leaving = asyncio.create_task(begun.save())
    await asyncio.wait_for(asked.wait(), 10)
    leaving.cancel()
    await asyncio.wait({leaving})
    answering.set()
    await storage.aclose()

    assert await make_storage().count() == 0


async def test_change_of_the_first_request_is_stored_with_the_move(
    own: OwnStorage, make_storage: MakeStorage, browse: Browse
) -> None:
    """Nested changes too; the request sees a session that is not new."""
    _storage, visitor = await begin_before(own, make_storage, browse)

    was_new = await visitor.do(lambda session: (session["cart"].append("milk"), session.new)[1])

    assert await was_new.json() is False
    assert await visitor.session() == {"user_id": 7, "cart": ["tea", "milk"]}


async def test_renewal_and_another_owner_in_the_first_request_end_the_old_session(
    own: OwnStorage, make_storage: MakeStorage, browse: Browse
) -> None:
    """The token is a new one in any case."""
    storage, visitor = await begin_before(own, make_storage, browse)

    async def renew(request: web.Request) -> web.Response:
        (await renew_session(request))["user_id"] = 8
        return web.Response()

    await visitor.visit(renew)

    assert own.kept == {}
    assert [info.label async for info in storage.sessions(8)] == [""]
    assert storage.counters["inserts"] == 1


async def test_moved_session_is_created_now_and_gets_its_label(
    own: OwnStorage, make_storage: MakeStorage, browse: Browse, clock: Clock
) -> None:
    """The absolute timeout starts at the move, whatever the old storage knows."""
    storage, visitor = await begin_before(
        own, make_storage, browse, absolute_timeout=600, describe=lambda _request: "phone"
    )
    await visitor.session()

    (info,) = [info async for info in storage.sessions(7)]

    assert (info.created_at.timestamp(), info.label) == (clock.now, "phone")
    assert info.expires_at - info.created_at == timedelta(seconds=600)


@pytest.mark.parametrize(
    ("max_age", "expected"),
    [
        pytest.param(60, 60, id="its own"),
        pytest.param(3600, 1200, id="that of the old storage"),
        pytest.param(None, 1200, id="none"),
        pytest.param(-1, 1200, id="an impossible one"),
        pytest.param("60", 1200, id="text"),
    ],
)
async def test_max_age_that_a_storage_keeps_for_a_session_moves_too(
    max_age: Any, expected: int, make_storage: MakeStorage, browse: Browse
) -> None:
    """No bundled storage keeps one, but a storage of the app's own may."""
    own = OwnStorage(cookie_name="OLD", max_age=3600)
    storage, visitor = await begin_before(own, make_storage, browse, max_age=1200)
    own.max_ages = dict.fromkeys(own.kept, max_age)

    seen = await visitor.do(lambda session: session.max_age)

    (info,) = [info async for info in storage.sessions(7)]
    assert await seen.json() == expected
    assert info.expires_at - info.created_at == timedelta(seconds=expected)


# Requests that come late with the old cookie


@each_kind_on_a_server
@both_names
async def test_late_request_with_the_old_cookie_finds_the_moved_session(
    kind: str, name: str, make_old: MakeOld, make_storage: MakeStorage, browse: Browse
) -> None:
    """A page sends many requests at once; what this one writes is kept, and it sends no cookie."""
    old = await make_old(kind, name)
    storage = make_storage(moving_from=old)
    before = await browse(old)
    await sign_in(before)
    kept = cookies(before)
    visitor = await browse(storage)
    await visitor.session()
    late = await browse(storage, CookieJar(unsafe=True))
    send(late, **kept)

    answer = await late.do(lambda session: session.update(late=session["user_id"]))

    assert set_cookie_of(answer) == []
    assert await visitor.session() == {**ADA, "late": 7}
    assert await storage.count() == 1


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(lambda session: session.invalidate(), id="sign-out"),
        pytest.param(lambda session: session.renew(), id="renewal"),
        pytest.param(lambda session: session.update(user_id=8), id="sign-in"),
    ],
)
async def test_old_cookie_opens_nothing_after_a_sign_out_or_a_new_token(
    step: Callable[[Any], None], own: OwnStorage, make_storage: MakeStorage, browse: Browse
) -> None:
    """Somebody may have planted it before the sign-in."""
    storage = make_storage(moving_from=own)
    before = await browse(own)
    await sign_in(before)
    kept = cookies(before)
    visitor = await browse(storage)
    await visitor.session()
    await visitor.do(step)
    late = await browse(storage, CookieJar(unsafe=True))

    send(late, **kept)

    assert await late.session() == {}


PLANTED = {
    "in a cookie of another name": "lang=en {}",
    "after a Unicode space": "\u2000{}",
    "after quotes that span cookies": 'a="x; b" {}',
    "beside the visitor's own": "OLD=unknown; lang=en {}",
}


@pytest.mark.parametrize("moved_before", [False, True], ids=["not moved", "just moved"])
@pytest.mark.parametrize("planted", PLANTED.values(), ids=PLANTED)
async def test_sibling_host_cannot_let_a_visitor_move_into_its_own_account(
    planted: str,
    moved_before: bool,  # noqa: FBT001 - a case
    own: OwnStorage,
    make_storage: MakeStorage,
    browse: Browse,
) -> None:
    """The old storage takes such a cookie for its own, as every general parser does."""
    storage = make_storage(moving_from=own)
    mallory = await browse(own)
    await sign_in(mallory, user_id="mallory")
    (token,) = own.kept
    if moved_before:
        await (await browse(storage)).session()
    victim = await browse(storage, CookieJar(unsafe=True))
    cookie = planted.format(f"OLD={token}")

    seen = await victim.do(dict, headers={"Cookie": cookie})

    assert (await seen.json(), set_cookie_of(seen)) == ({}, [])
    request = make_mocked_request("GET", "/", headers={"Cookie": cookie})
    assert own.load_cookie(request) == token  # by itself it would have opened the session


@pytest.mark.parametrize("name", ["", "OLD"], ids=["no name", "a name"])
async def test_other_cookies_of_the_request_reach_the_old_storage(
    name: str, make_storage: MakeStorage, browse: Browse
) -> None:
    """One of the app's own may read them, and may have no name for its own."""
    seen: list[dict[str, str]] = []

    class Reading(OwnStorage):
        async def load_session(self, request: web.Request) -> Session:
            seen.append(dict(request.cookies))
            return Session(None, data=None, new=True)

    visitor = await browse(make_storage(moving_from=Reading(cookie_name=name)))
    await visitor.do(dict, headers={"Cookie": "X=1; OLD=x; b=OLD=1;\tc=2"})

    rest = {"X": "1", "OLD": "x", "c": "2"}
    assert seen == [rest | ({} if name else {"b": "OLD=1"})]


async def test_two_visitors_with_the_same_readable_cookie_get_two_sessions(
    make_old: MakeOld, make_storage: MakeStorage, browse: Browse
) -> None:
    """A cookie that holds the values is no identity: theirs may be equal."""
    storage = make_storage(moving_from=await make_old("simple cookie"))
    cookie = '{"created": 4000000000, "session": {"language": "en"}}'
    visitors = [await browse(storage, CookieJar(unsafe=True)) for _ in range(2)]

    for visitor in visitors:
        send(visitor, OLD=cookie)
        await visitor.do(lambda session: session.update(n=len(session)))

    assert await storage.count() == 2
    assert cookies(visitors[0])["session"] != cookies(visitors[1])["session"]


async def test_old_cookie_of_nobody_opens_nothing_after_moves_of_others(
    own: OwnStorage, make_storage: MakeStorage, browse: Browse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the latest moves are remembered, each for its own cookie."""
    monkeypatch.setattr("storage.moving.MOVES_REMEMBERED", 1)
    storage = make_storage(moving_from=own)
    seen = []
    for number in range(2):
        before = await browse(own, CookieJar(unsafe=True))
        await sign_in(before, number=number)
        seen.append(cookies(before))
        await (await browse(storage, before.client.session.cookie_jar)).session()
    late = await browse(storage, CookieJar(unsafe=True))

    found = []
    for sent in (*seen, {"OLD": "unknown"}, {}):
        send(late, **sent)
        found.append(await late.session())

    assert found == [{}, {"number": 1}, {}, {}]


# How it is saved


@pytest.mark.parametrize("answer", [file, redirect, stream])
@both_names
async def test_files_redirects_and_streams_carry_both_cookies_of_a_move(
    name: str, answer: Handler, make_storage: MakeStorage, browse: Browse
) -> None:
    """Ours is set; the old one is deleted unless it has the same name."""
    own = OwnStorage(cookie_name=name)
    _storage, visitor = await begin_before(own, make_storage, browse)

    async def read(request: web.Request) -> web.StreamResponse:
        await get_session(request)
        return await answer(request)

    lines = set_cookie_of(await visitor.visit(read))

    set_by_line = {line.partition("=")[0]: "Max-Age=1209600" in line for line in lines}
    assert len(lines) == len(set_by_line)
    assert set_by_line == {name: False, "session": True}
    assert cookies(visitor).keys() == {"session"}
    assert await visitor.session() == ADA


async def test_app_and_sub_app_with_one_storage_move_a_session_once(
    own: OwnStorage, make_storage: MakeStorage, browse: Browse, aiohttp_client: AiohttpClient
) -> None:
    """Whether the app or the sub-app reads it first."""
    storage = make_storage(moving_from=own)
    before = await browse(own)
    await sign_in(before)

    async def read(request: web.Request) -> web.Response:
        return web.json_response(dict(await get_session(request)))

    app, sub_app = web.Application(), web.Application()
    for each in (app, sub_app):
        setup(each, storage)
        each.router.add_get("/read", read)
    app.add_subapp("/sub", sub_app)
    visitor = await aiohttp_client(app, cookie_jar=before.client.session.cookie_jar)

    seen = [await (await visitor.get(path)).json() for path in ("/sub/read", "/read")]

    assert seen == [ADA, ADA]
    assert (storage.counters["moved"], own.saves) == (1, 2)


async def test_sub_app_without_our_setup_keeps_no_copy_of_a_session_that_moves(
    own: OwnStorage, make_storage: MakeStorage, browse: Browse, aiohttp_client: AiohttpClient
) -> None:
    """A sub-app with the set-up of aiohttp-session would save what says it has changed."""
    storage = make_storage(moving_from=own)
    before = await browse(own)
    await sign_in(before)
    other = OwnStorage(cookie_name="SUB")

    @web.middleware
    async def read_first(request: web.Request, handler: Any) -> web.StreamResponse:
        await get_session(request)
        return await handler(request)  # type: ignore[no-any-return]

    async def answer(_request: web.Request) -> web.Response:
        return web.Response()

    app, sub_app = web.Application(), web.Application()
    setup(app, storage)
    app.middlewares.append(read_first)
    aiohttp_session.setup(sub_app, other)
    sub_app.router.add_get("/", answer)
    app.add_subapp("/sub", sub_app)
    visitor = await aiohttp_client(app, cookie_jar=before.client.session.cookie_jar)

    await visitor.get("/sub/")

    assert other.saves == 0
    assert storage.counters["moved"] == 1


async def test_read_moves_with_the_plain_setup_of_aiohttp_session(
    own: OwnStorage, make_storage: MakeStorage, browse: Browse
) -> None:
    """Its middleware saves only sessions that say they have changed."""
    storage = make_storage(moving_from=own)
    await sign_in(await browse(own))
    visitor = await browse(storage, set_up=aiohttp_session.setup)

    assert await visitor.session() == ADA

    assert own.kept == {}
    assert storage.counters["moved"] == 1


@pytest.mark.parametrize("status", [500, 503])
async def test_failed_request_moves_nothing(
    status: int, own: OwnStorage, make_storage: MakeStorage, browse: Browse
) -> None:
    """The old session stays as it is, and moves with the next request."""
    storage, visitor = await begin_before(own, make_storage, browse)

    async def fail(request: web.Request) -> web.Response:
        (await get_session(request))["half"] = True
        return web.Response(status=status)

    failed = await visitor.visit(fail)

    assert set_cookie_of(failed) == []
    assert own.sessions == [ADA]
    assert await storage.count() == 0
    assert await visitor.session() == ADA


async def test_parallel_first_requests_sign_nobody_out(
    make_old: MakeOld, make_storage: MakeStorage, browse: Browse
) -> None:
    """Each may begin a session; the one whose cookie comes last is used."""
    old = await make_old("redis", "session")
    storage = make_storage(moving_from=old)
    await sign_in(await browse(old))
    visitors = [await browse(storage) for _ in range(4)]
    all_loaded = asyncio.Barrier(len(visitors))

    async def read(request: web.Request) -> web.Response:
        session = await get_session(request)
        await all_loaded.wait()
        return web.json_response(dict(session))

    answers = await asyncio.gather(*(visitor.visit(read) for visitor in visitors))

    assert [await answer.json() for answer in answers] == [ADA] * 4
    assert await visitors[0].session() == ADA
    assert 1 <= await storage.count() <= 4


async def test_two_reads_in_one_request_get_one_session(
    own: OwnStorage, make_storage: MakeStorage, browse: Browse
) -> None:
    """It moves once."""
    storage, visitor = await begin_before(own, make_storage, browse)

    async def read_twice(request: web.Request) -> web.Response:
        first, second = await asyncio.gather(get_session(request), get_session(request))
        return web.json_response(first is second)

    assert await (await visitor.visit(read_twice)).json() is True
    assert storage.counters["moved"] == 1


# What it costs


async def test_visitor_without_an_old_session_costs_one_load_of_the_old_storage(
    own: OwnStorage, make_storage: MakeStorage, browse: Browse, log: CommandLog
) -> None:
    """No command to MongoDB for a read, and one for the first value, as without the argument."""
    visitor = await browse(make_storage(moving_from=own))
    log.commands.clear()

    await visitor.session()
    await visitor.do(lambda session: session.update(a=1))

    assert (own.loads, own.saves) == (2, 0)
    assert log.names == ["insert"]


async def test_move_costs_one_insert_and_later_requests_do_not_ask_the_old_storage(
    own: OwnStorage, make_storage: MakeStorage, browse: Browse, log: CommandLog
) -> None:
    """One load and one save at the old storage, in the first request."""
    _storage, visitor = await begin_before(own, make_storage, browse)
    log.commands.clear()
    own.loads = own.saves = 0

    for _ in range(3):
        await visitor.session()

    assert (own.loads, own.saves) == (1, 1)
    assert log.names == ["insert", "find", "find"]


# What the old storage cannot read, and when it fails


@each_kind
async def test_cookie_that_the_old_storage_cannot_read_is_no_session(
    kind: str, make_old: MakeOld, make_storage: MakeStorage, open_site: OpenSite
) -> None:
    """The answer is 200 without a session, and no cookie."""
    site = await open_site(make_storage(moving_from=await make_old(kind, "session")))

    async def read(request: web.Request) -> web.Response:
        return web.Response(headers={"Values": str(len(await get_session(request)))})

    for cookie in NOT_READABLE:
        sent = f"Cookie: session={cookie}\r\n".encode("latin-1")
        head = await site.head_on_the_wire(read, sent)

        assert head.startswith("HTTP/1.1 200"), cookie
        assert "Values: 0" in head, cookie
        assert "Set-Cookie" not in head, cookie


async def test_cookie_that_cannot_be_read_is_one_warning_without_the_cookie(
    make_old: MakeOld,
    make_storage: MakeStorage,
    browse: Browse,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It names the storage and the kind of error."""
    old = await make_old("simple cookie")
    visitor = await browse(make_storage(moving_from=old))
    send(visitor, OLD="hunter2")

    await visitor.session()

    assert caplog.messages == [
        "moving_from: the old storage (SimpleCookieStorage) cannot read the cookie: JSONDecodeError"
    ]


async def test_storage_of_the_app_may_return_none_for_no_session(
    own: OwnStorage, make_storage: MakeStorage, monkeypatch: pytest.MonkeyPatch, browse: Browse
) -> None:
    """Anything but a session of aiohttp-session counts as no session."""

    async def none(_request: web.Request) -> None:
        """Have none."""

    monkeypatch.setattr(own, "load_session", none)
    visitor = await browse(make_storage(moving_from=own))

    assert await visitor.session() == {}


async def test_old_storage_that_is_away_is_a_503_and_signs_nobody_out(
    make_storage: MakeStorage, browse: Browse, caplog: pytest.LogCaptureFixture
) -> None:
    """No cookie is sent; the log says which storage and what kind of error."""
    async with Redis(host="127.0.0.1", port=free_port(), socket_timeout=1, retry=None) as absent:
        storage = make_storage(moving_from=RedisStorage(absent, cookie_name="OLD"))
        visitor = await browse(storage)
        send(visitor, OLD="0123456789abcdef")

        refused = await visitor.do(dict)

    assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
    assert set_cookie_of(refused) == []
    assert "(RedisStorage) has failed: ConnectionError" in caplog.text
    assert "0123456789abcdef" not in caplog.text
    assert storage.counters["unavailable"] == 1


async def test_old_storage_that_hangs_is_a_503_in_time_and_works_again_later(
    own: OwnStorage, make_storage: MakeStorage, browse: Browse
) -> None:
    """It waits for the old storage as long as for MongoDB."""
    _storage, visitor = await begin_before(own, make_storage, browse, operation_timeout=0.05)
    answering = asyncio.Event()
    own.before_load = answering.wait

    refused = await visitor.do(dict)
    answering.set()

    assert refused.status == 503
    assert await visitor.session() == ADA


async def test_old_storage_that_hangs_does_not_delay_the_end_of_the_app(
    own: OwnStorage, make_storage: MakeStorage, browse: Browse
) -> None:
    """What it was asked for is left to it."""
    storage, visitor = await begin_before(own, make_storage, browse, operation_timeout=0.05)
    answering = asyncio.Event()
    own.before_load = answering.wait
    assert (await visitor.do(dict)).status == 503

    closing = asyncio.create_task(storage.aclose())
    for _turn in range(50):
        await asyncio.sleep(0)
    closed_in_time = closing.done()
    answering.set()
    await closing

    assert closed_in_time


@pytest.mark.parametrize("error", [OSError, TypeError])
async def test_old_session_that_cannot_be_ended_is_a_503_and_does_not_move(
    error: type[Exception],
    own: OwnStorage,
    make_storage: MakeStorage,
    browse: Browse,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A sign-out would not be final. The next request moves it."""
    storage, visitor = await begin_before(own, make_storage, browse)

    def fail() -> None:
        raise error("hunter2")

    own.before_save = fail
    refused = await visitor.do(dict)
    own.before_save = dict
    await until(lambda: storage.counters["deletes"] == 1)

    assert (refused.status, set_cookie_of(refused)) == (503, [])
    assert await storage.count() == 0
    assert storage.counters["moved"] == 0
    assert f"(OwnStorage) has failed: {error.__name__}" in caplog.text
    assert "hunter2" not in caplog.text
    assert await visitor.session() == ADA


@pytest.mark.parametrize("values", [ADA, {"user_id": 7, "since": "?"}], ids=["moves", "stays"])
async def test_no_frame_of_a_failed_move_shows_a_value(
    values: dict[str, Any], own: OwnStorage, make_storage: MakeStorage
) -> None:
    """Error trackers record the variables of every frame."""
    storage = make_storage(moving_from=own, max_bytes=40 if "since" in values else 1000)
    secret = "hunter2" * 10
    own.kept["visitor"] = {"session": {**values, "secret": secret}}
    request = make_mocked_request("GET", "/", {"Cookie": "OLD=visitor"})
    session = await storage.load_session(request)
    session["new"] = secret

    def fail() -> None:
        raise OSError(secret)

    own.before_save = fail
    with pytest.raises(StorageUnavailable) as failure:
        await storage.save_session(request, web.Response(), session)

    frames = [frame for frame, _line in traceback.walk_tb(failure.value.__traceback__)]
    ours = [frame for frame in frames if frame.f_code.co_filename == moving.__file__]
    shown = [repr(value) for frame in ours for value in frame.f_locals.values()]
    assert len(ours) > 1
    assert "hunter2" not in "".join(shown)
    assert failure.value.__cause__ is None
    assert failure.value.__suppress_context__


async def test_sign_out_that_the_old_storage_refuses_is_a_503_and_signs_out_nowhere(
    own: OwnStorage, make_storage: MakeStorage, browse: Browse
) -> None:
    """The visitor tries again."""
    storage = make_storage(moving_from=own)
    visitor = await browse(storage)
    await sign_in(visitor)
    await sign_in(await browse(own))

    def fail() -> None:
        raise OSError

    own.before_save = fail
    refused = await visitor.do(lambda session: session.invalidate())

    assert (refused.status, set_cookie_of(refused)) == (503, [])
    assert await visitor.session() == ADA


async def test_unavailable_mongodb_of_the_old_storage_is_a_503(
    make_storage: MakeStorage, browse: Browse
) -> None:
    """Another MongoStorage raises what ours raises."""
    async with AsyncMongoClient[Any](f"mongodb://127.0.0.1:{free_port()}") as nobody:
        old = make_storage(nobody["app"]["before"], cookie_name="OLD", operation_timeout=0.05)
        visitor = await browse(make_storage(moving_from=old))
        send(visitor, OLD="A" * 43)

        refused = await visitor.do(dict)

    assert refused.status == 503
    assert old.counters["unavailable"] == 1


# Values that our encoder refuses


async def test_session_with_a_value_that_is_refused_stays_in_the_old_storage(
    own: OwnStorage,
    make_storage: MakeStorage,
    browse: Browse,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The visitor stays signed in there; one warning names the key, and never the value."""
    storage = make_storage(moving_from=own)
    await sign_in(await browse(own), user_id=7, since=SINCE)
    visitor = await browse(storage)
    saves = own.saves

    for _ in range(2):
        seen = await visitor.do(lambda session: [session["user_id"], session["since"].year])
        assert await seen.json() == [7, 1999]
        assert set_cookie_of(seen) == []

    assert own.saves == saves  # a mere read writes nothing
    assert await storage.count() == 0
    stays = "moving_from: a session stays in the old storage (OwnStorage): "
    assert caplog.messages == [
        f"{stays}session['since']: the encoder refused a datetime (TypeError)"
    ]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param(lambda s: s.update(a=1), {"n": [], "a": 1}, id="new value"),
        pytest.param(lambda s: s.pop("n"), {}, id="removed value"),
        pytest.param(lambda s: (s["n"].append(1), s.changed()), {"n": [1]}, id="changed()"),
        pytest.param(lambda s: None, {"n": []}, id="no change"),
    ],
)
@both_names
async def test_changes_of_a_session_that_stays_are_saved_in_the_old_storage(
    name: str,
    change: Callable[[Any], Any],
    expected: dict[str, Any],
    make_storage: MakeStorage,
    browse: Browse,
) -> None:
    """They are saved by the rules of that storage, with its cookie."""
    own = OwnStorage(cookie_name=name)
    key = ObjectId()
    await sign_in(await browse(own), key=key, n=[])
    visitor = await browse(make_storage(moving_from=own))
    saves = own.saves

    answer = await visitor.do(lambda session: (change(session), None)[1])

    assert own.sessions == [{"key": key, **expected}]
    changed = expected != {"n": []}
    assert own.saves - saves == changed
    assert [line.partition("=")[0] for line in set_cookie_of(answer)] == [name] * changed


async def test_session_that_stays_and_is_saved_by_hand_is_saved_once(
    own: OwnStorage, make_storage: MakeStorage, browse: Browse
) -> None:
    """The answer has nothing left to save in the old storage."""
    storage = make_storage(moving_from=own)
    await sign_in(await browse(own), since=SINCE, n=1)
    visitor = await browse(storage)
    saves = own.saves

    async def save_by_hand(request: web.Request) -> web.Response:
        session, response = await get_session(request), web.Response()
        session["n"] = 2
        await storage.save_session(request, response, session)
        return response

    await visitor.visit(save_by_hand)

    assert own.saves - saves == 1
    assert own.sessions == [{"since": SINCE, "n": 2}]


async def test_session_that_was_moved_by_hand_can_be_signed_out_in_the_same_request(
    own: OwnStorage, make_storage: MakeStorage, browse: Browse
) -> None:
    """The old session has ended by then, and ends once."""
    storage = make_storage(moving_from=own)
    await sign_in(await browse(own))
    visitor = await browse(storage)
    saves = own.saves

    async def move_and_sign_out(request: web.Request) -> web.Response:
        session, response = await get_session(request), web.Response()
        await storage.save_session(request, response, session)
        session.invalidate()
        return response

    response = await visitor.visit(move_and_sign_out)

    assert response.status == 200
    assert (own.saves - saves, own.kept, await storage.count()) == (1, {}, 0)


async def test_session_that_stays_moves_once_the_app_has_replaced_the_value(
    own: OwnStorage, make_storage: MakeStorage, browse: Browse
) -> None:
    """The next save that our encoder accepts moves it."""
    storage = make_storage(moving_from=own)
    await sign_in(await browse(own), user_id=7, since=SINCE)
    visitor = await browse(storage)
    await visitor.do(lambda session: session["since"].year)

    await visitor.do(lambda session: session.update(since=session["since"].isoformat()))

    assert own.kept == {}
    assert (await visitor.session())["since"] == "1999-12-31T00:00:00+00:00"


async def test_session_that_stays_can_be_signed_out(
    own: OwnStorage, make_storage: MakeStorage, browse: Browse
) -> None:
    """It ends in the old storage."""
    await sign_in(await browse(own), since=SINCE)
    visitor = await browse(make_storage(moving_from=own))

    await visitor.do(lambda session: session.invalidate())

    assert own.kept == {}
    assert await visitor.session() == {}


async def test_session_that_is_too_large_stays_in_the_old_storage(
    own: OwnStorage,
    make_storage: MakeStorage,
    browse: Browse,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The warning says what `max_bytes` allows."""
    await sign_in(await browse(own), n="x" * 2000)
    visitor = await browse(make_storage(moving_from=own, max_bytes=1000))

    assert await visitor.session() == {"n": "x" * 2000}

    assert len(own.kept) == 1
    assert "stays in the old storage (OwnStorage): session['n'] brings" in caplog.text


async def test_at_most_a_hundred_different_lines_are_logged_in_a_minute(
    own: OwnStorage,
    make_storage: MakeStorage,
    browse: Browse,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An app may have any number of names of values."""
    await sign_in(await browse(own), a=1)
    visitor = await browse(make_storage(moving_from=own))
    (key,) = own.kept

    for number in range(102):
        own.kept[key]["session"] = {f"since{number}": SINCE}
        await visitor.do(len)

    assert len(caplog.messages) == 100


async def test_same_line_is_logged_again_a_minute_later(
    make_storage: MakeStorage,
    browse: Browse,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The test sets the minute to zero seconds."""
    monkeypatch.setattr(moving, "REPORT_SECONDS", 0.0)
    own = OwnStorage(cookie_name="OLD")
    await sign_in(await browse(own), since=SINCE)
    visitor = await browse(make_storage(moving_from=own))

    for _ in range(2):
        await visitor.do(len)

    assert len(caplog.messages) == 2


async def test_dates_and_object_ids_move_with_a_codec_that_knows_them(
    own: OwnStorage, make_storage: MakeStorage, browse: Browse
) -> None:
    """Values of aiohttp-session-mongo are BSON; `bson.json_util` writes and reads them."""
    values = {"user": ObjectId(), "since": SINCE.replace(tzinfo=None), "key": b"k"}
    storage = make_storage(moving_from=own, **BSON_TEXT)
    await sign_in(await browse(own), **values)
    visitor = await browse(storage)

    same = [await visitor.do(lambda session: dict(session) == values) for _ in range(2)]

    assert [await answer.json() for answer in same] == [True, True]
    assert (storage.counters["moved"], own.kept) == (1, {})


async def test_value_that_is_refused_in_a_session_of_ours_is_still_an_error(
    own: OwnStorage, make_storage: MakeStorage, browse: Browse
) -> None:
    """Only values of an old session are not an error."""
    visitor = await browse(make_storage(moving_from=own))

    async def write(request: web.Request) -> web.Response:
        (await get_session(request))["since"] = SINCE
        return web.Response()

    assert (await visitor.visit(write)).status == 500


# What the constructor accepts


@pytest.mark.parametrize("wrong", [OwnStorage, "redis", {}], ids=["class", "text", "dict"])
def test_what_is_no_storage_is_refused(wrong: Any, make_storage: MakeStorage) -> None:
    """The message names the argument and what is accepted."""
    with pytest.raises(TypeError, match=r"^moving_from: \w+ is not accepted; use another aiohttp-"):
        make_storage(moving_from=wrong)


@pytest.mark.parametrize(
    "place", [{"path": "/shop"}, {"domain": "shop.example"}], ids=["path", "domain"]
)
def test_same_cookie_name_at_another_place_is_refused(
    place: dict[str, str], make_storage: MakeStorage
) -> None:
    """Browsers would keep both cookies, and after a sign-out the old one would sign in again."""
    with pytest.raises(ValueError, match=r"^moving_from: .* the same name and another domain or"):
        make_storage(moving_from=OwnStorage(cookie_name="session", **place))

    make_storage(moving_from=OwnStorage(cookie_name="OLD", **place))


@pytest.mark.parametrize("domain", ["shop.example", ".Shop.example"])
def test_same_cookie_at_the_same_place_is_accepted(domain: str, make_storage: MakeStorage) -> None:
    """A leading dot and capitals mean nothing (RFC 6265bis section 5.7)."""
    own = OwnStorage(cookie_name="session", domain=domain)

    assert make_storage(moving_from=own, domain="shop.example").cookie_name == "session"


async def test_storage_that_does_not_call_its_parents_constructor_is_accepted(
    make_storage: MakeStorage, browse: Browse
) -> None:
    """Such a storage has neither a cookie name nor a max_age."""

    class Bare(AbstractStorage):
        def __init__(self) -> None:
            self.ended = False

        async def load_session(self, _request: web.Request) -> aiohttp_session.Session:
            data: Any = None if self.ended else {"session": {"user_id": 7}}
            return aiohttp_session.Session("1", data=data, new=self.ended)

        async def save_session(
            self, _request: Any, _response: Any, session: aiohttp_session.Session
        ) -> None:
            self.ended = session.empty

    bare = Bare()
    visitor = await browse(make_storage(moving_from=bare))

    assert await visitor.session() == {"user_id": 7}

    assert bare.ended
