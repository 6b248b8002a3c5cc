"""Shared trips on their own: a queue, a carrier that the test holds, and no MongoDB."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

import pytest

from storage import StorageUnavailable
from storage.batching import TripBounds, Trips
from tests.storage.conftest import until

WHERE = ContextVar("WHERE", default="outside")


class Carrier:
    """Notes each trip, and travels when the test lets it."""

    def __init__(self) -> None:
        self.trips: list[list[str]] = []
        self.seconds: list[float] = []
        self.under_way = 0
        self.most_under_way = 0
        self.finished = 0
        self.contexts: list[str] = []
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self, items: list[str], seconds: float) -> Sequence[str | BaseException]:
        """Bring each item back in capitals; an item with "!" is at fault itself, "?" ruins all."""
        self.trips.append(items)
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
            raise ConnectionError("the road is closed")
        return [LookupError(item) if "!" in item else item.upper() for item in items]


@pytest.fixture
def carrier() -> Carrier:
    """Make a carrier that travels at once."""
    return Carrier()


def trips_of(carrier: Carrier, *, keep: bool = False, **bounds: int) -> Trips[str, str]:
    """Put a queue in front of the carrier."""
    return Trips(carrier, TripBounds(**bounds), keep_cancelled=keep)


def later(seconds: float = 5) -> float:
    """Return a deadline."""
    return asyncio.get_running_loop().time() + seconds


async def departed(trips: Trips[str, str], carrier: Carrier, *items: str) -> asyncio.Future[str]:
    """Hold the carrier on the road with the first item; the others wait behind it."""
    carrier.go.clear()
    first = trips.submit(items[0], later())
    await until(lambda: bool(carrier.trips))
    return first


@pytest.mark.parametrize("bound", ["in_flight", "batch", "queue"])
@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, None, "64"], ids=repr)
def test_bound_that_is_no_whole_number_above_zero_is_refused_by_name(
    bound: str, wrong: object
) -> None:
    """A queue with no room, or half a trip at a time, would carry nothing."""
    with pytest.raises(ValueError, match=f"TripBounds.{bound}"):
        TripBounds(**{bound: wrong})  # type: ignore[arg-type]


async def test_lone_item_leaves_at_once_and_alone(carrier: Carrier) -> None:
    """With nothing under way an item waits for nobody: it is on the road in the next loop turn."""
    trips = trips_of(carrier)

    arrival = trips.submit("a", later())
    await asyncio.sleep(0)

    assert carrier.trips == [["a"]]
    assert await arrival == "A"


async def test_what_arrives_while_a_trip_is_under_way_leaves_together(carrier: Carrier) -> None:
    """Everything that was asked for meanwhile is one trip, in the order of asking."""
    trips = trips_of(carrier)
    first = await departed(trips, carrier, "a")
    others = [trips.submit(item, later()) for item in "bcd"]
    assert len(trips) == 3

    carrier.go.set()

    assert await asyncio.gather(first, *others) == ["A", "B", "C", "D"]
    assert carrier.trips == [["a"], ["b", "c", "d"]]
    assert len(trips) == 0


async def test_item_does_not_join_a_trip_that_has_left(carrier: Carrier) -> None:
    """The same item asked for again travels again: its first answer may be older than its asker."""
    trips = trips_of(carrier)
    first = await departed(trips, carrier, "a")

    second = trips.submit("a", later())
    carrier.go.set()
    await asyncio.gather(first, second)

    assert carrier.trips == [["a"], ["a"]]


@pytest.mark.parametrize("in_flight", [1, 2, 3])
async def test_no_more_trips_are_under_way_than_allowed(carrier: Carrier, in_flight: int) -> None:
    """The bound on trips in flight holds, and is used."""
    trips = trips_of(carrier, in_flight=in_flight, batch=1)
    carrier.go.clear()

    arrivals = [trips.submit(str(number), later()) for number in range(10)]
    await until(lambda: carrier.under_way == in_flight)
    carrier.go.set()
    await asyncio.gather(*arrivals)

    assert carrier.most_under_way == in_flight


async def test_no_trip_carries_more_than_a_batch(carrier: Carrier) -> None:
    """What is beyond the batch size takes the next trip, first come, first served."""
    trips = trips_of(carrier, batch=3)
    first = await departed(trips, carrier, "a")
    others = [trips.submit(item, later()) for item in "bcdefgh"]

    carrier.go.set()
    await asyncio.gather(first, *others)

    assert carrier.trips == [["a"], ["b", "c", "d"], ["e", "f", "g"], ["h"]]


async def test_beyond_the_queue_the_answer_is_at_once_that_it_is_unavailable(
    carrier: Carrier,
) -> None:
    """A full queue refuses the next item without waiting, and keeps what it has."""
    trips = trips_of(carrier, queue=2)
    first = await departed(trips, carrier, "a")
    waiting = [trips.submit(item, later()) for item in "bc"]

    refused = trips.submit("d", later())

    assert refused.done()
    assert isinstance(refused.exception(), StorageUnavailable)
    carrier.go.set()
    assert await asyncio.gather(first, *waiting) == ["A", "B", "C"]
    assert await trips.submit("e", later()) == "E"


async def test_fault_of_one_item_is_its_own(carrier: Carrier) -> None:
    """An item that the carrier faults raises; its neighbours arrive."""
    trips = trips_of(carrier)
    first = await departed(trips, carrier, "a")
    good, bad, fine = (trips.submit(item, later()) for item in ("b", "c!", "d"))

    carrier.go.set()

    assert await asyncio.gather(first, good, fine) == ["A", "B", "D"]
    with pytest.raises(LookupError):
        await bad


async def test_trip_that_fails_gives_each_item_an_error_of_its_own(carrier: Carrier) -> None:
    """The error is a response too, and one response cannot answer two requests."""
    trips = trips_of(carrier)
    first = await departed(trips, carrier, "a")
    failing = [trips.submit(item, later()) for item in ("b", "c?", "d")]

    carrier.go.set()
    errors = await asyncio.gather(*failing, return_exceptions=True)

    assert all(isinstance(error, StorageUnavailable) for error in errors)
    assert len({id(error) for error in errors}) == 3
    assert all(isinstance(error.__cause__, ConnectionError) for error in errors)  # type: ignore[union-attr]
    assert await first == "A"


async def test_log_of_a_failing_trip_names_the_kind_of_error_only(
    carrier: Carrier, caplog: pytest.LogCaptureFixture
) -> None:
    """A driver's own words may hold an address, and an address a password."""
    trips = trips_of(carrier)

    with pytest.raises(StorageUnavailable):
        await trips.submit("a?", later())

    assert "ConnectionError" in caplog.text
    assert "the road is closed" not in caplog.text


