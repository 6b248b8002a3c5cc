"""A change that comes after the response has started and is never saved: one WARNING."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Awaitable, Callable
from contextlib import nullcontext, suppress
from typing import Any

import pytest
from aiohttp import web
from aiohttp_session import get_session, new_session

from storage import MongoStorage, StorageUnavailable, save_session, setup
from storage.session import MongoSession
from tests.storage.conftest import Handler, OpenSite, SetUp, Site, Visitor, each_set_up, until

ADA = {"user_id": 7, "cart": [1], "note": "private"}
LATE = (
    "%s: the session was changed after the response had started, and was not saved "
    "(%s); call save_session(request)"
)
TEXT = LATE.replace("%s", "GET /{number}", 1)
UNKNOWN = (
    "GET /{number}: the session was changed after the response had started, and its last save was "
    "cut off or failed: the changes may or may not be stored (%s)"
)
Change = Callable[[Any], Any]


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the warnings so far, after unreferenced objects were collected."""
    gc.collect()
    records = [record for record in caplog.records if record.name.startswith("storage")]
    return [record.getMessage() for record in records if record.levelno >= logging.WARNING]


def _set(session: Any) -> None:
    session["note"] = "changed"


CHANGES = [
    pytest.param(_set, "'note'", id="set"),
    pytest.param(lambda s: s["cart"].append(2), "'cart'", id="nested"),
    pytest.param(lambda s: s.pop("cart"), "'cart'", id="removed"),
    pytest.param(lambda s: s.invalidate(), "'cart', 'note', 'user_id'", id="signed out"),
    pytest.param(lambda s: setattr(s, "max_age", 60), "session.max_age", id="max_age"),
    pytest.param(
        lambda s: s.update({f"n{n}": n for n in range(12)}),
        ", ".join([repr(f"n{n}") for n in (0, 1, 10, 11, 2, 3, 4, 5, 6, 7)] + ["2 more"]),
        id="many",
    ),
    pytest.param(
        lambda s: s.update({f"n{n}": n for n in range(10)}),
        ", ".join(repr(f"n{n}") for n in range(10)),
        id="ten",
    ),
    pytest.param(
        lambda s: s.update(wrong={1}),
        "session['wrong']: the encoder refused a set (TypeError)",
        id="not serializable",
    ),
]


def stream(change: Change, *, fails: bool = False, saves: bool = False) -> Handler:
    """Return a handler that changes the session after its stream has started."""

    async def handler(request: web.Request) -> web.StreamResponse:
        session = await get_session(request)
        response = web.StreamResponse()
        await response.prepare(request)
        change(session)
        if saves:
            await save_session(request)
        if fails:
            raise ConnectionResetError
        return response

    return handler


@pytest.mark.parametrize(("change", "named"), CHANGES)
async def test_unsaved_change_of_a_stream_is_one_warning_at_its_end(
    change: Change, named: str, visitor: Visitor, caplog: pytest.LogCaptureFixture
) -> None:
    """With the route and the keys, and no value."""
    await visitor.do(lambda session: session.update(ADA))

    for _ in range(2):
        await visitor.visit(stream(change))

    assert warnings_of(caplog) == [TEXT % named]


async def test_unsaved_change_of_a_stream_whose_visitor_has_gone_is_a_warning(
    site: Site, visitor: Visitor, caplog: pytest.LogCaptureFixture
) -> None:
    """Most streams end with an error of the connection."""
    await visitor.do(lambda session: session.update(ADA))

    async with visitor.client.get(site.path_of(stream(_set, fails=True))):
        await until(lambda: bool(warnings_of(caplog)))

    assert warnings_of(caplog) == [TEXT % "'note'"]


