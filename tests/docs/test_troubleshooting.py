"""Each mistake of the troubleshooting page gives the message that is shown there."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp_session
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from aiohttp.typedefs import Handler
from aiohttp_session import get_session
from aiohttp_session.redis_storage import RedisStorage
from bson import json_util
from cryptography.fernet import Fernet
from pymongo import AsyncMongoClient, MongoClient, WriteConcern
from pytest_aiohttp import AiohttpClient
from redis.asyncio import Redis

from storage import (
    MongoStorage,
    SessionNotSerializable,
    SessionTooLarge,
    causes,
    generate_secret,
    renew_session,
    save_session,
    setup,
)
from storage.causes import Cause
from storage.session import warn_of_given_identity
from tests.docs.markdown import ROOT, blocks
from tests.processes import free_port
from tests.storage.conftest import MakeStorage, OpenSite, Visitor

MESSAGES = [block.text.strip() for block in blocks(ROOT / "docs" / "troubleshooting.md", "text")]
SECRET = generate_secret()
SHOWN: set[str] = set()
ANOTHER_LOOP = """
import asyncio
from aiohttp import web
from {module} import {name}
from storage import MongoStorage, setup

client = {name}("{uri}")

async def use():
    await client["admin"].command("ping")

async def serve():
    app = web.Application()
    setup(app, MongoStorage(client["test"]["sessions"], "{secret}"))
    await web.AppRunner(app).setup()

asyncio.run(use())
asyncio.run(serve())
"""


def says(message: object) -> bool:
    """Return whether the page shows a message, word for word."""
    found = [text for text in MESSAGES if re.search(rf"(?<!\w){re.escape(text)}", str(message))]
    SHOWN.update(found)
    return bool(found)


def test_synchronous_collection() -> None:
    """The message names the two accepted kinds of collection."""
    with (
        MongoClient[Any]("mongodb://127.0.0.1", connect=False) as client,
        pytest.raises(TypeError) as raised,
    ):
        MongoStorage(client["app"]["sessions"], SECRET)

    assert says(raised.value)


async def test_database_instead_of_a_collection() -> None:
    """The message shows how to get a collection."""
    async with AsyncMongoClient[Any]("mongodb://127.0.0.1") as client:
        with pytest.raises(TypeError) as raised:
            MongoStorage(client["app"], SECRET)

    assert says(raised.value)


@pytest.mark.parametrize(
    "made",
    ["pymongo.AsyncMongoClient", "motor.motor_asyncio.AsyncIOMotorClient"],
    ids=["pymongo", "motor"],
)
def test_client_of_another_loop(made: str, mongo_uri: str) -> None:
    """The app does not start, and the message says where to create the client."""
    module, _, name = made.rpartition(".")
    program = ANOTHER_LOOP.format(module=module, name=name, uri=mongo_uri, secret=SECRET)

    # In its own process, because a client of the wrong event loop cannot be closed properly.
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert done.returncode == 1
    assert says(done.stderr.strip().splitlines()[-1])


async def test_other_runtime_error_of_a_driver_is_passed_on(storage: MongoStorage) -> None:
    """Only errors about the event loop get another message."""

    async def fail() -> None:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        await storage._driver.send(fail, 1)


@pytest.mark.parametrize("secret", [7, None], ids=["a number", "a variable that is not set"])
async def test_secret_of_the_wrong_type(secret: Any) -> None:
    """The message says what a secret may be."""
    async with AsyncMongoClient[Any]("mongodb://127.0.0.1") as client:
        with pytest.raises(TypeError) as raised:
            MongoStorage(client["app"]["sessions"], secret)

    assert says(raised.value)


async def test_secret_that_is_too_short() -> None:
    """The message says how to create a good secret, and does not show this one."""
    async with AsyncMongoClient[Any]("mongodb://127.0.0.1") as client:
        with pytest.raises(ValueError, match="fewer") as raised:
            MongoStorage(client["app"]["sessions"], "hunter22")

    assert says(raised.value)
    assert "hunter22" not in str(raised.value)


async def test_get_session_without_setup(
    aiohttp_client: AiohttpClient, caplog: pytest.LogCaptureFixture
) -> None:
    """The log has aiohttp-session's own message, and the answer is a 500."""
    app = web.Application()
    app.router.add_get("/", _count)
    client = await aiohttp_client(app)

    assert (await client.get("/")).status == 500
    assert says(caplog.text)


