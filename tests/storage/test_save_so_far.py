"""``save_session``: changes that are stored while a handler goes on, without its answer."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import aiohttp_session
import pytest
from aiohttp import web
from aiohttp_session import get_session, new_session
from pytest_aiohttp import AiohttpClient

from storage import (
    MongoStorage,
    SessionEnded,
    SessionNotSerializable,
    SessionTooLarge,
    StorageUnavailable,
    renew_session,
    save_session,
    watch_session,
)
from storage.lifetime import from_datetime
from tests.storage.command_log import CommandLog
from tests.storage.conftest import (
    SESSIONS,
    Clock,
    Handler,
    MakeStorage,
    OpenSite,
    Site,
    Visitor,
    every_driver,
    real_drivers,
    set_cookie_of,
    until,
)
from tests.storage.direct import Visit, id_of, load, stored, values, visit

ADA = {"user_id": 7, "cart": [1], "step": 1, "log": []}
TWO_WEEKS = 14 * 24 * 3600


def _change(session: Any) -> None:
    session["step"] += 1
    session["cart"].append(2)
    session["colour"] = "red"
    del session["log"]


CHANGED = {"user_id": 7, "cart": [1, 2], "step": 2, "colour": "red"}


def over_websocket(change: Callable[[Any], Any]) -> Handler:
    """Return a handler that changes and saves the session for each message."""

    async def handler(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        session = await get_session(request)
        async for _message in socket:
            change(session)
            await save_session(request)
            await socket.send_str("saved")
        return socket

    return handler


@every_driver
async def test_changes_over_a_websocket_are_stored_while_it_is_open(
    site: Site, visitor: Visitor
) -> None:
    """New, changed, nested and removed values, message by message."""
    await visitor.do(lambda session: session.update(ADA))
    other = await site.visitor(visitor.cookie)

    async with visitor.client.ws_connect(site.path_of(over_websocket(_change))) as socket:
        await socket.send_str("go")
        assert await socket.receive_str(timeout=10) == "saved"

        assert await other.session() == CHANGED


async def test_changes_of_a_stream_are_stored_although_its_handler_fails(
    site: Site, visitor: Visitor
) -> None:
    """What fails afterwards does not undo a save."""
    await visitor.do(lambda session: session.update(ADA))
    saved = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        session = await get_session(request)
        _change(session)
        await save_session(request)
        session["step"] = 3
        saved.set()
        raise ConnectionResetError

    async with visitor.client.get(site.path_of(handler)):
        await asyncio.wait_for(saved.wait(), 10)

    assert await (await site.visitor(visitor.cookie)).session() == CHANGED


async def test_changes_of_a_request_are_stored_although_it_is_answered_with_500(
    visitor: Visitor,
) -> None:
    """Before its answer, which then saves nothing else."""
    await visitor.do(lambda session: session.update(ADA))

    async def handler(request: web.Request) -> web.StreamResponse:
        session = await get_session(request)
        _change(session)
        await save_session(request)
        session["step"] = 3
        return web.Response(status=500)

    assert (await visitor.visit(handler)).status == 500

    assert await visitor.session() == CHANGED


@real_drivers
async def test_save_sends_one_update_and_costs_nothing_without_a_change(
    storage: MongoStorage, log: CommandLog, clock: Clock
) -> None:
    """It does not count as use: a due touch waits for the answer."""
    cookie = str(await visit(storage, None, lambda session: session.update(ADA)))
    clock.advance(2 * 3600)
    begun = await load(storage, cookie)
    log.commands.clear()

    await save_session(begun.request)
    assert log.names == []
    _change(begun.session)
    await save_session(begun.request)
    await save_session(begun.request)

    assert log.names == ["update"]
    (update,) = log.commands[0][1]["updates"]
    assert set(update["u"]) == {"$set", "$unset"}
    assert await values(storage, cookie) == CHANGED
    assert storage.counters["touches"] == 0


@every_driver
async def test_saves_of_one_request_run_one_after_another(storage: MongoStorage) -> None:
    """Twenty tasks of a request: each has stored what it has changed when its save returns."""
    (cookie,) = await stored(storage, 1)
    begun = await load(storage, cookie)
    begun.session.update({f"old {n}": n for n in range(20)})

    async def save(number: int) -> None:
        begun.session["n"].append(number)
        begun.session[f"own {number}"] = number
        del begun.session[f"old {number}"]
        await save_session(begun.request)

    await asyncio.gather(*(save(number) for number in range(20)))

    own = {f"own {n}": n for n in range(20)}
    assert await values(storage, cookie) == {"user_id": 0, "n": list(range(20)), **own}


async def test_change_during_a_save_is_for_the_next_one(storage: MongoStorage) -> None:
    """Also where the app ends the session meanwhile."""
    (cookie,) = await stored(storage, 1)
    begun = await load(storage, cookie)
    begun.session["step"] = 1
    saving = asyncio.create_task(save_session(begun.request))
    await asyncio.sleep(0)

    begun.session.invalidate()
    begun.session["planted"] = True
    await saving

    with pytest.raises(RuntimeError, match=r"^save_session: .*only an answer can carry the cookie"):
        await save_session(begun.request)
    assert await values(storage, cookie) == {"user_id": 0, "n": [], "step": 1}
    new = str(await begun.save())
    assert new != cookie
    assert await values(storage, new) == {"planted": True}


@every_driver
@pytest.mark.parametrize("how", ["emptied", "invalidated"])
async def test_emptied_session_is_ended(how: str, storage: MongoStorage, collection: Any) -> None:
    """The answer, if it has not started, deletes the cookie."""
    (cookie,) = await stored(storage, 1)
    begun = await load(storage, cookie)
    begun.session.clear() if how == "emptied" else begun.session.invalidate()

    await save_session(begun.request)
    commands = storage.counters["commands"]
    await save_session(begun.request)

    assert storage.counters["commands"] == commands
    assert await collection.count_documents(SESSIONS) == 0
    assert await begun.save() is None


async def test_save_of_a_session_that_ended_elsewhere_raises_an_error(
    storage: MongoStorage,
) -> None:
    """Nothing is written, now or later."""
    (cookie,) = await stored(storage, 1)
    begun = await load(storage, cookie)
    await storage.revoke_owner(0)

    for _ in range(2):
        begun.session["step"] = 1
        with pytest.raises(SessionEnded):
            await save_session(begun.request)

    assert await storage.count() == 0


def _sign_in(session: Any) -> None:
    session["user_id"] = 8


def _start_again(session: Any) -> None:
    session.invalidate()
    session["step"] = 1


NEEDS_A_COOKIE = [
    pytest.param(None, _sign_in, id="new"),
    pytest.param({"cart": []}, _sign_in, id="sign-in"),
    pytest.param(ADA, _sign_in, id="another owner"),
    pytest.param(ADA, lambda session: session.pop("user_id"), id="owner removed"),
    pytest.param(ADA, _start_again, id="written after a sign-out"),
    pytest.param(ADA, lambda session: session.renew(), id="renewal"),
]


@pytest.mark.parametrize(("before", "change"), NEEDS_A_COOKIE)
async def test_what_needs_a_new_cookie_is_refused_and_waits_for_the_answer(
    before: dict[str, Any] | None, change: Callable[[Any], Any], storage: MongoStorage
) -> None:
    """Nothing is written, and nothing of the change is lost."""
    cookie = None
    if before is not None:
        stored_values = before
        cookie = await visit(storage, None, lambda session: session.update(stored_values))
    begun = await load(storage, cookie)
    change(begun.session)
    dropped = before is ADA and begun.session.get("user_id") == 8
    wanted = {"user_id": 8} if dropped else dict(begun.session)

    with pytest.raises(RuntimeError, match=r"^save_session: .*only an answer can carry the cookie"):
        await save_session(begun.request)

    if cookie is not None:
        assert await values(storage, cookie) == before
    new = await begun.save()
    assert new not in (None, cookie)
    assert await values(storage, new) == wanted


async def test_what_was_saved_for_one_owner_is_not_kept_for_the_next(
    storage: MongoStorage,
) -> None:
    """It counts as loaded: only what the request sets afterwards is the new owner's."""
    cookie = await visit(storage, None, lambda session: session.update(ADA))
    begun = await load(storage, cookie)
    begun.session["note"] = "ada's"
    await save_session(begun.request)

    begun.session.update(user_id=8, greeting="bob's")
    new = await begun.save()

    assert await values(storage, new) == {"user_id": 8, "greeting": "bob's"}


