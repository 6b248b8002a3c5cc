"""The three drivers that the contract runs over, a clock to move, and a site to visit."""

from __future__ import annotations

import asyncio
import inspect
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from http.cookies import Morsel, SimpleCookie
from typing import Any, Protocol

import aiohttp_session
import pytest
from aiohttp import ClientResponse, CookieJar, TCPConnector, web
from aiohttp.test_utils import TestClient, TestServer
from aiohttp_session import get_session
from mongomock_motor import AsyncMongoMockClient
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import AsyncMongoClient, MongoClient
from pytest_aiohttp.plugin import AiohttpClient, AiohttpServer

from storage import MongoStorage, generate_secret, setup
from storage.session import MongoSession
from tests.conftest import NewMongod
from tests.storage.command_log import CommandLog
from webapp.database.mongod import Mongod

SECRET = generate_secret()
# Far ahead: neither the server's TTL monitor nor mongomock's takes these sessions for expired.
NOON = 4_000_000_000.0
# What a renewal leaves at the old place for a minute is no session.
SESSIONS = {"forward": None}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
SetUp = Callable[[web.Application, MongoStorage], None]


class Clock:
    """Stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        """Return seconds since the epoch."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Move forward, or back with a negative number."""
        self.now += seconds


class Visitor:
    """A browser with a cookie jar of its own."""

    def __init__(self, site: Site, client: TestClient[web.Request, None]) -> None:
        self._site = site
        self.client = client

    async def do(self, change: Callable[[MongoSession], Any], **options: Any) -> ClientResponse:
        """Call ``change`` with the session inside a handler; the answer is its result as JSON."""

        async def handler(request: web.Request) -> web.Response:
            result = change(await get_session(request))  # type: ignore[arg-type]
            return web.json_response(await result if inspect.isawaitable(result) else result)

        return await self.visit(handler, **options)

    async def visit(self, handler: Handler, **options: Any) -> ClientResponse:
        """Send a request that ``handler`` answers, and read the whole answer."""
        options.setdefault("allow_redirects", False)
        response = await self.client.get(self._site.path_of(handler), **options)
        await response.read()
        return response

    def path_of(self, handler: Handler) -> str:
        """Return a path at which ``handler`` answers one request, as the site does."""
        return self._site.path_of(handler)

    async def session(self) -> dict[str, Any]:
        """Return the values that the server sees in the session."""
        return dict(await (await self.do(dict)).json())

    @property
    def cookie(self) -> str | None:
        """The session token that this browser would send."""
        jar = self.client.session.cookie_jar.filter_cookies(self.client.make_url("/"))
        return jar["session"].value if "session" in jar else None

    @cookie.setter
    def cookie(self, token: str | None) -> None:
        self.client.session.cookie_jar.clear()
        if token is not None:
            self.client.session.cookie_jar.update_cookies(
                {"session": token}, self.client.make_url("/")
            )


