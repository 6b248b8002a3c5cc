"""The storages that an app may have used before, each with what it needs: for tests of moving."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import aiomcache
from aiohttp import web
from aiohttp_session import AbstractStorage, Session, SimpleCookieStorage
from aiohttp_session.cookie_storage import EncryptedCookieStorage
from aiohttp_session.memcached_storage import MemcachedStorage
from aiohttp_session.nacl_storage import NaClCookieStorage
from aiohttp_session.redis_storage import RedisStorage
from redis import asyncio as redis

from storage import MongoStorage
from tests.conftest import missing
from tests.processes import Process, free_port

SERVERS = {
    "redis-server": ("--save", "", "--bind", "127.0.0.1", "--port"),
    "memcached": ("--listen=127.0.0.1", "--udp-port=0", "--user=nobody", "--port"),
}
KEY = secrets.token_bytes(32)
IN_COOKIES = ["encrypted cookie", "simple cookie", "nacl cookie"]
ON_SERVERS = ["redis", "memcached", "own", "mongodb"]

MakeOld = Callable[..., AbstractStorage]


def _nothing() -> None:
    """Do nothing."""


class OwnStorage(AbstractStorage):
    """Keeps its sessions in a dict; an app could have written it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # By the text of the cookie.
        self.kept: dict[str, dict[str, Any]] = {}
        # The max_age of each session, and what the next calls do first.
        self.max_ages: dict[str, Any] = {}
        self.before_load: Callable[[], Any] = _nothing
        self.before_save: Callable[[], Any] = _nothing
        self.loads = self.saves = 0

    @property
    def sessions(self) -> list[dict[str, Any]]:
        """Return the values of the sessions that have not ended."""
        return [data["session"] for data in self.kept.values()]

    async def load_session(self, request: web.Request) -> Session:
        """Load what the cookie names."""
        self.loads += 1
        if asyncio.iscoroutine(step := self.before_load()):
            await step
        key = self.load_cookie(request)
        data: Any = deepcopy(self.kept.get(key or ""))
        session = Session(key if data else None, data=data, new=data is None, max_age=self.max_age)
        if key in self.max_ages:
            session.max_age = self.max_ages[key]
        return session

    async def save_session(
        self, request: web.Request, response: web.StreamResponse, session: Session
    ) -> None:
        """Save all values, or forget the session, and send its cookie as a header line."""
        self.saves += 1
        self.before_save()
        key = session.identity or secrets.token_hex(8)
        if session.empty:
            del self.kept[key]
            response.headers.add("Set-Cookie", f"{self.cookie_name}=; Max-Age=0; Path=/")
        else:
            self.kept[key] = deepcopy(dict(self._get_session_data(session)))
            response.headers.add("Set-Cookie", f"{self.cookie_name}={key}; Path=/")


@contextmanager
def server(program: str, folder: Path) -> Iterator[int]:
    """Run a server on a free port of this machine; return the port once it answers."""
    if shutil.which(program) is None:
        missing(f"{program} is not installed")
    port = free_port()
    process = Process(program, *SERVERS[program], str(port), environ={}, cwd=folder)
    try:
        while not _answers(port):
            assert process.running, process.output
        yield port
    finally:
        process.end()


def _answers(port: int) -> bool:
    with closing(socket.socket()) as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@asynccontextmanager
async def old_storage(
    kind: str, port: int | None, collection: Any, **options: Any
) -> AsyncIterator[AbstractStorage]:
    """Make one, and close its client afterwards."""
    if kind == "redis":
        async with redis.Redis(host="127.0.0.1", port=port or 0) as client:
            yield RedisStorage(client, **options)
    elif kind == "memcached":
        pool = aiomcache.Client("127.0.0.1", port or 0)
        yield MemcachedStorage(pool, **options)
        await pool.close()
    elif kind == "mongodb":
        before = MongoStorage(collection.database["before"], KEY, **options)
        yield before
        await before.aclose()
    elif kind == "encrypted cookie":
        yield EncryptedCookieStorage(KEY, **options)
    elif kind == "nacl cookie":
        yield NaClCookieStorage(KEY, **options)
    else:
        yield {"simple cookie": SimpleCookieStorage, "own": OwnStorage}[kind](**options)