async def test_new_session_without_a_value_needs_no_save(storage: MongoStorage) -> None:
    """Nothing happens, and there is no error."""
    begun = await load(storage)

    await save_session(begun.request)

    assert await storage.count() == 0


@every_driver
async def test_new_session_that_is_left_empty_ends_the_one_that_it_replaces(
    storage: MongoStorage,
) -> None:
    """A sign-out with `new_session()`."""
    (cookie,) = await stored(storage, 1)
    begun = await load(storage, cookie)
    (await new_session(begun.request)).invalidate()

    await save_session(begun.request)

    assert await storage.count() == 0


@every_driver
async def test_changed_max_age_is_stored_and_the_next_response_sends_the_cookie(
    storage: MongoStorage, clock: Clock, collection: Any
) -> None:
    """The response of this request if it has not started, otherwise that of the next one.

    A stored end that is a millisecond early marks that the cookie has not been sent.
    """
    (cookie,) = await stored(storage, 1)
    begun = await load(storage, cookie)
    begun.session.max_age = 2 * TWO_WEEKS

    await save_session(begun.request)
    document = await collection.find_one({})
    assert from_datetime(document["expires_at"]) == (clock.now + 2 * TWO_WEEKS) * 1000 - 1
    clock.advance(1.5 * TWO_WEEKS)
    response = web.Response()
    later = await load(storage, cookie)
    assert later.session._changed
    await storage.save_session(later.request, response, later.session)

    assert response.cookies["session"]["max-age"] == 2 * TWO_WEEKS


