"""A middleware may hand on a clone of the request; the session is saved."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from aiohttp.typedefs import Handler
from aiohttp_session import STORAGE_KEY, get_session, new_session

from storage import MongoStorage, generate_secret, renew_session, setup
from storage.middleware import _all_held
from tests.storage.conftest import (
    HANDLERS,
    SESSIONS,
    MakeStorage,
    OpenSite,
    SetUp,
    Site,
    Visitor,
    make_app,
    set_cookie_of,
)
from tests.storage.direct import values
from tests.storage.handlers import ANSWERS, after


@web.middleware
async def _clone(request: web.Request, handler: Handler) -> web.StreamResponse:
    return await handler(request.clone(remote="192.0.2.1"))


@web.middleware
async def _load_and_clone(request: web.Request, handler: Handler) -> web.StreamResponse:
    await get_session(request)
    return await handler(request.clone())


@web.middleware
async def _clone_and_load(request: web.Request, handler: Handler) -> web.StreamResponse:
    clone = request.clone()
    await get_session(request)
    return await handler(clone)


def _with(*middlewares: Any) -> SetUp:
    def set_up(app: web.Application, storage: MongoStorage) -> None:
        setup(app, storage)
        app.middlewares.extend(middlewares)

    return set_up


@pytest.fixture(
    params=[(_clone,), (_load_and_clone,), (_clone_and_load,), (_clone, _load_and_clone)],
    ids=["cloned", "loaded, then cloned", "cloned, then loaded", "cloned twice"],
)
async def site(request: pytest.FixtureRequest, open_site: OpenSite, storage: MongoStorage) -> Site:
    """Start an app whose handlers get a clone of the request."""
    return await open_site(storage, _with(*request.param))


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
async def test_changes_made_with_a_clone_of_the_request_are_saved(
    answer: Handler, visitor: Visitor, collection: Any
) -> None:
    """A new session, a nested change, a sign-in and a sign-out, whatever the answer."""
    begun = await visitor.visit(after(lambda s: s.update(cart=[1]), answer))
    await visitor.visit(after(lambda s: s["cart"].append(2), answer))
    changed = await visitor.session()
    before = visitor.cookie
    await visitor.visit(after(lambda s: s.update(user_id="ada"), answer))
    signed_in = await visitor.session()
    renewed = visitor.cookie
    ended = await visitor.visit(after(lambda s: s.invalidate(), answer))

    assert (len(set_cookie_of(begun)), len(set_cookie_of(ended))) == (1, 1)
    assert changed == {"cart": [1, 2]}
    assert signed_in == {"cart": [1, 2], "user_id": "ada"}
    assert renewed != before
    assert visitor.cookie is None
    assert await collection.count_documents(SESSIONS) == 0


async def test_new_session_of_a_clone_replaces_the_stored_one(
    visitor: Visitor, collection: Any
) -> None:
    """Also where a middleware has loaded the old one with the request itself."""
    await visitor.do(lambda session: session.update(name="Ada"))
    before = visitor.cookie

    async def handler(request: web.Request) -> web.Response:
        (await new_session(request))["name"] = "Bob"
        return web.Response()

    await visitor.visit(handler)

    assert visitor.cookie != before
    assert await visitor.session() == {"name": "Bob"}
    assert await collection.count_documents(SESSIONS) == 1


async def test_renewal_asked_for_with_a_clone_is_carried_out(visitor: Visitor) -> None:
    """``renew_session`` takes the request that the handler has."""
    await visitor.do(lambda session: session.update(name="Ada"))
    before = visitor.cookie

    async def handler(request: web.Request) -> web.Response:
        await renew_session(request)
        return web.Response()

    await visitor.visit(handler)

    assert visitor.cookie != before
    assert await visitor.session() == {"name": "Ada"}


async def test_crash_with_a_clone_saves_nothing(visitor: Visitor) -> None:
    """As without a clone."""
    await visitor.do(lambda session: session.update(balance=10))

    async def crash(_request: web.Request) -> web.StreamResponse:
        raise LookupError

    response = await visitor.visit(after(lambda session: session.update(balance=0), crash))

    assert response.status == 500
    assert await visitor.session() == {"balance": 10}


async def test_new_session_in_a_clone_deletes_no_session_that_did_not_open(
    site: Site, open_site: OpenSite, make_storage: MakeStorage, collection: Any
) -> None:
    """A document under a secret that is not configured here stays for those who can open it."""
    elsewhere = await (await open_site(make_storage(secrets=generate_secret()))).visitor()
    await elsewhere.do(lambda session: session.update(name="Ada"))
    visitor = await site.visitor(elsewhere.cookie)

    await visitor.do(lambda session: session.update(name="Bob"))

    assert await elsewhere.session() == {"name": "Ada"}
    assert await collection.count_documents(SESSIONS) == 2


async def test_middleware_sees_and_changes_the_session_of_the_clone_it_handed_on(
    open_site: OpenSite, storage: MongoStorage
) -> None:
    """On the way back the request itself has the same session."""

    @web.middleware
    async def count(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request.clone())
        session = await get_session(request)
        session["seen"] = sorted(session)
        return response

    visitor = await (await open_site(storage, _with(count))).visitor()

    response = await visitor.do(lambda session: session.update(name="Ada"))

    assert len(set_cookie_of(response)) == 1
    assert (await visitor.session())["seen"] == ["name"]


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
@pytest.mark.parametrize("same", [True, False], ids=["one storage", "two storages"])
async def test_changes_below_a_clone_between_app_and_sub_app_are_saved(
    answer: Handler,
    same: bool,  # noqa: FBT001 - a case
    open_site: OpenSite,
    make_storage: MakeStorage,
    collection: Any,
) -> None:
    """Those of the sub-app, and those of the app around it where it has a storage of its own."""
    outer = make_storage()
    staff = collection.database["staff"]
    inner = outer if same else make_storage(staff, cookie_name="staff")

    @web.middleware
    async def above(request: web.Request, handler: Handler) -> web.StreamResponse:
        (await get_session(request))["above"] = 1
        return await handler(request.clone())

    def set_up(app: web.Application, storage: MongoStorage) -> None:
        setup(app, storage)
        app.middlewares.append(above)
        sub_app = make_app(inner, _with(_clone))
        sub_app[HANDLERS] = app[HANDLERS]
        app.add_subapp("/sub", sub_app)

    site = await open_site(outer, set_up)
    visitor = await site.visitor()
    path = site.path_of(after(lambda session: session.update(below=1), answer))

    response = await visitor.client.get(f"/sub{path}", allow_redirects=False)

    assert len(set_cookie_of(response)) == (1 if same else 2)
    assert (await visitor.session()).get("below") == (1 if same else None)
    assert (await visitor.session())["above"] == 1
    assert await inner.count() == 1


async def test_app_may_take_the_storage_from_the_request(
    visitor: Visitor, storage: MongoStorage
) -> None:
    """Under aiohttp-session's own key there is what answers as the storage does."""

    async def handler(request: web.Request) -> web.Response:
        session = await get_session(request)
        session["name"] = "Ada"
        response = web.Response()
        await request[STORAGE_KEY].save_session(request, response, session)
        return response

    response = await visitor.visit(handler)

    assert len(set_cookie_of(response)) == 1
    assert await storage.count() == 1


