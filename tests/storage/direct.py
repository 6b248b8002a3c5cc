"""Visits without a socket: load a session by its cookie, change it, save it, read the new cookie.

For tests that make thousands of visits, or that decide when a save follows a load.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from aiohttp_session import STORAGE_KEY, get_session

from storage import MongoStorage
from storage.session import MongoSession
from storage.tokens import document_id, from_cookie

# Cloned for each visit: making a mocked request takes longer than everything that the storage does
# with it. The protocol is no mock either: a mock records every access and never frees the record.
_REQUEST = make_mocked_request(
    "GET", "/", protocol=SimpleNamespace(ssl_context=None, peername=None, sockname=None)
)


class Visit:
    """One request that has loaded its session and has not saved it yet."""

    def __init__(self, storage: MongoStorage, request: web.Request, session: MongoSession) -> None:
        self.storage = storage
        self.request = request
        self.session = session

    async def save(self) -> str | None:
        """Save as the middleware does; returns the cookie that the browser then has."""
        response = web.Response()
        if self.session._changed:
            await self.storage.save_session(self.request, response, self.session)
        return new_cookie(self.request.cookies.get("session"), response)


async def load(storage: MongoStorage, cookie: str | None = None) -> Visit:
    """Begin a request that sends ``cookie``."""
    headers = {} if cookie is None else {"Cookie": f"session={cookie}"}
    request = _REQUEST.clone(headers=headers)
    request[STORAGE_KEY] = storage
    session = await get_session(request)
    assert isinstance(session, MongoSession)
    return Visit(storage, request, session)


async def visit(
    storage: MongoStorage, cookie: str | None, change: Callable[[MongoSession], Any]
) -> str | None:
    """Make a whole request; returns the cookie that the browser has afterwards."""
    begun = await load(storage, cookie)
    change(begun.session)
    return await begun.save()


async def values(storage: MongoStorage, cookie: str | None) -> dict[str, Any]:
    """Return what the server sees in the session of ``cookie``."""
    return dict((await load(storage, cookie)).session)


async def begun(storage: MongoStorage, stored: dict[str, Any]) -> tuple[str, Visit]:
    """Store a session, and begin a slow request with it."""
    cookie = str(await visit(storage, None, lambda session: session.update(stored)))
    return cookie, await load(storage, cookie)


def new_cookie(before: str | None, response: web.StreamResponse) -> str | None:
    """Return the cookie of a browser that had ``before`` and then got ``response``."""
    morsel = response.cookies.get("session")
    if morsel is not None:
        return None if morsel["max-age"] == 0 else morsel.value
    return before


def id_of(cookie: str) -> bytes:
    """Return the document id of the session that a cookie names."""
    return document_id(from_cookie(cookie) or b"")


async def stored(storage: MongoStorage, count: int) -> list[str]:
    """Store sessions numbered from 0; return their cookies."""

    async def store(number: int) -> str:
        cookie = await visit(storage, None, lambda session: session.update(user_id=number, n=[]))
        return str(cookie)

    return list(await asyncio.gather(*(store(number) for number in range(count))))


async def loaded(storage: MongoStorage, cookies: list[str]) -> list[Visit]:
    """Begin a request with each cookie, all at once."""
    return list(await asyncio.gather(*(load(storage, cookie) for cookie in cookies)))


async def saved(visits: list[Visit]) -> list[str | BaseException | None]:
    """Save all requests at once; return the cookies, or why there are none."""
    return list(await asyncio.gather(*(v.save() for v in visits), return_exceptions=True))


async def changed(storage: MongoStorage, count: int) -> tuple[list[str], list[Visit]]:
    """Store sessions, load them all, and append 1 to the list ``n`` of each, unsaved."""
    cookies = await stored(storage, count)
    visits = await loaded(storage, cookies)
    for begun in visits:
        begun.session["n"].append(1)
    return cookies, visits