async def test_save_of_a_stream_that_was_cancelled_is_stored_and_not_called_lost(
    visitor: Visitor, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says what is known: whether MongoDB carries the save out is not known yet."""

    async def handler(request: web.Request) -> web.StreamResponse:
        session = await get_session(request)
        response = web.StreamResponse()
        await response.prepare(request)
        _set(session)
        saving = asyncio.ensure_future(save_session(request))
        await asyncio.sleep(0)
        saving.cancel()
        await asyncio.wait([saving])
        return response

    await visitor.do(lambda session: session.update(ADA))
    await visitor.visit(handler)

    assert (await visitor.session())["note"] == "changed"
    assert warnings_of(caplog) == [UNKNOWN % "'note'"]


@pytest.mark.parametrize("again", [False, True], ids=["once", "and then carried out"])
async def test_save_of_a_stream_that_has_failed_is_not_called_lost(
    *,
    again: bool,
    visitor: Visitor,
    storage: MongoStorage,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It may arrive at MongoDB later. What comes after a save that was carried out is lost."""

    async def handler(request: web.Request) -> web.StreamResponse:
        session = await get_session(request)
        response = web.StreamResponse()
        await response.prepare(request)
        _set(session)
        with monkeypatch.context() as patched, suppress(StorageUnavailable):
            patched.setattr(storage._driver, "timeout_seconds", -1.0)
            await save_session(request)
        if again:
            await save_session(request)
            session["cart"].append(2)
        return response

    await visitor.do(lambda session: session.update(ADA))
    await visitor.visit(handler)

    # The log may also say why the save has failed.
    warnings = [line for line in warnings_of(caplog) if line.startswith("GET")]
    assert warnings == [TEXT % "'cart'" if again else UNKNOWN % "'note'"]


@pytest.mark.parametrize("saves", [True, False], ids=["saved", "without a change"])
async def test_stream_that_leaves_nothing_unsaved_causes_no_warning(
    visitor: Visitor, caplog: pytest.LogCaptureFixture, *, saves: bool
) -> None:
    """Nothing was lost."""
    await visitor.do(lambda session: session.update(ADA))

    await visitor.visit(stream(_set if saves else len, saves=saves))

    assert warnings_of(caplog) == []


@pytest.mark.parametrize(("change", "named"), CHANGES)
async def test_unsaved_change_after_the_request_is_one_warning_when_it_is_dropped(
    change: Change, named: str, visitor: Visitor, caplog: pytest.LogCaptureFixture
) -> None:
    """As Socket.IO's handlers do with the request of the handshake."""
    await visitor.do(lambda session: session.update(ADA))
    held: list[web.Request] = []

    async def handshake(request: web.Request) -> web.StreamResponse:
        held.append(request)
        return web.Response()

    await visitor.visit(handshake)
    change(await get_session(held[0]))
    assert warnings_of(caplog) == []
    held.clear()
    await visitor.visit(_nothing)  # the connection has held the request until now

    assert warnings_of(caplog) == [TEXT % named]


async def test_nested_change_after_the_answer_is_a_warning_if_the_app_calls_changed(
    visitor: Visitor, caplog: pytest.LogCaptureFixture
) -> None:
    """The session was loaded before the answer, and nothing else tells of a nested change."""
    await visitor.do(lambda session: session.update(ADA))
    held: list[web.Request] = []

    async def handshake(request: web.Request) -> web.StreamResponse:
        await get_session(request)
        held.append(request)
        return web.Response()

    await visitor.visit(handshake)
    session = await get_session(held[0])
    session["cart"].append(2)
    session.changed()
    del session
    held.clear()
    await visitor.visit(_nothing)

    assert warnings_of(caplog) == [TEXT % "'cart'"]


async def test_nested_change_after_the_end_of_a_stream_is_a_warning(
    visitor: Visitor, caplog: pytest.LogCaptureFixture
) -> None:
    """Its session was loaded before it started, and is compared when it is dropped."""
    await visitor.do(lambda session: session.update(ADA))
    held: list[web.Request] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        await get_session(request)
        response = web.StreamResponse()
        await response.prepare(request)
        held.append(request)
        return response

    await visitor.visit(handler)
    (await get_session(held[0]))["cart"].append(2)
    held.clear()
    await visitor.visit(_nothing)

    assert warnings_of(caplog) == [TEXT % "'cart'"]


async def _nothing(_request: web.Request) -> web.StreamResponse:
    return web.Response()


async def _loads(request: web.Request) -> Any:
    return await get_session(request)


async def _makes_new(request: web.Request) -> Any:
    return await new_session(request)


Get = Callable[[web.Request], Awaitable[Any]]


@pytest.mark.parametrize("before", [None, _loads], ids=["not asked for", "loaded"])
@pytest.mark.parametrize("after", [_loads, _makes_new], ids=["loaded", "new"])
@pytest.mark.parametrize("saves", [True, False], ids=["saved", "not saved"])
async def test_change_after_the_end_of_its_request_is_a_warning_unless_it_is_saved(
    before: Get | None,
    after: Get,
    visitor: Visitor,
    caplog: pytest.LogCaptureFixture,
    *,
    saves: bool,
) -> None:
    """Whether the session was loaded before or after the answer."""
    await visitor.do(lambda session: session.update(ADA))
    held: list[web.Request] = []

    async def handshake(request: web.Request) -> web.StreamResponse:
        held.append(request)
        if before is not None:
            session = await before(request)
            session["cart"] = [1]  # assigned, and the same as before
        return web.Response()

    await visitor.visit(handshake)
    session = await after(held[0])
    session["note"] = "changed"
    if saves:
        with pytest.raises(RuntimeError) if after is _makes_new else nullcontext():
            await save_session(held[0])
    del session
    held.clear()
    await visitor.visit(_nothing)

    route = "new_session" if after is _makes_new else "GET /{number}"
    lost = not saves or after is _makes_new
    assert warnings_of(caplog) == ([LATE % (route, "'note'")] if lost else [])


@each_set_up
async def test_change_before_the_answer_causes_no_warning(
    set_up: SetUp,
    open_site: OpenSite,
    storage: MongoStorage,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is saved, or dropped because the app has failed."""
    visitor = await (await open_site(storage, set_up)).visitor()

    async def fails(request: web.Request) -> web.StreamResponse:
        (await get_session(request))["cart"] = [2]
        return web.Response(status=500)

    await visitor.do(lambda session: session.update(ADA))
    await visitor.do(_set)
    await visitor.visit(fails)
    await visitor.visit(_nothing)

    assert warnings_of(caplog) == []


async def test_session_that_has_ended_causes_no_warning(
    visitor: Visitor, caplog: pytest.LogCaptureFixture, site: Site
) -> None:
    """There is nothing to which its changes could be saved."""
    await visitor.do(lambda session: session.update(ADA))
    cookie = visitor.cookie

    async def handler(request: web.Request) -> web.StreamResponse:
        session = await get_session(request)
        response = web.StreamResponse()
        await response.prepare(request)
        other = await site.visitor(cookie)
        await other.do(lambda ended: ended.invalidate())
        _set(session)
        await save_session(request)
        return response

    await visitor.visit(handler)
    await asyncio.sleep(0)

    assert warnings_of(caplog) == []


def test_session_that_no_storage_has_made_is_dropped_without_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A test of an app may make one."""
    session = MongoSession(max_age=None, values={"name": "Ada"})
    session.outlive_answer("GET /")
    del session

    assert warnings_of(caplog) == []


async def test_stream_that_says_that_the_app_has_failed_causes_no_warning(
    visitor: Visitor, caplog: pytest.LogCaptureFixture
) -> None:
    """Its changes are dropped on purpose, whenever they were made."""

    async def handler(request: web.Request) -> web.StreamResponse:
        _set(await get_session(request))
        response = web.StreamResponse(status=503)
        await response.prepare(request)
        return response

    await visitor.do(lambda session: session.update(ADA))
    await visitor.visit(handler)

    assert warnings_of(caplog) == []


class EarlyAnswers:
    """A middleware that responds before its handlers have finished, and lets them run on.

    With `begin_late` they begin only then, as behind a queue.
    """

    def __init__(self, *, begin_late: bool = False) -> None:
        self._begin_late = begin_late
        self.running: list[asyncio.Task[web.StreamResponse]] = []
        self.waiting = asyncio.Event()
        self.released = asyncio.Event()

    def set_up_inside(self, app: web.Application, storage: MongoStorage) -> None:
        """Add it, then set up sessions inside of it."""

        @web.middleware
        async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
            if not request.query:
                return await handler(request)
            self.running.append(asyncio.ensure_future(self._run(handler, request)))
            await asyncio.wait_for(self.waiting.wait(), 30)
            return web.Response(status=202)

        app.middlewares.append(answer)
        setup(app, storage)

    async def _run(self, handler: Handler, request: web.Request) -> web.StreamResponse:
        if self._begin_late:
            self.waiting.set()
            await self.released.wait()
        return await handler(request)

    def handler(self, before: Change, after: Change) -> Handler:
        """Return a handler that changes the session before and after it is released."""

        async def handler(request: web.Request) -> web.StreamResponse:
            session = await get_session(request)
            before(session)
            self.waiting.set()
            await self.released.wait()
            after(session)
            return web.Response()

        return handler

    async def finish(self) -> None:
        """Release the handlers, and wait until they have ended without an error."""
        self.released.set()
        await asyncio.wait_for(asyncio.gather(*self.running), 30)
        self.running.clear()


begin_late_too = pytest.mark.parametrize(
    "begin_late", [False, True], ids=["begun before", "begun afterwards"]
)


@begin_late_too
async def test_handler_that_runs_on_after_a_middleware_has_responded_is_saved(
    open_site: OpenSite,
    storage: MongoStorage,
    caplog: pytest.LogCaptureFixture,
    *,
    begin_late: bool,
) -> None:
    """As with a timeout and `asyncio.shield` around it, outside of the sessions."""
    early = EarlyAnswers(begin_late=begin_late)
    visitor = await (await open_site(storage, early.set_up_inside)).visitor()
    await visitor.do(lambda session: session.update(ADA))
    handler = early.handler(_set, lambda session: session["cart"].append(2))

    response = await visitor.visit(handler, params={"early": "yes"})
    await early.finish()

    assert response.status == 202
    assert await visitor.session() == {**ADA, "note": "changed", "cart": [1, 2]}
    assert warnings_of(caplog) == []


@begin_late_too
@pytest.mark.parametrize("stored", [{"cart": [1]}, {}], ids=["stored session", "new session"])
async def test_sign_in_of_a_handler_whose_response_was_replaced_early_is_a_warning(
    *,
    open_site: OpenSite,
    storage: MongoStorage,
    caplog: pytest.LogCaptureFixture,
    stored: dict[str, Any],
    begin_late: bool,
) -> None:
    """No response can carry the new token: the session stays as it is."""
    early = EarlyAnswers(begin_late=begin_late)
    visitor = await (await open_site(storage, early.set_up_inside)).visitor()
    await visitor.do(lambda session: session.update(stored))
    sign_in = early.handler(lambda session: session.update(user_id=7), len)

    await visitor.visit(sign_in, params={"early": "yes"})
    await early.finish()

    assert await visitor.session() == stored
    assert await storage.count() == len(stored)
    assert warnings_of(caplog) == [TEXT % "'user_id'"]


async def test_handler_that_runs_on_saves_nothing_to_a_session_that_has_ended(
    open_site: OpenSite, storage: MongoStorage, caplog: pytest.LogCaptureFixture
) -> None:
    """A sign-out meanwhile is final, and no error of the handler."""
    early = EarlyAnswers()
    visitor = await (await open_site(storage, early.set_up_inside)).visitor()
    await visitor.do(lambda session: session.update(ADA))
    await visitor.visit(early.handler(len, _set), params={"early": "yes"})

    await visitor.do(lambda session: session.invalidate())
    await early.finish()

    assert await storage.count() == 0
    assert warnings_of(caplog) == []


@pytest.mark.parametrize("where", ["hook", "middleware"])
async def test_change_between_the_save_and_the_start_of_the_response_is_a_warning(
    where: str, open_site: OpenSite, storage: MongoStorage, caplog: pytest.LogCaptureFixture
) -> None:
    """By a hook of the app, or a middleware outside of the sessions, which were added before."""

    async def change(request: web.Request, _response: web.StreamResponse) -> None:
        if request.query:
            (await get_session(request))["seen"] = True

    @web.middleware
    async def change_afterwards(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        await change(request, response)
        return response

    def set_up(app: web.Application, storage: MongoStorage) -> None:
        if where == "hook":
            app.on_response_prepare.append(change)
        else:
            app.middlewares.append(change_afterwards)
        setup(app, storage)

    visitor = await (await open_site(storage, set_up)).visitor()
    await visitor.do(lambda session: session.update(ADA))
    nothing = warnings_of(caplog)

    await visitor.do(lambda session: session.update(n=1), params={"change": "yes"})

    assert nothing == []
    assert await visitor.session() == {**ADA, "n": 1}
    assert warnings_of(caplog) == [TEXT % "'seen'"]
