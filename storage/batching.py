"""Batches: requests that run at the same time share a command.

A database command costs about the same Python time whatever it carries, so a busy process sends few
large ones. What waits leaves

- at once, with nothing under way: a lone request waits for nobody;
- when a command is answered;
- when the event loop has nothing else to do, while fewer commands are under way than ``Pace``
  allows: then a command costs nobody's time, and far from the server nobody waits for the round
  trip of a stranger. A batch is then a part of what waits and is under way.

This module knows nothing of sessions or of MongoDB.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context, copy_context
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

from storage.pacing import COMMAND_SECONDS, Pace, idle_seconds

Item = TypeVar("Item")
Result = TypeVar("Result")
# The item, the instant at which its waiter gives up, and the future and the context of the waiter.
# A bare tuple: one is made for every load and every save.
Pending = tuple[Item, float, asyncio.Future[Result], Context]
Send = Callable[[list[Item], float], Awaitable[Sequence[Result | BaseException]]]
# Makes the error of one waiter; the argument is what made the whole batch fail, if anything did.
Refuse = Callable[[BaseException | None], BaseException]
# Called with what made a whole batch fail, also where every waiter has given up by then.
Report = Callable[[Exception], None]

# Sizes from 16 to 256 differed by less than two runs of the benchmark do.
BATCH_SIZE = 64
# A turn of an event loop that has nothing to do takes a small part of what a command costs.
QUIET_SECONDS = COMMAND_SECONDS / 4
# How long an event loop that has something to do keeps what waits: commands that leave then take an
# eighth of its time at most.
PATIENCE_SECONDS = COMMAND_SECONDS * 8
# A request that joins a longer queue would wait longer than a visitor does.
QUEUE_LENGTH = 10_000


class Batcher(Generic[Item, Result]):
    """A queue in front of ``send``.

    ``send(items, seconds)`` runs in a task of its own. It returns one result or one exception for
    each item, in order; if it raises, the whole batch has failed, and each waiter gets an error of
    its own from ``refuse``, and ``report`` is called once. ``seconds`` is the longest time that any
    of the waiters still has.

    With ``keep_cancelled`` an item whose waiter was cancelled is sent all the same.

    ``context`` copies the context of the submitter, without what is meant for that request alone.
    Each batch runs in the context of one of its items.
    """

    def __init__(
        self,
        send: Send[Item, Result],
        refuse: Refuse,
        report: Report,
        *,
        keep_cancelled: bool = False,
        size: int = BATCH_SIZE,
        queue: int = QUEUE_LENGTH,
        context: Callable[[], Context] = copy_context,
    ) -> None:
        """Prepare; needs no running event loop."""
        self._send = send
        self._copy_context = context
        self._refuse = refuse
        self._report = report
        self._keep_cancelled = keep_cancelled
        self._size, self._longest_queue = size, queue
        self._pace = Pace()
        # Items submitted and batches answered so far.
        self._events = 0
        # Whether the event loop is going to call _leave_if_quiet.
        self._look_is_due = False
        self._waiting: deque[Pending[Item, Result]] = deque()
        # By ``id``, since a list has no hash.
        self._sent: dict[int, list[Pending[Item, Result]]] = {}
        self._workers: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._unclaimed: WeakKeyDictionary[asyncio.Future[Result], Result | BaseException] = (
            WeakKeyDictionary()
        )

    def __len__(self) -> int:
        """Return how many items wait for a batch; those that were sent are not counted."""
        return len(self._waiting)

    def submit(self, item: Item, deadline: float) -> asyncio.Future[Result]:
        """Send an item with the next batch; ``deadline`` is an instant of the loop's clock.

        The future raises what ``refuse`` makes at the deadline, or at once when the queue is full.
        Cancelling it never disturbs the batch.
        """
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[Result] = loop.create_future()
        if len(self._waiting) >= self._longest_queue:
            waiter.set_exception(self._refuse(None))
            return waiter
        self._waiting.append((item, deadline, waiter, self._copy_context()))
        if self._timer is None or deadline < self._timer.when():
            self._set_timer(loop, deadline)
        self._events += 1
        if not self._workers:
            self._start_worker(loop)
        elif not self._look_is_due:
            self._look_later(loop)
        return waiter

    def wait_again(self, cancelled: asyncio.Future[Result]) -> asyncio.Future[Result] | None:
        """Return another future for an item whose waiter was cancelled.

        ``None`` where its batch has failed. For ``keep_cancelled``: the waiter has gone, and
        something has to be done with the result all the same.
        """
        if cancelled in self._unclaimed:
            late: asyncio.Future[Result] = cancelled.get_loop().create_future()
            _answer(late, self._unclaimed.pop(cancelled))
            return late
        for batch in (self._waiting, *self._sent.values()):
            for number, (item, deadline, waiter, context) in enumerate(batch):
                if waiter is cancelled:
                    again: asyncio.Future[Result] = waiter.get_loop().create_future()
                    batch[number] = item, deadline, again, context
                    return again
        return None

    async def drained(self) -> None:
        """Wait until nothing is waiting or under way."""
        while self._workers:
            await asyncio.wait(self._workers)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _start_worker(self, loop: asyncio.AbstractEventLoop) -> None:
        # Tracing shows the command below the first of the requests that it serves. Not with
        # create_task(): an eager task would send the first item before the others are submitted.
        context = self._waiting[0][3]
        worker = asyncio.Task(self._work(), loop=loop, context=context)
        self._workers.add(worker)
        worker.add_done_callback(self._replace_unstarted)

    def _replace_unstarted(self, worker: asyncio.Task[None]) -> None:
        """Go on without a worker that was cancelled before its first step: nothing of it ran."""
        if worker in self._workers:
            self._workers.remove(worker)
            if self._waiting:
                self._start_worker(worker.get_loop())

    def _look_later(self, loop: asyncio.AbstractEventLoop) -> None:
        """Look from the next turn of the event loop on whether another batch may leave."""
        if not self._look_is_due and len(self._workers) < self._pace.limit:
            self._look_is_due = True
            # The first look only begins to count: the event loop calls it before anything else.
            now = loop.time()
            loop.call_soon(self._leave_if_quiet, loop, None, now, now + PATIENCE_SECONDS)

    def _leave_if_quiet(
        self, loop: asyncio.AbstractEventLoop, events: int | None, looked_at: float, at_last: float
    ) -> None:
        """Send what waits, unless the last turn had more to do; then look again.

        While there is something to do, others would pay for what a command costs.
        """
        self._look_is_due = False
        if not self._waiting or len(self._workers) >= self._pace.limit:
            return
        now = loop.time()
        quiet = self._events == events and now - looked_at < QUIET_SECONDS
        if quiet or now >= at_last or len(self._waiting) >= self._size:
            self._start_worker(loop)
        else:
            self._look_is_due = True
            loop.call_soon(self._leave_if_quiet, loop, self._events, now, at_last)

    async def _work(self) -> None:
        """Send one batch, and leave the next one to a worker in a context of its own."""
        try:
            if batch := self._take_batch():
                if self._waiting:
                    self._look_later(asyncio.get_running_loop())
                self._sent[id(batch)] = batch
                try:
                    await self._send_batch(batch)
                finally:
                    del self._sent[id(batch)]
        finally:
            # Here, not in a callback: an item submitted in between would wait for ever.
            self._workers -= {asyncio.current_task()}
            if self._waiting:
                self._start_worker(asyncio.get_running_loop())

    def _take_batch(self) -> list[Pending[Item, Result]]:
        batch: list[Pending[Item, Result]] = []
        under_way = sum(map(len, self._sent.values()))
        size = min(self._size, self._pace.share(len(self._waiting) + under_way))
        while self._waiting and len(batch) < size:
            pending = self._waiting.popleft()
            waiter = pending[2]
            if not waiter.done() or (self._keep_cancelled and waiter.cancelled()):
                batch.append(pending)
        return batch

    async def _send_batch(self, batch: list[Pending[Item, Result]]) -> None:
        loop = asyncio.get_running_loop()
        seconds = max([pending[1] for pending in batch]) - loop.time()
        idle = idle_seconds()
        results: Sequence[Result | BaseException]
        try:
            results = await self._send([pending[0] for pending in batch], seconds)
        except asyncio.CancelledError:
            # From outside, as by an app that cancels every task when it ends.
            self._fail(batch, None)
            raise
        except Exception as error:  # noqa: BLE001 - a batch that fails must not end the worker
            self._pace.fail()
            self._fail(batch, error)
            self._report(error)
            return
        self._events += 1
        self._pace.learn(idle_seconds() - idle)
        for pending, result in zip(batch, results, strict=True):
            waiter = pending[2]
            if not waiter.done():
                _answer(waiter, result)
            else:
                # Cancelled perhaps, and its task is told of that in the loop's next turn only.
                self._unclaimed[waiter] = result

    def _fail(self, batch: list[Pending[Item, Result]], error: BaseException | None) -> None:
        for _item, _deadline, waiter, _context in batch:
            if not waiter.done():
                waiter.set_exception(self._refuse(error))

    def _set_timer(self, loop: asyncio.AbstractEventLoop, when: float) -> None:
        # One timer for all: nearly always every waiter has its answer before it fires.
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_at(when, self._expire, context=Context())

    def _expire(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        sent = [pending for batch in self._sent.values() for pending in batch]
        for _item, deadline, waiter, _context in (*sent, *self._waiting):
            if deadline <= loop.time() and not waiter.done():
                # Answers the waiter only. A driver's operation is never cancelled: cancelled ones
                # can leave PyMongo's topology lock held for ever.
                waiter.set_exception(self._refuse(None))
        left = [d for _item, d, waiter, _context in (*sent, *self._waiting) if not waiter.done()]
        if left:
            self._set_timer(loop, min(left))


def _answer(waiter: asyncio.Future[Result], result: Result | BaseException) -> None:
    if isinstance(result, BaseException):
        waiter.set_exception(result)
    else:
        waiter.set_result(result)
