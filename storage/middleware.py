"""``setup``: the middleware of an app's sessions, and the saving with streams."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from aiohttp_session import SESSION_KEY, STORAGE_KEY, Session

from storage.errors import SessionNotSerializable, SessionTooLarge
from storage.mongo import FAILED_STATUS, MongoStorage
from storage.session import MongoSession

# The sessions of outer apps, while a sub-app with another storage is at work.
_SET_ASIDE = web.RequestKey("set_aside", tuple[Session | None, ...])
# A response has started: no cookie can follow it.
_STARTED = web.RequestKey("started", bool)
OnResponsePrepare = Callable[[web.Request, web.StreamResponse], Awaitable[None]]


def setup(app: web.Application, storage: MongoStorage) -> None:
    """Give ``app`` sessions that are kept in ``storage``.

    Adds the middleware that ``aiohttp_session.get_session`` needs, saves before a streamed response
    starts, creates the indexes at start-up (the first try is awaited; MongoDB may be away), and
    finishes writes as the first step of ``on_cleanup``; sessions cannot be used after that.

    May be called for an app and for its sub-apps: with one storage they save once, with the
    response that is sent; with several each app has its own sessions. Call it before you add
    middlewares of your own that ask for the session, or that respond in a handler's place.
    """
    if not isinstance(storage, MongoStorage):
        raise TypeError(f"storage: {type(storage).__name__} is not accepted; use a MongoStorage")

    async def start(app: web.Application) -> None:
        await storage.start_index_work()

    async def stop(app: web.Application) -> None:
        await storage.aclose()

    if app.middlewares:
        app.middlewares.insert(0, _tell_who_is_outside)
    app.middlewares.append(_middleware(storage))
    app.on_response_prepare.append(_save_before_a_stream(storage))
    app.on_startup.append(start)
    # First: a clean-up that was registered earlier may close the client.
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
    # An outer app may have set a storage already.
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
            # The outer app saves: it decides which response is sent, and so which cookie.
            return await _respond(request, handler)
        request[STORAGE_KEY] = storage
        if outer is None or outer is _OUTSIDE:
            return await _respond_and_save(request, handler, storage)
        # The outer app has another storage: each app gets its own sessions.
        aside = request.pop(SESSION_KEY, None)
        request[_SET_ASIDE] = (aside, *request.get(_SET_ASIDE, ()))
        try:
            return await _respond_and_save(request, handler, storage)
        finally:
            request[STORAGE_KEY] = outer
            request[_SET_ASIDE] = request[_SET_ASIDE][1:]
            _forget_session(request)
            if aside is not None:
                request[SESSION_KEY] = aside

    return sessions


async def _respond_and_save(
    request: web.Request, handler: Handler, storage: MongoStorage
) -> web.StreamResponse:
    """Return the handler's response, the session saved with it."""
    try:
        response = await _respond(request, handler)
    except web.HTTPException as error:
        await _save(request, error, storage)
        raise
    if not isinstance(response, web.StreamResponse):
        raise TypeError(f"the handler has returned {type(response).__name__}, not a response")
    await _save(request, response, storage)
    return response


async def _respond(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Return the handler's response; if there is none, forget the session."""
    try:
        return await handler(request)
    except web.HTTPException:
        raise
    except BaseException:
        # The changes of a handler that crashed are not saved, whoever responds in its place.
        _forget_session(request)
        raise


async def _save(request: web.Request, response: web.StreamResponse, storage: MongoStorage) -> None:
    try:
        if (session := _unsaved(request, response)) is not None:
            await storage.save_session(request, response, session)
    except (SessionTooLarge, SessionNotSerializable):
        # The error page, a file perhaps, would be refused as well.
        _forget_session(request)
        raise


def _forget_session(request: web.Request) -> None:
    # Removed, not set to None: a load compares how many items the request holds.
    request.pop(SESSION_KEY, None)


def _save_before_a_stream(storage: MongoStorage) -> OnResponsePrepare:
    """Return what saves with streams and WebSockets that start inside the handler."""

    async def save_before_headers(request: web.Request, response: web.StreamResponse) -> None:
        # With a web.Response, error pages included, the middleware saves or must not.
        if not isinstance(response, web.Response):
            for session in (request.get(SESSION_KEY), *request.get(_SET_ASIDE, ())):
                if not isinstance(session, MongoSession) or session.made_by is not storage:
                    continue
                try:
                    await storage.save_before_headers(request, response, session)
                except BaseException:
                    _forget_framing(request)
                    # The hook of an outer app may have noted already that it starts.
                    request.pop(_STARTED, None)
                    raise
        request[_STARTED] = True

    return save_before_headers


def _unsaved(request: web.Request, response: web.StreamResponse) -> Session | None:
    """Return the session to save with a response.

    ``None``: nobody asked for it, it is saved already, or the request has failed.

    Raises ``RuntimeError`` where it is too late.
    """
    session: Session | None = request.get(SESSION_KEY)
    if session is None or response.status >= FAILED_STATUS:
        return None
    if response.prepared and isinstance(response, web.Response):
        raise RuntimeError(
            "the handler has sent its response before the session could be saved; return it "
            "unprepared, or use a web.StreamResponse"
        )
    return None if response.prepared or request.get(_STARTED) else session


def _forget_framing(request: web.Request) -> None:
    """Let an error page be sent in place of a stream that did not start.

    Before it asks whether to start, aiohttp 3.14 tells the writer that the body comes in chunks or
    compressed; the error page uses the same writer, and would be garbled.
    """
    writer: Any = request.writer
    writer.chunked, writer.length, writer._compress = False, None, None