async def test_cookie_for_a_changed_max_age_is_sent_with_the_answer_of_the_request(
    visitor: Visitor,
) -> None:
    """Although the request before it has touched the session just now."""
    await visitor.do(lambda session: session.update(ADA))

    async def handler(request: web.Request) -> web.StreamResponse:
        (await get_session(request)).max_age = 60
        await save_session(request)
        return web.Response()

    response = await visitor.visit(handler)

    assert "Max-Age=60" in set_cookie_of(response)[0]


@pytest.mark.parametrize(
    ("value", "kind"),
    [({1, 2}, SessionNotSerializable), ("x" * 2000, SessionTooLarge)],
    ids=["not serializable", "too large"],
)
async def test_refused_value_raises_its_error_and_nothing_is_written(
    value: object, kind: type[Exception], make_storage: MakeStorage
) -> None:
    """The same request can save again once it has removed the value."""
    storage = make_storage(max_bytes=1000)
    (cookie,) = await stored(storage, 1)
    begun = await load(storage, cookie)
    begun.session.update(step=1, wrong=value)

    with pytest.raises(kind, match="wrong"):
        await save_session(begun.request)
    assert await values(storage, cookie) == {"user_id": 0, "n": []}
    del begun.session["wrong"]
    await save_session(begun.request)

    assert await values(storage, cookie) == {"user_id": 0, "n": [], "step": 1}


async def test_owner_whom_the_next_load_would_not_recognise_is_refused(
    storage: MongoStorage,
) -> None:
    """A tuple comes back as a list, which is another owner."""
    cookie = await visit(storage, None, lambda session: session.update(user_id="(1, 2)"))
    begun = await load(storage, cookie)
    begun.session["user_id"] = (1, 2)

    with pytest.raises(SessionNotSerializable, match="this tuple names another owner"):
        await save_session(begun.request)

    assert await values(storage, cookie) == {"user_id": "(1, 2)"}


