"""Putting a storage to work in an app, and renewing a session on demand."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import aiohttp_session
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from aiohttp_session import SESSION_KEY, STORAGE_KEY, Session

from storage.errors import (
    IndexConflict,
    SessionNotSerializable,
    SessionTooLarge,
    StorageUnavailable,
)
from storage.mongo import MongoStorage
from storage.session import MongoSession

logger: logging.Logger = logging.getLogger(__name__)

RETRY_INDEXES_SECONDS = 5.0
# Longer than any answer but that of building an index on a large collection.
START_WAITS_FOR_INDEXES_SECONDS = 10.0
# The sessions of outer apps, while a sub-app with another storage is at work.
_SET_ASIDE = web.RequestKey("set_aside", tuple[Session | None, ...])
# Some answer is on its way: no cookie can follow it.
_STARTED = web.RequestKey("started", bool)
OnResponsePrepare = Callable[[web.Request, web.StreamResponse], Awaitable[None]]


def setup(app: web.Application, storage: MongoStorage) -> None:
    """Give ``app`` sessions that are kept in ``storage``.

    Adds the middleware that ``aiohttp_session.get_session`` needs, saves before a streamed response
    starts, creates the indexes at start-up (the first try is awaited; MongoDB may be away), and
    finishes writes as the first step of ``on_cleanup``, where sessions are therefore no longer at
    hand. May be called for an app and for its sub-apps: with one storage they save once, with the
    answer that is sent; with several each app has sessions of its own. Call it before you add
    middlewares of your own that ask for the session, or that answer in a handler's place.
    """
    if not isinstance(storage, MongoStorage):
        raise TypeError(f"storage: {type(storage).__name__} is not accepted; use a MongoStorage")

    async def start(app: web.Application) -> None:
        await _start_indexes(storage)

    async def stop(app: web.Application) -> None:
        await storage.aclose()

    if app.middlewares:
        app.middlewares.insert(0, _tell_who_is_outside)
    app.middlewares.append(_middleware(storage))
    app.on_response_prepare.append(_save_before_a_stream(storage))
    app.on_startup.append(start)
    # First of all: a clean-up that was registered earlier may close the client.
    app.on_cleanup.insert(0, stop)


class _Outside:
    """Stands for the storage where no middleware of ``setup`` has been reached yet."""

    async def load_session(self, _request: web.Request | None = None) -> Session:
        """Raise ``RuntimeError`` that says what to write instead."""
        raise RuntimeError(
            "setup: a middleware asks for the session and was added before setup(app, storage), so "
            "it runs outside of the sessions; call setup first, then add it"
        )

    new_session = load_session


_OUTSIDE = _Outside()


@web.middleware
async def _tell_who_is_outside(request: web.Request, handler: Handler) -> web.StreamResponse:
    # An outer app may have its sessions at hand already.
    request.setdefault(STORAGE_KEY, _OUTSIDE)
    return await handler(request)


def _middleware(storage: MongoStorage) -> Middleware:
    """Do what aiohttp-session's middleware does, and save with files and streams too.

    That one saves with a ``web.Response`` only, and a second one around it would cost every request
    as much as the whole of a save that has nothing to write.
    """

    @web.middleware
    async def sessions(request: web.Request, handler: Handler) -> web.StreamResponse:
        outer = request.get(STORAGE_KEY)
        if outer is storage:
            # The outer app saves: which answer is sent, and with it the cookie, is decided there.
            return await _answered(request, handler)
        request[STORAGE_KEY] = storage
        if outer is None or outer is _OUTSIDE:
            return await _saved(request, handler, storage)
        # An outer app with a storage of its own: each app gets the sessions of its own.
        aside = request.pop(SESSION_KEY, None)
        request[_SET_ASIDE] = (aside, *request.get(_SET_ASIDE, ()))
        try:
            return await _saved(request, handler, storage)
        finally:
            request[STORAGE_KEY] = outer
            request[_SET_ASIDE] = request[_SET_ASIDE][1:]
            _forget_session(request)
            if aside is not None:
                request[SESSION_KEY] = aside

    return sessions


async def _saved(
    request: web.Request, handler: Handler, storage: MongoStorage
) -> web.StreamResponse:
    """Return the handler's response, the session saved with it."""
    try:
        response = await _answered(request, handler)
    except web.HTTPException as error:
        await _save(request, error, storage)
        raise
    if not isinstance(response, web.StreamResponse):
        raise TypeError(f"the handler has returned {type(response).__name__}, not a response")
    await _save(request, response, storage)
    return response


