"""An app and its sub-apps with one storage: one session, saved once, with one cookie."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any

import aiohttp_session
import pytest
from aiohttp import web
from aiohttp.typedefs import Handler
from aiohttp_session import get_session

from storage import MongoStorage, SessionTooLarge, setup
from tests.storage.command_log import CommandLog
from tests.storage.conftest import (
    HANDLERS,
    Clock,
    MakeStorage,
    OpenSite,
    SetUp,
    Visitor,
    make_app,
    set_cookie_of,
)
from tests.storage.direct import values, visit
from tests.storage.handlers import after, plain, redirect, stream

# The set-up of aiohttp-session itself, which does not save before streams.
PLAIN = aiohttp_session.setup
NESTINGS = [
    pytest.param((setup, setup), id="setup for both"),
    pytest.param((setup, PLAIN), id="plain set-up in the sub-app"),
    pytest.param((PLAIN, setup), id="plain set-up in the outer app"),
    pytest.param((PLAIN, PLAIN), id="plain set-up for both"),
]
ANSWERS: dict[str, Handler] = {"plain": plain, "redirect": redirect, "stream": stream}
SAVED = [
    pytest.param(*nesting.values, answer, id=f"{nesting.id}, {kind}")
    for nesting in NESTINGS
    for kind, answer in ANSWERS.items()
    if not (kind == "stream" and nesting is NESTINGS[-1])
]


def _add_sub_app(app: web.Application, storage: MongoStorage, set_up: SetUp = setup) -> None:
    """Add a sub-app at /sub that answers with the handlers of the outer app."""
    sub_app = make_app(storage, set_up)
    sub_app[HANDLERS] = app[HANDLERS]
    app.add_subapp("/sub", sub_app)


@pytest.fixture
async def nested(
    request: pytest.FixtureRequest, open_site: OpenSite, storage: MongoStorage
) -> Visitor:
    """Open a browser that visits a sub-app with the storage of the outer app."""
    above, below = request.param

    def set_up(app: web.Application, storage: MongoStorage) -> None:
        above(app, storage)
        _add_sub_app(app, storage, below)

    site = await open_site(storage, set_up)
    path_of = site.path_of
    site.path_of = lambda handler: f"/sub{path_of(handler)}"  # type: ignore[method-assign]
    return await site.visitor()


async def _nested_site(
    open_site: OpenSite,
    storage: MongoStorage,
    below: MongoStorage,
    middleware: Any = None,
    set_up: SetUp = setup,
) -> tuple[Visitor, Callable[[Handler], Any]]:
    """Open a site with a sub-app; return a visitor, and how it visits a handler of the sub-app.

    The middleware belongs to the outer app and runs between the two set-ups.
    """

    def set_up_both(app: web.Application, storage: MongoStorage) -> None:
        set_up(app, storage)
        if middleware is not None:
            app.middlewares.append(middleware)
        _add_sub_app(app, below, set_up)

    site = await open_site(storage, set_up_both)
    visitor = await site.visitor()

    def visit_below(handler: Handler) -> Any:
        return visitor.client.get(f"/sub{site.path_of(handler)}", allow_redirects=False)

    return visitor, visit_below


@pytest.mark.parametrize(("nested", "answer"), SAVED, indirect=["nested"])
async def test_app_and_sub_app_save_once(answer: Handler, nested: Visitor, log: CommandLog) -> None:
    """Every change sends the commands of one app, and at most one cookie."""
    log.commands.clear()

    first = await nested.visit(after(lambda s: s.update(cart=[1]), answer))
    change = await nested.visit(after(lambda s: s["cart"].append(2), answer))
    seen = await nested.session()
    renewal = await nested.visit(after(lambda s: s.renew(), answer))
    logout = await nested.visit(after(lambda s: s.invalidate(), answer))

    answers = (first, change, renewal, logout)
    assert [len(set_cookie_of(response)) for response in answers] == [1, 0, 1, 1]
    assert seen == {"cart": [1, 2]}
    assert log.names == [
        "insert", "find", "update", "find", "find", "insert", "findAndModify", "find", "delete",
    ]  # fmt: skip


@pytest.mark.parametrize("nested", NESTINGS, indirect=True)
async def test_app_and_sub_app_touch_once(nested: Visitor, log: CommandLog, clock: Clock) -> None:
    """A due touch is one update and one cookie."""
    await nested.do(lambda session: session.update(cart=[1]))
    clock.advance(2 * 3600)
    log.commands.clear()

    response = await nested.do(len)

    assert log.names == ["find", "update"]
    assert len(set_cookie_of(response)) == 1


@pytest.mark.parametrize("nested", NESTINGS, indirect=True)
async def test_app_and_sub_app_log_once_that_a_session_ended_elsewhere(
    nested: Visitor, storage: MongoStorage, caplog: pytest.LogCaptureFixture
) -> None:
    """One line in the log, no cookie, and no write."""
    await nested.do(lambda session: session.update(user_id=7))
    caplog.set_level(logging.INFO, "storage")

    async def handler(request: web.Request) -> web.StreamResponse:
        (await get_session(request))["name"] = "Ada"
        await storage.revoke_owner(7)
        return web.Response()

    response = await nested.visit(handler)

    assert set_cookie_of(response) == []
    assert len(caplog.records) == 1
    assert await storage.count() == 0


async def _visit_and_change(
    change: Callable[[Any], Any], open_site: OpenSite, storage: MongoStorage, cookie: str | None
) -> tuple[Visitor, list[str]]:
    """Change a name in a sub-app, and then the session in a middleware of the outer app."""

    @web.middleware
    async def change_after(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        if request.path.startswith("/sub/"):
            change(await get_session(request))
        return response

    visitor, visit_below = await _nested_site(open_site, storage, storage, change_after)
    visitor.cookie = cookie
    response = await visit_below(after(lambda session: session.update(name="Ada"), plain))
    return visitor, set_cookie_of(response)


async def test_change_of_the_outer_app_after_the_sub_app_is_saved(
    open_site: OpenSite, storage: MongoStorage
) -> None:
    """A middleware may change the session after the sub-app has answered."""
    visitor, cookies = await _visit_and_change(
        lambda session: session.update(seen=True), open_site, storage, None
    )

    assert len(cookies) == 1
    assert await visitor.session() == {"name": "Ada", "seen": True}


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda session: session.invalidate(), id="logout"),
        pytest.param(lambda session: session.renew(), id="renewal"),
    ],
)
async def test_last_change_of_the_cookie_is_the_only_one(
    change: Callable[[Any], Any], open_site: OpenSite, storage: MongoStorage
) -> None:
    """After a logout or a renewal in the outer app, the cookie of the sub-app is not sent."""
    cookie = await visit(storage, None, lambda session: session.update(name="Bob"))
    visitor, cookies = await _visit_and_change(change, open_site, storage, cookie)

    assert len(cookies) == 1
    assert (visitor.cookie is None) == ("Max-Age=0" in cookies[0])
    assert len(await visitor.session()) == await storage.count()


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
async def test_sub_app_with_a_storage_of_its_own_keeps_its_sessions_apart(
    answer: Handler, open_site: OpenSite, make_storage: MakeStorage, collection: Any
) -> None:
    """The storage of the outer app neither saves the session nor sends a cookie for it."""
    staff = make_storage(collection.database["staff"], cookie_name="staff")
    _visitor, visit_below = await _nested_site(open_site, make_storage(), staff)

    response = await visit_below(after(lambda session: session.update(name="Ada"), answer))

    assert [line.split("=")[0] for line in set_cookie_of(response)] == ["staff"]
    assert await collection.count_documents({}) == 0
    assert await staff.count() == 1


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
async def test_sessions_of_two_storages_stay_apart_in_one_request(
    answer: Handler, open_site: OpenSite, make_storage: MakeStorage, collection: Any
) -> None:
    """A middleware of the outer app and a handler of the sub-app use one each; both are saved."""
    staff = make_storage(collection.database["staff"], cookie_name="staff")

    @web.middleware
    async def outer(request: web.Request, handler: Handler) -> web.StreamResponse:
        session = await get_session(request)
        session["before"] = session.get("before", 0) + 1
        try:
            return await handler(request)
        finally:
            assert await get_session(request) is session

    visitor, visit_below = await _nested_site(open_site, make_storage(), staff, outer)
    for _ in range(2):
        await visit_below(after(lambda s: s.update(below=s.get("below", 0) + 1), answer))
    seen = await visit_below(_values)

    assert await seen.json() == {"below": 2}
    assert await visitor.session() == {"before": 4}
    assert (await collection.count_documents({}), await staff.count()) == (1, 1)


async def _values(request: web.Request) -> web.StreamResponse:
    return web.json_response(dict(await get_session(request)))


async def test_storage_saves_no_session_of_another_one(
    open_site: OpenSite, make_storage: MakeStorage, collection: Any
) -> None:
    """With aiohttp_session.setup both share one session: the storage that made it saves it."""
    staff = make_storage(collection.database["staff"], cookie_name="staff")

    @web.middleware
    async def outer(request: web.Request, handler: Handler) -> web.StreamResponse:
        await get_session(request)
        return await handler(request)

    visitor, visit_below = await _nested_site(open_site, make_storage(), staff, outer, PLAIN)

    await visit_below(after(lambda session: session.update(name="Ada"), plain))

    assert await visitor.session() == {"name": "Ada"}
    assert await staff.count() == 0


async def test_sub_app_may_keep_its_sessions_in_a_storage_of_another_kind(
    open_site: OpenSite, make_storage: MakeStorage, collection: Any
) -> None:
    """The storage of the outer app neither saves nor refuses such a session."""

    def set_up(app: web.Application, storage: MongoStorage) -> None:
        setup(app, storage)
        other = aiohttp_session.SimpleCookieStorage(cookie_name="other")
        sub_app = web.Application()
        aiohttp_session.setup(sub_app, other)

        async def change(request: web.Request) -> web.Response:
            (await aiohttp_session.get_session(request))["a"] = 1
            return web.Response()

        async def read(request: web.Request) -> web.Response:
            return web.json_response(dict(await aiohttp_session.get_session(request)))

        sub_app.add_routes([web.get("/change", change), web.get("/read", read)])
        app.add_subapp("/sub", sub_app)

    visitor = await (await open_site(make_storage(), set_up)).visitor()

    assert (await visitor.client.get("/sub/change")).status == 200
    assert await (await visitor.client.get("/sub/read")).json() == {"a": 1}
    assert await collection.count_documents({}) == 0


async def test_outer_app_may_keep_its_sessions_in_a_storage_of_another_kind(
    open_site: OpenSite, storage: MongoStorage
) -> None:
    """Its session is the request's again after the sub-app, and is saved with its changes."""

    @web.middleware
    async def outer(request: web.Request, handler: Handler) -> web.StreamResponse:
        session = await get_session(request)
        session["before"] = 1
        response = await handler(request)
        session["after"] = 2
        assert await get_session(request) is session
        return response

    def set_up(app: web.Application, storage: MongoStorage) -> None:
        aiohttp_session.setup(app, aiohttp_session.SimpleCookieStorage(cookie_name="other"))
        app.middlewares.append(outer)
        _add_sub_app(app, storage)

    site = await open_site(storage, set_up)
    visitor = await site.visitor()
    path = site.path_of(after(lambda session: session.update(below=3), plain))

    response = await visitor.client.get(f"/sub{path}")

    assert response.status == 200
    assert json.loads(response.cookies["other"].value)["session"] == {"before": 1, "after": 2}
    assert await values(storage, visitor.cookie) == {"below": 3}