async def test_trip_that_fails_does_not_end_the_traffic(carrier: Carrier) -> None:
    """What waits behind a failing trip travels, and so does what comes later."""
    trips = trips_of(carrier)
    failing = await departed(trips, carrier, "a?")
    behind = trips.submit("b", later())

    carrier.go.set()

    assert await behind == "B"
    assert isinstance(failing.exception(), StorageUnavailable)
    assert await trips.submit("c", later()) == "C"


async def test_cancelled_waiter_in_the_queue_is_left_behind(carrier: Carrier) -> None:
    """Nobody waits for it any more, so it does not travel; the rest does."""
    trips = trips_of(carrier)
    first = await departed(trips, carrier, "a")
    gone, stays = trips.submit("b", later()), trips.submit("c", later())

    gone.cancel()
    carrier.go.set()

    assert await asyncio.gather(first, stays) == ["A", "C"]
    assert carrier.trips == [["a"], ["c"]]


async def test_cancelled_waiter_whose_item_is_on_the_road_changes_nothing(
    carrier: Carrier,
) -> None:
    """The trip goes on to its end for the others."""
    trips = trips_of(carrier)
    first = await departed(trips, carrier, "a")
    gone, stays = trips.submit("b", later()), trips.submit("c", later())
    carrier.go.set()
    await first
    carrier.go.clear()
    await until(lambda: len(carrier.trips) == 2)

    gone.cancel()
    carrier.go.set()

    assert await stays == "C"
    assert carrier.finished == 2


async def test_everybody_cancelled_leaves_the_road_free(carrier: Carrier) -> None:
    """A queue of nothing but cancelled waiters makes no trip, and the next item leaves."""
    trips = trips_of(carrier)
    first = await departed(trips, carrier, "a")
    gone = [trips.submit(item, later()) for item in "bcd"]
    for arrival in [first, *gone]:
        arrival.cancel()

    carrier.go.set()
    await trips.drained()

    assert carrier.trips == [["a"]]
    assert await trips.submit("e", later()) == "E"