@every_driver
@pytest.mark.parametrize("by", ["another storage", "the same storage"])
async def test_save_follows_a_renewal(
    by: str, storage: MongoStorage, make_storage: MakeStorage
) -> None:
    """As late saves do; the connection then goes on at the new place."""
    (cookie,) = await stored(storage, 1)
    begun = await load(storage, cookie)
    other = storage if by == "the same storage" else make_storage()
    new = str(await visit(other, cookie, lambda session: session.renew()))

    for number in range(2):
        begun.session[f"step {number}"] = number
        await save_session(begun.request)

    expected = {"user_id": 0, "n": [], "step 0": 0, "step 1": 1}
    assert await values(storage, new) == expected
    begun.session.invalidate()
    await save_session(begun.request)
    assert await storage.count() == 0


@pytest.mark.parametrize("ending", [False, True], ids=["save", "sign-out"])
async def test_watched_connection_follows_a_renewal_for_longer_than_a_minute(
    ending: bool,  # noqa: FBT001 - a parameter of the test
    storage: MongoStorage,
    make_storage: MakeStorage,
    collection: Any,
    clock: Clock,
) -> None:
    """Forwards last for sixty seconds; a watch has seen where it led."""
    (cookie,) = await stored(storage, 1)
    begun = await load(storage, cookie)
    async with watch_session(begun.request, 0.05):
        new = str(await visit(make_storage(), cookie, lambda session: session.renew()))
        await until(lambda: begun.session.moved is not None)
        await collection.delete_one({"_id": id_of(cookie)})
        clock.advance(61)
        begun.session["step"] = 1
        await save_session(begun.request)
        assert await values(storage, new) == {"user_id": 0, "n": [], "step": 1}
    late = await load(storage, new)
    if ending:
        begun.session.invalidate()
        await save_session(begun.request)
        assert await storage.count() == 0
    else:
        begun.session["step"] = 2
        await save_session(begun.request)
        assert await values(storage, new) == {**dict(late.session), "step": 2}


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda session: session.update(step=2), id="a value"),
        pytest.param(lambda session: session.renew(), id="a new token"),
        pytest.param(lambda session: session.update(user_id=8), id="another owner"),
    ],
)
async def test_every_further_save_of_a_session_that_has_ended_says_so(
    change: Callable[[Any], Any], storage: MongoStorage, log: CommandLog
) -> None:
    """Whatever it would save; MongoDB is not asked again."""
    (cookie,) = await stored(storage, 1)
    begun = await load(storage, cookie)
    await storage.clear()
    begun.session["step"] = 1
    with pytest.raises(SessionEnded):
        await save_session(begun.request)
    log.commands.clear()

    change(begun.session)
    with pytest.raises(SessionEnded):
        await save_session(begun.request)

    assert log.commands == []


async def test_max_age_that_is_saved_by_hand_reaches_the_browser_with_its_next_request(
    make_storage: MakeStorage, clock: Clock
) -> None:
    """Also where this process has touched the session just now."""
    storage = make_storage(max_age=1200)
    (cookie,) = await stored(storage, 1)
    clock.advance(60)
    await visit(storage, cookie, dict)
    begun = await load(storage, cookie)
    begun.session.max_age = 300
    await save_session(begun.request)

    following, response = await load(storage, cookie), web.Response()
    await storage.save_session(following.request, response, following.session)

    assert response.cookies["session"]["max-age"] == 300


@pytest.mark.parametrize(("seconds", "saved"), [(59, True), (60, False)])
async def test_unwatched_connection_saves_for_a_minute_after_a_renewal(
    storage: MongoStorage, make_storage: MakeStorage, clock: Clock, seconds: int, *, saved: bool
) -> None:
    """Afterwards nothing tells it where the session of this user is: SessionEnded."""
    (cookie,) = await stored(storage, 1)
    begun = await load(storage, cookie)
    new = str(await visit(make_storage(), cookie, lambda session: session.renew()))

    clock.advance(seconds)
    begun.session["step"] = 1
    if saved:
        await save_session(begun.request)
    else:
        with pytest.raises(SessionEnded):
            await save_session(begun.request)

    assert ("step" in await values(storage, new)) is saved