async def _answered(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Return the handler's response, and forget the session if there is none."""
    try:
        return await handler(request)
    except web.HTTPException:
        raise
    except BaseException:
        # What a handler has changed that crashed is not saved, whoever answers in its place.
        _forget_session(request)
        raise


async def _save(request: web.Request, response: web.StreamResponse, storage: MongoStorage) -> None:
    try:
        if (session := _unsaved(request, response)) is not None:
            await storage.save_session(request, response, session)
    except (SessionTooLarge, SessionNotSerializable):
        # The page that is sent instead, a file perhaps, would be refused as well.
        _forget_session(request)
        raise


def _forget_session(request: web.Request) -> None:
    # Removed, not replaced by None: a load looks whether the request holds more than before.
    request.pop(SESSION_KEY, None)


def _save_before_a_stream(storage: MongoStorage) -> OnResponsePrepare:
    """Return what saves with streams and WebSockets that start inside the handler."""

    async def save_before_headers(request: web.Request, response: web.StreamResponse) -> None:
        # With a web.Response, an error page among them, the middleware has saved or shall not.
        if not isinstance(response, web.Response):
            for session in (request.get(SESSION_KEY), *request.get(_SET_ASIDE, ())):
                if not isinstance(session, MongoSession) or session.made_by is not storage:
                    continue
                try:
                    await storage.save_session(request, response, session)
                except BaseException:
                    _forget_framing(request)
                    # The hook of an outer app may have thought that it starts.
                    request.pop(_STARTED, None)
                    raise
        request[_STARTED] = True

    return save_before_headers


def _unsaved(request: web.Request, response: web.StreamResponse) -> Session | None:
    """Return the session to save with a response; ``None``: nobody asked for it, or it is saved.

    Raises ``RuntimeError`` where it is too late.
    """
    session: Session | None = request.get(SESSION_KEY)
    if session is None:
        return None
    if response.prepared and isinstance(response, web.Response):
        raise RuntimeError(
            "the handler has sent its response before the session could be saved; return it "
            "unprepared, or use a web.StreamResponse"
        )
    return None if response.prepared or request.get(_STARTED) else session


async def renew_session(request: web.Request) -> MongoSession:
    """Give the request's session a new token when it is saved; its values stay.

    The old token is dead once the new one is saved. Call it whenever what a visitor may do changes
    (OWASP ASVS 5.0 7.2.4); a change of owner renews by itself. Returns the session.
    Raises ``TypeError`` when the app keeps its sessions elsewhere.
    """
    session = await aiohttp_session.get_session(request)
    if not isinstance(session, MongoSession):
        raise TypeError(f"renew_session: {type(session).__name__} is not from a MongoStorage")
    session.renew()
    return session


def _forget_framing(request: web.Request) -> None:
    """Let an error page be sent in place of a stream that did not start.

    Before it asks whether to start, aiohttp 3.14 tells the writer that the body comes in chunks or
    compressed; the page that answers instead shares the writer, and would be garbled.
    """
    writer: Any = request.writer
    writer.chunked, writer.length, writer._compress = False, None, None


async def _start_indexes(storage: MongoStorage) -> None:
    """Start the index work once, however many apps share the storage; await its first try.

    For some seconds: an index that takes minutes to build is built while the app serves.
    """
    if storage.index_work is None:
        first_try = asyncio.Event()
        storage.index_work = asyncio.create_task(_create_indexes(storage, first_try))
        with suppress(TimeoutError):
            # Sessions work without the indexes; a platform ends an app that starts too slowly.
            await asyncio.wait_for(first_try.wait(), START_WAITS_FOR_INDEXES_SECONDS)
        if storage.index_work.done():
            storage.index_work.result()  # a mistake in the app, told while it starts


async def _create_indexes(storage: MongoStorage, first_try: asyncio.Event) -> None:
    while True:
        try:
            return await storage.create_indexes()
        except StorageUnavailable:
            logger.warning("the indexes could not be checked: MongoDB is away; trying again")
        except IndexConflict as conflict:
            return logger.error("%s", conflict)  # noqa: TRY400 - one line, no traceback
        finally:
            first_try.set()
        await asyncio.sleep(RETRY_INDEXES_SECONDS)