async def test_handed_over_item_travels_though_its_waiter_was_cancelled(carrier: Carrier) -> None:
    """With `keep_cancelled` a write is carried out although the visitor has gone."""
    trips = trips_of(carrier, keep=True)
    first = await departed(trips, carrier, "a")
    gone, stays = trips.submit("b", later()), trips.submit("c", later())

    gone.cancel()
    carrier.go.set()

    assert await asyncio.gather(first, stays) == ["A", "C"]
    assert carrier.trips == [["a"], ["b", "c"]]


async def test_refused_item_does_not_travel_even_where_cancelled_ones_do(carrier: Carrier) -> None:
    """Who was told that it failed must not find later that it was done."""
    trips = trips_of(carrier, keep=True)
    first = await departed(trips, carrier, "a")

    with pytest.raises(StorageUnavailable):
        await asyncio.wait_for(trips.submit("b", later(0.01)), 5)
    carrier.go.set()
    await first
    await trips.drained()

    assert carrier.trips == [["a"]]


async def test_deadline_answers_who_waits_in_the_queue(carrier: Carrier) -> None:
    """The wait for a trip counts; the trip under way and those with more time are untouched."""
    trips = trips_of(carrier)
    first = await departed(trips, carrier, "a")
    hasty, patient = trips.submit("b", later(0.01)), trips.submit("c", later())

    with pytest.raises(StorageUnavailable):
        await asyncio.wait_for(hasty, 5)

    assert carrier.under_way == 1
    carrier.go.set()
    assert await asyncio.gather(first, patient) == ["A", "C"]
    assert carrier.trips == [["a"], ["c"]]


async def test_deadline_answers_who_is_on_the_road_and_never_stops_the_carrier(
    carrier: Carrier,
) -> None:
    """The waiter is told in time; the driver's operation runs to its own end."""
    trips = trips_of(carrier)
    carrier.go.clear()

    with pytest.raises(StorageUnavailable):
        await asyncio.wait_for(trips.submit("a", later(0.01)), 5)

    assert carrier.under_way == 1
    carrier.go.set()
    await trips.drained()
    assert carrier.finished == 1


async def test_deadline_on_the_road_is_kept_when_another_trip_arrives() -> None:
    """With two commands under way, the end of one leaves the passengers of the other counted."""
    arrived = {"slow": asyncio.Event(), "quick": asyncio.Event()}

    async def carry(items: list[str], _seconds: float) -> list[str]:
        await arrived[items[0]].wait()
        return items

    trips = Trips(carry, TripBounds(in_flight=2, batch=1))
    slow, quick = trips.submit("slow", later(0.05)), trips.submit("quick", later())
    arrived["quick"].set()
    assert await quick == "quick"

    with pytest.raises(StorageUnavailable):
        await asyncio.wait_for(slow, 5)

    arrived["slow"].set()
    await trips.drained()


async def test_every_deadline_of_one_trip_is_kept(carrier: Carrier) -> None:
    """Passengers of one trip may have different deadlines: each is answered at its own."""
    trips = trips_of(carrier)
    first = await departed(trips, carrier, "a")
    lengths = {"b": 0.06, "c": 0.02, "d": 0.04}
    loop = asyncio.get_running_loop()
    start = loop.time()
    waiting = {item: trips.submit(item, start + span) for item, span in lengths.items()}
    answered: dict[str, float] = {}
    for item, arrival in waiting.items():
        arrival.add_done_callback(lambda _arrival, item=item: answered.update({item: loop.time()}))  # type: ignore[misc]
    await asyncio.wait(waiting.values(), timeout=5)

    assert all(isinstance(arrival.exception(), StorageUnavailable) for arrival in waiting.values())
    assert all(answered[item] - start >= span - 0.001 for item, span in lengths.items())
    assert sorted(answered, key=answered.__getitem__) == ["c", "d", "b"]
    carrier.go.set()
    assert await first == "A"


async def test_every_deadline_aboard_is_kept(carrier: Carrier) -> None:
    """Who has more time than the first to be answered on the road is answered there too."""
    trips = trips_of(carrier)
    carrier.go.clear()
    aboard = [trips.submit("a", later(0.02)), trips.submit("b", later(0.05))]

    errors = await asyncio.wait_for(asyncio.gather(*aboard, return_exceptions=True), 5)

    assert carrier.trips == [["a", "b"]]
    assert [type(error) for error in errors] == [StorageUnavailable] * 2
    carrier.go.set()
    await trips.drained()


async def test_trip_is_given_the_longest_time_that_anyone_aboard_can_wait(
    carrier: Carrier,
) -> None:
    """A passenger in a hurry does not cut the trip short for the others."""
    trips = trips_of(carrier)
    first = await departed(trips, carrier, "a")
    others = [trips.submit("b", later(5)), trips.submit("c", later(50))]

    carrier.go.set()
    await asyncio.gather(first, *others)

    assert 40 < carrier.seconds[1] <= 50


