"""How many commands are under way: near and far, with few visitors and with many.

On a simulated clock, against every fixed limit, so that no other program changes the result.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from storage.pacing import MOST_UNDER_WAY, SUCCESSES_PER_STEP, Pace, idle_seconds
from tests.storage.simulation import Fixed, Simulation

FIXED = (1, 2, 4, 8, 16, 32)
# Of the best fixed limit, which is another one for each distance and each number of visitors.
AT_LEAST = 0.85


def simulation(round_trip: float, visitors: int) -> Simulation:
    """Make one that is long enough for twenty round trips, and for learning the limit."""
    learning = 0.1 if round_trip < 0.001 else 0.3
    return Simulation(visitors, round_trip, max(20 * round_trip, learning))


@pytest.mark.parametrize("visitors", [1, 2, 8, 64, 1000])
@pytest.mark.parametrize("milliseconds", [0.2, 1, 5, 20, 100])
def test_no_fixed_limit_serves_many_more_requests(milliseconds: float, visitors: int) -> None:
    """At each distance, with few visitors and with many."""
    here = (milliseconds / 1000, visitors)

    best = max(simulation(*here).run(Fixed(n)) for n in FIXED if n <= 2 * visitors)

    assert simulation(*here).run() >= AT_LEAST * best


@pytest.mark.parametrize("visitors", [8, 64])
@pytest.mark.parametrize(
    ("before", "after"),
    [pytest.param(0.2, 20, id="further away"), pytest.param(20, 0.2, id="nearer")],
)
def test_new_distance_is_learned(before: float, after: float, visitors: int) -> None:
    """After a failover, forty round trips are enough to be as fast as one that knew only this."""
    far = max(before, after) / 1000
    changes_at = 20 * far

    moved = Simulation(
        visitors,
        0,
        seconds=80 * far,
        distance=lambda now: (before if now < changes_at else after) / 1000,
    )
    _ = moved.run()
    steady = simulation(after / 1000, visitors).run()

    assert moved.rate(60 * far, 80 * far) >= 0.9 * steady


@pytest.mark.parametrize("visitors", [8, 64])
@pytest.mark.parametrize("milliseconds", [5, 20])
def test_lost_connection_costs_speed_for_a_hundred_round_trips(
    milliseconds: float, visitors: int
) -> None:
    """After them a process is as fast as one that lost none."""
    trip = milliseconds / 1000
    sent: list[int] = []

    def distance(now: float) -> float:
        if now >= 20 * trip and not sent:
            sent.append(len(broken.limits))
            raise ConnectionError("connection closed")
        return trip

    broken = Simulation(visitors, trip, seconds=160 * trip, distance=distance)
    _ = broken.run()
    steady = simulation(trip, visitors).run()

    before, after = broken.limits[: sent[0]], broken.limits[sent[0] :]
    # What was under way at that time and is answered raises the limit too.
    assert min(after) <= 3 < max(before)
    assert broken.rate(120 * trip, 160 * trip) >= 0.9 * steady


@pytest.mark.parametrize("visitors", [2, 8, 64])
@pytest.mark.parametrize("milliseconds", [0.2, 1, 5, 20])
def test_requests_per_second_do_not_oscillate(milliseconds: float, visitors: int) -> None:
    """In ten parts of the time they differ by a quarter of their mean at most."""
    trip = milliseconds / 1000
    steady = Simulation(visitors, trip, seconds=max(200 * trip, 0.2))

    _ = steady.run()

    begin = steady.seconds / 5
    part = (steady.seconds - begin) / 10
    rates = [steady.rate(begin + n * part, begin + (n + 1) * part) for n in range(10)]
    assert max(rates) - min(rates) <= 0.25 * sum(rates) / 10


def test_one_command_at_a_time_until_something_is_known() -> None:
    """The first commands of a process are not sent one for each request."""
    assert Pace().limit == 1


@pytest.mark.parametrize(
    ("idle", "limit"),
    [(-0.1, 1), (0.0, 1), (0.0002, 1), (0.001, 5), (0.005, 21), (1.0, MOST_UNDER_WAY)],
)
def test_limit_follows_the_idle_time_during_a_command(idle: float, limit: int) -> None:
    """It is one, and as many as the process could send meanwhile; coming from below and above."""
    rising, falling = Pace(), Pace()
    falling.limit = MOST_UNDER_WAY

    for pace in (rising, falling):
        for _ in range(MOST_UNDER_WAY):
            pace.learn(idle)

    assert rising.limit == falling.limit == limit


def test_one_command_moves_the_limit_by_one() -> None:
    """A server that is busy for a moment does not get many small commands."""
    pace = Pace()
    for _ in range(MOST_UNDER_WAY):
        pace.learn(0.001)

    pace.learn(1.0)
    assert pace.limit == 6
    pace.learn(0.001)
    assert pace.limit == 5


def test_idle_time_is_what_no_thread_uses() -> None:
    """Motor's commands run in threads, and cost the event loop their time all the same."""
    seconds = 0.001

    def compute() -> None:
        """Use the processor."""
        end = time.thread_time() + seconds
        while time.thread_time() < end:
            pass

    def idle_during(work: Callable[[], None]) -> float:
        begin = idle_seconds()
        work()
        return idle_seconds() - begin

    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(idle_during, lambda: time.sleep(seconds)).result() > seconds / 2
        # Other processes may have the processor meanwhile.
        tries = (thread.submit(idle_during, compute).result() for _ in range(500))
        assert any(idle < seconds / 2 for idle in tries)


@pytest.mark.parametrize(
    ("limit", "share"), [(1, 64), (7, 64), (8, 32), (16, 22), (24, 16), (MOST_UNDER_WAY, 13)]
)
def test_command_carries_a_part_where_the_process_is_idle_for_long(limit: int, share: int) -> None:
    """All 64 of them otherwise; a part of one item is an item."""
    pace = Pace()
    pace.limit = limit

    assert pace.share(64) == share
    assert pace.share(1) == 1


def test_visitors_who_come_at_once_are_answered_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one command they would come at once for ever, and the process would wait in between."""
    monkeypatch.setattr("tests.storage.simulation.PAUSE_SECONDS", 30e-6)
    monkeypatch.setattr("tests.storage.simulation.REQUEST_SECONDS", 100e-6)
    in_parts = simulation(0.005, 64).run()
    monkeypatch.setattr(Pace, "share", lambda _pace, items: items)

    assert in_parts >= 1.1 * simulation(0.005, 64).run()


def test_limit_grows_by_one_with_every_sixteen_commands_after_one_that_failed() -> None:
    """Many at once would each open a connection, of which some would break again."""
    pace = Pace()
    for _ in range(MOST_UNDER_WAY):
        pace.learn(0.005)

    pace.fail()

    assert pace.limit == 1
    limits = []
    for _ in range(SUCCESSES_PER_STEP * 21):
        pace.learn(0.005)
        limits.append(pace.limit)
    assert limits == sorted(limits)
    step = SUCCESSES_PER_STEP
    assert [limits.count(n) for n in range(1, 22)] == [step - 1] + [step] * 19 + [step + 1]


def test_failed_command_does_not_raise_the_limit_where_one_is_best() -> None:
    """Beside the server there is one at a time before and after."""
    pace = Pace()

    pace.fail()
    for _ in range(SUCCESSES_PER_STEP * 3):
        pace.learn(0.0001)

    assert pace.limit == 1
