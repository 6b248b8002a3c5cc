"""``setup``: the middleware of an app's sessions, and the saving with streams."""

from __future__ import annotations

from typing import Any

import aiohttp_session
from aiohttp import WSCloseCode, web
from aiohttp.typedefs import Handler
from aiohttp_session import SESSION_KEY, STORAGE_KEY, Session

from storage.errors import (
    SessionEnded,
    SessionNotSerializable,
    SessionTooLarge,
    StorageUnavailable,
)
from storage.mongo import LOADED, MongoStorage, has_failed
from storage.route_warnings import route_of
from storage.session import MongoSession


def setup(app: web.Application, storage: MongoStorage) -> None:
    """Give ``app`` sessions that are kept in ``storage``.

    Adds the middleware that ``aiohttp_session.get_session`` needs, saves before a streamed response
    starts, creates the indexes at start-up (the first try is awaited; MongoDB may be away), and
    finishes writes as the first step of ``on_cleanup``; sessions cannot be used after that, until
    the app is started again.

    May be called for an app and for its sub-apps: with one storage they save once, with the
    response that is sent; with several each app has its own sessions. Call it before you add
    middlewares of your own that ask for the session, or that respond in a handler's place. It may
    be called inside of ``on_startup`` or ``cleanup_ctx``; the indexes are then created in the
    background.

    Raises ``RuntimeError`` for an app that has sessions already, or that runs.
    """
    if not isinstance(storage, MongoStorage):
        raise TypeError(f"storage: {type(storage).__name__} is not accepted; use a MongoStorage")
    earlier = next((m for m in app.middlewares if isinstance(m, _Sessions)), None)
    if earlier is not None and earlier.stopped:
        # Called by an on_startup of an app that is started again.
        earlier.start_with(storage)
        return
    _check_set_up(app, earlier)
    sessions = _Sessions(storage)
    if app.middlewares:
        app.middlewares.insert(0, _tell_who_is_outside)
    app.middlewares.append(web.middleware(sessions))
    app.on_response_prepare.extend((sessions.save_before_headers, sessions.complete_headers))
    # First: a clean-up that was registered earlier may close the client.
    app.on_cleanup.insert(0, sessions.stop)
    if app.on_startup.frozen:
        storage.begin_index_work()
    else:
        app.on_startup.append(sessions.start)


def _check_set_up(app: web.Application, earlier: _Sessions | None) -> None:
    """Raise ``RuntimeError`` that says what to write instead."""
    if earlier is not None:
        raise RuntimeError(
            "setup: this app has sessions already; call setup(app, storage) once, and give a "
            "second storage to a sub-app"
        )
    if any(getattr(m, "__module__", None) == aiohttp_session.__name__ for m in app.middlewares):
        raise RuntimeError(
            "setup: aiohttp_session.setup was called for this app; remove that call, for "
            "setup(app, storage) does the same and more"
        )
    if app.middlewares.frozen:
        raise RuntimeError(
            "setup: the app runs, or was added to another one, and takes no middleware any more; "
            "call setup(app, storage) before that, or in on_startup or cleanup_ctx of the outer app"
        )


