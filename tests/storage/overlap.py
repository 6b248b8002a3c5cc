"""Requests that overlap: what happens between one request's load and its save."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import ClientResponse, web
from aiohttp_session import get_session

from storage.session import MongoSession
from tests.storage.conftest import Handler, Visitor

Change = Callable[[MongoSession], Any]


async def during(
    visitor: Visitor, meanwhile: Callable[[], Awaitable[Any]], change: Change
) -> ClientResponse:
    """Run ``meanwhile`` after a request has loaded its session and before it saves."""

    async def handler(request: web.Request) -> web.StreamResponse:
        session: Any = await get_session(request)
        await meanwhile()
        change(session)
        return web.Response()

    return await visitor.visit(handler)


async def _nothing() -> None:
    """Do nothing."""


async def at_once(
    *visits: tuple[Visitor, Handler | Change], meanwhile: Callable[[], Awaitable[Any]] = _nothing
) -> list[ClientResponse]:
    """Let every request load its session, run ``meanwhile``, then let all of them save."""
    all_loaded = asyncio.Barrier(len(visits))

    def late(step: Handler | Change) -> Handler:
        async def handler(request: web.Request) -> web.StreamResponse:
            session: Any = await get_session(request)
            if await all_loaded.wait() == 0:
                await meanwhile()
            await all_loaded.wait()
            if inspect.iscoroutinefunction(step):
                return await step(request)  # type: ignore[no-any-return]
            step(session)
            return web.Response()

        return handler

    return await asyncio.gather(*(visitor.visit(late(step)) for visitor, step in visits))