async def test_item_submitted_in_the_very_moment_a_trip_ends_is_not_stranded(
    carrier: Carrier,
) -> None:
    """Whenever an item comes, before or after its predecessor's answer, it travels."""
    trips = trips_of(carrier)
    followers: list[asyncio.Future[str]] = []

    for number in range(200):
        arrival = trips.submit(str(number), later())
        arrival.add_done_callback(lambda _arrival: followers.append(trips.submit("f", later())))
        await arrival
        for _turn in range(number % 5):
            await asyncio.sleep(0)
        assert await asyncio.wait_for(trips.submit("g", later()), 10) == "G"
        assert await asyncio.wait_for(followers[-1], 10) == "F"


async def test_trip_that_ends_before_it_is_noted_does_not_block_the_road(
    carrier: Carrier,
) -> None:
    """With tasks that start eagerly (Python 3.12 and later) a whole trip may take no time."""
    trips = trips_of(carrier)

    def eager(loop: asyncio.AbstractEventLoop, work: Any, **_options: Any) -> Any:
        done = loop.create_future()
        try:
            work.send(None)
        except StopIteration as end:
            done.set_result(end.value)
        return done

    loop = asyncio.get_running_loop()
    loop.set_task_factory(eager)
    try:
        first = trips.submit("a", later())
    finally:
        loop.set_task_factory(None)

    assert await first == "A"
    assert await asyncio.wait_for(trips.submit("b", later()), 10) == "B"


async def test_drained_waits_for_what_is_under_way_and_for_what_waits(carrier: Carrier) -> None:
    """Afterwards nothing is on the road, nothing waits, and no timer is left."""
    trips = trips_of(carrier)
    arrivals = [await departed(trips, carrier, "a"), *(trips.submit(i, later()) for i in "bc")]
    draining = asyncio.create_task(trips.drained())
    await asyncio.sleep(0)
    assert not draining.done()

    carrier.go.set()
    await draining

    assert all(arrival.done() for arrival in arrivals)
    assert (len(trips), carrier.under_way, trips._under_way, trips._alarm) == (0, 0, [], None)


async def test_drained_waits_for_what_an_arrival_asks_for(carrier: Carrier) -> None:
    """The next step of a save sets out when the one before has arrived, on a trip of its own."""
    trips = trips_of(carrier)
    first, follower = await departed(trips, carrier, "a"), asyncio.Event()

    def follow(_arrival: asyncio.Future[str]) -> None:
        carrier.go.clear()
        _ = trips.submit("b", later())
        follower.set()

    first.add_done_callback(follow)
    draining = asyncio.create_task(trips.drained())
    carrier.go.set()
    await follower.wait()
    await until(lambda: len(carrier.trips) == 2)
    for _turn in range(10):
        await asyncio.sleep(0)

    assert not draining.done()
    carrier.go.set()
    await draining
    assert carrier.finished == 2


async def test_drained_of_an_idle_queue_returns_at_once(carrier: Carrier) -> None:
    """There is nothing to wait for, before the first item or after the last."""
    trips = trips_of(carrier)

    await trips.drained()
    await trips.submit("a", later())
    await trips.drained()
    await trips.drained()

    assert carrier.trips == [["a"]]


async def test_trip_does_not_run_in_the_context_of_the_request_that_started_it(
    carrier: Carrier,
) -> None:
    """A timeout or a variable of one request must not reach the others aboard."""
    trips = trips_of(carrier)
    WHERE.set("inside a request")

    await trips.submit("a", later())

    assert carrier.contexts == ["outside"]


async def test_nothing_is_kept_of_items_that_have_arrived(carrier: Carrier) -> None:
    """Ten thousand items later the queue holds no more than before."""
    trips = trips_of(carrier, batch=7)

    async def travel(rounds: int) -> int:
        for _round in range(rounds):
            items = ["good", "bad!", "good"] * 33
            waiting = [trips.submit(item, later()) for item in items]
            await asyncio.gather(*waiting, return_exceptions=True)
        await trips.drained()
        for notes in (carrier.trips, carrier.seconds, carrier.contexts):
            notes.clear()
        gc.collect()
        return len(gc.get_objects())

    before = await travel(rounds=1)
    after = await travel(rounds=100)

    assert after - before < 100
    assert (len(trips), trips._under_way, trips._porters) == (0, [], set())