async def test_middlewares_in_the_wrong_order(
    storage: MongoStorage, aiohttp_client: AiohttpClient, caplog: pytest.LogCaptureFixture
) -> None:
    """A middleware that calls `get_session` must be added after `setup`."""

    @web.middleware
    async def greet(request: web.Request, handler: Handler) -> web.StreamResponse:
        await get_session(request)
        return await handler(request)

    wrong, right = web.Application(middlewares=[greet]), web.Application()
    setup(wrong, storage)
    setup(right, storage)
    right.middlewares.append(greet)
    for app in (wrong, right):
        app.router.add_get("/", _count)

    statuses = [(await (await aiohttp_client(app)).get("/")).status for app in (wrong, right)]

    assert statuses == [500, 200]
    assert says(caplog.text)


async def _count(request: web.Request) -> web.Response:
    session = await get_session(request)
    session["n"] = session.get("n", 0) + 1
    return web.Response(text=str(session["n"]))


def _assign(session: Any) -> None:
    session["n"] = 1


@pytest.mark.parametrize(
    "use",
    [
        pytest.param(lambda session: session.get("n", 0), id="get"),
        pytest.param(lambda session: session["n"], id="look up"),
        pytest.param(_assign, id="assign"),
    ],
)
async def test_forgotten_await(
    use: Callable[[Any], object], visitor: Visitor, caplog: pytest.LogCaptureFixture
) -> None:
    """The message is Python's own."""

    async def handler(request: web.Request) -> web.Response:
        session: Any = get_session(request)
        try:
            use(session)
        finally:
            session.close()
        return web.Response()

    assert (await visitor.visit(handler)).status == 500
    assert says(caplog.text)


async def test_forgotten_await_of_a_renewal(visitor: Visitor) -> None:
    """Python only warns, and the token does not change."""
    await visitor.do(lambda session: session.update(n=1))
    before = visitor.cookie

    async def handler(request: web.Request) -> web.Response:
        renew_session(request)  # type: ignore[unused-coroutine]
        return web.Response()

    with pytest.warns(RuntimeWarning) as warned:
        await visitor.visit(handler)

    assert visitor.cookie == before
    assert says(warned[0].message)


async def test_sessions_read_with_for(storage: MongoStorage) -> None:
    """The message is Python's own."""
    with pytest.raises(TypeError) as raised:
        list(storage.sessions("ada"))  # type: ignore[call-overload]

    assert says(raised.value)


def test_setup_with_the_class() -> None:
    """The message asks for an instance."""
    with pytest.raises(TypeError) as raised:
        setup(web.Application(), MongoStorage)  # type: ignore[arg-type]

    assert says(raised.value)


async def test_unacknowledged_writes() -> None:
    """The message says what to use."""
    async with AsyncMongoClient[Any]("mongodb://127.0.0.1") as client:
        collection = client["app"]["sessions"].with_options(write_concern=WriteConcern(w=0))
        with pytest.raises(ValueError, match="w=0") as raised:
            MongoStorage(collection, SECRET)

    assert says(raised.value)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        pytest.param("since", datetime(2026, 1, 1, tzinfo=UTC), SessionNotSerializable, id="date"),
        pytest.param("photo", "x" * 300_014, SessionTooLarge, id="too large"),
    ],
)
async def test_value_that_cannot_be_stored(
    storage: MongoStorage, name: str, value: object, error: type[Exception]
) -> None:
    """The message names the session key, not the value."""
    session = await storage.new_session()
    session[name] = value

    with pytest.raises(error) as raised:
        await storage.save_session(make_mocked_request("GET", "/"), web.Response(), session)

    assert says(raised.value)