class Site:
    """An app with one storage, whose handlers are the functions that tests pass."""

    def __init__(self, app: web.Application, server: TestServer, clients: AiohttpClient) -> None:
        self.app = app
        self.server = server
        self._clients = clients

    def path_of(self, handler: Handler) -> str:
        """Return a path at which ``handler`` answers one request."""
        number = str(next(NUMBERS))
        self.app[HANDLERS][number] = handler
        return f"/{number}"

    async def visitor(self, cookie: str | None = None) -> Visitor:
        """Open another browser, with a session token to start from if one is given."""
        client = await self._clients(
            self.server, cookie_jar=CookieJar(unsafe=True), connector=TCPConnector(limit=0)
        )
        visitor = Visitor(self, client)
        visitor.cookie = cookie
        return visitor

    async def head_on_the_wire(self, handler: Handler, headers: bytes = b"") -> str:
        """Send a request as bytes; return the status line and the headers of the response."""
        reader, writer = await asyncio.open_connection(self.server.host, self.server.port)
        line = f"GET {self.path_of(handler)} HTTP/1.1\r\nHost: localhost\r\n".encode()
        writer.write(line + headers + b"\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        writer.close()
        await writer.wait_closed()
        return head.decode("latin-1")


HANDLERS = web.AppKey("handlers", dict[str, Handler])
NUMBERS = itertools.count()


def make_app(storage: MongoStorage, set_up: Callable[..., None] = setup) -> web.Application:
    """Build an app that answers with the handlers of its visitors."""
    app = web.Application()
    app[HANDLERS] = {}
    set_up(app, storage)

    async def dispatch(request: web.Request) -> web.StreamResponse:
        return await request.app[HANDLERS].pop(request.match_info["number"])(request)

    app.router.add_get("/{number}", dispatch)
    return app


class MakeStorage(Protocol):
    """Makes a storage over the test's collection; its clock is the test's clock."""

    def __call__(
        self, collection: Any = None, secrets: Any = SECRET, **options: Any
    ) -> MongoStorage:
        """Make one; the options are those of ``MongoStorage``."""


class OpenSite(Protocol):
    """Starts an app over a storage."""

    async def __call__(self, storage: MongoStorage, set_up: Callable[..., None] = setup) -> Site:
        """Start it; it ends with the test."""


@pytest.fixture
def driver(request: pytest.FixtureRequest) -> str:
    """Name the driver: PyMongo Async, if the test is not marked to run over several."""
    return str(getattr(request, "param", "pymongo"))


@pytest.fixture
def log() -> CommandLog:
    """Log the commands that the test's client sends (mongomock sends none)."""
    return CommandLog()


@pytest.fixture
async def collection(
    driver: str, request: pytest.FixtureRequest, log: CommandLog
) -> AsyncIterator[Any]:
    """Open an empty collection with the driver of the test."""
    if driver == "mongomock":
        yield AsyncMongoMockClient()["test"]["sessions"]
        return
    uri = request.getfixturevalue("mongo_uri")
    name = request.getfixturevalue("database_name")
    client = make_client(driver, uri, event_listeners=[log])
    yield client[name]["sessions"]
    await close(client)


@pytest.fixture
def clock() -> Clock:
    """Stand still at a fixed instant."""
    return Clock()


@pytest.fixture
def never_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send one command at a time, as beside the server, however busy this machine is.

    A process that waits for a processor counts as idle.
    """
    monkeypatch.setattr("storage.batching.idle_seconds", lambda: 0.0)


@pytest.fixture
async def make_storage(collection: Any, clock: Clock) -> AsyncIterator[MakeStorage]:
    """Make storages over the test's collection, closed when the test ends."""
    made: list[MongoStorage] = []
    default = collection

    def make(collection: Any = None, secrets: Any = SECRET, **options: Any) -> MongoStorage:
        storage = MongoStorage(default if collection is None else collection, secrets, **options)
        storage.clock = clock
        # What a first save begins in the background would be among the commands that tests count.
        storage._index_work.needed = False
        made.append(storage)
        return storage

    yield make
    for storage in made:
        await storage.aclose()


@pytest.fixture
def storage(make_storage: MakeStorage) -> MongoStorage:
    """Make a storage with the default settings."""
    return make_storage()


@pytest.fixture
def open_site(aiohttp_server: AiohttpServer, aiohttp_client: AiohttpClient) -> OpenSite:
    """Start apps that answer with the handlers that visitors pass."""

    async def start(storage: MongoStorage, set_up: Callable[..., None] = setup) -> Site:
        app = make_app(storage, set_up)
        return Site(app, await aiohttp_server(app), aiohttp_client)

    return start


@pytest.fixture
async def site(open_site: OpenSite, storage: MongoStorage) -> Site:
    """Start an app over the test's storage."""
    return await open_site(storage)


@pytest.fixture
async def visitor(site: Site) -> Visitor:
    """Open a browser without cookies."""
    return await site.visitor()


@pytest.fixture(params=["one storage", "two storages on one collection"])
async def both(
    request: pytest.FixtureRequest,
    site: Site,
    visitor: Visitor,
    open_site: OpenSite,
    make_storage: MakeStorage,
) -> tuple[Visitor, Visitor]:
    """Open two browsers with one session, at one storage or at two of them."""
    await visitor.do(lambda session: session.update(name="Ada", cart=[0], log=[0]))
    other = site if request.param == "one storage" else await open_site(make_storage())
    return visitor, await other.visitor(visitor.cookie)


def make_client(driver: str, uri: str, **options: Any) -> Any:
    """Make a client of Motor or of PyMongo Async."""
    return (AsyncIOMotorClient if driver == "motor" else AsyncMongoClient)(uri, **options)


async def close(client: Any) -> None:
    """Close a client: PyMongo's is awaited, Motor's is not."""
    if (closing := client.close()) is not None:
        await closing


@contextmanager
def replica_set_of_one(new_mongod: NewMongod, name: str) -> Iterator[Mongod]:
    """Run a replica set of one member, which is its primary."""
    with new_mongod("--replSet", name) as server:
        members = [{"_id": 0, "host": f"127.0.0.1:{server.port}"}]
        with MongoClient[dict[str, Any]](server.uri, directConnection=True) as client:
            client.admin.command("replSetInitiate", {"_id": name, "members": members})
        with MongoClient[dict[str, Any]](server.uri, replicaSet=name) as client:
            client.admin.command("ping")  # waits for the election
        yield server


def set_cookie_of(response: ClientResponse) -> list[str]:
    """Return the Set-Cookie lines of a response."""
    return list(response.headers.getall("Set-Cookie", []))


def cookie_of(response: ClientResponse) -> Morsel[str]:
    """Return the only cookie of a response, with its attributes."""
    (line,) = set_cookie_of(response)
    (morsel,) = SimpleCookie(line).values()
    return morsel


# For each test that could come out differently with another driver: commands, dates, codecs,
# errors, results of bulk writes, cancellation, cursors, write concerns. All other tests run once.
every_driver = pytest.mark.parametrize("driver", ["mongomock", "motor", "pymongo"], indirect=True)
# For what the server decides, and mongomock only imitates.
real_drivers = pytest.mark.parametrize("driver", ["motor", "pymongo"], indirect=True)
each_set_up = pytest.mark.parametrize(
    "set_up", [setup, aiohttp_session.setup], ids=["storage.setup", "aiohttp_session.setup"]
)


async def until(condition: Callable[[], bool | Awaitable[bool]], seconds: float = 30) -> None:
    """Wait until a condition holds; fails when it does not within ``seconds``."""

    async def wait() -> None:
        while True:
            met = condition()
            if await met if inspect.isawaitable(met) else met:
                return
            await asyncio.sleep(0)

    await asyncio.wait_for(wait(), seconds)
