"""Visitors of the app during the faults, and a record of the answers they got.

A visitor signs in, changes the numbers of the session one after another, reads them, sometimes
renews the token, in some tests while other requests change the session, and often signs out. Each
request goes to any of the processes, as behind a router. An answer is a promise; after the fault
every promise is checked.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from aiohttp import ClientError, ClientSession, ClientTimeout, DummyCookieJar, TCPConnector

VISITORS = 16
LONGEST_SECONDS = 180.0
ANSWER_SECONDS = 30.0
# A visitor waits a moment before the next request. Without this pause the load would use the
# CPU time that the servers need to notice a fault.
PAUSE_SECONDS = 0.01
RENEWALS = 0.1  # share of the changes that a renewal follows


@dataclass
class Record:
    """What was recorded during one load."""

    answered: int = 0
    refused: int = 0  # 503
    unreachable: int = 0  # the app process did not accept the connection
    wrong: list[str] = field(default_factory=list)  # answers that no fault explains
    stale: int = 0  # read older data than what was acknowledged before
    half: int = 0  # read only one of two values that are changed together
    sessions: int = 0
    lost: int = 0  # missing, or has a value that was neither the last one nor refused
    late: int = 0  # acknowledged changes of requests that ran beside a renewal
    late_lost: int = 0
    overtaken: int = 0  # an earlier, refused change replaced an acknowledged one
    resurrected: int = 0
    silence_seconds: float = 0.0  # the longest time without one answered request
    slowest_seconds: float = 0.0  # of the answered ones

    def assert_kept(self) -> None:
        """Check that nothing acknowledged is lost, and that no ended session is back."""
        assert (self.lost, self.late_lost, self.resurrected, self.half) == (0, 0, 0, 0)
        assert self.wrong == []

    def assert_in_order(self) -> None:
        """Check also that no older data was read, and that no refused change came later."""
        self.assert_kept()
        assert (self.stale, self.overtaken) == (0, 0)

    @property
    def requests(self) -> int:
        """The number of requests that were sent."""
        return self.answered + self.refused + self.unreachable


@dataclass
class Visit:
    """One session, as its visitor knows it."""

    token: str
    acknowledged: int = 0
    tried: int = 0
    refused: set[int] = field(default_factory=set)  # may still be applied, now or later
    added: set[str] = field(default_factory=set)  # acknowledged by requests beside a renewal
    former_tokens: list[str] = field(default_factory=list)
    renewal_refused: bool = False  # it may have been applied, with a token that no visitor received
    logout_tried: bool = False
    logged_out: bool = False


class Load:
    """Visitors that send requests while the context is open, for three minutes at most.

    `parallel` is how many requests change the same session during each renewal.

    A class because the visitors, the record and the time of the last answer belong together.
    """

    def __init__(
        self,
        bases: Sequence[str],
        *,
        visitors: int = VISITORS,
        renewals: float = RENEWALS,
        parallel: int = 0,
        seed: int = 7,
    ) -> None:
        self.bases = list(bases)
        self._renewals, self._parallel = renewals, parallel
        self.record = Record()
        self.visits: list[Visit] = []
        self._visitors = visitors
        self._random = random.Random(seed)
        self._ending = False
        self._tasks: list[asyncio.Task[None]] = []
        self._last_answer = 0.0

    async def __aenter__(self) -> Self:
        """Start the visitors, and return when each of them has got an answer."""
        self._client = ClientSession(
            cookie_jar=DummyCookieJar(),
            connector=TCPConnector(limit=0),
            timeout=ClientTimeout(total=ANSWER_SECONDS),
        )
        self._last_answer = time.monotonic()
        self._tasks = [
            asyncio.create_task(self._live(random.Random(self._random.random())))
            for _ in range(self._visitors)
        ]
        await self.answers(self._visitors)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Let every visitor finish, then check every promise."""
        self._ending = True
        try:
            for task in self._tasks if error is None else ():
                await task
            self._note_silence()
            if error is None:
                await self._audit()
        finally:
            for task in self._tasks:
                task.cancel()
                with suppress(asyncio.CancelledError, Exception):
                    await task
            await self._client.close()

    async def answers(self, number: int) -> None:
        """Return when this number of further requests were answered."""
        goal = self.record.answered + number
        async with asyncio.timeout(LONGEST_SECONDS):
            while self.record.answered < goal:
                for task in self._tasks:
                    if task.done():
                        task.result()
                await asyncio.sleep(PAUSE_SECONDS)

    async def _live(self, chance: random.Random) -> None:
        deadline = time.monotonic() + LONGEST_SECONDS
        while not self._ending and time.monotonic() < deadline:
            visit = await self._sign_in(chance)
            if visit is None:
                continue
            for _ in range(chance.randint(2, 6)):
                await self._change(chance, visit)
                await self._look(chance, visit)
                if self._ending:
                    return
                if chance.random() < self._renewals and not await self._renew(chance, visit):
                    break
            if visit.renewal_refused:
                continue
            if chance.random() < 0.6:
                await self._sign_out(chance, visit)
                await self._look(chance, visit)

    async def _sign_in(self, chance: random.Random) -> Visit | None:
        status, _, token = await self._send(chance, "POST", f"/login?owner={len(self.visits)}")
        if status != 200:
            return None
        assert token is not None, "a sign-in without a cookie"
        visit = Visit(token)
        self.visits.append(visit)
        return visit

    async def _change(self, chance: random.Random, visit: Visit) -> None:
        visit.tried = number = visit.tried + 1
        status, _, _ = await self._send(chance, "POST", f"/set?n={number}", visit)
        if status == 200:
            visit.acknowledged = number
        elif status == 401:
            self.record.stale += 1
        else:
            visit.refused.add(number)

    async def _look(self, chance: random.Random, visit: Visit) -> None:
        acknowledged, logged_out = visit.acknowledged, visit.logged_out
        status, data, _ = await self._send(chance, "GET", "/read", visit)
        if status == 200:
            self.record.stale += logged_out or data["left"] < acknowledged
        elif status == 401 and not visit.logout_tried:
            self.record.stale += 1

    async def _renew(self, chance: random.Random, visit: Visit) -> bool:
        old = Visit(visit.token)
        (status, _, token), *_ = await asyncio.gather(
            self._send(chance, "POST", "/renew", visit),
            *(self._add(chance, visit, old) for _ in range(self._parallel)),
        )
        if status != 200:
            visit.renewal_refused = True
            return False
        if token is not None:  # without one the session has ended, and counts as missing
            visit.former_tokens.append(visit.token)
            visit.token = token
        return True

    async def _add(self, chance: random.Random, visit: Visit, old: Visit) -> None:
        """Add a value with the old token; after the renewal it opens no session."""
        name = f"n{chance.getrandbits(48)}"
        status, _, _ = await self._send(chance, "POST", f"/put?name={name}", old)
        if status == 200:
            visit.added.add(name)
            self.record.late += 1

    async def _sign_out(self, chance: random.Random, visit: Visit) -> None:
        visit.logout_tried = True
        status, _, _ = await self._send(chance, "POST", "/logout", visit)
        visit.logged_out = status == 200

    async def _send(
        self, chance: random.Random, method: str, path: str, visit: Visit | None = None
    ) -> tuple[int, Any, str | None]:
        """Return the status, the answer and the cookie that was set; 0 if there was no process."""
        headers = {} if visit is None else {"Cookie": f"session={visit.token}"}
        await asyncio.sleep(PAUSE_SECONDS)
        begun = time.monotonic()
        try:
            url = chance.choice(self.bases) + path
            async with self._client.request(method, url, headers=headers) as answer:
                text = await answer.text()
                self._count(answer.status, begun, f"{method} {path}: {answer.status} {text[:80]}")
                cookie = answer.cookies.get("session")
                data = json.loads(text) if answer.status == 200 else None
        except (ClientError, OSError):
            # Also if the connection broke during the answer: nothing was promised.
            self.record.unreachable += 1
            return 0, None, None
        if isinstance(data, dict) and data.get("left") != data.get("right"):
            self.record.half += 1
        return answer.status, data, cookie.value if cookie else None

    def _count(self, status: int, begun: float, data: str) -> None:
        if status == 503:
            self.record.refused += 1
            return
        if status not in (200, 401):
            self.record.wrong.append(data)
        self.record.answered += 1
        self.record.slowest_seconds = max(self.record.slowest_seconds, time.monotonic() - begun)
        self._note_silence()

    def _note_silence(self) -> None:
        now = time.monotonic()
        self.record.silence_seconds = max(self.record.silence_seconds, now - self._last_answer)
        self._last_answer = now

    async def _audit(self) -> None:
        """Read every session once more, from any process."""
        before = Record(**vars(self.record))
        self.record.sessions = len(self.visits)
        waiting = iter(self.visits)

        async def work() -> None:
            for visit in waiting:
                await self._look_up(visit)

        async with asyncio.timeout(LONGEST_SECONDS):
            await asyncio.gather(*(work() for _ in range(self._visitors)))
        # The requests of this check are not part of the load.
        for name in ("answered", "refused", "unreachable", "silence_seconds", "slowest_seconds"):
            setattr(self.record, name, getattr(before, name))

    async def _look_up(self, visit: Visit) -> None:
        status, data = await self._looked_up(visit)
        if status == 200:
            self.record.resurrected += visit.logged_out
            if data["left"] < visit.acknowledged:
                # From an earlier acknowledged change, or none: a later acknowledged one is lost.
                was_refused = data["left"] in visit.refused
                self.record.overtaken += was_refused
                self.record.lost += not was_refused
            assert data["left"] <= visit.tried
            if visit.added:
                _, names = await self._looked_up(visit, "/names")
                self.record.late_lost += len(visit.added - {*(names or ())})
        elif not (visit.logout_tried or visit.renewal_refused):
            self.record.lost += 1
        for token in visit.former_tokens:
            status, _ = await self._looked_up(Visit(token))
            self.record.resurrected += status == 200

    async def _looked_up(self, visit: Visit, path: str = "/read") -> tuple[int, Any]:
        while True:
            status, data, _ = await self._send(self._random, "GET", path, visit)
            if status in (200, 401):
                return status, data
