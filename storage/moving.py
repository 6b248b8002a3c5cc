"""Sessions that another aiohttp-session storage still has, and that move in one by one."""

from __future__ import annotations

import asyncio
import logging
import re
from collections import OrderedDict
from collections.abc import Coroutine
from contextlib import suppress
from hashlib import sha256
from typing import Any, NamedTuple, TypeVar, cast

from aiohttp import hdrs, web
from aiohttp_session import AbstractStorage, Session
from multidict import CIMultiDict

from storage.driver import REPORT_SECONDS, Driver
from storage.errors import StorageError, StorageUnavailable
from storage.session import MongoSession

T = TypeVar("T")

logger: logging.Logger = logging.getLogger(__name__)

# What a storage raises for a cookie that it did not write: by a decoder, or by the constructor of
# aiohttp-session's Session, which takes what was decoded for a dict.
_NOT_READABLE = (ValueError, TypeError, AttributeError, LookupError, RecursionError)
# aiomcache raises it for a key that Memcached does not accept. By name: it is no dependency.
_NOT_READABLE_NAMES = frozenset({"ValidationException"})
_ACCEPTED = "use another aiohttp-session storage, such as the RedisStorage of before, or None"
# The session that the old storage has for a request, and who asked.
_FOUND = web.RequestKey("found", tuple[object, Session | None])
# So many different lines of the log in a minute, and each of them once.
MOST_REPORTS = 100
# How long other requests of a page may still be on their way with the old cookie.
LATE_MS = 60_000
MOVES_REMEMBERED = 4096


class Moved(NamedTuple):
    """Where a session has moved, and when."""

    token: bytes
    at_ms: int


