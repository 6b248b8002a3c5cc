"""How passwords are hashed: Argon2id in PHC text, computed in threads beside the event loop.

`password_rules` decides which passwords are accepted.
"""

from __future__ import annotations

import asyncio
import os
import re
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeVar

from cryptography.exceptions import InvalidKey
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from webapp.accounts.fair_queue import FairQueue
from webapp.http.refusals import Busy

SALT_BYTES = 16
HASH_BYTES = 32
THREADS = 2
MOST_AT_ONCE = 64
BUSY_RETRY_SECONDS = 2

_PHC = re.compile(r"\$argon2id\$v=19\$m=(\d+),t=(\d+),p=(\d+)\$[A-Za-z0-9+/]+\$([A-Za-z0-9+/]+)")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Cost:
    """What one hash costs: `memory_kib` KiB, `passes` over them, in `lanes`.

    The defaults are the least that OWASP's Password Storage Cheat Sheet accepts; about 45 ms
    of one core. Raise them here: a stored hash is renewed when its owner signs in next.
    """

    memory_kib: int = 19 * 1024
    passes: int = 2
    lanes: int = 1


def normalize(password: str) -> str:
    """Return the form of a password that is hashed (NFKC, NIST SP 800-63B 3.1.1.2).

    The same characters from two keyboards can arrive composed or decomposed.
    """
    return unicodedata.normalize("NFKC", password)


class _Hash(NamedTuple):
    """One hash that waits or runs, and the future of the request that wants it."""

    work: Callable[[], Any]
    answer: asyncio.Future[Any]


class Passwords:
    """Hash and verify passwords in a small thread pool that refuses work when it is full.

    A class because it has the threads, their queue, and the decoy.  `MOST_AT_ONCE` hashes may run
    or wait, about 1.5 s of work; with one more somebody gets `Busy` (503) at once, since with a
    growing queue every request would time out.

    The threads are shared out fairly by `address`, not by request: an address with many
    requests, right passwords or wrong ones, neither delays nor displaces those of others.
    """

    def __init__(
        self, cost: Cost | None = None, *, threads: int = THREADS, most_at_once: int = MOST_AT_ONCE
    ) -> None:
        self.cost = cost or Cost()
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="passwords")
        self._idle = threads
        self._waiting: FairQueue[_Hash] = FairQueue(most_at_once - threads)
        self._decoy = self._hash(os.urandom(SALT_BYTES).hex())

    async def hash(self, password: str, address: str = "") -> str:
        """Return the PHC text to store for a password. Raises `Busy` when the pool is full."""
        return await self._run(lambda: self._hash(password), address)

    async def verify(self, password: str, phc: str | None, address: str = "") -> bool:
        """Tell whether `phc` is a hash of `password`. Raises `Busy`.

        `None` stands for an account that does not exist: a decoy is verified then, so that the
        time does not show which accounts exist.
        """
        matches = await self._run(lambda: self._matches(password, phc or self._decoy), address)
        return matches and phc is not None

    def is_outdated(self, phc: str) -> bool:
        """Tell whether a stored hash has another cost than new ones."""
        found = _PHC.fullmatch(phc)
        if found is None:
            return True
        memory, passes, lanes = (int(number) for number in found.groups()[:3])
        return Cost(memory, passes, lanes) != self.cost

    def close(self) -> None:
        """End the threads; hashes that have not begun are cancelled."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        while waiting := self._waiting.take():
            waiting.answer.cancel()

    async def _run(self, work: Callable[[], _Result], address: str = "") -> _Result:
        wanted = _Hash(work, asyncio.get_running_loop().create_future())
        if self._idle:
            self._start(wanted)
        elif (refused := self._waiting.put(address, wanted)) and not refused.answer.done():
            # done: its request was cancelled a moment ago, and has not left the queue yet.
            refused.answer.set_exception(
                Busy(
                    "Too many people are signing in at this moment, please try again shortly.",
                    retry_after_seconds=BUSY_RETRY_SECONDS,
                )
            )
        try:
            result: _Result = await wanted.answer
        finally:
            # A request that was cancelled does not wait any more.
            self._waiting.discard(address, wanted)
        return result

    def _start(self, wanted: _Hash) -> None:
        self._idle -= 1
        running = asyncio.wrap_future(self._threads.submit(wanted.work))
        # The thread frees its place, not the request: a hash runs on when its request is cancelled.
        running.add_done_callback(partial(self._finish, wanted))

    def _finish(self, wanted: _Hash, running: asyncio.Future[Any]) -> None:
        self._idle += 1
        error = None if running.cancelled() else running.exception()
        if running.cancelled():
            wanted.answer.cancel()
        elif wanted.answer.done():
            pass  # its request was cancelled
        elif error is not None:
            wanted.answer.set_exception(error)
        else:
            wanted.answer.set_result(running.result())
        self._start_next()

    def _start_next(self) -> None:
        while waiting := self._waiting.take():
            if not waiting.answer.done():
                self._start(waiting)
                return

    def _hash(self, password: str) -> str:
        kdf = Argon2id(
            salt=os.urandom(SALT_BYTES),
            length=HASH_BYTES,
            iterations=self.cost.passes,
            lanes=self.cost.lanes,
            memory_cost=self.cost.memory_kib,
        )
        return kdf.derive_phc_encoded(normalize(password).encode())

    @staticmethod
    def _matches(password: str, phc: str) -> bool:
        try:
            Argon2id.verify_phc_encoded(normalize(password).encode(), phc)
        except (InvalidKey, ValueError):  # ValueError: PHC text that is damaged in the database
            return False
        return True
