"""``MongoStorage``: what apps call, and the way of a load; that of a save goes on in ``saving``."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from datetime import timedelta
from types import MappingProxyType
from typing import Any
from weakref import ref

from aiohttp import web
from aiohttp_session import SESSION_KEY, STORAGE_KEY, AbstractStorage, Session

from storage.cache import SessionCache
from storage.changes import has_changed, is_unchanged, unsaved_changes
from storage.cookies import SessionCookie
from storage.driver import Driver
from storage.errors import SessionEnded, StorageUnavailable
from storage.following import where_it_is
from storage.forwards import Forward
from storage.indexes import IndexWork, create_indexes
from storage.lifetime import DEFAULT_IDLE_SECONDS, checked_lifetime, duration, whole
from storage.moving import Moving
from storage.owners import Owners, SessionInfo
from storage.route_warnings import RouteWarnings, route_of
from storage.saving import Saving, Visit
from storage.sealing import Keyring
from storage.session import MongoSession
from storage.settings import Settings
from storage.shared_caches import make_private, vary_by_cookie
from storage.store import Store
from storage.tokens import document_id, to_cookie, to_handle
from storage.undisclosed import Held
from storage.values import read_json, write_json
from storage.watching import Watch, Watches

COUNTERS = (
    "loads", "hits", "misses", "expired", "unreadable",
    "inserts", "updates", "touches", "deletes", "commands", "unavailable", "moved",
)  # fmt: skip
_JSON = json.dumps, json.loads
# Of several cookies of our name, so many are looked up.
TOKENS_TRIED = 4
# aiohttp-session keeps its session and its storage under text keys of the request. That is no
# warning for our users: aiohttp warns once for each key, and this says that it has. The name is
# private: with an aiohttp that has another one they see the warning.
getattr(web.BaseRequest, "_seen_str_keys", set[str]()).update({SESSION_KEY, STORAGE_KEY})
# The session that was loaded for a request, and by whom: new_session() is not told the request.
LOADED = web.RequestKey("loaded", tuple[AbstractStorage, MongoSession])


class MongoStorage(AbstractStorage):
    """Sessions for aiohttp-session, sealed value by value and kept in MongoDB."""

    def __init__(
        self,
        collection: Any,
        secrets: str | bytes | Sequence[str | bytes],
        *,
        max_age: float | timedelta | None = DEFAULT_IDLE_SECONDS,
        absolute_timeout: float | timedelta | None = None,
        touch_interval: float | timedelta | None = None,
        owner_key: str | None = "user_id",
        describe: Callable[[web.Request], str] | None = None,
        max_bytes: int = 256 * 1024,
        max_sessions_per_owner: int | None = None,
        operation_timeout: float = 5.0,
        cookie_name: str = "session",
        domain: str | None = None,
        path: str = "/",
        secure: bool | None = None,
        httponly: bool = True,
        samesite: str | None = "Lax",
        partitioned: bool = False,
        encoder: Callable[[Any], Any] = json.dumps,
        decoder: Callable[[Any], Any] = json.loads,
        moving_from: AbstractStorage | None = None,
    ) -> None:
        """Check every argument; nothing is sent to MongoDB yet.

        collection: a Motor collection or a PyMongo ``AsyncCollection``, of any database and name.
        secrets: random text or bytes, 32 bytes at least, or up to 5 of them: the first seals, all
            of them open. ``generate_secret()`` makes one.
        max_age: the idle timeout in seconds, and the cookie's Max-Age; 14 days by default.
            ``None``: the cookie ends with the browser, the session after 14 idle days.
        absolute_timeout: seconds from creation or sign-in to the end, also if the session is in
            use; ``None``: no such end.
        touch_interval: seconds between two writes that only record activity; ``None``: one hour.
            The longest is a twentieth of a session's idle timeout.
        owner_key: the session key whose value is the owner of the session; ``None``: no owners.
        describe: called with the request to name the device for ``sessions()``.
        max_bytes: the most that one session's sealed values may take, up to 4 MiB.
        max_sessions_per_owner: whole number above 0. A sign-in beyond it ends the owner's least
            recently used sessions. ``None``: no limit.
        operation_timeout: seconds that one load or one save may wait for MongoDB.
        cookie_name, domain, path, secure, httponly, samesite: the cookie's attributes
            (RFC 6265bis); ``secure=None`` means "Secure when the request came over https".
        partitioned: let browsers keep the cookie in pages of other sites, separately for each
            site (CHIPS); needs Secure and ``samesite="None"``.
        encoder, decoder: from a value to text or bytes, and back.
        moving_from: the storage that the app used before. A visitor who comes with a session of
            that storage gets a new one here with the same values, and the old one ends.

        Raises ``TypeError`` or ``ValueError`` that names the argument and what is accepted.
        """
        # First: whatever is wrong with another argument, error trackers record this frame.
        held = Held(secrets)
        del secrets
        self._counters = dict.fromkeys(COUNTERS, 0)
        self._driver = Driver(collection, operation_timeout, self._counters)
        self._settings = settings = Settings(
            owner_key=owner_key,
            describe=describe,
            max_bytes=max_bytes,
            max_sessions_per_owner=max_sessions_per_owner,
            operation_timeout=operation_timeout,
            encoder=write_json if (encoder, decoder) == _JSON else encoder,
            decoder=read_json if (encoder, decoder) == _JSON else decoder,
        )
        keyring = Keyring(held)
        lifetime = checked_lifetime(max_age, absolute_timeout, touch_interval)
        self._cookie = SessionCookie(
            name=cookie_name,
            domain=domain,
            path=path,
            secure=secure,
            httponly=httponly,
            samesite=samesite,
            partitioned=partitioned,
        )
        idle = duration("max_age", max_age)
        super().__init__(
            cookie_name=cookie_name,
            domain=domain,
            # The library's annotation says int; fractions are accepted here.
            max_age=None if idle is None else whole(idle.total_seconds()),  # type: ignore[arg-type]
            path=path,
            secure=secure,
            httponly=httponly,
            samesite=samesite,
            encoder=encoder,
            decoder=decoder,
        )
        self._clock: Callable[[], float] | None = None
        cache = SessionCache()
        self._store = Store(
            self._driver,
            keyring=keyring,
            lifetime=lifetime,
            settings=settings,
            cache=cache,
            counters=self._counters,
        )
        self._owners = Owners(
            self._driver,
            keyring=keyring,
            lifetime=lifetime,
            cache=cache,
            counters=self._counters,
        )
        self._moving = (
            None if moving_from is None else Moving(moving_from, self, self._driver, self._counters)
        )
        self._saving = Saving(
            self._store,
            self._cookie,
            settings,
            lifetime,
            owners=self._owners,
            moving=self._moving,
        )
        self._watches = Watches(self._store, lifetime, self._now_ms)
        cache.when_forgotten = self._watches.look_at
        cache.when_owner_forgotten = self._watches.look_at_owner
        cache.when_all_forgotten = self._watches.look_at_all
        self._route_warnings = RouteWarnings()
        self._index_work = IndexWork(self._driver)

    @property
    def clock(self) -> Callable[[], float]:
        """Returns seconds since the epoch: ``time.time`` unless replaced, for tests to move.

        Looked up at each call: freezegun and others replace ``time.time`` itself.
        """
        return time.time if self._clock is None else self._clock

    @clock.setter
    def clock(self, clock: Callable[[], float]) -> None:
        self._clock = clock

    # The way of a load

    def load_cookie(self, request: web.Request) -> str | None:
        """Return the session token of the request as text, the first one of several."""
        tokens = self._cookie.tokens(request)
        return to_cookie(tokens[0]) if tokens else None

    async def new_session(self) -> MongoSession:
        """Return an empty session that is stored, under a new token, once it has a value."""
        return self._made(MongoSession(max_age=self._max_age))

    async def load_session(self, request: web.Request) -> Session:
        """Return the session of the request's cookie, or a new one.

        Raises ``StorageUnavailable`` when MongoDB does not answer in time; an empty session in its
        place would log the visitor out.
        """
        self._driver.check_open()
        tokens = self._cookie.tokens(request)[:TOKENS_TRIED]
        if not tokens and self._moving is None:
            session = await self.new_session()
            session.loaded_for = ref(request)
            return session
        held = len(request)
        loaded = await self._store.load(tokens, self._now_ms()) if tokens else None
        moved = None
        if loaded is None and self._moving is not None:
            moved = await self._moving.load(request, self._max_age)
            if moved is None and (token := self._moving.moved_just_now(request, self._now_ms())):
                loaded = await self._store.load([token], self._now_ms())
        # A parallel get_session() of the same request, or its new_session(), was faster. Counted
        # first: looking up what is not there costs an exception.
        if len(request) != held and (current := request.get(SESSION_KEY)) is not None:
            return current  # type: ignore[no-any-return]
        snapshot, values, by_forward = (None, None, False) if loaded is None else loaded
        session = self._made(
            MongoSession(max_age=self._max_age, snapshot=snapshot, values=values)
            if moved is None
            else moved
        )
        session.loaded_for = ref(request)
        if by_forward:
            session.by_forward = True
        request[LOADED] = self, session
        return session

    # The way of a save

    async def save_session(
        self, request: web.Request, response: web.StreamResponse, session: Session
    ) -> None:
        """Write what changed, and set or delete the cookie.

        Raises ``StorageUnavailable``, ``SessionTooLarge`` or ``SessionNotSerializable``, before
        any cookie is set. A session that ended meanwhile stays ended, and no cookie is sent at all.
        With a response of status 500 and above nothing is written, and no cookie is sent.
        """
        if has_failed(response):
            return
        # A sub-app may have another storage, of any kind: that one saves the sessions it has made.
        if not isinstance(session, MongoSession):
            self._check_foreign(request, session)
            return
        if session.made_by is not self:
            return
        if session.saving is not None:
            await session.saving_done()
        if session.abandoned:
            return
        self._driver.check_open()
        # The app may have saved by hand, and send another response.
        self._saving.send_again(session, response)
        now_ms = self._now_ms()
        if is_unchanged(session, now_ms):
            return
        replaced, loaded = self._replaced(request) if session.snapshot is None else ((), True)
        try:
            await self._saving.save(Visit(request, response, session, replaced, now_ms, loaded))
        except StorageUnavailable:
            # The middleware of an outer app sees this 503 as a response to save with.
            session.abandoned = True
            # Whoever repeats the request loads what is stored: nothing saves this one.
            request.pop(SESSION_KEY, None)
            raise
        if self._index_work.needed and not self._driver.closed:
            # Under aiohttp-session's own set-up nobody has asked for the indexes at the start.
            self.begin_index_work()
        # There nothing of ours sees the headers of the answer later, either.
        if session.sent is not None and request.get(STORAGE_KEY) is self:
            vary_by_cookie(response)
            make_private(request, response, self._route_warnings)

    async def save_so_far(self, request: web.Request, session: MongoSession) -> None:
        """Write what changed without a response; for ``save_session`` of ``connections``."""
        self._driver.check_open()
        await session.saving_done()
        if session.ended:
            raise SessionEnded
        now_ms = self._now_ms()
        if is_unchanged(session, now_ms):
            return
        replaced, loaded = self._replaced(request) if session.snapshot is None else ((), True)
        taken = session.take_changes()
        visit = Visit(request, web.Response(), taken, replaced, now_ms, loaded, by_hand=True)
        # As a task: it goes on if the caller is cancelled, and the session learns what is stored.
        saving = session.saving = self._driver.start(self._saving.save_so_far(session, visit))
        await asyncio.wait({saving})
        saving.result()
        if session.ended:
            raise SessionEnded

    def watch(self, session: MongoSession, *, seconds: float, keep_alive: bool) -> Watch:
        """Return a block that ends with a stored session; for ``watch_session``."""
        self._driver.check_open()
        if session.snapshot is None:
            raise RuntimeError(
                "watch_session: the session is not stored yet, or was signed out; save it with an "
                "answer first"
            )

        def follow(forward: Forward) -> None:
            if forward.had_owner:
                session.moved = forward

        return Watch(
            self._watches,
            session.snapshot,
            seconds=seconds,
            keep_alive=keep_alive,
            followed=follow,
        )

    async def save_before_headers(
        self, request: web.Request, response: web.StreamResponse, session: Session
    ) -> None:
        """Save as ``save_session`` does, in ``on_response_prepare``; for ``setup``."""
        await self.save_session(request, response, session)
        self._cookie.write_header(response)

    def send_cookie_with(self, response: web.StreamResponse, session: MongoSession) -> None:
        """Let the response that is sent carry the cookie that was put on another one.

        A middleware outside of the sessions has replaced it; without its cookie a visitor who has
        just signed in, or whose session was renewed, would be signed out. In
        ``on_response_prepare``; for ``setup``.
        """
        if not has_failed(response) and self._saving.send_again(session, response):
            self._cookie.write_header(response)

    def protect_from_caches(self, request: web.Request, response: web.StreamResponse) -> None:
        """Keep shared caches from an answer that depends on the session; for ``setup``."""
        vary_by_cookie(response)
        if self._cookie.is_on(response):
            make_private(request, response, self._route_warnings)

    def report_swallowed_failure(self, request: web.Request, status: int) -> None:
        """Say once for a route that its handler hides a failure of the load; for ``setup``."""
        self._route_warnings.warn(
            route_of(request),
            "it answered %d although its session could not be loaded; unless this is meant: "
            "except web.HTTPException catches StorageUnavailable too, so catch that one before, or "
            "let it pass",
            status,
        )

    def report_late_changes(self, route: str, session: MongoSession) -> None:
        """Say once for a route that changes came too late to be saved with the response."""
        if not session.abandoned and (changed := unsaved_changes(session, self._settings)):
            self._route_warnings.warn(
                route,
                "the session was changed after the response had started, and its last save was cut "
                "off or failed: the changes may or may not be stored (%s)"
                if session.may_be_saved
                else "the session was changed after the response had started, and was not saved "
                "(%s); call save_session(request)",
                ", ".join(changed),
            )

    def has_changed(self, session: MongoSession) -> bool:
        """Tell whether the app has changed a stored session; for ``MongoSession``."""
        return has_changed(session, self._settings)

    def needs_touch(self, session: MongoSession) -> bool:
        """Tell whether the use of a session is to be recorded; for ``MongoSession``."""
        return self._saving.needs_touch(session, self._now_ms())

    # Sessions from outside

    def handle(self, session: Session) -> str | None:
        """Return the public name of a stored session, ``None`` for a new one.

        Safe to show and to log; useless as a cookie.
        """
        snapshot = session.snapshot if isinstance(session, MongoSession) else None
        return None if snapshot is None else to_handle(snapshot.stored.identifier)

    async def sessions(self, owner: object) -> AsyncGenerator[SessionInfo, None]:
        """Yield the active sessions of an owner (compared as text), newest activity first.

        They are read in batches. Close the generator if you stop early, as ``contextlib.aclosing``
        does.
        """
        self._driver.check_open()
        async with aclosing(self._owners.sessions(owner, self._now_ms())) as found:
            async for info in found:
                yield info

    async def revoke(self, handle: str, owner: object = None) -> bool:
        """Delete one session, with ``owner`` only if it is that owner's.

        A web handler must pass the owner. Returns whether one was deleted; for text that is no
        handle: ``False``.
        """
        self._driver.check_open()
        return await self._owners.revoke(handle, owner)

    async def revoke_owner(self, owner: object, keep: Session | None = None) -> int:
        """Delete all sessions of an owner except the session ``keep``; return how many.

        ``keep`` stays also if another request has renewed it since it was loaded.

        Raises ``TypeError`` for a ``keep`` that is no session of a ``MongoStorage``, such as a
        handle.
        """
        if keep is not None and not isinstance(keep, MongoSession):
            kind = type(keep).__name__
            raise TypeError(f"keep: {kind} is not accepted; use a session of this storage or None")
        self._driver.check_open()
        kept = None if keep is None or keep.snapshot is None else keep.snapshot.token
        if kept is not None:
            kept = await where_it_is(self._store, kept, self._now_ms())
        return await self._owners.revoke_owner(owner, None if kept is None else document_id(kept))

    async def count(self, retired: bool = False) -> int:  # noqa: FBT001, FBT002 - pinned
        """Count active sessions; with ``retired`` those that still need an older secret."""
        self._driver.check_open()
        return await self._owners.count(self._now_ms(), retired=retired)

    async def clear(self) -> int:
        """Delete every session, keep the indexes; return how many."""
        self._driver.check_open()
        return await self._owners.clear()

    async def purge(self) -> int:
        """Delete expired sessions, for a server without TTL indexes; return how many."""
        self._driver.check_open()
        return await self._owners.purge(self._now_ms())

    # Running

    async def create_indexes(self) -> None:
        """Create or repair the TTL index and the owner index; many processes may do so at once.

        Raises ``IndexConflict`` with the command for an administrator when an index needs what this
        user may not do, or with what to do when the server refuses the index;
        ``StorageUnavailable`` when MongoDB cannot be used, which says why.
        """
        self._driver.check_open()
        await create_indexes(self._driver)
        self._index_work.needed = False

    async def start_index_work(self) -> None:
        """Create the indexes in the background; ``setup`` calls it when an app starts.

        Returns after the first try, or after some seconds where building an index takes longer.
        """
        self._driver.check_open()
        await self._index_work.start()

    def begin_index_work(self) -> None:
        """Create the indexes in the background, without a word to the caller."""
        _ = self._index_work.begin()

    def reopen(self) -> None:
        """Be of use again after ``aclose()``; ``setup`` calls it when an app is started again."""
        self._driver.closed = False

    async def aclose(self) -> None:
        """Wait for writes under way; afterwards every use raises ``RuntimeError``.

        Never closes the client, which belongs to the app. May be called twice.
        """
        self._driver.closed = True
        self._watches.stop()
        await self._index_work.stop()
        await self._store.drained()

    @property
    def counters(self) -> Mapping[str, int]:
        """Read-only numbers that only increase, from 0 when this storage was made."""
        return MappingProxyType(self._counters)

    @property
    def queued(self) -> int:
        """How many loads and saves wait for a batch at this moment."""
        return self._store.queued

    def _check_foreign(self, request: web.Request, session: Session) -> None:
        """Raise ``TypeError`` for a foreign session, unless another storage serves the request."""
        serving = request.get(STORAGE_KEY, self)
        if getattr(serving, "storage", serving) is self:
            raise TypeError(
                f"session: {type(session).__name__} was not made by this storage; use the session "
                "that get_session returns; tests sign in with storage.testing.give_session"
            )

    def _made(self, session: MongoSession) -> MongoSession:
        session.made_by = self
        return session

    def _replaced(self, request: web.Request) -> tuple[Sequence[bytes], bool]:
        """Return the tokens of the sessions that a new one replaces, and if they were loaded."""
        storage, loaded = request.get(LOADED, (None, None))
        if loaded is None or storage is not self:
            return self._cookie.tokens(request), False
        return () if loaded.snapshot is None else (loaded.snapshot.token,), True

    def _now_ms(self) -> int:
        return int(self.clock() * 1000)


def has_failed(response: web.StreamResponse) -> bool:
    """Tell whether a response says that the app has failed: then nothing is saved with it.

    Half of a piece of work is not stored, as in Django's session middleware.
    """
    return response.status >= 500