class _RequestSession:
    """The session of a request under one storage; the request's clones share it.

    It stands in the request where aiohttp-session looks for a storage. A clone has a copy of the
    request's items, so that a session which only the clone has asked for is found here.
    """

    __slots__ = (
        "_loaded", "_session", "asked_for", "failed", "saved", "serving", "started", "storage",
        "stream",
    )  # fmt: skip

    def __init__(self, storage: MongoStorage, *, started: bool) -> None:
        self.storage = storage
        # Whether the answer depends on the session.
        self.asked_for = False
        # Whether it could not be loaded.
        self.failed = False
        # Whether the last run of the handler was saved, as far as there was anything to save.
        self.saved = False
        # Whether the handler runs: an app inside of another one leaves the saving to that one.
        # ``_respond_and_save`` sets it first.
        self.serving: bool
        # Whether a response has started: no cookie can follow it.
        self.started = started
        # The stream or WebSocket that has started, as long as the handler runs.
        self.stream: web.StreamResponse | None = None
        self._loaded: MongoSession | None = None
        # The one to save: what was loaded, or what new_session made after it.
        self._session: Session | None = None

    async def load_session(self, request: web.Request) -> Session:
        """Do what the storage does, once for a request and its clones."""
        self.asked_for = True
        if self._session is None:
            try:
                loaded = await self.storage.load_session(request)
            except StorageUnavailable:
                self.failed = True
                raise
            self.failed = False
            # A parallel load, or new_session, may have been faster.
            if self._session is None:
                self._session = loaded
                self._loaded = loaded if isinstance(loaded, MongoSession) else None
                self._note_outliving(request)
        return self._session

    async def new_session(self) -> Session:
        """Do what the storage does; the new session is the one to save."""
        self.asked_for = True
        session = await self.storage.new_session()
        if self.started:
            session.outlive_answer("new_session")  # it is not told for which request
        self._session = session
        return session

    def __getattr__(self, name: str) -> Any:
        """Answer for the storage to apps that take it from the request."""
        return getattr(self.storage, name)

    def begin_stream(self, request: web.Request, stream: web.StreamResponse) -> None:
        """Note what has started: changes from now on are not saved with it."""
        self.stream = stream
        if not has_failed(stream):
            self._note_outliving(request)

    def end_stream(self, request: web.Request, stream: web.StreamResponse) -> None:
        """Say which changes came too late to be saved with the stream."""
        self.stream = None
        if has_failed(stream):
            return  # then nothing was saved when it started either
        session = self.current(request)
        if isinstance(session, MongoSession) and session.made_by is self.storage:
            self.storage.report_late_changes(route_of(request), session)

    def _note_outliving(self, request: web.Request) -> None:
        session = self._session
        if self.started and isinstance(session, MongoSession):
            session.outlive_answer(route_of(request))

    def current(self, request: web.Request) -> Session | None:
        """Return the session to save with the request, ``None`` where nobody asked for one."""
        found: Session | None = request.get(SESSION_KEY)
        if found is None or found is self._loaded:
            # A clone may have replaced or forgotten it.
            return self._session
        if self._session is not None and getattr(found, "made_by", None) is not self.storage:
            return self._session
        # Made past this object: aiohttp-session's own middleware may serve a sub-app.
        return found

    def note_loaded(self, request: web.Request) -> None:
        """Let the request know what one of its clones has loaded."""
        if self._loaded is not None:
            request[LOADED] = self.storage, self._loaded

    def forget(self, request: web.Request) -> None:
        """Drop the session and its changes."""
        self._session = self.stream = None
        # Removed, not set to None: a load compares how many items the request holds.
        request.pop(SESSION_KEY, None)


class _AllHeld(list[_RequestSession]):
    """What stands for each storage that serves a request."""

    # Whether a response has started, also one that a middleware outside of the sessions has sent
    # before a handler asked for a session.
    started = False

    def note_start(self, *, started: bool) -> None:
        """Let all know whether a response has started."""
        self.started = started
        for held in self:
            held.started = started


_HELD = web.RequestKey("held", _AllHeld)


def _all_held(request: web.Request) -> _AllHeld:
    """Return what stands for each storage that serves the request.

    With the writer of its response, which the request's clones share: the server prepares the
    response with the request that it has made, and a middleware outside of the sessions may have
    handed on a clone, as those of aiohttp-remotes do. With a writer that takes no attributes, what
    such a clone has held is not found.
    """
    attributes: dict[str, Any] | None = getattr(request.writer, "__dict__", None)
    held: _AllHeld
    if attributes is None:
        held = request.setdefault(_HELD, _AllHeld())
    else:
        held = attributes.setdefault("sessions of aiohttp-session-mongostorage", _AllHeld())
    return held


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


