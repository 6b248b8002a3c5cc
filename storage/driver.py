"""How this process uses the MongoDB driver: deadlines, tasks of its own, one kind of failure.

Works with Motor's collections and with PyMongo's ``AsyncCollection``: only what is spelled the same
in both is used.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextvars import Context, ContextVar, copy_context
from functools import partial
from typing import Any, TypeVar

import pymongo
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo import ReadPreference
from pymongo.asynchronous import client_session as asynchronous_session
from pymongo.collection import Collection
from pymongo.errors import NotPrimaryError, OperationFailure, PyMongoError
from pymongo.synchronous import client_session as synchronous_session

from storage.causes import CLIENT_CLOSED, REQUEST_RATE_TOO_LARGE, Cause, cause_of, named
from storage.document import CODEC, Filter, bson_of, by_id, by_ids, identifier_of
from storage.errors import StorageUnavailable

T = TypeVar("T")

logger: logging.Logger = logging.getLogger(__name__)

# Finds return documents as the bytes of the wire. One that cannot be decoded, which anybody with
# access to the collection can write, then harms no other of its batch; and a known one need not be
# decoded again.
_RAW = CodecOptions(document_class=RawBSONDocument)
# Documents of a long list that are read, and decoded, in one turn of the loop.
READ_AT_ONCE = 100
_SHORTEST_SECONDS = 0.001
# A cause is logged once in this time, however many requests it fails.
REPORT_SECONDS = 60.0
# Before the first repetition; twice as long before each further one.
THROTTLED_PAUSE_SECONDS = 0.05
# IllegalOperation and NotWritablePrimary.
_SENT_WRONGLY = 20, 10107
# For what may take long, such as building an index. To PyMongo, "None" would mean the client's own
# limit, which is meant for requests.
_LONGEST_SECONDS = 86_400.0
_ANOTHER_LOOP = (
    "collection: its client was used in another event loop before; make the client in the "
    "coroutine that makes the app, as in web.run_app(make_app())"
)
_ACCEPTED = "use a Motor collection or a PyMongo AsyncCollection, such as client['app']['sessions']"


class Driver:
    """A collection, used under deadlines and never cancelled.

    Cancelling a driver's operation can leave PyMongo's topology lock held for ever. So every
    operation runs in a task of this class, and a caller that gives up only stops waiting for it.
    """

    def __init__(self, collection: Any, timeout_seconds: float, counters: dict[str, int]) -> None:
        """Check and wrap a collection; ``counters`` gets what is sent and what is refused.

        Raises ``TypeError`` for what is no asynchronous collection, ``ValueError`` for one that
        does not acknowledge writes.
        """
        _check_collection(collection)
        self.collection: Any = _on_primary(collection, CODEC)
        # For finds alone: PyMongo 4.20 cannot read a write's error that comes as bytes.
        self._raw: Any = _on_primary(collection, _RAW)
        # mongomock's bulk writes refuse what PyMongo 4.13 and later pass to them.
        self.bulk_writes: bool = not _is_mongomock(collection)
        self.timeout_seconds = timeout_seconds
        self.closed = False
        self._counters = counters
        self._reported_at: dict[str, float] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._undrained: set[asyncio.Task[Any]] = set()

    def check_open(self) -> None:
        """Raise ``RuntimeError`` after ``close()``."""
        if self.closed:
            raise RuntimeError("this MongoStorage was closed by aclose(); make a new one")

    def deadline(self) -> float:
        """Return the instant of the running loop's clock at which a load or save gives up."""
        return asyncio.get_running_loop().time() + self.timeout_seconds

    def unavailable(self, cause: BaseException | None = None) -> StorageUnavailable:
        """Return a new ``StorageUnavailable`` that says why, and count it.

        A new one for each request: it is a response too, and one cannot answer two requests.
        """
        self._counters["unavailable"] += 1
        error = StorageUnavailable(self.sentence_for(cause))
        error.__cause__ = cause
        return error

    def sentence_for(self, error: BaseException | None) -> str:
        """Say why an operation failed, and the remedy."""
        return self._cause_of(error).sentence

    def report(self, error: BaseException) -> None:
        """Log why an operation failed, and the remedy, once a minute for each cause."""
        cause, now = self._cause_of(error), asyncio.get_running_loop().time()
        if self.closed and cause is CLIENT_CLOSED:
            return  # index work that the end of the app has cut off; the next start does it again
        reported_at = self._reported_at.get(cause.sentence)
        if reported_at is None or now - reported_at >= REPORT_SECONDS:
            self._reported_at[cause.sentence] = now
            level = logging.WARNING if cause.passing else logging.ERROR
            logger.log(level, "sessions in %s: %s", self.collection.full_name, cause.sentence)

    def _cause_of(self, error: BaseException | None) -> Cause:
        # mongomock's client knows no servers; its errors do not ask for them.
        client = self.collection.database.client
        try:
            return cause_of(error, getattr(client, "topology_description", None))
        except Exception:  # noqa: BLE001 - the requests of a batch wait for this answer
            return named(error)

    async def send(
        self,
        operation: Callable[[], Awaitable[T]],
        seconds: float | None,
        *,
        repeat: bool = True,
    ) -> T:
        """Run one operation in the current task, for ``seconds`` at most (``None``: a day).

        With ``repeat`` it may be called again, where the server has refused it because of its rate,
        or because of how the driver has sent it.
        Only for callers that nobody cancels. Raises what the driver raises.
        """
        self._counters["commands"] += 1
        # PyMongo's own timeout ends the operation in the driver and at the server. It holds in
        # Motor's threads too, which get a copy of the context. To PyMongo, 0 means "no limit".
        limit = _LONGEST_SECONDS if seconds is None else max(seconds, _SHORTEST_SECONDS)
        with pymongo.timeout(limit):
            try:
                return await operation()
            except (OperationFailure, NotPrimaryError) as refusal:
                if repeat and _was_sent_wrongly(refusal):
                    return await operation()
                throttled = repeat and _code_of(refusal) == REQUEST_RATE_TOO_LARGE
                if not throttled or seconds is None or seconds <= THROTTLED_PAUSE_SECONDS:
                    raise
                return await _repeated(operation, seconds)
            except RuntimeError as error:
                # Both drivers say this in a message only, and in different words.
                if "loop" not in str(error):
                    raise
                logger.error(_ANOTHER_LOOP)  # noqa: TRY400 - one line, no traceback
                raise RuntimeError(_ANOTHER_LOOP) from error

    async def find_by_ids(
        self,
        identifiers: Sequence[bytes],
        seconds: float,
        *,
        condition: Filter | None = None,
        **options: Any,
    ) -> dict[bytes, bytes]:
        """Find documents by their ids, as bytes; for callers that nobody cancels.

        Of those that are found only those that meet ``condition``.
        """
        count = len(identifiers)
        filter_ = by_id(identifiers[0]) if count == 1 else by_ids(identifiers)
        if condition is not None:
            filter_ |= condition
        if count == 1:
            # The driver spends less on it than on a cursor.
            one = await self.send(partial(self._raw.find_one, filter_, **options), seconds)
            found = [] if one is None else [one]
        else:
            # One more than can come: the server then knows that there is nothing left to ask for.
            find = partial(self._raw.find, filter_, batch_size=count + 1, **options)
            # A new cursor for each try: one that has failed returns nothing at the next one.
            found = await self.send(lambda: find().to_list(None), seconds)
        return {identifier_of(raw): raw for raw in map(bson_of, found)}

    async def find_all(
        self, filter_: Mapping[str, Any], deadline: float, **options: Any
    ) -> list[bytes]:
        """Find documents as bytes, in a task of its own; see ``call``."""
        find = partial(self._raw.find, filter_, **options)
        return [bson_of(found) for found in await self.call(lambda: find().to_list(None), deadline)]

    async def find_in_batches(
        self, filter_: Mapping[str, Any], **options: Any
    ) -> AsyncGenerator[list[bytes], None]:
        """Find documents as bytes, batch by batch; each batch has the whole time of an operation.

        A caller that stops early closes the generator, and so the cursor at the server.
        """
        cursor = self._raw.find(filter_, batch_size=READ_AT_ONCE, **options)
        try:
            more = True
            while more:
                batch = await self.call(
                    # No repetition: a cursor that has failed returns nothing at the next try.
                    lambda: cursor.to_list(READ_AT_ONCE),
                    self.deadline(),
                    repeat=False,
                )
                more = len(batch) >= READ_AT_ONCE
                yield [bson_of(found) for found in batch]
        finally:
            if more:
                # Under a limit: ``drained`` would wait for a server that does not answer.
                closing = self.send(cursor.close, self.timeout_seconds, repeat=False)
                _ = self.start(closing)

    async def call(
        self,
        operation: Callable[[], Awaitable[T]],
        deadline: float | None = None,
        *,
        repeat: bool = True,
    ) -> T:
        """Run one operation in a task of its own; raises ``StorageUnavailable`` at ``deadline``.

        Cancelling the caller leaves the operation running to its end. Without a deadline it may
        take long once MongoDB has answered at all, and ``drained`` does not wait for it.
        """
        seconds = None if deadline is None else deadline - asyncio.get_running_loop().time()
        work = self._guarded(operation, seconds, repeat=repeat)
        try:
            return await self.finish(work, seconds, drain=deadline is not None)
        except TimeoutError:
            raise self.unavailable() from None

    async def finish(
        self, work: Awaitable[T], seconds: float | None = None, *, drain: bool = True
    ) -> T:
        """Do what ``start`` does, and wait; raises ``TimeoutError`` after ``seconds``.

        The work goes on to its end, also where the caller is cancelled.
        """
        task = self.start(work, drain=drain)
        # Not with asyncio.shield: from Python 3.14 on that logs, with its text, what the work
        # raises after its caller has gone.
        done, _ = await asyncio.wait({task}, timeout=seconds)
        if not done:
            raise TimeoutError
        return task.result()

    def start(self, work: Awaitable[T], *, drain: bool = True) -> asyncio.Task[T]:
        """Run ``work`` as a task of its own, which ``drained`` waits for if ``drain`` is true."""

        async def run() -> T:
            return await work

        task = asyncio.get_running_loop().create_task(run(), context=context_of_request())
        tasks = self._tasks if drain else self._undrained
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        task.add_done_callback(retrieve_error)
        return task

    async def drained(self) -> None:
        """Wait for every task that was started with ``drain``."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _guarded(
        self, operation: Callable[[], Awaitable[T]], seconds: float | None, *, repeat: bool
    ) -> T:
        try:
            if seconds is None:
                # Under a limit of a day PyMongo would look that long for a server that is away.
                ping = self.collection.database.command
                await self.send(lambda: ping("ping"), self.timeout_seconds)
            return await self.send(operation, seconds, repeat=repeat)
        except PyMongoError as error:
            self.report(error)
            raise self.unavailable(error) from error


async def _repeated(operation: Callable[[], Awaitable[T]], seconds: float) -> T:
    """Repeat an operation that the server refuses because of its rate, while there is time.

    The server has not carried it out. Everybody else waits in the queue meanwhile.
    """
    pause = THROTTLED_PAUSE_SECONDS
    while True:
        await asyncio.sleep(pause)
        seconds -= pause
        pause *= 2
        try:
            return await operation()
        except OperationFailure as error:
            # A bulk write has an error of its own, since a part of it was carried out.
            if error.code != REQUEST_RATE_TOO_LARGE or pause >= seconds:
                raise


def _was_sent_wrongly(refusal: OperationFailure | NotPrimaryError) -> bool:
    """Tell whether PyMongo 4.20 has sent a write as no such server takes it; nothing was written.

    While it waits for a connection the driver may learn that the primary has stepped down. It then
    sends the write there without a number, and does not repeat it. To a single server it sends a
    write with a number if its first attempt to get a connection has failed.
    """
    return _code_of(refusal) in _SENT_WRONGLY and not refusal.has_error_label("RetryableWriteError")


def _code_of(refusal: OperationFailure | NotPrimaryError) -> int | None:
    if isinstance(refusal, OperationFailure):
        return refusal.code
    details = refusal.details
    return details.get("code") if isinstance(details, Mapping) else None


def context_of_request() -> Context:
    """Copy the current context, so that tracing shows commands below the request.

    Without a ``pymongo.timeout`` of the request, and without a client session that it has bound:
    they must reach neither a command that others share nor what lasts longer than the request. A
    timeout inside of another one can only be shorter, and a transaction that the app aborts would
    undo what others have saved.
    """
    context = copy_context()
    for variable in _BOUND_SESSIONS:
        if variable in context:
            context.run(variable.set, None)
    if _TIMEOUT in context:
        for variable, without in _TIMEOUTS.items():
            context.run(variable.set, without)
    return context


def _variables_of_timeouts() -> dict[ContextVar[Any], Any]:
    """Return what ``pymongo.timeout`` sets, each variable with its value outside of a timeout."""
    outside, inside = Context(), Context()
    inside.run(pymongo.timeout(_LONGEST_SECONDS).__enter__)
    return {variable: outside.run(variable.get) for variable in inside}


def _variables_of_bound_sessions() -> Sequence[ContextVar[Any]]:
    """Return what ``bind()`` of a client session sets; Motor runs the synchronous driver.

    PyMongo has no public name for it; a version in which it has another one fails a test.
    """
    modules = asynchronous_session, synchronous_session
    found = (getattr(module, "_SESSION", None) for module in modules)
    return [variable for variable in found if variable is not None]


_BOUND_SESSIONS = _variables_of_bound_sessions()
_TIMEOUTS = _variables_of_timeouts()
# A timeout sets all of them, so that one tells.
_TIMEOUT = next(iter(_TIMEOUTS))


def retrieve_error(task: asyncio.Task[Any]) -> None:
    """Take the error of a task that has ended: its caller may have gone.

    asyncio would report an error that nobody has asked for.
    """
    _ = task.cancelled() or task.exception()


def _on_primary(collection: Any, codec: CodecOptions[Any]) -> Any:
    if _is_mongomock(collection):
        return collection
    # A secondary may not have heard of a login yet, whatever the client prefers to read from.
    return collection.with_options(codec_options=codec, read_preference=ReadPreference.PRIMARY)


def _is_mongomock(collection: Any) -> bool:
    # mongomock-motor's class names itself Motor's, but has no such method. Looked up on the class:
    # an instance answers any name with a sub-collection.
    return getattr(type(collection), "with_options", None) is None


def _check_collection(collection: Any) -> None:
    kind = type(collection)
    # mongomock's own collections imitate PyMongo's synchronous ones; mongomock-motor's are fine.
    if isinstance(collection, Collection) or kind.__module__.startswith("mongomock."):
        raise TypeError(
            f"collection: {kind.__name__} is not accepted; it is synchronous; {_ACCEPTED}"
        )
    # Looked up on the class: a Motor client or database answers any name with a child of its own.
    if not all(callable(getattr(kind, name, None)) for name in ("find_one", "bulk_write")):
        raise TypeError(f"collection: {kind.__name__} is not accepted; {_ACCEPTED}")
    if not collection.write_concern.acknowledged:
        raise ValueError(
            "collection: its write concern is unacknowledged (w=0), so that nobody would learn of "
            "a session that was not stored; use w=1 or w='majority'"
        )
