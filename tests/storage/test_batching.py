"""The batcher without MongoDB: a queue, and a sender that the test can block."""

from __future__ import annotations

import asyncio
import gc
import sys
import time
import weakref
from collections.abc import Iterator, Sequence
from contextvars import Context, ContextVar
from typing import Any

import pytest

from storage import StorageUnavailable, batching
from storage.batching import Batcher
from storage.pacing import COMMAND_SECONDS
from tests.storage.conftest import until

WHERE = ContextVar("WHERE", default="outside")
CURRENT: ContextVar[object] = ContextVar("CURRENT")


class Sender:
    """Records each batch, and ends it when the test allows it."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.seconds: list[float] = []
        self.under_way = 0
        self.most_under_way = 0
        self.finished = 0
        self.contexts: list[str] = []
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self, items: list[str], seconds: float) -> Sequence[str | BaseException]:
        """Return the items in upper case; "!" makes one item fail, "?" the whole batch."""
        self.batches.append(items)
        self.seconds.append(seconds)
        self.contexts.append(WHERE.get())
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await self.go.wait()
        finally:
            self.under_way -= 1
        self.finished += 1
        if any("?" in item for item in items):
            raise ConnectionError("the connection is closed")
        return [LookupError(item) if "!" in item else item.upper() for item in items]


@pytest.fixture(autouse=True)
def _nothing_fails_unseen(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Let a test fail where the event loop has reported an error of a callback."""
    yield
    assert [line for line in caplog.get_records("call") if line.name == "asyncio"] == []


@pytest.fixture
def sender() -> Sender:
    """Make a sender that does not block."""
    return Sender()


def refuse(cause: BaseException | None) -> StorageUnavailable:
    """Make the error for one waiter."""
    error = StorageUnavailable()
    error.__cause__ = cause
    return error


def report(_error: Exception) -> None:
    """Ignore it."""


def batcher_of(sender: Sender, **options: Any) -> Batcher[str, str]:
    """Make a batcher for the sender."""
    return Batcher(sender, refuse, report, **options)


def later(seconds: float = 5) -> float:
    """Return a deadline."""
    return asyncio.get_running_loop().time() + seconds


async def sent_first(batcher: Batcher[str, str], sender: Sender, item: str) -> asyncio.Future[str]:
    """Block the sender with the first item, so that later items wait in the queue."""
    sender.go.clear()
    first = batcher.submit(item, later())
    await until(lambda: bool(sender.batches))
    return first


async def test_item_is_sent_at_once_when_no_batch_is_under_way(sender: Sender) -> None:
    """With no batch under way it is sent in the next iteration of the event loop."""
    batcher = batcher_of(sender)

    waiter = batcher.submit("a", later())
    await asyncio.sleep(0)

    assert sender.batches == [["a"]]
    assert await waiter == "A"


async def test_items_submitted_while_a_batch_is_under_way_are_one_batch(sender: Sender) -> None:
    """They are one batch, in their order."""
    batcher = batcher_of(sender)
    first = await sent_first(batcher, sender, "a")
    others = [batcher.submit(item, later()) for item in "bcd"]
    assert len(batcher) == 3

    sender.go.set()

    assert await asyncio.gather(first, *others) == ["A", "B", "C", "D"]
    assert sender.batches == [["a"], ["b", "c", "d"]]
    assert len(batcher) == 0


async def test_item_does_not_join_a_batch_that_was_sent(sender: Sender) -> None:
    """The same item is sent again: the first result may be older than the second request."""
    batcher = batcher_of(sender)
    first = await sent_first(batcher, sender, "a")

    second = batcher.submit("a", later())
    sender.go.set()
    await asyncio.gather(first, second)

    assert sender.batches == [["a"], ["a"]]


@pytest.mark.parametrize("under_way", [1, 2, 3])
async def test_no_more_batches_are_under_way_than_allowed(sender: Sender, under_way: int) -> None:
    """With ten items, the limit of parallel batches is reached and not exceeded."""
    batcher = batcher_of(sender, size=1)
    batcher._pace.limit = under_way
    sender.go.clear()

    waiters = [batcher.submit(str(number), later()) for number in range(10)]
    await until(lambda: sender.under_way == under_way)
    sender.go.set()
    await asyncio.gather(*waiters)

    assert sender.most_under_way == under_way


