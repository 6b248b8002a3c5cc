"""``save_session`` and ``watch_session``: for connections that outlive their response."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta

from aiohttp import web
from aiohttp_session import get_session

from storage.mongo import MongoStorage
from storage.session import MongoSession
from storage.watching import LONGEST_SECONDS, SHORTEST_SECONDS


async def save_session(request: web.Request) -> None:
    """Store what this request has changed in its session so far, without waiting for its answer.

    For streams, WebSockets and long work, also after the response has started. What fails later
    does not undo it. It costs nothing where nothing has changed, and it does not count as use.
    Calls of one request run one after another, and go on to their end if the caller is cancelled.
    An emptied session is ended; a changed ``session.max_age`` reaches the browser with the answer,
    or with its next request.

    request: the one that asked for the session; in a handler of Socket.IO that of the handshake,
        ``environ["aiohttp.request"]``.

    Raises ``SessionEnded`` where the session has ended: nothing was written.
    ``StorageUnavailable``, ``SessionTooLarge`` and ``SessionNotSerializable``: call it again later.
    ``RuntimeError`` where only an answer can carry the new cookie: for a new session, a change of
    owner and a renewal.
    """
    session, storage = await _session_of("save_session", request)
    await storage.save_so_far(request, session)


def watch_session(
    request: web.Request,
    every: float | timedelta = 5.0,
    keep_alive: bool = True,  # noqa: FBT001, FBT002 - pinned
) -> AbstractAsyncContextManager[None]:
    """Return an ``async with`` block that is left when the request's session ends.

    It works like ``asyncio.timeout``: when the session was revoked, signed out or deleted, or has
    expired, the block is cancelled and leaves as ``SessionEnded``. If you do not catch it,
    ``setup`` closes the connection. The block goes on after a renewal as long as the owner stays,
    and while MongoDB does not answer; that of a session without an owner ends when somebody signs
    in. All watches share their finds, which read dates and owners alone.

    every: seconds (or a ``timedelta``) from 0.05 to 20 until an end in another process is noticed.
        One in this process is noticed at once. It looks once when the block begins.
    keep_alive: whether the open connection counts as use. Then the session is touched when half of
        its idle timeout has passed.

    Raises ``RuntimeError`` when the block begins, for a session that is not stored yet.
    """
    _check_request("watch_session", request)
    accepted = "use seconds or a timedelta, from 0.05 to 20 seconds"
    seconds = every.total_seconds() if isinstance(every, timedelta) else every
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise TypeError(f"every: {type(every).__name__} is not accepted; {accepted}")
    if not SHORTEST_SECONDS <= seconds <= LONGEST_SECONDS:
        raise ValueError(f"every: {every!r} is out of range; {accepted}")
    _check_flag("keep_alive", keep_alive)
    return _watched(request, seconds, keep_alive=keep_alive)


@asynccontextmanager
async def _watched(
    request: web.Request, seconds: float, *, keep_alive: bool
) -> AsyncIterator[None]:
    session, storage = await _session_of("watch_session", request)
    async with storage.watch(session, seconds=seconds, keep_alive=keep_alive):
        yield


async def _session_of(caller: str, request: web.Request) -> tuple[MongoSession, MongoStorage]:
    _check_request(caller, request)
    session = await get_session(request)
    if not isinstance(session, MongoSession) or not isinstance(session.made_by, MongoStorage):
        raise TypeError(f"{caller}: {type(session).__name__} is not from a MongoStorage")
    return session, session.made_by


def _check_flag(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{name}: {type(value).__name__} is not accepted; use True or False")


def _check_request(caller: str, request: object) -> None:
    if not isinstance(request, web.Request):
        raise TypeError(
            f"{caller}: request: {type(request).__name__} is not accepted; use the request of the "
            'handler, in Socket.IO environ["aiohttp.request"]'
        )