class _Sessions:
    """The middleware of ``setup`` and what else it adds to an app.

    The middleware does what aiohttp-session's does, and saves with files and streams too. That one
    saves with a ``web.Response`` only, and a second one around it would cost every request as much
    as the whole of a save that has nothing to write.

    A class because an app that is started again may come with another storage.
    """

    def __init__(self, storage: MongoStorage) -> None:
        self._storage = storage
        # Whether the app was stopped, and was not started again.
        self.stopped = False

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Serve the sessions of one request."""
        storage = self._storage
        outer = request.get(STORAGE_KEY)
        if isinstance(outer, _RequestSession) and outer.storage is storage:
            if outer.serving:
                # The outer app saves: it decides which response is sent, and so which cookie.
                return await _respond(request, handler, outer)
            # A middleware outside of this one calls its handler again.
            if not outer.saved:
                outer.forget(request)
            return await _respond_and_save(request, handler, outer)
        all_held = _all_held(request)
        held = _RequestSession(storage, started=all_held.started)
        if outer is None or outer is _OUTSIDE:
            request[STORAGE_KEY] = held
            all_held[:] = [held]
            return await _respond_and_save(request, handler, held)
        all_held.append(held)
        if outer is storage:
            # aiohttp-session's own middleware saves, but not before a stream starts.
            return await _respond(request, handler, held)
        # The outer app has another storage: each app gets its own sessions.
        session = request.pop(SESSION_KEY, None)
        request[STORAGE_KEY] = held
        try:
            return await _respond_and_save(request, handler, held)
        finally:
            request[STORAGE_KEY] = outer
            held.forget(request)
            if session is not None:
                request[SESSION_KEY] = session

    async def save_before_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        """Save with streams and WebSockets that start inside the handler."""
        storage, every_held = self._storage, _all_held(request)
        # With a web.Response, error pages included, the middleware saves or must not.
        if not isinstance(response, web.Response):
            for held in every_held:
                session = held.current(request) if held.storage is storage else None
                if not isinstance(session, MongoSession) or session.made_by is not storage:
                    continue
                try:
                    held.note_loaded(request)
                    await storage.save_before_headers(request, response, session)
                except BaseException:
                    _forget_framing(request)
                    # The hook of an outer app may have noted already that it starts.
                    every_held.note_start(started=False)
                    raise
        every_held.note_start(started=True)
        if not isinstance(response, web.Response):
            for held in every_held:
                if held.storage is storage:
                    held.begin_stream(request, response)

    async def complete_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        """Complete the headers of every answer that depends on a session."""
        for held in _all_held(request):
            if held.storage is self._storage and (held.asked_for or SESSION_KEY in request):
                session = held.current(request)
                if isinstance(session, MongoSession) and session.made_by is held.storage:
                    held.storage.send_cookie_with(response, session)
                    if held.saved and session.written and isinstance(response, web.Response):
                        # By a middleware outside of the sessions, or by a hook of the app.
                        held.storage.report_late_changes(route_of(request), session)
                held.storage.protect_from_caches(request, response)

    async def start(self, app: web.Application) -> None:
        """Create the indexes when the app starts."""
        if not app.on_response_prepare.frozen:
            # Last, so that it sees the headers which the app's own hooks set or leave alone.
            app.on_response_prepare.remove(self.complete_headers)
            app.on_response_prepare.append(self.complete_headers)
        if self.stopped:
            self._storage.reopen()
            self.stopped = False
        await self._storage.start_index_work()

    async def stop(self, _app: web.Application) -> None:
        """Finish writes when the app stops."""
        self.stopped = True
        await self._storage.aclose()

    def start_with(self, storage: MongoStorage) -> None:
        """Go on with a storage that an ``on_startup`` of the app has made."""
        if storage is self._storage:
            storage.reopen()
        self._storage = storage
        storage.begin_index_work()


async def _respond_and_save(
    request: web.Request, handler: Handler, held: _RequestSession
) -> web.StreamResponse:
    """Return the handler's response, the session saved with it."""
    held.serving, held.saved = True, False
    try:
        response = await _respond(request, handler, held)
    except web.HTTPException as error:
        await _save(request, error, held)
        raise
    finally:
        held.serving = False
    if not isinstance(response, web.StreamResponse):
        raise TypeError(f"the handler has returned {type(response).__name__}, not a response")
    await _save(request, response, held)
    return response


