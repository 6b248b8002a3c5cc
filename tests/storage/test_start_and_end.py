"""When a session starts and ends: new_session, invalidate, emptied sessions, unknown tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp_session import get_session, new_session

from storage import MongoStorage, generate_secret
from tests.storage.conftest import (
    Clock,
    MakeStorage,
    OpenSite,
    SetUp,
    Site,
    Visitor,
    each_set_up,
    every_driver,
    set_cookie_of,
)
from tests.storage.overlap import Change, at_once

UNKNOWN = generate_secret()  # 43 characters of base64url, as a token is written


@every_driver
@pytest.mark.parametrize("loaded_first", [True, False], ids=["loaded first", "not loaded"])
async def test_new_session_replaces_the_stored_one(
    loaded_first: bool,  # noqa: FBT001 - a case
    visitor: Visitor,
    site: Site,
    collection: Any,
    clock: Clock,
) -> None:
    """The old document is deleted when the new one is saved; no value and no date is kept."""
    await visitor.do(lambda session: session.update(name="Ada"))
    old = await site.visitor(visitor.cookie)
    created_at = (await collection.find_one({}))["created_at"]
    clock.advance(60)

    async def handler(request: web.Request) -> web.Response:
        if loaded_first:
            await get_session(request)
        (await new_session(request))["name"] = "Bob"
        return web.Response()

    await visitor.visit(handler)

    assert visitor.cookie != old.cookie
    assert await visitor.session() == {"name": "Bob"}
    assert await old.session() == {}
    (stored,) = await collection.find({}).to_list(None)
    assert (stored["created_at"] - created_at).total_seconds() == 60


@pytest.mark.parametrize(
    "prepare",
    [
        pytest.param(len, id="left alone"),
        pytest.param(lambda session: setattr(session, "max_age", 600), id="max_age"),
        pytest.param(lambda session: session.renew(), id="renewal"),
    ],
)
async def test_new_session_without_a_value_changes_nothing(
    visitor: Visitor, prepare: Callable[[Any], Any]
) -> None:
    """The stored session stays until the new one is stored: a failed sign-in signs nobody out."""
    await visitor.do(lambda session: session.update(name="Ada"))

    async def sign_in(request: web.Request) -> web.Response:
        prepare(await new_session(request))
        return web.Response(status=401)

    response = await visitor.visit(sign_in)

    assert set_cookie_of(response) == []
    assert await visitor.session() == {"name": "Ada"}


async def test_session_written_after_invalidate_gets_a_new_token(
    visitor: Visitor, site: Site, collection: Any, clock: Clock
) -> None:
    """No older value is kept, the old token is invalid, and the lifetime starts again."""
    await visitor.do(lambda session: session.update(name="Ada", cart=[1]))
    old = await site.visitor(visitor.cookie)
    created_at = (await collection.find_one({}))["created_at"]
    clock.advance(60)

    def log_out_and_write(session: Any) -> None:
        session.invalidate()
        session["name"] = "Ada"

    await visitor.do(log_out_and_write)

    assert visitor.cookie != old.cookie
    assert await visitor.session() == {"name": "Ada"}
    assert await old.session() == {}
    (stored,) = await collection.find({}).to_list(None)
    assert (stored["created_at"] - created_at).total_seconds() == 60


def _delete_each(session: Any) -> None:
    for name in list(session):
        del session[name]


def _pop_each(session: Any) -> None:
    while session:
        session.popitem()


def _write_and_empty(session: Any) -> None:
    session["late"] = 1
    session.clear()


def _renew_and_invalidate(session: Any) -> None:
    session.renew()
    session.invalidate()


@pytest.mark.parametrize(
    "empty",
    [
        pytest.param(lambda session: session.invalidate(), id="invalidate"),
        pytest.param(lambda session: session.clear(), id="clear"),
        pytest.param(_delete_each, id="del of each value"),
        pytest.param(_pop_each, id="popitem"),
        pytest.param(_write_and_empty, id="written, then cleared"),
        pytest.param(_renew_and_invalidate, id="renewed, then invalidated"),
    ],
)
async def test_emptied_session_is_logged_out(
    empty: Change, visitor: Visitor, site: Site, collection: Any
) -> None:
    """The document is deleted, the token is invalid, and the response deletes the cookie."""
    await visitor.do(lambda session: session.update(name="Ada", user_id=7))
    thief = await site.visitor(visitor.cookie)

    response = await visitor.do(empty)

    (line,) = set_cookie_of(response)
    assert line.startswith('session=""; ')
    assert "; Max-Age=0;" in line
    assert visitor.cookie is None
    assert await thief.session() == {}
    assert await collection.count_documents({}) == 0


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda session: session.invalidate(), id="invalidated"),
        pytest.param(lambda session: session.changed(), id="changed()"),
        pytest.param(_write_and_empty, id="written, then cleared"),
        pytest.param(lambda session: setattr(session, "max_age", 60), id="max_age set"),
        pytest.param(lambda session: session.renew(), id="renewed"),
    ],
)
async def test_new_session_without_values_is_not_stored(
    change: Change, visitor: Visitor, collection: Any
) -> None:
    """Whatever was done to it: nothing is written, and no cookie is sent."""
    response = await visitor.do(change)

    assert set_cookie_of(response) == []
    assert await collection.count_documents({}) == 0


@pytest.mark.parametrize("fault", ["unknown", "expired", "unreadable"])
async def test_token_that_opens_no_session_is_never_adopted(
    fault: str, make_storage: MakeStorage, open_site: OpenSite, site: Site, clock: Clock
) -> None:
    """A read sends no cookie; the next save uses a new token of the server."""
    other = await (await open_site(make_storage(secrets=generate_secret()))).visitor(UNKNOWN)
    if fault == "unreadable":
        other.cookie = None
        await other.do(lambda session: session.update(name="sealed under another secret"))
    visitor = await site.visitor(other.cookie)
    if fault == "expired":
        visitor.cookie = None
        await visitor.do(lambda session: session.update(name="Ada"))
        clock.advance(14 * 24 * 3600)
        # A browser drops the cookie at its Max-Age; a thief does not.
    token = visitor.cookie

    read = await visitor.do(lambda session: [session.new, dict(session)])
    write = await visitor.do(lambda session: session.update(name="Bob"))

    assert await read.json() == [True, {}]
    assert set_cookie_of(read) == []
    assert len(set_cookie_of(write)) == 1
    assert visitor.cookie not in {token, None}
    assert await (await site.visitor(token)).session() == {}


@pytest.mark.parametrize(
    "end", [lambda session: session.invalidate(), _write_and_empty], ids=["invalidated", "emptied"]
)
@pytest.mark.parametrize("loads_first", [False, True], ids=["not loaded", "loaded"])
async def test_new_session_that_is_emptied_logs_out(
    visitor: Visitor, collection: Any, end: Callable[[Any], Any], *, loads_first: bool
) -> None:
    """As with every storage of aiohttp-session: the stored session ends, and so does its cookie."""
    await visitor.do(lambda session: session.update(user_id="ada"))

    async def sign_out(request: web.Request) -> web.Response:
        if loads_first:
            await get_session(request)
        end(await new_session(request))
        return web.Response()

    await visitor.visit(sign_out)

    assert visitor.cookie is None
    assert await collection.count_documents({}) == 0


@each_set_up
async def test_parallel_get_session_calls_return_one_object(
    set_up: SetUp, open_site: OpenSite, storage: MongoStorage
) -> None:
    """Changes of two tasks of one request are saved together."""
    visitor = await (await open_site(storage, set_up)).visitor()
    await visitor.do(lambda session: session.update(name="Ada"))

    async def handler(request: web.Request) -> web.Response:
        one, two = await asyncio.gather(get_session(request), get_session(request))
        one["left"], two["right"] = 1, 2
        return web.json_response(one is two is await get_session(request))

    response = await visitor.visit(handler)

    assert await response.json() is True
    assert await visitor.session() == {"name": "Ada", "left": 1, "right": 2}


async def test_new_session_during_a_load_is_the_session_of_the_request(
    visitor: Visitor, collection: Any
) -> None:
    """A load that ends later does not put the old session back."""
    await visitor.do(lambda session: session.update(name="Ada"))

    async def handler(request: web.Request) -> web.Response:
        loading = asyncio.ensure_future(get_session(request))
        await asyncio.sleep(0)
        fresh = await new_session(request)
        fresh["name"] = "Bob"
        return web.json_response(await loading is fresh)

    response = await visitor.visit(handler)

    assert await response.json() is True
    assert await visitor.session() == {"name": "Bob"}
    assert await collection.count_documents({}) == 1


async def test_double_clicked_new_session_gives_two_valid_sessions(
    visitor: Visitor, site: Site, collection: Any
) -> None:
    """Both logins succeed, although only one of them ends the old session."""
    await visitor.do(lambda session: session.update(name="Ada"))
    old = await site.visitor(visitor.cookie)

    async def log_in(request: web.Request) -> web.StreamResponse:
        (await new_session(request))["user_id"] = 7
        return web.Response()

    responses = await at_once((visitor, log_in), (visitor, log_in))

    for response in responses:
        (line,) = set_cookie_of(response)
        browser = await site.visitor(line.removeprefix("session=").split(";")[0])
        assert await browser.session() == {"user_id": 7}
    assert await old.session() == {}
    assert await collection.count_documents({}) == 2
