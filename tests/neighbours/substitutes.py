"""Pytest plugin: in the suites of other projects, `MongoStorage` stands in for their storages.

Their modules stay as they were published. For each test, names in the globals of its module are
replaced: the storages, and the functions with which the suite itself puts a session into Redis or
into a cookie, or takes one out. What a test does and asserts stays as it is.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from http.cookies import SimpleCookie
from types import ModuleType, SimpleNamespace
from typing import Any

import aiohttp_security
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, make_mocked_request
from aiohttp_security.session_identity import SessionIdentityPolicy
from bson.codec_options import CodecOptions
from pymongo import AsyncMongoClient

from storage import MongoStorage, generate_secret, setup
from storage.session import MongoSession
from storage.tokens import document_id, from_cookie

Document = dict[str, Any]
Client = TestClient[Any, Any]
Secret = str | bytes
# How each storage of aiohttp-session calls its cookie, and how its keys in Redis begin.
COOKIE = "AIOHTTP_SESSION"
URI, DATABASE = os.environ["MONGO_URI"], os.environ["MONGO_DATABASE"]
# They look at the cookie of a save that changed a known session. This storage repeats a cookie only
# when a touch is due, so here it is.
TOUCH_IS_DUE = {
    "test_change_session",
    "test_max_age_also_returns_expires",
    "test_with_same_path_domain",
}
# Imported by one suite for an annotation; the fixture `mocker` is below.
pytest_mock = ModuleType("pytest_mock")
pytest_mock.__dict__["MockFixture"] = SimpleNamespace
sys.modules["pytest_mock"] = pytest_mock


class Storages:
    """The storages of one test, on one collection, and what is stored there."""

    def __init__(self, *, touch_is_due: bool) -> None:
        self.used = False
        self._touch_seconds = 0.001 if touch_is_due else None
        self._name = secrets.token_hex(8)
        self._secret = generate_secret()
        self._seconds_ahead = 0.0
        self._clients: list[AsyncMongoClient[Document]] = []
        self._storages: list[MongoStorage] = []

    def collection(self) -> Any:
        """Open the collection for the rest of the test."""
        self._clients.append(AsyncMongoClient(URI))
        return self._clients[-1][DATABASE][self._name]

    def storage(self, secret: Secret | None = None, **options: Any) -> MongoStorage:
        """Make a storage in place of one that keeps its sessions in cookies."""
        return self.storage_on(self.collection(), secret, **options)

    def storage_on(
        self, collection: Any, secret: Secret | None = None, **options: Any
    ) -> MongoStorage:
        """Make a storage on what the test takes for its client of a database."""
        self.used = True
        defaults = {
            "cookie_name": COOKIE,
            "max_age": None,
            "touch_interval": self._touch_seconds,
        }
        storage = MongoStorage(
            collection, self._secret if secret is None else secret, **{**defaults, **options}
        )
        storage.clock = lambda: time.time() + self._seconds_ahead
        self._storages.append(storage)
        return storage

    async def sleep(self, seconds: float) -> None:
        """Move the clock of the storages on; nobody waits."""
        self._seconds_ahead += seconds

    def give(
        self,
        client: Client,
        data: Mapping[str, Any],
        path: str = "",
        domain: str = "",
        secret: Secret | None = None,
    ) -> None:
        """Store a session, and give its cookie to the client of the test."""
        cookies: SimpleCookie = SimpleCookie()
        cookies[COOKIE] = self.stored(data, secret)
        cookies[COOKIE].update({"path": path, "domain": domain})
        client.session.cookie_jar.update_cookies(cookies)

    def stored(self, data: Mapping[str, Any], secret: Secret | None = None) -> str:
        """Store a session, and return its cookie."""

        async def store(storage: MongoStorage) -> MongoSession:
            session = await storage.new_session()
            session.update(data)
            await storage.save_session(make_mocked_request("GET", "/"), web.Response(), session)
            return session

        return str(self._in_a_thread(store, secret).identity)

    def opened(self, cookie: str, secret: Secret | None = None) -> Document:
        """Return what a cookie opens, in the form in which other storages keep it."""
        session = self.loaded(cookie, secret)
        return {} if session.new else {"session": dict(session), "created": session.created}

    def loaded(self, cookie: str, secret: Secret | None = None) -> MongoSession:
        """Return the session of a cookie, or a new one."""
        headers = {"Cookie": f"{COOKIE}={cookie}"}

        async def load(storage: MongoStorage) -> MongoSession:
            session = await storage.load_session(make_mocked_request("GET", "/", headers))
            assert isinstance(session, MongoSession)
            return session

        return self._in_a_thread(load, secret)

    def _in_a_thread(
        self, work: Callable[[MongoStorage], Coroutine[Any, Any, MongoSession]], secret: Any
    ) -> MongoSession:
        # The functions that are replaced are no coroutines, and the loop of the test runs.
        async def run() -> MongoSession:
            async with AsyncMongoClient[Document](URI) as client:
                storage = self.storage_on(client[DATABASE][self._name], secret)
                try:
                    return await work(storage)
                finally:
                    await storage.aclose()

        with ThreadPoolExecutor(1) as thread:
            return thread.submit(asyncio.run, run()).result()

    async def close(self) -> None:
        """Close everything; the test that runs the suites drops the database."""
        for storage in self._storages:
            await storage.aclose()
        for client in self._clients:
            await client.close()


class Redis:
    """What the suite asks of Redis or memcached, answered from the collection of the sessions."""

    def __init__(self, storages: Storages) -> None:
        self._bench = storages
        self.collection = storages.collection()

    async def get(self, key: str | bytes) -> bytes | None:
        """Return the session of a key, as RedisStorage stores it."""
        return json.dumps(self._bench.opened(_cookie_in(key))).encode()

    async def exists(self, key: str) -> bool:
        """Tell whether a session is stored."""
        return await self._document(key) is not None

    async def ttl(self, key: str) -> float:
        """Return the seconds until MongoDB removes a session."""
        document = await self._document(key)
        return 0.0 if document is None else float(document["expires_at"].timestamp() - time.time())

    async def _document(self, key: str) -> Document | None:
        identifier = document_id(from_cookie(_cookie_in(key)) or b"")
        collection = self.collection.with_options(CodecOptions(tz_aware=True))
        found: Document | None = await collection.find_one({"_id": identifier})
        return found

    async def damage(self) -> None:
        """Let no stored session open any more."""
        await self.collection.update_many({}, {"$set": {"created_at": "damaged"}})


def _cookie_in(key: str | bytes) -> str:
    return (key if isinstance(key, str) else key.decode()).removeprefix(f"{COOKIE}_")


def _like_redis(storages: Storages) -> Document:
    """Stand in for RedisStorage and MemcachedStorage."""

    def storage(redis: Any, *, max_age: int | None = None, key_factory: Any) -> MongoStorage:
        del key_factory
        return storages.storage_on(getattr(redis, "collection", redis), max_age=max_age)

    async def make_cookie(client: Client, _redis: Redis, data: Mapping[str, Any]) -> None:
        storages.give(client, data)

    async def make_cookie_with_bad_value(client: Client, redis: Redis) -> None:
        storages.give(client, {"a": 1})
        await redis.damage()

    return {
        "RedisStorage": storage,
        "MemcachedStorage": storage,
        "make_cookie": make_cookie,
        "make_cookie_with_bad_value": make_cookie_with_bad_value,
    }


def _like_encrypted_cookies(storages: Storages) -> Document:
    """Stand in for EncryptedCookieStorage and NaClCookieStorage, under the keys of the tests."""

    def make_cookie(client: Client, box: Any, data: Mapping[str, Any]) -> None:
        storages.give(client, data, secret=_key_of(box))

    return {
        "EncryptedCookieStorage": storages.storage,
        "NaClCookieStorage": storages.storage,
        "make_cookie": make_cookie,
        "decrypt": lambda box, cookie: storages.opened(cookie, _key_of(box)),
    }


def _key_of(box: Any) -> bytes:
    """Return the key of a SecretBox or a Fernet."""
    return bytes(box) if hasattr(box, "__bytes__") else box._signing_key + box._encryption_key


def _like_plain_cookies(storages: Storages) -> Document:
    """Stand in for SimpleCookieStorage; where a test reads the cookie, it reads what that opens."""
    return {
        "SimpleCookieStorage": storages.storage,
        "make_cookie": storages.give,
        "json": SimpleNamespace(loads=storages.opened),
    }


def _like_session(storages: Storages) -> Document:
    """Stand in for the class of sessions: a new one, or one that was stored and loaded."""

    def session(identity: Any, *, data: Any, new: bool) -> MongoSession:
        del identity  # tokens are drawn at random
        stored = not new and data is not None
        return storages.loaded(storages.stored(data["session"]) if stored else "")

    return {"Session": session}


def _for_security(storages: Storages) -> Document:
    """Let identities be kept in sessions of MongoDB."""

    def storage() -> MongoStorage:
        return storages.storage(owner_key="AIOHTTP_SECURITY")

    def setup_both(app: web.Application, policy: Any, authorization: Any) -> None:
        setup(app, storage())
        aiohttp_security.setup(app, policy, authorization)

    return {
        "SimpleCookieStorage": storage,
        "setup_session": setup,
        "CookiesIdentityPolicy": SessionIdentityPolicy,
        "_setup": setup_both,
    }


SUBSTITUTES = {
    "aiohttp_session_suite.test_abstract_storage": _like_plain_cookies,
    "aiohttp_session_suite.test_cookie_storage": _like_plain_cookies,
    "aiohttp_session_suite.test_encrypted_cookie_storage": _like_encrypted_cookies,
    "aiohttp_session_suite.test_http_exception": _like_plain_cookies,
    "aiohttp_session_suite.test_memcached_storage": _like_redis,
    "aiohttp_session_suite.test_nacl_storage": _like_encrypted_cookies,
    "aiohttp_session_suite.test_path_domain": _like_plain_cookies,
    "aiohttp_session_suite.test_redis_storage": _like_redis,
    "aiohttp_session_suite.test_response_types": _like_plain_cookies,
    "aiohttp_session_suite.test_session_dict": _like_session,
    "aiohttp_security_suite.test_cookies_identity": _for_security,
    "aiohttp_security_suite.test_dict_autz": _for_security,
    "aiohttp_security_suite.test_session_identity": _for_security,
}


@pytest.fixture(autouse=True)
async def storages(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> AsyncIterator[Storages]:
    """Replace the names in the test's module; note whether the test made a storage of ours."""
    storages = Storages(touch_is_due=request.node.name in TOUCH_IS_DUE)
    module = request.module
    make: Callable[[Storages], Document] = SUBSTITUTES.get(module.__name__, lambda _storages: {})
    for name, substitute in make(storages).items():
        if hasattr(module, name):
            monkeypatch.setattr(module, name, substitute)
    if hasattr(module, "asyncio"):
        monkeypatch.setattr(module, "asyncio", SimpleNamespace(sleep=storages.sleep))
    yield storages
    await storages.close()
    record_property("used", storages.used)


@pytest.fixture
def redis(storages: Storages) -> Redis:
    """Stand in for the client of Redis."""
    return Redis(storages)


@pytest.fixture
def memcached(storages: Storages) -> Redis:
    """Stand in for the client of memcached."""
    return Redis(storages)


@pytest.fixture
def redis_url() -> str:
    """Name an address at which nothing listens."""
    return "redis://127.0.0.1:1"


@pytest.fixture
def mocker(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Stand in for pytest-mock, of which the suites use `patch` alone."""
    return SimpleNamespace(patch=monkeypatch.setattr)