class Moving:
    """Finds the session that a visitor has in the old storage, and ends it there.

    A class because it remembers the latest moves, for requests that come late, and what it has
    logged, so that it does not log the same for each request.
    """

    def __init__(
        self, old: AbstractStorage, new: AbstractStorage, driver: Driver, counters: dict[str, int]
    ) -> None:
        """Check the old storage; a wrong one raises an error that names ``moving_from``."""
        _check(old, new)
        self._old = old
        self._name = f"the old storage ({type(old).__name__})"
        # Not there if a storage of the app's own does not call its parent's constructor.
        self._old_cookie_name: str = getattr(old, "cookie_name", "")
        self._driver = driver
        self._counters = counters
        self._reported: set[str] = set()
        self._report_again_at = 0.0
        # By the identity of the old session, hashed.
        self._moves: OrderedDict[bytes, Moved] = OrderedDict()

    async def load(self, request: web.Request, max_age: float | None) -> MongoSession | None:
        """Return a session to store with the values of the old one; ``None``: there is none."""
        found = await self._find(request)
        if found is None:
            return None
        session = MongoSession(max_age=max_age, values=dict(found), moved_from=found)
        # No bundled storage keeps a max_age of one session; a storage of the app's own may.
        if found.max_age not in (None, getattr(self._old, "max_age", None)):
            with suppress(TypeError, ValueError):
                session.max_age = found.max_age
        return session

    def moved_just_now(self, request: web.Request, now_ms: int) -> bytes | None:
        """Return the token under which this process has just stored the old session of a request.

        A page sends many requests at once. One that arrives after another has moved the session
        finds none in the old storage, and might begin one, whose cookie signs the visitor out.
        """
        if not self._moves:
            return None
        cookie = _without_disguised(request, self._old_cookie_name).cookies.get(
            self._old_cookie_name
        )
        moved = None if cookie is None else self._moves.get(_hashed(cookie))
        return None if moved is None or now_ms >= moved.at_ms + LATE_MS else moved.token

    async def end(
        self,
        request: web.Request,
        response: web.StreamResponse,
        session: MongoSession,
        *,
        moved_to: Moved | None = None,
    ) -> None:
        """End the old session of a request, if there is one.

        ``moved_to`` is where its values are now. Also where the request has not asked for it, since
        it called ``new_session`` or has a session of ours: after a sign-out it would move in and
        sign the visitor in again.
        """
        is_move = session.moved_from is not None and moved_to is not None
        if session.moved_from is None:
            session.moved_from = await self._find(request)
        if session.moved_from is None:
            return
        if is_move:
            # Before the end: a request that finds the old session ended then finds this.
            self._remember(session.moved_from.identity, moved_to)
        session.moved_from.invalidate()
        await self._save(request, response, session)
        if is_move:
            self._counters["moved"] += 1
        session.moved_from = None
        request[_FOUND] = self, None

    async def leave(
        self,
        request: web.Request,
        response: web.StreamResponse,
        session: MongoSession,
        reason: StorageError,
    ) -> None:
        """Keep a session in the old storage, since ours refuses a value; save changes there."""
        self._report(f"a session stays in {self._name}: {reason}")
        if session.moved_from is not None and session.written:
            session.moved_from.clear()
            session.moved_from.update(session)
            await self._save(request, response, session)
            session.saved(None)

    def _remember(self, old_identity: object, moved: Moved | None) -> None:
        # Not where the cookie holds the session itself, which then has no identity: such a cookie
        # opens as often as it comes, and two visitors may have the same one.
        if moved is not None and isinstance(old_identity, str):
            self._moves[_hashed(old_identity)] = moved
            while len(self._moves) > MOVES_REMEMBERED:
                self._moves.popitem(last=False)

    async def _find(self, request: web.Request) -> Session | None:
        asked = request.get(_FOUND)
        if asked is None or asked[0] is not self:
            asked = request[_FOUND] = self, await self._read(request)
        return asked[1]

    async def _read(self, request: web.Request) -> Session | None:
        try:
            asking = _without_disguised(request, self._old_cookie_name)
            found: object = await self._call(self._old.load_session(asking))
        except _NotReadable as reason:
            self._report(f"{self._name} cannot read the cookie: {reason}")
            return None
        # Of a storage of the app's own that returns None for "no session".
        return found if isinstance(found, Session) and not found.empty else None

    async def _save(
        self, request: web.Request, response: web.StreamResponse, session: MongoSession
    ) -> None:
        """Save the old session, and send its cookie; one of our name is replaced by ours later."""
        carrier = web.Response()
        old = self._old
        try:
            await self._call(old.save_session(request, carrier, cast(Session, session.moved_from)))
        except _NotReadable as reason:
            raise self._failed(reason.args[0]) from None
        # As header lines: those of a stream have been made from response.cookies already.
        for morsel in carrier.cookies.values():
            response.headers.add(hdrs.SET_COOKIE, morsel.OutputString())
        for line in carrier.headers.getall(hdrs.SET_COOKIE, ()):
            response.headers.add(hdrs.SET_COOKIE, line)

    async def _call(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something in the old storage, for as long as one load or save may take.

        In a task of its own, which is never cancelled: the old storage may use MongoDB too.
        """
        try:
            return await self._driver.finish(work, self._driver.timeout_seconds, drain=False)
        except StorageUnavailable:
            raise  # by another MongoStorage
        except Exception as error:  # noqa: BLE001 - whatever a storage and its driver raise
            kind = type(error)
            names = {base.__name__ for base in kind.__mro__}
            # Without its cause and its text: both may show a value or the cookie.
            if isinstance(error, _NOT_READABLE) or names & _NOT_READABLE_NAMES:
                raise _NotReadable(kind.__name__) from None
            raise self._failed(kind.__name__) from None

    def _failed(self, reason: str) -> StorageUnavailable:
        cause = f"{self._name} has failed: {reason}"
        self._report(cause)
        self._counters["unavailable"] += 1
        return StorageUnavailable(cause)

    def _report(self, text: str) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._report_again_at:
            self._reported.clear()
            self._report_again_at = now + REPORT_SECONDS
        if text not in self._reported and len(self._reported) < MOST_REPORTS:
            self._reported.add(text)
            logger.warning("moving_from: %s", text)


class _NotReadable(Exception):
    """The old storage does not understand what it has read; the text is the kind of error."""


def _check(old: object, new: AbstractStorage) -> None:
    if not isinstance(old, AbstractStorage):
        raise TypeError(f"moving_from: {type(old).__name__} is not accepted; {_ACCEPTED}")
    if getattr(old, "cookie_name", None) != new.cookie_name:
        return
    # Browsers would keep both cookies, and after a sign-out the old one would sign in again.
    if _place_of(old) != _place_of(new):
        raise ValueError(
            "moving_from: its cookie has the same name and another domain or path; use the same "
            "domain and path here, or another cookie_name"
        )


def _place_of(storage: AbstractStorage) -> tuple[str, str]:
    params = storage.cookie_params
    return (params["domain"] or "").lower().removeprefix("."), params["path"]


def _without_disguised(request: web.Request, name: str) -> web.Request:
    """Return the request without cookies of other names that look like ``name`` to the old storage.

    It reads cookies with a general parser, for which the ``lang=en __Host-session=...`` of a
    sibling host is two cookies; see ``SessionCookie``.
    """
    if not name:
        return request
    written = re.compile(rf"{re.escape(name)}\s*=")
    lines = request.headers.getall(hdrs.COOKIE, ())
    pairs = [pair.strip(" \t") for line in lines for pair in line.split(";")]
    kept = [p for p in pairs if p.startswith(f"{name}=") or not written.search(p)]
    if len(kept) == len(pairs):
        return request
    headers = CIMultiDict(request.headers)
    headers[hdrs.COOKIE] = "; ".join(kept)
    return request.clone(headers=headers)


def _hashed(identity: str) -> bytes:
    return sha256(identity.encode("utf-8", "surrogatepass")).digest()