async def test_middleware_before_the_setup_of_a_sub_app_has_the_session_of_the_outer_app(
    storage: MongoStorage, open_site: OpenSite
) -> None:
    """Such a middleware has no session only if the outer app has none."""

    @web.middleware
    async def asking(request: web.Request, handler: Handler) -> web.StreamResponse:
        (await get_session(request))["asked"] = True
        return await handler(request)

    below = web.Application(middlewares=[asking])
    setup(below, storage)
    below.router.add_get("/", plain)
    site = await open_site(
        storage, lambda app, storage: (setup(app, storage), app.add_subapp("/below", below))[0]
    )
    visitor = await site.visitor()

    response = await visitor.client.get("/below/")

    assert response.status == 200
    assert await visitor.session() == {"asked": True}


async def test_error_page_of_the_outer_app_carries_the_cookie_of_the_sub_app(
    open_site: OpenSite, storage: MongoStorage
) -> None:
    """The cookie is on the response that is sent."""

    @web.middleware
    async def pages(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPForbidden:
            return web.Response(status=403, text="a page of our own")

    visitor, visit_below = await _nested_site(open_site, storage, storage, pages)
    await visitor.do(lambda session: session.update(name="Ada"))
    before = visitor.cookie

    async def refuse(request: web.Request) -> web.StreamResponse:
        (await get_session(request)).renew()  # type: ignore[attr-defined]
        raise web.HTTPForbidden

    response = await visit_below(refuse)

    assert (response.status, len(set_cookie_of(response))) == (403, 1)
    assert visitor.cookie != before
    assert await visitor.session() == {"name": "Ada"}


async def test_outer_app_that_crashes_after_the_sub_app_saves_nothing(
    open_site: OpenSite, storage: MongoStorage
) -> None:
    """The visitor gets a 500; the sign-in and its new token are not saved."""

    @web.middleware
    async def crashing(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        if request.path.startswith("/sub/"):
            raise LookupError
        return response

    visitor, visit_below = await _nested_site(open_site, storage, storage, crashing)
    await visitor.do(lambda session: session.update(cart=[1]))
    before = visitor.cookie

    response = await visit_below(after(lambda session: session.update(user_id="ada"), plain))

    assert (response.status, visitor.cookie) == (500, before)
    assert await visitor.session() == {"cart": [1]}


async def test_sub_app_that_crashes_saves_nothing_with_an_outer_error_page(
    open_site: OpenSite, storage: MongoStorage
) -> None:
    """The changes of the handler are dropped, whatever the outer app answers."""

    @web.middleware
    async def pages(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except LookupError:
            return web.Response(status=500)

    visitor, visit_below = await _nested_site(open_site, storage, storage, pages)
    await visitor.do(lambda session: session.update(balance=10))

    async def crash(_request: web.Request) -> web.StreamResponse:
        raise LookupError

    response = await visit_below(after(lambda session: session.update(balance=0), crash))

    assert response.status == 500
    assert await visitor.session() == {"balance": 10}


@pytest.mark.parametrize("begin", [get_session, aiohttp_session.new_session])
async def test_two_tasks_in_a_sub_app_with_its_own_storage_get_one_session(
    begin: Callable[[web.Request], Any],
    open_site: OpenSite,
    make_storage: MakeStorage,
    collection: Any,
) -> None:
    """Although the outer app has loaded another session in the same request."""
    staff = make_storage(collection.database["staff"], cookie_name="staff")

    @web.middleware
    async def outer(request: web.Request, handler: Handler) -> web.StreamResponse:
        len(await get_session(request))
        return await handler(request)

    async def two_tasks(request: web.Request) -> web.StreamResponse:
        loading = asyncio.ensure_future(get_session(request))
        await asyncio.sleep(0)
        one, two = await begin(request), await loading
        one["left"], two["right"] = 1, 2
        return web.json_response(one is two)

    visitor, visit_below = await _nested_site(open_site, make_storage(), staff, outer)
    await visitor.do(lambda session: session.update(name="Ada"))
    await visit_below(after(lambda session: session.update(name="Bob"), plain))

    response = await visit_below(two_tasks)
    seen = await visit_below(_values)

    assert await response.json() is True
    assert {"left": 1, "right": 2}.items() <= (await seen.json()).items()


async def test_outer_session_is_saved_when_a_stream_of_the_sub_app_was_refused(
    open_site: OpenSite, make_storage: MakeStorage, collection: Any
) -> None:
    """The error page of the outer app still saves the session of the outer app."""
    staff = make_storage(collection.database["staff"], cookie_name="staff", max_bytes=500)

    @web.middleware
    async def pages(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except SessionTooLarge:
            (await get_session(request))["notice"] = "too large"
            return web.Response(status=413)

    visitor, visit_below = await _nested_site(open_site, make_storage(), staff, pages)

    response = await visit_below(after(lambda session: session.update(name="x" * 1000), stream))

    assert response.status == 413
    assert await visitor.session() == {"notice": "too large"}
