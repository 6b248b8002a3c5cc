"""How many commands are under way: near and far, with few visitors and with many.

On a simulated clock, against every fixed limit, so that no other program changes the result.
"""

from __future__ import annotations

import pytest

from storage.pacing import MOST_UNDER_WAY, REMEMBERED, Pace
from tests.storage.simulation import Fixed, Simulation

FIXED = (1, 2, 4, 8, 16, 32)
# Of the best fixed limit, which is another one for each distance and each number of visitors.
AT_LEAST = 0.85


def simulation(round_trip: float, visitors: int) -> Simulation:
    """Make one that is long enough for twenty round trips, and ten thousand requests at most."""
    return Simulation(visitors, round_trip, max(20 * round_trip, 0.1))


@pytest.mark.parametrize("visitors", [1, 2, 8, 64, 1000])
@pytest.mark.parametrize("milliseconds", [0.2, 1, 5, 20, 100])
def test_no_fixed_limit_answers_many_more_requests(milliseconds: float, visitors: int) -> None:
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
    ("seconds", "limit"),
    [(0.0, 1), (0.0002, 1), (0.001, 4), (0.005, 20), (1.0, MOST_UNDER_WAY)],
)
def test_limit_follows_the_time_of_a_command(seconds: float, limit: int) -> None:
    """It is what the event loop could send meanwhile, one at least."""
    pace = Pace()

    pace.learn(seconds)

    assert pace.limit == limit


def test_commands_that_wait_for_the_server_do_not_raise_the_limit() -> None:
    """A busy server would get more commands, and smaller ones."""
    pace = Pace()
    pace.learn(0.001)

    for _ in range(REMEMBERED):
        pace.learn(1.0)

    assert pace.limit == 4


def test_least_time_is_forgotten() -> None:
    """Another server may have become the primary."""
    pace = Pace()
    pace.learn(0.001)

    for _ in range(3 * REMEMBERED):
        pace.learn(0.005)

    assert pace.limit == 20


def test_limit_grows_by_one_with_every_sixteen_commands_after_one_that_failed() -> None:
    """Many at once would each open a connection, of which some would break again."""
    pace = Pace()
    pace.learn(0.005)

    pace.fail()

    assert pace.limit == 1
    limits = []
    for _ in range(REMEMBERED * 21):
        pace.learn(0.005)
        limits.append(pace.limit)
    assert limits == sorted(limits)
    assert [limits.count(n) for n in range(1, 21)] == [REMEMBERED] * 19 + [2 * REMEMBERED]


def test_failed_command_makes_the_distance_unknown() -> None:
    """Another server may answer from now on."""
    pace = Pace()
    pace.learn(0.0001)

    pace.fail()
    for _ in range(REMEMBERED * MOST_UNDER_WAY):
        pace.learn(1.0)

    assert pace.limit == MOST_UNDER_WAY