async def _respond(
    request: web.Request, handler: Handler, held: _RequestSession
) -> web.StreamResponse:
    """Return the handler's response; if there is none, forget the session."""
    try:
        return await handler(request)
    except web.HTTPException:
        raise
    except BaseException as error:
        if _says_that_the_session_has_ended(error):
            return await _end_of_session(request, held)
        if held.stream is not None:
            # How most streams end: the visitor has gone.
            held.end_stream(request, held.stream)
        # The changes of a handler that crashed are not saved, even if a middleware responds.
        held.forget(request)
        raise


def _says_that_the_session_has_ended(error: BaseException) -> bool:
    # asyncio's TaskGroup puts what its tasks raise into a group.
    if isinstance(error, BaseExceptionGroup):
        return error.split(SessionEnded)[1] is None
    return isinstance(error, SessionEnded)


async def _end_of_session(request: web.Request, held: _RequestSession) -> web.StreamResponse:
    """End the connection of a handler whose session has ended, without a traceback."""
    stream, session = held.stream, held.current(request)
    if isinstance(session, MongoSession):
        session.abandoned = True  # nobody need be told of what it has not saved
    held.forget(request)
    if stream is None:
        raise web.HTTPUnauthorized(text="The session has ended; sign in again.") from None
    if isinstance(stream, web.WebSocketResponse):
        await stream.close(code=WSCloseCode.POLICY_VIOLATION, message=b"session ended")
    # The body may be shorter than its Content-Length has said.
    stream.force_close()
    return stream


async def _save(request: web.Request, response: web.StreamResponse, held: _RequestSession) -> None:
    if held.failed and not has_failed(response):
        held.storage.report_swallowed_failure(request, response.status)
    try:
        if (session := _unsaved(request, response, held)) is not None:
            held.note_loaded(request)
            if held.started and isinstance(session, MongoSession):
                await _save_unanswered(request, held, session)
            else:
                await held.storage.save_session(request, response, session)
    except (SessionTooLarge, SessionNotSerializable):
        # The error page, a file perhaps, would be refused as well.
        held.forget(request)
        raise
    held.saved = not has_failed(response)
    if held.stream is not None:
        held.end_stream(request, held.stream)


def _unsaved(
    request: web.Request, response: web.StreamResponse, held: _RequestSession
) -> Session | None:
    """Return the session to save with a response.

    ``None``: nobody asked for it, it is saved already, or the request has failed.

    Raises ``RuntimeError`` where it is too late.
    """
    session = held.current(request)
    if session is None or has_failed(response):
        return None
    if response.prepared and isinstance(response, web.Response):
        raise RuntimeError(
            "the handler has sent its response before the session could be saved; return it "
            "unprepared, or use a web.StreamResponse"
        )
    in_stream = held.started and held.stream is not None
    return None if in_stream else session


async def _save_unanswered(
    request: web.Request, held: _RequestSession, session: MongoSession
) -> None:
    """Save what a handler has changed whose response is not sent.

    A middleware outside of the sessions has responded in its place, and has let it run on, as one
    with a timeout and ``asyncio.shield`` does.
    """
    try:
        await held.storage.save_so_far(request, session)
    except SessionEnded:
        pass
    except RuntimeError:
        # Only a response could carry the cookie.
        held.storage.report_late_changes(route_of(request), session)


def _forget_framing(request: web.Request) -> None:
    """Let an error page be sent in place of a stream that did not start.

    Before it asks whether to start, aiohttp 3.14 tells the writer that the body comes in chunks or
    compressed; the error page uses the same writer, and would be garbled.
    """
    writer: Any = request.writer
    writer.chunked, writer.length, writer._compress = False, None, None
