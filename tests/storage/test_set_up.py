"""``setup``: once for an app, before it runs or while it starts, and again when it starts again."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import aiohttp_session
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from aiohttp.typedefs import Handler
from aiohttp_session import get_session
from pymongo import AsyncMongoClient

from storage import MongoStorage, generate_secret, setup
from tests.storage.command_log import CommandLog
from tests.storage.conftest import MakeStorage, until

SERVE_ONCE = """
import asyncio
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
import aiohttp_session
from pymongo import AsyncMongoClient
import storage

async def visit(request):
    session = await aiohttp_session.get_session(request)
    session["n"] = session.get("n", 0) + 1
    return web.json_response(session["n"])

async def main():
    async with AsyncMongoClient("{uri}") as client:
        app = web.Application()
        app.router.add_get("/", visit)
        sessions = storage.MongoStorage(client["{name}"]["sessions"], storage.generate_secret())
        {set_up}(app, sessions)
        async with TestClient(TestServer(app)) as visitor:
            for _ in range(2):
                answer = await visitor.get("/")
                print(answer.status, await answer.text())
        # setup does it by itself; its index work may still be under way here.
        await sessions.aclose()

asyncio.run(main())
"""


async def _count(request: web.Request) -> web.Response:
    session = await get_session(request)
    session["n"] = session.get("n", 0) + 1
    return web.json_response(session["n"])


async def _visit_twice(app: web.Application) -> list[int]:
    """Start the app, visit it twice with one browser, and stop it."""
    async with TestClient(TestServer(app)) as client:
        return [await (await client.get("/")).json() for _ in range(2)]


def _app() -> web.Application:
    app = web.Application()
    app.router.add_get("/", _count)
    return app


# Twice, beside another set-up, too late


@pytest.mark.parametrize("same", [True, False], ids=["one storage", "another storage"])
async def test_second_set_up_of_an_app_is_refused(
    make_storage: MakeStorage,
    same: bool,  # noqa: FBT001 - a case
) -> None:
    """Each request would load and save two sessions, or one session twice."""
    app, storage = _app(), make_storage()
    setup(app, storage)

    with pytest.raises(
        RuntimeError,
        match=r"^setup: this app has sessions already; call setup\(app, storage\) once",
    ):
        setup(app, storage if same else make_storage())

    assert await _visit_twice(app) == [1, 2]


async def test_set_up_after_that_of_aiohttp_session_is_refused(storage: MongoStorage) -> None:
    """The message says which of the two calls to remove."""
    app = _app()
    aiohttp_session.setup(app, storage)

    with pytest.raises(
        RuntimeError, match=r"^setup: aiohttp_session\.setup was called .*; remove that call"
    ):
        setup(app, storage)


async def test_set_up_of_an_app_that_runs_is_refused(storage: MongoStorage) -> None:
    """Its middlewares are fixed."""
    app = _app()
    async with TestClient(TestServer(app)):
        with pytest.raises(RuntimeError, match=r"^setup: the app runs, .*; call setup.* before"):
            setup(app, storage)


async def test_set_up_of_a_sub_app_that_was_added_is_refused(storage: MongoStorage) -> None:
    """`add_subapp` fixes its middlewares."""
    app, sub_app = _app(), _app()
    app.add_subapp("/sub", sub_app)

    with pytest.raises(RuntimeError, match=r"^setup: the app runs, or was added to another one"):
        setup(sub_app, storage)


# While the app starts


@pytest.mark.parametrize("when", ["on_startup", "cleanup_ctx"])
@pytest.mark.parametrize("starts", [1, 2], ids=["started once", "started again"])
async def test_set_up_works_where_an_app_makes_its_client(
    when: str, starts: int, mongo_uri: str, database_name: str
) -> None:
    """Also in an app object that is started again, with a new client and a new storage."""
    secret = generate_secret()

    async def connect(app: web.Application) -> AsyncIterator[None]:
        client: Any = AsyncMongoClient(mongo_uri)
        setup(app, MongoStorage(client[database_name]["sessions"], secret))
        yield
        await client.close()

    app, connected = _app(), []

    async def connect_once(app: web.Application) -> None:
        connected.append(connect(app))
        await anext(connected[-1])

    async def disconnect(_app: web.Application) -> None:
        await anext(connected[-1], None)

    if when == "cleanup_ctx":
        app.cleanup_ctx.append(connect)
    else:
        app.on_startup.append(connect_once)
        app.on_cleanup.append(disconnect)

    for _ in range(starts):
        assert await _visit_twice(app) == [1, 2]


async def test_set_up_while_the_app_starts_creates_the_indexes(
    storage: MongoStorage, collection: Any
) -> None:
    """In the background: the app does not wait for them."""
    app = _app()

    async def connect(app: web.Application) -> None:
        setup(app, storage)

    app.on_startup.append(connect)

    async def created() -> bool:
        return {"expires_at_1", "owner_1"} <= {*await collection.index_information()}

    async with TestClient(TestServer(app)):
        await until(created)


@pytest.mark.parametrize("made_before", [False, True], ids=["by the save", "by the app"])
async def test_first_stored_session_creates_the_indexes_without_our_set_up(
    made_before: bool,  # noqa: FBT001 - a case
    collection: Any,
    log: CommandLog,
) -> None:
    """No collection is ever without its TTL index; a read creates nothing."""
    storage, app = MongoStorage(collection, generate_secret()), web.Application()
    aiohttp_session.setup(app, storage)
    app.router.add_get("/", _count)

    async def read(request: web.Request) -> web.Response:
        return web.json_response(dict(await get_session(request)))

    async def created() -> bool:
        return {"expires_at_1", "owner_1"} <= {*await collection.index_information()}

    app.router.add_get("/read", read)
    if made_before:
        await storage.create_indexes()
    async with TestClient(TestServer(app)) as client:
        await client.get("/read")
        before = list(log.names)
        for _ in range(3):
            await client.get("/")
        await until(created)
        await storage.aclose()

    assert ("createIndexes" in before) is made_before
    assert log.names.count("createIndexes") == 2


async def test_set_up_while_the_app_starts_tells_a_middleware_that_it_is_outside(
    storage: MongoStorage, caplog: pytest.LogCaptureFixture
) -> None:
    """It was added when the app was made."""

    @web.middleware
    async def asking(request: web.Request, handler: Handler) -> web.StreamResponse:
        await get_session(request)
        return await handler(request)

    app = _app()
    app.middlewares.append(asking)

    async def connect(app: web.Application) -> None:
        setup(app, storage)

    app.on_startup.append(connect)
    async with TestClient(TestServer(app)) as client:
        assert (await client.get("/")).status == 500

    assert "a middleware asks for the session and was added before setup" in caplog.text


# An app object that is started again


async def test_app_that_is_started_again_gets_its_storage_back(
    storage: MongoStorage, collection: Any
) -> None:
    """Test suites start one app object for each test; its sub-apps come back too."""
    app, sub_app = _app(), _app()
    setup(sub_app, storage)
    setup(app, storage)
    app.add_subapp("/sub", sub_app)

    for _ in range(3):
        assert await _visit_twice(app) == [1, 2]
        with pytest.raises(RuntimeError, match=r"^this MongoStorage was closed by aclose"):
            await storage.count()

    assert await collection.count_documents({}) == 3


async def test_app_that_runs_again_is_not_set_up_a_second_time(storage: MongoStorage) -> None:
    """Only an app that was stopped may come with another storage."""
    app = _app()
    setup(app, storage)
    assert await _visit_twice(app) == [1, 2]

    async with TestClient(TestServer(app)):
        with pytest.raises(RuntimeError, match=r"^setup: this app has sessions already"):
            setup(app, storage)


async def test_storage_that_the_app_has_closed_itself_stays_closed(storage: MongoStorage) -> None:
    """Only what the end of an app has closed, its next start opens."""
    app = _app()
    setup(app, storage)
    await storage.aclose()

    runner = web.AppRunner(app)

    with pytest.raises(RuntimeError, match=r"^this MongoStorage was closed by aclose"):
        await runner.setup()


async def test_stopped_app_may_be_set_up_with_another_storage(
    make_storage: MakeStorage, collection: Any
) -> None:
    """The next start uses that one."""
    first, second = make_storage(), make_storage(collection.database["other"])
    app = _app()
    setup(app, first)
    await _visit_twice(app)

    setup(app, second)
    await _visit_twice(app)

    assert await collection.count_documents({}) == 1
    assert await collection.database["other"].count_documents({}) == 1


async def test_app_that_sets_up_one_storage_at_each_start_may_start_again(
    storage: MongoStorage,
) -> None:
    """Its `on_startup` calls setup each time, with the same storage."""
    app = _app()

    async def start(app: web.Application) -> None:
        setup(app, storage)

    app.on_startup.append(start)

    assert await _visit_twice(app) == [1, 2]
    assert await _visit_twice(app) == [1, 2]


# Warnings


@pytest.mark.parametrize("set_up", ["storage.setup", "aiohttp_session.setup"])
def test_warnings_as_errors_change_nothing(set_up: str, mongo_uri: str, database_name: str) -> None:
    """aiohttp-session's own text keys of the request are no warning to our users."""
    program = SERVE_ONCE.format(uri=mongo_uri, name=database_name, set_up=set_up)

    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.stdout, done.stderr) == ("200 1\n200 2\n", "")
