"""What apps and libraries written for other storages expect of a session."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import aiohttp_security
import aiohttp_session
import pytest
from aiohttp import web
from aiohttp.typedefs import Handler
from aiohttp_security.abc import AbstractAuthorizationPolicy
from aiohttp_session import SimpleCookieStorage, get_session, new_session
from pymongo import AsyncMongoClient

from storage import MongoStorage, generate_secret, setup
from storage.sealing import Keyring
from storage.session import warn_of_given_identity
from tests.processes import free_port
from tests.storage.conftest import (
    SECRET,
    SESSIONS,
    Clock,
    MakeStorage,
    OpenSite,
    SetUp,
    Visitor,
    cookie_of,
    each_set_up,
    set_cookie_of,
)
from tests.storage.direct import id_of, load, values, visit

GIVEN = generate_secret()


@pytest.fixture(autouse=True)
def _first_identity_of_a_process() -> None:
    warn_of_given_identity.cache_clear()


# session.set_new_identity


@pytest.mark.parametrize("begin", [get_session, new_session])
async def test_set_new_identity_gives_a_random_token_and_says_so_once(
    begin: Any, visitor: Visitor, caplog: pytest.LogCaptureFixture
) -> None:
    """Sign-in handlers call it; the given identity is never used."""
    await visitor.do(lambda session: session.update(name="Ada"))
    before = visitor.cookie

    async def sign_in(request: web.Request) -> web.Response:
        session = await begin(request)
        session.set_new_identity(GIVEN)
        session["name"] = "Bob"
        return web.Response()

    for _ in range(2):
        assert (await visitor.visit(sign_in)).status == 200

    assert visitor.cookie not in {before, GIVEN, None}
    assert await visitor.session() == {"name": "Bob"}
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "call renew_session(request) instead" in record.getMessage()
    assert GIVEN not in record.getMessage()


async def test_set_new_identity_alone_renews_the_token(visitor: Visitor) -> None:
    """The values stay, and the old token opens nothing any more."""
    await visitor.do(lambda session: session.update(name="Ada"))
    before = visitor.cookie

    response = await visitor.do(lambda session: session.set_new_identity(None))

    assert cookie_of(response).value != before
    assert await visitor.session() == {"name": "Ada"}


# session.changed() and what a session says of itself


@each_set_up
async def test_changed_writes_nothing_by_itself(
    set_up: SetUp, open_site: OpenSite, storage: MongoStorage, log: Any
) -> None:
    """It neither rewrites a session nor signs anybody out."""
    visitor = await (await open_site(storage, set_up)).visitor()
    await visitor.do(lambda session: session.update(name="Ada"))

    async def begin_and_leave(request: web.Request) -> web.Response:
        (await new_session(request)).changed()
        return web.Response()

    log.commands.clear()
    loaded = await visitor.do(lambda session: session.changed())
    left = await visitor.visit(begin_and_leave)

    assert set_cookie_of(loaded) == set_cookie_of(left) == []
    assert set(log.names) == {"find"}
    assert await visitor.session() == {"name": "Ada"}


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        pytest.param(len, False, id="read"),
        pytest.param(lambda s: s["cart"], False, id="nested value read"),
        pytest.param(lambda s: s.update(name="Bob"), True, id="written"),
        pytest.param(lambda s: s["cart"].append(2), True, id="nested change"),
        pytest.param(lambda s: s["cart"].append({1}), True, id="unstorable nested change"),
        pytest.param(lambda s: s.pop("name"), True, id="removed"),
        pytest.param(lambda s: s.changed(), True, id="changed()"),
        pytest.param(lambda s: s.invalidate(), True, id="invalidated"),
        pytest.param(lambda s: s.renew(), True, id="renewed"),
        pytest.param(lambda s: setattr(s, "max_age", 60), True, id="max_age"),
    ],
)
async def test_changed_flag_tells_whether_the_app_changed_the_session(
    change: Callable[[Any], Any],
    changed: bool,  # noqa: FBT001 - a case
    storage: MongoStorage,
) -> None:
    """Middlewares of other libraries save a session whose `_changed` is true."""
    cookie = await visit(storage, None, lambda s: s.update(name="Ada", cart=[1]))
    loaded = (await load(storage, cookie)).session

    change(loaded)

    assert loaded._changed is changed


async def test_saved_session_says_to_others_that_nothing_changed(storage: MongoStorage) -> None:
    """A middleware of another storage does not save it again."""
    begun = await load(storage)
    assert not begun.session._changed
    begun.session["name"] = "Ada"
    assert begun.session._changed

    await begun.save()
    begun.request[aiohttp_session.STORAGE_KEY] = SimpleCookieStorage()

    assert not begun.session._changed


@each_set_up
@pytest.mark.parametrize("same", [True, False], ids=["same response", "another response"])
async def test_cookie_of_a_save_by_hand_goes_with_the_response_that_is_sent(
    set_up: SetUp,
    same: bool,  # noqa: FBT001 - a case
    open_site: OpenSite,
    storage: MongoStorage,
    log: Any,
) -> None:
    """A new session, a renewal and a sign-out, each with one command more and one cookie."""
    visitor = await (await open_site(storage, set_up)).visitor()

    def saving(change: Callable[[Any], Any]) -> Handler:
        async def handler(request: web.Request) -> web.Response:
            session = await get_session(request)
            change(session)
            response = web.Response()
            await storage.save_session(request, response, session)
            return response if same else web.Response()

        return handler

    begun = await visitor.visit(saving(lambda s: s.update(n=1)))
    first = visitor.cookie
    renewed = await visitor.visit(saving(lambda s: s.renew()))
    second = visitor.cookie
    seen = await visitor.session()
    ended = await visitor.visit(saving(lambda s: s.invalidate()))

    assert [len(set_cookie_of(answer)) for answer in (begun, renewed, ended)] == [1, 1, 1]
    assert seen == {"n": 1}
    assert len({first, second, None}) == 3
    assert visitor.cookie is None
    assert await storage.count() == 0


async def test_cookie_of_a_save_by_hand_does_not_go_with_a_failure(
    visitor: Visitor, storage: MongoStorage
) -> None:
    """A response of 500 and above carries none."""

    async def handler(request: web.Request) -> web.Response:
        session = await get_session(request)
        session["n"] = 1
        await storage.save_session(request, web.Response(), session)
        return web.Response(status=500)

    assert set_cookie_of(await visitor.visit(handler)) == []


@each_set_up
async def test_foreign_sub_app_gets_no_values_of_a_session_that_did_not_change(
    set_up: SetUp, open_site: OpenSite, storage: MongoStorage, clock: Clock
) -> None:
    """Not even where a touch is due: that is for the storage which made the session."""

    @web.middleware
    async def who(request: web.Request, handler: Handler) -> web.StreamResponse:
        request[web.RequestKey("user", object)] = (await get_session(request)).get("user_id")
        return await handler(request)

    async def panel(request: web.Request) -> web.Response:
        return web.json_response(dict(await get_session(request)))

    def set_up_both(app: web.Application, storage: MongoStorage) -> None:
        set_up(app, storage)
        app.middlewares.append(who)
        admin = web.Application()
        aiohttp_session.setup(admin, SimpleCookieStorage(cookie_name="panel"))
        admin.router.add_get("/", panel)
        app.add_subapp("/admin", admin)

    visitor = await (await open_site(storage, set_up_both)).visitor()
    await visitor.do(lambda session: session.update(user_id="ada"))
    clock.advance(2 * 3600)

    response = await visitor.client.get("/admin/")

    assert await response.json() == {"user_id": "ada"}
    assert [line for line in set_cookie_of(response) if line.startswith("panel=")] == []


# session.max_age and session.created


async def test_max_age_may_be_a_timedelta(visitor: Visitor) -> None:
    """It is kept with the session as seconds."""
    response = await visitor.do(
        lambda session: (session.update(a=1), setattr(session, "max_age", timedelta(hours=1)))[0]
    )

    assert cookie_of(response)["max-age"] == "3600"
    assert await (await visitor.do(lambda session: session.max_age)).json() == 3600


async def test_created_moves_with_writes_and_recorded_use(
    make_storage: MakeStorage, open_site: OpenSite, clock: Clock
) -> None:
    """An app's own idle check, which reads it, does not sign out who is active."""
    visitor = await (await open_site(make_storage(touch_interval=1, max_age=3600))).visitor()
    begun = clock.now

    async def visit_page(request: web.Request) -> web.Response:
        session = await get_session(request)
        before = session.created
        session["seen"] = clock.now
        return web.json_response([before, session.created])

    await visitor.visit(visit_page)
    clock.advance(60)
    second = await (await visitor.visit(visit_page)).json()
    clock.advance(60)
    third = await (await visitor.visit(visit_page)).json()

    assert second == [begun, begun + 60]
    assert third == [begun + 60, begun + 120]