async def test_watched_connection_of_nobody_saves_nothing_a_minute_after_a_renewal(
    storage: MongoStorage, make_storage: MakeStorage, clock: Clock
) -> None:
    """Otherwise the person who planted the token could write for as long as it is open."""
    cookie = str(await visit(storage, None, lambda session: session.update(cart=[])))
    begun = await load(storage, cookie)
    async with watch_session(begun.request, 0.05):
        new = str(await visit(make_storage(), cookie, lambda session: session.renew()))
        await until(lambda: id_of(new) in storage._watches._places)
        clock.advance(61)
        begun.session["step"] = 1
        with pytest.raises(SessionEnded):
            await save_session(begun.request)

    assert await values(storage, new) == {"cart": []}


async def test_sign_out_of_a_watched_connection_follows_for_longer_than_a_minute(
    storage: MongoStorage, make_storage: MakeStorage, collection: Any, clock: Clock
) -> None:
    """Also where nothing was saved since the renewal."""
    (cookie,) = await stored(storage, 1)
    begun = await load(storage, cookie)
    async with watch_session(begun.request, 0.05):
        await visit(make_storage(), cookie, lambda session: session.renew())
        await until(lambda: begun.session.moved is not None)
    await collection.delete_one({"_id": id_of(cookie)})
    clock.advance(61)

    begun.session.invalidate()
    await save_session(begun.request)

    assert await storage.count() == 0


async def test_save_that_gives_up_is_carried_out_and_may_be_repeated(
    storage: MongoStorage,
) -> None:
    """A cancelled handler: a save that has begun is stored."""
    (cookie,) = await stored(storage, 1)
    begun = await load(storage, cookie)
    begun.session["step"] = 1
    saving = asyncio.create_task(save_session(begun.request))
    await asyncio.sleep(0)
    saving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await saving

    begun.session["colour"] = "red"
    await save_session(begun.request)

    assert await values(storage, cookie) == {"user_id": 0, "n": [], "step": 1, "colour": "red"}


@pytest.mark.parametrize("how", ["by hand", "with the answer"])
async def test_what_a_save_has_stored_whose_caller_gave_up_is_known_to_the_next(
    storage: MongoStorage, how: str
) -> None:
    """A change is undone meanwhile: the session is as it was loaded, and MongoDB is too."""
    (cookie,) = await stored(storage, 1)
    begun = await load(storage, cookie)
    begun.session["n"].append(1)
    saving = asyncio.create_task(save_session(begun.request))
    await asyncio.sleep(0)
    saving.cancel()
    await asyncio.wait({saving})

    begun.session["n"].pop()
    await (save_session(begun.request) if how == "by hand" else begun.save())

    assert await values(storage, cookie) == {"user_id": 0, "n": []}


async def test_answer_is_saved_after_the_save_that_is_under_way(storage: MongoStorage) -> None:
    """It compares with what that save has stored, and not with what was loaded."""
    (cookie,) = await stored(storage, 1)
    begun = await load(storage, cookie)
    begun.session["n"] = [1]
    saving = asyncio.create_task(save_session(begun.request))
    await asyncio.sleep(0)

    begun.session["n"] = []
    await begun.save()

    assert saving.done()
    assert await values(storage, cookie) == {"user_id": 0, "n": []}


async def test_saves_of_long_connections_are_kept_however_they_are_cancelled_and_renewed(
    storage: MongoStorage,
) -> None:
    """Three connections change values of their own; saves are cancelled, tokens are renewed."""
    chance = random.Random(1)

    async def connection(number: int, begun: Visit) -> dict[str, Any]:
        name, session = f"n {number}", begun.session
        for step in range(8):
            if chance.random() < 0.5 and session.get(name):
                session[name].pop()
            else:
                session[name] = [*session.get(name, ()), step]
            saving = asyncio.create_task(save_session(begun.request))
            for _ in range(chance.randrange(20)):
                await asyncio.sleep(0)
            if chance.random() < 0.4:
                saving.cancel()
            await asyncio.wait({saving})
        await save_session(begun.request)
        return {name: session[name]}

    async def renewals(cookie: str) -> str:
        for _ in range(2):
            cookie = str(await visit(storage, cookie, lambda session: session.renew()))
        return cookie

    for _ in range(10):
        (cookie,) = await stored(storage, 1)
        begun = [await load(storage, cookie) for _ in range(3)]
        connections = (connection(number, one) for number, one in enumerate(begun))
        renewed, *saved = await asyncio.gather(renewals(cookie), *connections)

        expected = {"user_id": 0, "n": []} | saved[0] | saved[1] | saved[2]
        assert await values(storage, renewed) == expected