async def test_item_does_not_wait_for_a_batch_of_others_far_from_the_server(
    sender: Sender,
) -> None:
    """It is sent although the first batch is never answered."""
    batcher = batcher_of(sender)
    batcher._pace.limit = 2
    _ = await sent_first(batcher, sender, "a")

    _ = batcher.submit("b", later())

    await until(lambda: sender.batches == [["a"], ["b"]])
    sender.go.set()
    await batcher.drained()


async def test_far_from_the_server_half_of_the_items_are_sent_before_the_others(
    sender: Sender,
) -> None:
    """Items under way count; otherwise requests that come together would always come together."""
    batcher = batcher_of(sender)
    batcher._pace.limit = 8
    first = await sent_first(batcher, sender, "a")

    waiting = [batcher.submit(item, later()) for item in "bcdefgh"]
    await until(lambda: len(sender.batches) == 3)

    assert sender.batches == [["a"], ["b", "c", "d", "e"], ["f", "g", "h"]]
    sender.go.set()
    await asyncio.gather(first, *waiting)


async def test_items_that_arrive_turn_after_turn_are_sent_together(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A busy event loop sends few large batches; they are sent when a turn has brought no item."""
    monkeypatch.setattr(batching, "PATIENCE_SECONDS", 60)  # this machine may be busy
    batcher = batcher_of(sender)
    batcher._pace.limit = 4
    first = await sent_first(batcher, sender, "a")

    waiting = []
    for item in "bcdef":
        waiting.append(batcher.submit(item, later()))
        await asyncio.sleep(0)
    await until(lambda: len(sender.batches) == 2)
    sender.go.set()
    await asyncio.gather(first, *waiting)

    assert sender.batches == [["a"], ["b", "c", "d", "e", "f"]]


async def test_nothing_is_sent_while_turns_of_the_event_loop_take_long(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A busy event loop has no time for another command, even if no item arrives."""
    if type(asyncio.get_running_loop()).__module__.startswith("uvloop"):
        pytest.skip("the clock of uvloop counts milliseconds")
    monkeypatch.setattr(batching, "PATIENCE_SECONDS", 60)
    batcher = batcher_of(sender)
    batcher._pace.limit = 2
    first = await sent_first(batcher, sender, "a")

    second = batcher.submit("b", later())
    for _ in range(5):
        time.sleep(COMMAND_SECONDS)  # noqa: ASYNC251 - the event loop is busy
        await asyncio.sleep(0)

    assert sender.batches == [["a"]]
    await until(lambda: sender.batches == [["a"], ["b"]])
    sender.go.set()
    await asyncio.gather(first, second)


async def test_event_loop_that_is_never_idle_sends_what_waits_after_a_while(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a busy process far from the server would wait for each answer."""
    monkeypatch.setattr(batching, "PATIENCE_SECONDS", 0.1)
    batcher = batcher_of(sender, size=10_000)
    batcher._pace.limit = 2
    first = await sent_first(batcher, sender, "a")

    waiting = []
    while len(sender.batches) == 1 and len(waiting) < 5000:
        waiting.append(batcher.submit("b", later()))
        time.sleep(0.0002)  # noqa: ASYNC251 - the event loop is busy
        await asyncio.sleep(0)

    assert len(sender.batches) == 2
    assert len(sender.batches[1]) > 2
    sender.go.set()
    await asyncio.gather(first, *waiting)


async def test_full_batch_is_sent_although_more_items_arrive(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event loop that is never idle would otherwise send nothing before the next answer."""
    monkeypatch.setattr(batching, "PATIENCE_SECONDS", 60)  # this machine may be busy
    batcher = batcher_of(sender, size=3)
    batcher._pace.limit = 4
    first = await sent_first(batcher, sender, "a")

    waiting = []
    for item in "bcdefgh":
        waiting.append(batcher.submit(item, later()))
        await asyncio.sleep(0)

    assert sender.batches[1:] == [["b", "c", "d"], ["e", "f", "g"]]
    sender.go.set()
    await asyncio.gather(first, *waiting)


async def test_items_beyond_a_full_batch_are_sent_without_another_event(
    sender: Sender,
) -> None:
    """Nothing else would tell the batcher to look again."""
    batcher = batcher_of(sender, size=2)
    batcher._pace.limit = 4
    sender.go.clear()

    waiting = [batcher.submit(item, later()) for item in "abcdef"]
    await until(lambda: len(sender.batches) == 3)

    assert sender.batches == [["a", "b"], ["c", "d"], ["e", "f"]]
    sender.go.set()
    await asyncio.gather(*waiting)


async def test_look_that_finds_nothing_to_send_is_the_last_one(sender: Sender) -> None:
    """Another batch has taken what waited."""
    batcher = batcher_of(sender)
    batcher._pace.limit = 2
    first = await sent_first(batcher, sender, "a")
    second = batcher.submit("b", later())
    sender.go.set()

    await asyncio.gather(first, second)
    for _turn in range(20):
        await asyncio.sleep(0)

    assert sender.batches == [["a"], ["b"]]
    assert not batcher._look_is_due


async def test_failed_batch_does_not_change_the_limit_by_its_time(sender: Sender) -> None:
    """Its time is that for which the driver looked for a server."""
    batcher = batcher_of(sender)
    failing = await sent_first(batcher, sender, "a?")
    await asyncio.sleep(0.002)
    sender.go.set()

    with pytest.raises(StorageUnavailable):
        await failing

    assert batcher._pace.limit == 1


async def test_after_a_failed_batch_one_is_under_way_at_a_time(sender: Sender) -> None:
    """A driver that lost a connection opens one for each command that is under way."""
    batcher = batcher_of(sender, size=1)
    batcher._pace.limit = 4

    with pytest.raises(StorageUnavailable):
        await batcher.submit("a?", later())
    sender.most_under_way = 0
    assert await asyncio.gather(*(batcher.submit(str(n), later()) for n in range(8)))

    assert sender.most_under_way == 1


async def test_no_batch_is_larger_than_the_limit(sender: Sender) -> None:
    """Further items are sent with the next batches, in their order."""
    batcher = batcher_of(sender, size=3)
    first = await sent_first(batcher, sender, "a")
    others = [batcher.submit(item, later()) for item in "bcdefgh"]

    sender.go.set()
    await asyncio.gather(first, *others)

    assert sender.batches == [["a"], ["b", "c", "d"], ["e", "f", "g"], ["h"]]


async def test_full_queue_refuses_the_next_item_at_once(sender: Sender) -> None:
    """The refused item does not wait; the items in the queue stay there."""
    batcher = batcher_of(sender, queue=2)
    first = await sent_first(batcher, sender, "a")
    waiting = [batcher.submit(item, later()) for item in "bc"]

    refused = batcher.submit("d", later())

    assert refused.done()
    assert isinstance(refused.exception(), StorageUnavailable)
    sender.go.set()
    assert await asyncio.gather(first, *waiting) == ["A", "B", "C"]
    assert await batcher.submit("e", later()) == "E"


async def test_failure_of_one_item_does_not_affect_the_others(sender: Sender) -> None:
    """The failed item gets the error; the others get their results."""
    batcher = batcher_of(sender)
    first = await sent_first(batcher, sender, "a")
    good, bad, other = (batcher.submit(item, later()) for item in ("b", "c!", "d"))

    sender.go.set()

    assert await asyncio.gather(first, good, other) == ["A", "B", "D"]
    with pytest.raises(LookupError):
        await bad


async def test_failed_batch_gives_each_item_an_error_of_its_own(sender: Sender) -> None:
    """The error is a response, and one response cannot answer two requests."""
    batcher = batcher_of(sender)
    first = await sent_first(batcher, sender, "a")
    failing = [batcher.submit(item, later()) for item in ("b", "c?", "d")]

    sender.go.set()
    errors = await asyncio.gather(*failing, return_exceptions=True)

    assert all(isinstance(error, StorageUnavailable) for error in errors)
    assert len({id(error) for error in errors}) == 3
    assert all(isinstance(error.__cause__, ConnectionError) for error in errors)  # type: ignore[union-attr]
    assert await first == "A"


async def test_failed_batch_is_reported_once_even_if_nobody_waits_for_it_any_more() -> None:
    """The driver often finds out why only when the visitors have been answered already."""
    reports: list[Exception] = []
    sender = Sender()
    batcher = Batcher(sender, refuse, reports.append)
    sender.go.clear()
    waiter = batcher.submit("a?", later(0.01))
    with pytest.raises(StorageUnavailable):
        await waiter
    assert reports == []

    sender.go.set()
    await batcher.drained()

    assert [type(report) for report in reports] == [ConnectionError]


async def test_failed_batch_answers_its_waiters_before_it_is_reported(sender: Sender) -> None:
    """They do not wait for the log, nor until their deadline if logging fails."""
    answered: list[bool] = []

    def report(_error: Exception) -> None:
        answered.append(waiter.done())

    batcher: Batcher[str, str] = Batcher(sender, refuse, report)
    waiter = batcher.submit("a?", later())
    with pytest.raises(StorageUnavailable):
        await waiter

    assert answered == [True]


async def test_failed_batch_does_not_stop_the_queue(sender: Sender) -> None:
    """Items that waited during a failed batch are sent, and so are later ones."""
    batcher = batcher_of(sender)
    failing = await sent_first(batcher, sender, "a?")
    behind = batcher.submit("b", later())

    sender.go.set()

    assert await behind == "B"
    assert isinstance(failing.exception(), StorageUnavailable)
    assert await batcher.submit("c", later()) == "C"


async def test_missing_result_is_an_error_for_the_event_loop() -> None:
    """Its waiter only gets an error at its deadline, which does not name the cause."""
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _loop, context: reported.append(context)
    )

    async def send(items: list[str], _seconds: float) -> list[str]:
        return items[:-1]

    batcher: Batcher[str, str] = Batcher(send, refuse, report)
    batcher.submit("a", later())
    await batcher.drained()
    gc.collect()

    assert [type(context["exception"]) for context in reported] == [ValueError]


async def test_item_of_a_cancelled_waiter_is_not_sent(sender: Sender) -> None:
    """Nobody needs its result; the others are sent."""
    batcher = batcher_of(sender)
    first = await sent_first(batcher, sender, "a")
    gone, stays = batcher.submit("b", later()), batcher.submit("c", later())

    gone.cancel()
    sender.go.set()

    assert await asyncio.gather(first, stays) == ["A", "C"]
    assert sender.batches == [["a"], ["c"]]


async def test_cancelled_waiter_does_not_disturb_a_batch_under_way(sender: Sender) -> None:
    """The other items of the batch get their results."""
    batcher = batcher_of(sender)
    first = await sent_first(batcher, sender, "a")
    gone, stays = batcher.submit("b", later()), batcher.submit("c", later())
    sender.go.set()
    await first
    sender.go.clear()
    await until(lambda: len(sender.batches) == 2)

    gone.cancel()
    sender.go.set()

    assert await stays == "C"
    assert sender.finished == 2


async def test_queue_of_cancelled_waiters_sends_nothing(sender: Sender) -> None:
    """No batch is sent for them, and the next item is sent at once."""
    batcher = batcher_of(sender)
    first = await sent_first(batcher, sender, "a")
    gone = [batcher.submit(item, later()) for item in "bcd"]
    for waiter in [first, *gone]:
        waiter.cancel()

    sender.go.set()
    await batcher.drained()

    assert sender.batches == [["a"]]
    assert await batcher.submit("e", later()) == "E"


async def test_item_is_sent_after_cancellation_with_keep_cancelled(sender: Sender) -> None:
    """A write is sent although the visitor has disconnected."""
    batcher = batcher_of(sender, keep_cancelled=True)
    first = await sent_first(batcher, sender, "a")
    gone, stays = batcher.submit("b", later()), batcher.submit("c", later())

    gone.cancel()
    sender.go.set()

    assert await asyncio.gather(first, stays) == ["A", "C"]
    assert sender.batches == [["a"], ["b", "c"]]


async def test_refused_item_is_not_sent_even_with_keep_cancelled(sender: Sender) -> None:
    """An item that was refused at its deadline must not be sent later."""
    batcher = batcher_of(sender, keep_cancelled=True)
    first = await sent_first(batcher, sender, "a")

    with pytest.raises(StorageUnavailable):
        await asyncio.wait_for(batcher.submit("b", later(0.01)), 5)
    sender.go.set()
    await first
    await batcher.drained()

    assert sender.batches == [["a"]]


async def test_deadline_is_kept_in_the_queue(sender: Sender) -> None:
    """The batch under way and later deadlines are not affected."""
    batcher = batcher_of(sender)
    first = await sent_first(batcher, sender, "a")
    early, late = batcher.submit("b", later(0.01)), batcher.submit("c", later())

    with pytest.raises(StorageUnavailable):
        await asyncio.wait_for(early, 5)

    assert sender.under_way == 1
    sender.go.set()
    assert await asyncio.gather(first, late) == ["A", "C"]
    assert sender.batches == [["a"], ["c"]]


async def test_deadline_is_kept_while_sending_and_does_not_stop_the_sender(sender: Sender) -> None:
    """The waiter gets its error in time; the operation of the driver runs to its end."""
    batcher = batcher_of(sender)
    sender.go.clear()

    with pytest.raises(StorageUnavailable):
        await asyncio.wait_for(batcher.submit("a", later(0.01)), 5)

    assert sender.under_way == 1
    sender.go.set()
    await batcher.drained()
    assert sender.finished == 1


async def test_deadline_of_a_batch_is_kept_when_another_batch_has_ended() -> None:
    """With two batches under way, the end of one does not affect the waiters of the other."""
    arrived = {"slow": asyncio.Event(), "quick": asyncio.Event()}

    async def send(items: list[str], _seconds: float) -> list[str]:
        await arrived[items[0]].wait()
        return items

    batcher = Batcher(send, refuse, report, size=1)
    batcher._pace.limit = 2
    slow, quick = batcher.submit("slow", later(0.05)), batcher.submit("quick", later())
    arrived["quick"].set()
    assert await quick == "quick"

    with pytest.raises(StorageUnavailable):
        await asyncio.wait_for(slow, 5)

    arrived["slow"].set()
    await batcher.drained()


async def test_every_deadline_in_the_queue_is_kept(sender: Sender) -> None:
    """Each waiter gets its error at its own deadline."""
    batcher = batcher_of(sender)
    first = await sent_first(batcher, sender, "a")
    lengths = {"b": 0.06, "c": 0.02, "d": 0.04}
    loop = asyncio.get_running_loop()
    start = loop.time()
    waiting = {item: batcher.submit(item, start + span) for item, span in lengths.items()}
    answered: dict[str, float] = {}
    for item, waiter in waiting.items():
        waiter.add_done_callback(lambda _waiter, item=item: answered.update({item: loop.time()}))  # type: ignore[misc]
    await asyncio.wait(waiting.values(), timeout=5)

    assert all(isinstance(waiter.exception(), StorageUnavailable) for waiter in waiting.values())
    assert all(answered[item] - start >= span - 0.001 for item, span in lengths.items())
    assert sorted(answered, key=answered.__getitem__) == ["c", "d", "b"]
    sender.go.set()
    assert await first == "A"


async def test_timer_goes_from_one_deadline_to_the_next(sender: Sender) -> None:
    """It does not fire again for waiters that have their errors."""
    batcher = batcher_of(sender)
    first = await sent_first(batcher, sender, "a")

    with pytest.raises(StorageUnavailable):
        await batcher.submit("b", later(0.01))

    assert batcher._timer is not None
    assert batcher._timer.when() > later(1)
    sender.go.set()
    assert await first == "A"


async def test_every_deadline_of_a_batch_under_way_is_kept(sender: Sender) -> None:
    """The later deadlines of a batch are kept too."""
    batcher = batcher_of(sender)
    sender.go.clear()
    under_way = [batcher.submit("a", later(0.02)), batcher.submit("b", later(0.05))]

    errors = await asyncio.wait_for(asyncio.gather(*under_way, return_exceptions=True), 5)

    assert sender.batches == [["a", "b"]]
    assert [type(error) for error in errors] == [StorageUnavailable] * 2
    sender.go.set()
    await batcher.drained()


async def test_batch_gets_the_time_of_its_latest_deadline(sender: Sender) -> None:
    """An early deadline does not shorten the time of the others."""
    batcher = batcher_of(sender)
    first = await sent_first(batcher, sender, "a")
    others = [batcher.submit("b", later(5)), batcher.submit("c", later(50))]

    sender.go.set()
    await asyncio.gather(first, *others)

    assert 40 < sender.seconds[1] <= 50


async def test_item_submitted_at_the_moment_a_batch_ends_is_sent(sender: Sender) -> None:
    """Whether it is submitted just before or after the end, no item waits for ever."""
    batcher = batcher_of(sender)
    followers: list[asyncio.Future[str]] = []

    for number in range(200):
        waiter = batcher.submit(str(number), later())
        waiter.add_done_callback(lambda _waiter: followers.append(batcher.submit("f", later())))
        await waiter
        for _turn in range(number % 5):
            await asyncio.sleep(0)
        assert await asyncio.wait_for(batcher.submit("g", later()), 10) == "G"
        assert await asyncio.wait_for(followers[-1], 10) == "F"


@pytest.mark.skipif(sys.version_info < (3, 12), reason="has no eager tasks")
async def test_items_of_one_turn_share_a_batch_with_eager_tasks(sender: Sender) -> None:
    """A task factory of the app does not start a batch before its items are submitted."""
    batcher = batcher_of(sender)
    loop = asyncio.get_running_loop()
    loop.set_task_factory(asyncio.eager_task_factory)

    try:
        waiters = [batcher.submit(name, later()) for name in "abc"]
        assert await asyncio.gather(*waiters) == ["A", "B", "C"]
    finally:
        loop.set_task_factory(None)

    assert sender.batches == [["a", "b", "c"]]


async def test_drained_waits_for_everything_under_way_and_queued(sender: Sender) -> None:
    """Afterwards nothing is under way or queued, and no timer is left."""
    batcher = batcher_of(sender)
    waiters = [await sent_first(batcher, sender, "a"), *(batcher.submit(i, later()) for i in "bc")]
    draining = asyncio.create_task(batcher.drained())
    await asyncio.sleep(0)
    assert not draining.done()

    sender.go.set()
    await draining

    assert all(waiter.done() for waiter in waiters)
    assert (len(batcher), sender.under_way, batcher._sent, batcher._timer) == (0, 0, {}, None)


async def test_drained_waits_for_what_a_result_submits(sender: Sender) -> None:
    """The next step of a save is submitted when the step before has its result."""
    batcher = batcher_of(sender)
    first, follower = await sent_first(batcher, sender, "a"), asyncio.Event()

    def follow(_waiter: asyncio.Future[str]) -> None:
        sender.go.clear()
        _ = batcher.submit("b", later())
        follower.set()

    first.add_done_callback(follow)
    draining = asyncio.create_task(batcher.drained())
    sender.go.set()
    await follower.wait()
    await until(lambda: len(sender.batches) == 2)
    for _turn in range(10):
        await asyncio.sleep(0)

    assert not draining.done()
    sender.go.set()
    await draining
    assert sender.finished == 2


async def test_event_loop_keeps_nothing_of_a_queue_that_was_drained(sender: Sender) -> None:
    """Not until the deadline of its last item either."""
    batcher = batcher_of(sender)
    await batcher.submit("a", later(60))
    await batcher.drained()
    await asyncio.sleep(0)

    kept = weakref.ref(batcher)
    del batcher
    gc.collect()

    assert kept() is None


async def test_drained_of_an_idle_queue_returns_at_once(sender: Sender) -> None:
    """Before the first item and after the last one."""
    batcher = batcher_of(sender)

    await batcher.drained()
    await batcher.submit("a", later())
    await batcher.drained()
    await batcher.drained()

    assert sender.batches == [["a"]]


async def test_each_batch_runs_in_the_context_of_its_first_item(sender: Sender) -> None:
    """Tracing shows a shared command below one of the requests that it serves."""
    batcher = batcher_of(sender, size=2)
    sender.go.clear()

    async def submit(name: str) -> str:
        WHERE.set(name)
        return await batcher.submit(name, later())

    waiting = [asyncio.create_task(submit(name)) for name in ("a", "b", "c", "d")]
    await until(lambda: len(batcher) == 2)
    sender.go.set()
    await asyncio.gather(*waiting)

    assert sender.batches == [["a", "b"], ["c", "d"]]
    assert sender.contexts == ["a", "c"]
    assert WHERE.get() == "outside"


async def test_batch_runs_in_the_context_that_was_made_for_it(sender: Sender) -> None:
    """What is meant for one request alone is left out there."""
    batcher = batcher_of(sender, context=Context)
    WHERE.set("inside a request")

    await batcher.submit("a", later())

    assert sender.contexts == ["outside"]


async def test_nothing_is_kept_of_items_that_have_their_results(sender: Sender) -> None:
    """After ten thousand items there are no more objects than before."""
    batcher = batcher_of(sender, size=7)

    async def send_rounds(rounds: int) -> int:
        for _round in range(rounds):
            items = ["good", "bad!", "good"] * 33
            waiting = [batcher.submit(item, later()) for item in items]
            await asyncio.gather(*waiting, return_exceptions=True)
        await batcher.drained()
        for record in (sender.batches, sender.seconds, sender.contexts):
            record.clear()
        gc.collect()
        return len(gc.get_objects())

    before = await send_rounds(rounds=1)
    after = await send_rounds(rounds=100)

    assert after - before < 100
    assert (len(batcher), batcher._sent, batcher._workers) == (0, {}, set())


async def test_context_of_a_request_is_not_kept_until_its_deadline(sender: Sender) -> None:
    """It may hold anything, and the deadline is seconds after the answer."""
    batcher = batcher_of(sender)

    async def request() -> weakref.ref[Sender]:
        CURRENT.set(current := Sender())
        await batcher.submit("a", later())
        return weakref.ref(current)

    current = await asyncio.create_task(request())
    del request
    await asyncio.sleep(0)
    gc.collect()

    assert batcher._timer is not None
    assert current() is None


@pytest.mark.parametrize("item", ["item", "item!"], ids=["result", "error"])
@pytest.mark.parametrize("at", ["waiting", "under way", "just answered"])
async def test_result_of_a_cancelled_waiter_can_be_waited_for_again(
    sender: Sender, item: str, at: str
) -> None:
    """Wherever the item is when its waiter is cancelled."""
    batcher = Batcher(sender, refuse, lambda _error: None, keep_cancelled=True)
    sender.go.clear()
    if at == "waiting":
        first = batcher.submit("first", later())
        await asyncio.sleep(0)
    cancelled = batcher.submit(item, later())
    await asyncio.sleep(0)
    cancelled.cancel()
    if at == "just answered":
        sender.go.set()
        await until(lambda: sender.finished == 1)
        await asyncio.sleep(0)

    again = batcher.wait_again(cancelled)
    sender.go.set()

    assert again is not None
    (result,) = await asyncio.gather(again, return_exceptions=True)
    assert isinstance(result, LookupError) if "!" in item else result == "ITEM"
    if at == "waiting":
        assert await first == "FIRST"


async def test_nothing_is_left_to_wait_for_after_a_batch_that_failed(sender: Sender) -> None:
    """Nobody knows what became of its items."""
    batcher = Batcher(sender, refuse, lambda _error: None, keep_cancelled=True)
    cancelled = batcher.submit("item?", later())
    cancelled.cancel()
    await until(lambda: sender.finished == 1)
    await batcher.drained()

    assert batcher.wait_again(cancelled) is None


async def test_worker_that_is_cancelled_before_it_starts_leaves_no_item_waiting(
    sender: Sender,
) -> None:
    """As by an app that cancels every task when it ends."""
    batcher = batcher_of(sender)
    first = batcher.submit("a", later())
    (worker,) = batcher._workers
    worker.cancel()

    assert await asyncio.wait_for(first, 1) == "A"
    assert await asyncio.wait_for(batcher.submit("b", later()), 1) == "B"
    await asyncio.wait_for(batcher.drained(), 1)


async def test_worker_that_is_cancelled_during_a_command_refuses_its_items(sender: Sender) -> None:
    """Nobody waits until the deadline, nothing is kept, and the next item is sent."""
    batcher = batcher_of(sender)
    first = await sent_first(batcher, sender, "a")
    second = batcher.submit("b", later())
    (worker,) = batcher._workers

    worker.cancel()
    with pytest.raises(StorageUnavailable):
        await asyncio.wait_for(first, 1)
    sender.go.set()

    assert await asyncio.wait_for(second, 1) == "B"
    await asyncio.wait_for(batcher.drained(), 1)
    assert batcher._sent == {}


async def test_worker_that_is_cancelled_with_nothing_waiting_is_forgotten(sender: Sender) -> None:
    """Its only item was given up too."""
    batcher = batcher_of(sender)
    batcher.submit("a", later())
    (worker,) = batcher._workers
    batcher._waiting.clear()
    worker.cancel()

    await asyncio.wait_for(batcher.drained(), 1)
    assert not batcher._workers
