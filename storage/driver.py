"""How this process talks to the MongoDB driver: deadlines, tasks of its own, one kind of failure.

Works with Motor's collections and with PyMongo's ``AsyncCollection``: only what is spelled the same
in both is used.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Any, TypeVar

import pymongo
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo import ReadPreference
from pymongo.errors import PyMongoError

from storage.document import CODEC
from storage.errors import StorageUnavailable

T = TypeVar("T")

logger: logging.Logger = logging.getLogger(__name__)

# What is found comes as it is on the wire. A document that cannot be decoded, which anybody with
# access to the collection can write, then harms no other of its batch; and one that is known
# already need not be decoded again.
_AS_SENT = CodecOptions(document_class=RawBSONDocument)
_SHORTEST_SECONDS = 0.001
# Of what may take its time, such as building an index. To PyMongo, "None" would mean the client's
# own limit, which is meant for requests.
_LONGEST_SECONDS = 24 * 3600.0
_ANOTHER_LOOP = (
    "collection: its client was used in another event loop before; make the client in the "
    "coroutine that makes the app, as in web.run_app(make_app())"
)


class Driver:
    """A collection, used under deadlines and never cancelled.

    Cancelling a driver's operation can leave PyMongo's topology lock held for ever, so every
    operation runs in a task of this class, and who gives up waiting for it just stops waiting.
    """

    def __init__(self, collection: Any, timeout_seconds: float, counters: dict[str, int]) -> None:
        """Wrap a collection; ``counters["commands"]`` counts what is sent."""
        self.collection: Any = _on_primary(collection, CODEC)
        # For finds alone: PyMongo 4.20 stumbles over a write's error that comes as bytes.
        self.as_sent: Any = _on_primary(collection, _AS_SENT)
        self.timeout_seconds = timeout_seconds
        self._counters = counters
        self._tasks: set[asyncio.Task[Any]] = set()
        self._undrained: set[asyncio.Task[Any]] = set()

    def deadline(self) -> float:
        """Return the instant of the running loop's clock at which a load or save gives up."""
        return asyncio.get_running_loop().time() + self.timeout_seconds

    async def send(self, operation: Callable[[], Awaitable[T]], seconds: float | None) -> T:
        """Run one operation in the current task, for ``seconds`` at most (``None``: a day).

        Only for callers that nobody cancels. Raises what the driver raises.
        """
        self._counters["commands"] += 1
        # PyMongo's own timeout ends the operation in the driver and at the server. It holds in
        # Motor's threads too, which take the context along. To PyMongo, 0 would mean "for ever".
        limit = _LONGEST_SECONDS if seconds is None else max(seconds, _SHORTEST_SECONDS)
        with pymongo.timeout(limit):
            try:
                return await operation()
            except RuntimeError as error:
                # Both drivers tell this mistake in words only, and in words of their own.
                if "loop" not in str(error):
                    raise
                logger.error(_ANOTHER_LOOP)  # noqa: TRY400 - one line, no traceback
                raise RuntimeError(_ANOTHER_LOOP) from error

    async def call(self, operation: Callable[[], Awaitable[T]], deadline: float | None = None) -> T:
        """Run one operation in a task of its own; raises ``StorageUnavailable`` at ``deadline``.

        Cancelling the caller leaves the operation running to its end. Without a deadline it may
        take its time once MongoDB has answered at all, and ``drained`` does not wait for it.
        """
        seconds = None if deadline is None else deadline - asyncio.get_running_loop().time()
        task = self.start(self._guarded(operation, seconds), drain=deadline is not None)
        done, _ = await asyncio.wait({task}, timeout=seconds)
        if not done:
            raise StorageUnavailable
        return task.result()

    def start(self, work: Awaitable[T], *, drain: bool = True) -> asyncio.Task[T]:
        """Run ``work`` as a task of its own, which ``drained`` waits for unless told not to."""

        async def run() -> T:
            return await work

        # In a context of its own: a timeout or a variable of the request must not reach it.
        task = asyncio.get_running_loop().create_task(run(), context=Context())
        tasks = self._tasks if drain else self._undrained
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        task.add_done_callback(_note_its_error)
        return task

    async def drained(self) -> None:
        """Wait for every task that was started, and does not say that it takes its time."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _guarded(self, operation: Callable[[], Awaitable[T]], seconds: float | None) -> T:
        try:
            if seconds is None:
                # Under a limit of a day PyMongo would look that long for a server that is away.
                ping = self.collection.database.command
                await self.send(lambda: ping("ping"), self.timeout_seconds)
            return await self.send(operation, seconds)
        except PyMongoError as error:
            logger.warning("MongoDB did not carry out a command: %s", type(error).__name__)
            raise StorageUnavailable from error


def _note_its_error(task: asyncio.Task[Any]) -> None:
    # Whoever waited may have gone: nobody else would ask.
    _ = task.cancelled() or task.exception()


def _on_primary(collection: Any, codec: CodecOptions[Any]) -> Any:
    # Looked up on the class: an instance answers any name with a sub-collection. mongomock's has
    # no such method and needs none.
    if getattr(type(collection), "with_options", None) is None:
        return collection
    # A secondary may not have heard of a login yet, whatever the client prefers to read from.
    return collection.with_options(codec_options=codec, read_preference=ReadPreference.PRIMARY)