@web.middleware
async def _page(request: web.Request, handler: Handler) -> web.StreamResponse:
    await handler(request)
    return web.Response(text="a page", headers={"Cache-Control": "public"})


@pytest.mark.parametrize("outside", [(_clone,), (_clone, _page)], ids=["cloned", "and replaced"])
async def test_answer_is_private_where_a_middleware_outside_has_handed_on_a_clone(
    outside: tuple[Any, ...], open_site: OpenSite, storage: MongoStorage
) -> None:
    """As those of aiohttp-remotes do: the clone has the scheme and the address of the visitor."""

    def set_up(app: web.Application, storage: MongoStorage) -> None:
        app.middlewares.extend(outside)
        setup(app, storage)

    visitor = await (await open_site(storage, set_up)).visitor()

    async def sign_in(request: web.Request) -> web.StreamResponse:
        (await get_session(request))["user_id"] = "ada"
        return web.Response(headers={"Cache-Control": "public"})

    response = await visitor.visit(sign_in)

    assert len(set_cookie_of(response)) == 1
    assert response.headers["Cache-Control"] == "private"
    assert response.headers["Vary"] == "Cookie"
    assert visitor.cookie is not None
    assert await values(storage, visitor.cookie) == {"user_id": "ada"}


def test_response_writer_that_takes_no_attributes_breaks_no_request() -> None:
    """A later aiohttp may have one: then the request itself keeps its sessions."""

    class Writer:
        __slots__ = ()

    request = make_mocked_request("GET", "/", writer=Writer())

    held = _all_held(request)

    assert held == []
    assert _all_held(request) is held
