"""Watches: blocks that are left when their session ends, all with the same few finds.

Each session that is watched is looked at in intervals: 64 of them with one find, of the dates and
the owner alone. A session that ends in this process is looked at at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import Context
from types import TracebackType

from storage.batching import BATCH_SIZE
from storage.errors import SessionEnded
from storage.forwards import Forward
from storage.lifetime import Dates, Lifetime
from storage.snapshot import Snapshot
from storage.store import Store
from storage.tokens import document_id

logger: logging.Logger = logging.getLogger(__name__)

SHORTEST_SECONDS, LONGEST_SECONDS = 0.05, 20.0
# With ``keep_alive`` a session is touched when half of its idle timeout has passed: so it must be
# looked at before the other half has passed too.
LOOKS_PER_IDLE_TIMEOUT = 4


class Watch:
    """One block, which is cancelled when its session ends, and then leaves as ``SessionEnded``.

    asyncio's own ``Timeout`` cancels it: nested blocks and cancellations from outside work as with
    ``asyncio.timeout``.
    """

    def __init__(
        self,
        watches: Watches,
        snapshot: Snapshot,
        *,
        seconds: float,
        keep_alive: bool,
        followed: Callable[[Forward], None],
    ) -> None:
        """Prepare; ``followed`` is called with each forward to where the session has moved."""
        self.snapshot = snapshot
        self.seconds = seconds
        self.keep_alive = keep_alive
        self.followed = followed
        # What the field ``owner`` may be: a session that has become somebody's is another one.
        self.owners: frozenset[bytes | None] = watches.owners_of(snapshot)
        self.ended: bool = False
        self.place: _Place | None = None
        self._watches = watches
        self._looked: asyncio.Future[None] | None = None
        self._block = asyncio.timeout(None)
        self._entered = False

    async def __aenter__(self) -> None:
        self._looked = asyncio.get_running_loop().create_future()
        self._watches.join(self)
        try:
            await self._looked
        except BaseException:
            self._watches.leave(self)
            raise
        if self.ended:
            raise SessionEnded
        await self._block.__aenter__()
        self._entered = True

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._watches.leave(self)
        try:
            await self._block.__aexit__(kind, error, trace)
        except TimeoutError:
            raise SessionEnded from error

    def look_is_done(self) -> None:
        """Let the block begin."""
        if self._looked is not None and not self._looked.done():
            self._looked.set_result(None)

    def end(self) -> None:
        """Cancel the block, or do not let it begin."""
        self.ended = True
        self.look_is_done()
        if self._entered:
            self._block.reschedule(asyncio.get_running_loop().time())


class _Place:
    """A watched session: where it is, what is known of it, and who watches it."""

    __slots__ = ("dates", "identifier", "token", "watches")

    def __init__(self, token: bytes, identifier: bytes, dates: Dates) -> None:
        self.token: bytes = token
        self.identifier: bytes = identifier
        self.dates: Dates = dates
        self.watches: list[Watch] = []

    @property
    def keep_alive(self) -> bool:
        """Whether an open connection counts as use."""
        return any(watch.keep_alive for watch in self.watches)


class Watches:
    """The watches of one storage: they share one task, which ends with the last of them."""

    def __init__(self, store: Store, lifetime: Lifetime, now_ms: Callable[[], int]) -> None:
        """Watch the sessions of ``store``; nothing runs until the first watch."""
        self._store = store
        self._lifetime = lifetime
        self._now_ms = now_ms
        self._places: dict[bytes, _Place] = {}
        # When the sessions of each interval are looked at next. All of one interval have the same
        # instants, so that they share their finds.
        self._due_at: dict[float, float] = {}
        # What to look at now, in this order.
        self._at_once: OrderedDict[bytes, None] = OrderedDict()
        self._due: OrderedDict[bytes, None] = OrderedDict()
        self._task: asyncio.Task[None] | None = None
        # Of the task: ``join`` sets both when it makes one.
        self._wake: asyncio.Event
        self._started_at: float
        # Whether MongoDB did not answer the last time.
        self._away = False

    def owners_of(self, snapshot: Snapshot) -> frozenset[bytes | None]:
        """Return what the field ``owner`` of a session may be, under any of the secrets."""
        return frozenset((snapshot.stored.owner, *self._store.owner_hashes(snapshot.owner)))

    def join(self, watch: Watch) -> None:
        """Begin to look at the session of a watch, now and in its intervals."""
        loop, snapshot = asyncio.get_running_loop(), watch.snapshot
        idle = self._task is None or self._task.done()
        if idle:
            self._wake = asyncio.Event()
            self._started_at = loop.time()
            self._due_at.clear()
            for place in self._places.values():  # the task before was cancelled from outside
                self._plan(place)
        identifier = snapshot.stored.identifier
        self._add(_Place(snapshot.token, identifier, snapshot.stored.dates), [watch])
        self.look_at(identifier)
        if idle:
            # In a context of its own: the first connection must not seem to send every command.
            self._task = loop.create_task(self._run(), context=Context())

    def leave(self, watch: Watch) -> None:
        """Forget a watch; the last one ends the task."""
        place = watch.place
        if place is not None:
            self._remove(place, watch)
        if not self._places:
            self.stop()

    def stop(self) -> None:
        """End the task: blocks go on, and no block is cancelled any more."""
        for place in self._places.values():
            for watch in place.watches:
                watch.look_is_done()
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def look_at(self, identifier: bytes) -> None:
        """Look at a session at once: code that ends sessions in this process calls it."""
        if identifier in self._places:
            self._at_once[identifier] = None
            self._wake.set()

    def look_at_owner(self, owner: str) -> None:
        """Look at an owner's sessions at once."""
        for identifier, place in self._places.items():
            if any(watch.snapshot.owner == owner for watch in place.watches):
                self.look_at(identifier)

    def look_at_all(self) -> None:
        """Look at every session at once."""
        for identifier in self._places:
            self.look_at(identifier)

    def _add(self, place: _Place, watches: Sequence[Watch]) -> None:
        place = self._places.setdefault(place.identifier, place)
        for watch in watches:
            place.watches.append(watch)
            watch.place = place
        self._plan(place)

    def _remove(self, place: _Place, watch: Watch) -> None:
        place.watches.remove(watch)
        watch.place = None
        if place.watches:
            self._plan(place)
        else:
            self._drop(place)

    def _end(self, place: _Place, watch: Watch) -> None:
        self._remove(place, watch)
        watch.end()

    def _drop(self, place: _Place) -> None:
        del self._places[place.identifier]
        self._at_once.pop(place.identifier, None)
        self._due.pop(place.identifier, None)

    def _seconds(self, place: _Place) -> float:
        """Return the interval in which a session is looked at."""
        seconds = min(watch.seconds for watch in place.watches)
        if place.keep_alive:
            idle_seconds = self._lifetime.idle_of(place.dates.max_age) / 1000
            seconds = min(seconds, idle_seconds / LOOKS_PER_IDLE_TIMEOUT)
        return max(seconds, SHORTEST_SECONDS)

    def _plan(self, place: _Place) -> None:
        seconds = self._seconds(place)
        if seconds not in self._due_at:
            self._due_at[seconds] = self._next(seconds, asyncio.get_running_loop().time())
            self._wake.set()

    def _next(self, seconds: float, now: float) -> float:
        return self._started_at + ((now - self._started_at) // seconds + 1) * seconds

    async def _run(self) -> None:
        """Look at what is due, or has to be looked at at once, as long as there are watches."""
        while self._places:
            self._collect(asyncio.get_running_loop().time())
            if places := self._next_places():
                await self._look(places)
            else:
                await self._until_something_is_due()

    def _collect(self, now: float) -> None:
        """Note the sessions whose interval has passed."""
        passed = {seconds for seconds, due_at in self._due_at.items() if due_at <= now}
        if not passed:
            return
        found = set()
        for identifier, place in self._places.items():
            seconds = self._seconds(place)
            if seconds in passed:
                found.add(seconds)
                self._due[identifier] = None
        for seconds in passed:
            if seconds in found:
                self._due_at[seconds] = self._next(seconds, now)
            else:
                del self._due_at[seconds]

    def _next_places(self) -> list[_Place]:
        chosen: list[_Place] = []
        for waiting in (self._at_once, self._due):
            while waiting and len(chosen) < BATCH_SIZE:
                identifier, _ = waiting.popitem(last=False)
                self._due.pop(identifier, None)
                chosen.append(self._places[identifier])
        return chosen

    async def _until_something_is_due(self) -> None:
        self._wake.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout_at(min(self._due_at.values())):
                await self._wake.wait()

    async def _look(self, places: Sequence[_Place]) -> None:
        now_ms = self._now_ms()
        try:
            found = await self._store.find_watched([place.identifier for place in places])
            for place in places:
                if place.watches:  # nobody has left meanwhile
                    self._judge(place, found.get(place.identifier), now_ms)
        except Exception as error:  # noqa: BLE001 - whatever it is, it signs nobody out
            self._note_away(error)
            return
        if self._away:
            self._away = False
            logger.info("watched sessions: MongoDB answers again")
        unused = [place for place in places if self._is_to_be_touched(place, now_ms)]
        if unused:
            await self._store.touch_watched(
                [(place.identifier, place.dates) for place in unused], now_ms
            )

    def _judge(self, place: _Place, raw: bytes | None, now_ms: int) -> None:
        """Do what follows from one document."""
        there = self._store.read_watched(place.token, place.identifier, raw, now_ms)
        if isinstance(there, Forward):
            self._follow(place, there)
            return
        if there is not None:
            place.dates = there.dates
            self._plan(place)
        for watch in list(place.watches):
            if there is not None and there.owner in watch.owners:
                watch.look_is_done()
            else:
                self._end(place, watch)

    def _follow(self, place: _Place, forward: Forward) -> None:
        """Go on at the place to which a session has moved."""
        self._drop(place)
        watches, place.watches = place.watches, []
        for watch in watches:
            watch.followed(forward)
        identifier = document_id(forward.token)
        self._add(_Place(forward.token, identifier, place.dates), watches)
        # The request that moved it may have signed in: then its owner is another one.
        self.look_at(identifier)

    def _is_to_be_touched(self, place: _Place, now_ms: int) -> bool:
        """Tell whether an open connection has to be recorded as use.

        Not at the touch interval, as a request does: otherwise requests would never find their
        touch due, and the browser's cookie, which only an answer can carry, would run out.
        """
        if not place.keep_alive:
            return False
        idle_ms = self._lifetime.idle_of(place.dates.max_age)
        return now_ms - place.dates.last_seen_ms >= idle_ms / 2

    def _note_away(self, error: Exception) -> None:
        """Let everybody go on until MongoDB answers again."""
        now_ms = self._now_ms()
        for place in list(self._places.values()):
            # Nothing makes this one longer, so that MongoDB need not be asked.
            is_too_old = self._lifetime.is_too_old(place.dates, now_ms)
            for watch in list(place.watches):
                if is_too_old:
                    self._end(place, watch)
                else:
                    watch.look_is_done()
        # Until their next interval: each further find would wait as long as this one.
        self._at_once.clear()
        self._due.clear()
        if not self._away:
            self._away = True
            logger.warning(
                "watched sessions: they cannot be looked at, and connections stay open meanwhile: "
                "%s",
                self._store.cause_of(error),
            )