async def test_mongodb_cannot_be_reached(aiohttp_client: AiohttpClient) -> None:
    """The answer is 503 with Retry-After, without a handler for it in the app."""
    address = f"mongodb://127.0.0.1:{free_port()}"
    async with AsyncMongoClient[Any](address, serverSelectionTimeoutMS=100) as mongo:
        app = web.Application()
        aiohttp_session.setup(
            app, MongoStorage(mongo["app"]["sessions"], SECRET, operation_timeout=0.2)
        )
        app.router.add_get("/", _count)
        client = await aiohttp_client(app)

        response = await client.get("/")

        assert (response.status, response.headers["Retry-After"]) == (503, "1")
        assert says(await response.text())


def test_every_cause_of_a_503_is_on_the_page() -> None:
    """Each with its remedy, in the words of the log."""
    page = (ROOT / "docs" / "mongodb-away.md").read_text()
    sentences = [cause.sentence for cause in vars(causes).values() if isinstance(cause, Cause)]

    rows = ["| {} | {} |".format(*sentence.split("; ", 1)) for sentence in sentences]

    assert len(rows) > 20
    assert [row for row in rows if row not in page] == []


async def test_handler_that_swallows_the_503(
    aiohttp_client: AiohttpClient, caplog: pytest.LogCaptureFixture
) -> None:
    """The log names the route and what to catch."""
    address = f"mongodb://127.0.0.1:{free_port()}"
    async with AsyncMongoClient[Any](address, serverSelectionTimeoutMS=100) as mongo:
        app = web.Application()
        setup(app, MongoStorage(mongo["app"]["sessions"], SECRET, operation_timeout=0.2))

        async def sign_out(request: web.Request) -> web.Response:
            with suppress(web.HTTPException):
                (await get_session(request)).invalidate()
            return web.Response(text="you are signed out")

        app.router.add_get("/", sign_out)
        client = await aiohttp_client(app, cookies={"session": SECRET})

        assert (await client.get("/")).status == 200

    assert says(caplog.text)


async def test_stream_that_changes_the_session_too_late(
    collection: Any, aiohttp_client: AiohttpClient, caplog: pytest.LogCaptureFixture
) -> None:
    """The log names the keys and what to call, which needs a stored session."""
    app = web.Application()
    setup(app, MongoStorage(collection, SECRET))
    refused = []

    async def stream(request: web.Request) -> web.StreamResponse:
        session = await get_session(request)
        response = web.StreamResponse()
        await response.prepare(request)
        session["seen"] = 1
        with pytest.raises(RuntimeError) as refusal:
            await save_session(request)
        refused.append(str(refusal.value))
        return response

    app.router.add_get("/", stream)
    client = await aiohttp_client(app)

    await (await client.get("/")).read()

    assert says(refused[0])
    assert says(caplog.text)


async def test_secret_that_changes_at_each_start(
    open_site: OpenSite, make_storage: MakeStorage, caplog: pytest.LogCaptureFixture
) -> None:
    """Visitors from before the restart have no session, and the log says why."""
    before = await (await open_site(make_storage(secrets=generate_secret()))).visitor()
    await before.do(lambda session: session.update(user_id="ada"))

    after = await (await open_site(make_storage(secrets=generate_secret()))).visitor(before.cookie)

    with caplog.at_level(logging.WARNING):
        assert await after.session() == {}
    assert says(caplog.text)


def _error_of(program: str, folder: Path) -> str:
    """Run a program in a folder and return what it writes to standard error."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stderr


def test_module_of_the_app_is_called_storage(tmp_path: Path) -> None:
    """Python's own message ends with the path of the app's file."""
    (tmp_path / "storage.py").write_text("")

    error = _error_of("from storage import MongoStorage", tmp_path)

    assert says(error)
    assert f"({tmp_path / 'storage.py'})" in error


def test_aiohttp_is_older_than_the_storage_needs(tmp_path: Path) -> None:
    """The import says which version is needed, and which is there."""
    older = "import aiohttp; del aiohttp.web.RequestKey; aiohttp.__version__ = '3.13.3'"

    assert says(_error_of(f"import aiohttp.web; {older}; import storage", tmp_path))


def test_fernet_as_a_secret(collection: Any) -> None:
    """The message says what to pass instead."""
    with pytest.raises(TypeError) as raised:
        MongoStorage(collection, Fernet(Fernet.generate_key()))  # type: ignore[arg-type]

    assert says(raised.value)


async def test_user_of_aiohttp_security_is_no_owner(
    visitor: Visitor, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says which `owner_key` to pass."""
    await visitor.do(lambda session: session.update(AIOHTTP_SECURITY="ada"))

    assert says(caplog.text)