async def test_save_without_mongodb_may_be_repeated(
    storage: MongoStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session is not taken for one that has ended."""
    (cookie,) = await stored(storage, 1)
    begun = await load(storage, cookie)
    begun.session["step"] = 1
    with monkeypatch.context() as patched:
        patched.setattr(storage._driver, "timeout_seconds", -1.0)
        with pytest.raises(StorageUnavailable):
            await save_session(begun.request)

    await save_session(begun.request)

    assert await values(storage, cookie) == {"user_id": 0, "n": [], "step": 1}


async def test_renewal_that_another_request_has_done_first_counts_as_done(
    storage: MongoStorage,
) -> None:
    """A request whose save followed a forward gets no new token, and no error for asking."""
    (cookie,) = await stored(storage, 1)
    begun = await load(storage, cookie)
    await visit(storage, cookie, lambda session: session.renew())
    begun.session["step"] = 1
    await save_session(begun.request)

    await renew_session(begun.request)
    await save_session(begun.request)

    assert await storage.count() == 1


async def test_save_of_something_else_than_a_request_is_refused_by_name() -> None:
    """Socket.IO's handlers have an environ; the message says where its request is."""
    environ: Any = {}

    with pytest.raises(TypeError, match=r"request: dict is not accepted.*aiohttp\.request"):
        await save_session(environ)


async def test_save_works_under_the_set_up_of_aiohttp_session(
    open_site: OpenSite, storage: MongoStorage
) -> None:
    """Its middleware saves nothing of a WebSocket."""
    site = await open_site(storage, aiohttp_session.setup)
    visitor = await site.visitor()
    await visitor.do(lambda session: session.update(ADA))

    async with visitor.client.ws_connect(site.path_of(over_websocket(_change))) as socket:
        await socket.send_str("go")
        assert await socket.receive_str(timeout=10) == "saved"

    assert await visitor.session() == CHANGED


async def test_session_of_another_storage_is_refused_by_name(
    aiohttp_client: AiohttpClient,
) -> None:
    """It is saved in another way."""
    app = web.Application()
    aiohttp_session.setup(app, aiohttp_session.SimpleCookieStorage())

    async def handler(request: web.Request) -> web.StreamResponse:
        with pytest.raises(TypeError, match="save_session: Session is not from a MongoStorage"):
            await save_session(request)
        return web.Response()

    app.router.add_get("/", handler)

    assert (await (await aiohttp_client(app)).get("/")).status == 200


async def test_max_age_that_is_set_during_a_save_is_for_the_next_one(storage: MongoStorage) -> None:
    """What the save has noted must not replace it."""
    (cookie,) = await stored(storage, 1)
    begun = await load(storage, cookie)
    begun.session["step"] = 1
    saving = asyncio.create_task(save_session(begun.request))
    await asyncio.sleep(0)

    begun.session.max_age = 600
    await saving
    await save_session(begun.request)

    assert (await load(storage, cookie)).session.max_age == 600


async def test_max_age_of_a_renewal_that_was_followed_is_not_overwritten_by_the_next_save(
    storage: MongoStorage, make_storage: MakeStorage
) -> None:
    """The request has not changed it, so its second save must not write what it had loaded."""
    (cookie,) = await stored(storage, 1)
    begun = await load(storage, cookie)

    def renew(session: Any) -> None:
        session.renew()
        session.max_age = 3600

    new = str(await visit(make_storage(), cookie, renew))

    for number in range(2):
        begun.session[f"step {number}"] = number
        await save_session(begun.request)

    assert (await load(storage, new)).session.max_age == 3600