# aiohttp-security's key, and whom an owner key names


class _Anybody(AbstractAuthorizationPolicy):
    async def authorized_userid(self, identity: str) -> str | None:
        return identity

    async def permits(self, identity: str | None, permission: Any, context: Any = None) -> bool:
        return identity is not None


@pytest.mark.parametrize(
    ("owner_key", "warned"),
    [("user_id", True), ("AIOHTTP_SECURITY", False), (None, False)],
    ids=["another name", "its own name", "no owners"],
)
async def test_identity_of_aiohttp_security_under_another_owner_key_is_one_warning(
    owner_key: str | None,
    warned: bool,  # noqa: FBT001 - a case
    make_storage: MakeStorage,
    open_site: OpenSite,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Otherwise a sign-in would give no new token, and the session would be in no list."""
    storage = make_storage(owner_key=owner_key)

    def set_up(app: web.Application, storage: MongoStorage) -> None:
        setup(app, storage)
        aiohttp_security.setup(app, aiohttp_security.SessionIdentityPolicy(), _Anybody())

    async def sign_in(request: web.Request) -> web.Response:
        response = web.Response()
        await aiohttp_security.remember(request, response, request.path)
        return response

    site = await open_site(storage, set_up)
    for _ in range(2):
        await (await site.visitor()).visit(sign_in)

    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == (1 if warned else 0)
    assert all("use MongoStorage(..., owner_key='AIOHTTP_SECURITY')" in text for text in warnings)


async def _look_and_sign_in(visitor: Visitor, anonymous: object) -> dict[str, Any]:
    await visitor.do(lambda session: session.update(user_id=anonymous, cart=["tea"]))
    await visitor.do(lambda session: session.update(user_id="ann"))
    return await visitor.session()


@pytest.mark.parametrize("nobody", [None, ""], ids=["None", "empty text"])
async def test_values_of_a_visitor_whose_owner_is_nobody_stay_at_sign_in(
    nobody: object, visitor: Visitor, storage: MongoStorage, collection: Any
) -> None:
    """None and the empty text name no owner."""
    assert await _look_and_sign_in(visitor, nobody) == {"user_id": "ann", "cart": ["tea"]}
    assert len([info async for info in storage.sessions("ann")]) == 1
    assert await collection.count_documents(SESSIONS) == 1


@pytest.mark.parametrize("somebody", [0, "3f0c"], ids=["zero", "random id"])
async def test_values_of_another_owner_are_dropped_and_the_log_says_so(
    somebody: object, visitor: Visitor, caplog: pytest.LogCaptureFixture
) -> None:
    """0 is an owner, for a sign-in as user 0 must renew too."""
    caplog.set_level(logging.INFO, "storage")

    assert await _look_and_sign_in(visitor, somebody) == {"user_id": "ann"}

    (record,) = caplog.records
    assert re.fullmatch(r"session \w{8} has another owner; 1 values dropped", record.getMessage())


async def test_session_that_version_0_1_0_stored_for_the_empty_owner_opens(
    make_storage: MakeStorage, collection: Any
) -> None:
    """It belongs to nobody from now on."""
    storage = make_storage()
    cookie = str(await visit(storage, None, lambda s: s.update(user_id="", cart=["tea"])))
    hashed = Keyring(SECRET).owner_hash("")
    await collection.update_one({"_id": id_of(cookie)}, {"$set": {"owner": hashed}})

    assert await values(make_storage(), cookie) == {"user_id": "", "cart": ["tea"]}
    signed_in = await visit(storage, cookie, lambda s: s.update(user_id="ann"))
    assert await values(storage, signed_in) == {"user_id": "ann", "cart": ["tea"]}


async def test_sign_out_by_an_empty_owner_gives_a_new_token(visitor: Visitor) -> None:
    """As with None: the session becomes anonymous, and its old token is invalid."""
    await visitor.do(lambda session: session.update(user_id="ada", theme="dark"))
    before = visitor.cookie

    await visitor.do(lambda session: session.update(user_id=""))

    assert visitor.cookie != before
    assert await visitor.session() == {"user_id": "", "theme": "dark"}


# A failure of the load that the app catches


@pytest.fixture
async def visitor_without_mongodb(
    open_site: OpenSite, make_storage: MakeStorage
) -> AsyncIterator[Visitor]:
    """Open a browser with a cookie at an app whose MongoDB is away."""
    address = f"mongodb://127.0.0.1:{free_port()}"
    async with AsyncMongoClient[Any](address, serverSelectionTimeoutMS=100) as client:
        storage = make_storage(client["app"]["sessions"], operation_timeout=0.2)
        yield await (await open_site(storage)).visitor(cookie=GIVEN)


@pytest.mark.parametrize("redirects", [False, True], ids=["returned", "raised"])
async def test_failed_load_that_a_handler_swallows_is_one_warning_for_its_route(
    redirects: bool,  # noqa: FBT001 - a case
    visitor_without_mongodb: Visitor,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """`except web.HTTPException` catches the 503 too: "you are signed out" would not be true."""

    async def sign_out(request: web.Request) -> web.Response:
        with suppress(web.HTTPException):
            (await get_session(request)).invalidate()
        if redirects:
            raise web.HTTPFound("/bye")
        return web.Response(text="you are signed out")

    for _ in range(2):
        assert (await visitor_without_mongodb.visit(sign_out)).status < 400

    messages = [r.getMessage() for r in caplog.records if "could not be loaded" in r.getMessage()]
    assert len(messages) == 1
    assert messages[0].startswith("GET /{number}: it answered ")


async def test_failed_load_that_is_answered_with_503_is_no_warning_for_its_route(
    visitor_without_mongodb: Visitor, caplog: pytest.LogCaptureFixture
) -> None:
    """An error page of the app may answer for it."""

    async def page(request: web.Request) -> web.Response:
        try:
            await get_session(request)
        except web.HTTPException as error:
            return web.Response(status=error.status)
        raise AssertionError

    assert (await visitor_without_mongodb.visit(page)).status == 503
    assert "could not be loaded" not in caplog.text