async def test_identity_of_the_apps_own(visitor: Visitor, caplog: pytest.LogCaptureFixture) -> None:
    """The log says that it is not used."""
    warn_of_given_identity.cache_clear()  # once per process

    await visitor.do(lambda session: session.set_new_identity("mine"))

    assert says(caplog.text)


async def test_set_up_that_comes_twice_or_too_late(storage: MongoStorage) -> None:
    """Each message says what to write instead."""
    twice, beside, added = web.Application(), web.Application(), web.Application()
    setup(twice, storage)
    aiohttp_session.setup(beside, storage)
    listed = web.Application(middlewares=[aiohttp_session.session_middleware(storage)])
    web.Application().add_subapp("/sub", added)

    for app in (twice, beside, listed, added):
        with pytest.raises(RuntimeError) as raised:
            setup(app, storage)
        assert says(raised.value)


async def test_public_answer_with_the_session_cookie(
    visitor: Visitor, caplog: pytest.LogCaptureFixture
) -> None:
    """The answer is private, and the log names the route and what was removed."""

    async def begin(request: web.Request) -> web.Response:
        (await get_session(request))["name"] = "Ada"
        return web.Response(headers={"Cache-Control": "public, s-maxage=60"})

    response = await visitor.visit(begin)

    assert response.headers["Cache-Control"] == "private"
    assert says(caplog.text)


@pytest.mark.parametrize(
    "cookie", ["unreadable", '{"session": {"since": {"$date": "1999-12-31T00:00:00Z"}}}']
)
async def test_session_that_does_not_move(
    cookie: str, make_storage: MakeStorage, open_site: OpenSite, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says why."""
    old = aiohttp_session.SimpleCookieStorage(cookie_name="OLD", decoder=json_util.loads)
    site = await open_site(make_storage(moving_from=old))

    async def read(request: web.Request) -> web.Response:
        await get_session(request)
        return web.Response()

    head = await site.head_on_the_wire(read, f"Cookie: OLD={cookie}\r\n".encode())

    assert head.startswith("HTTP/1.1 200")
    assert says(caplog.text)


async def test_old_storage_that_cannot_be_reached(
    make_storage: MakeStorage, open_site: OpenSite, caplog: pytest.LogCaptureFixture
) -> None:
    """The answer is 503, and the log names the old storage."""
    async with Redis(port=free_port(), retry=None) as nobody:
        site = await open_site(make_storage(moving_from=RedisStorage(nobody, cookie_name="OLD")))

        async def read(request: web.Request) -> web.Response:
            await get_session(request)
            return web.Response()

        head = await site.head_on_the_wire(read, b"Cookie: OLD=1\r\n")

    assert head.startswith("HTTP/1.1 503")
    assert says(caplog.text)


async def test_anonymous_visitor_with_a_user_id(
    visitor: Visitor, caplog: pytest.LogCaptureFixture
) -> None:
    """The values are those of another user, and the log says that they were dropped."""
    await visitor.do(lambda session: session.update(user_id=0, cart=["tea"]))

    with caplog.at_level(logging.INFO, "storage"):
        await visitor.do(lambda session: session.update(user_id="ada"))

    assert await visitor.session() == {"user_id": "ada"}
    assert says(caplog.text)


def test_every_message_on_the_page_was_produced(request: pytest.FixtureRequest) -> None:
    """Together the tests above produce every message on the page."""
    here = {item.name.split("[")[0] for item in request.session.items if item.path == request.path}
    if here != {name for name in globals() if name.startswith("test_")}:
        pytest.skip("only some tests of this file were chosen")

    assert set(MESSAGES) == SHOWN
