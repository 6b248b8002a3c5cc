"""The parts of the benchmarks that turn measurements into a page and a chart."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest

from benchmarks.chart import svg
from benchmarks.peers import PEERS, Peer
from benchmarks.report import markdown, ratio
from benchmarks.results import Measured, Results, Stored, medians
from benchmarks.rounds import FULL
from benchmarks.workload import ANSWER_BYTES, Load, encode, request_lines, user

READ = Load("read", 64)


def measured(requests: int = 1000, *, failures: int = 0) -> Measured:
    """Return the result of a run of one second."""
    return Measured(
        requests=requests,
        seconds=1.0,
        p50_ms=1.0,
        p99_ms=2.0,
        failures=failures,
        cpu_us=50.0,
        memory_mb=40.0,
    )


@pytest.fixture
def results() -> Results:
    """Return 1 500 requests per second for ours, 1 000 for Redis, and nothing for the others."""
    return {("pymongo", READ): measured(1500), ("redis", READ): measured(1000)}


def test_ratio_divides_our_requests_by_those_of_the_rival(results: Results) -> None:
    """1 500 against 1 000 requests per second is 1.5."""
    assert ratio(results, "redis", READ) == 1.5


def test_ratio_of_a_rival_that_did_not_run_is_none(results: Results) -> None:
    """A rival that was left out has no ratio."""
    assert ratio(results, "cookie", READ) is None


def test_report_has_the_median_of_the_rounds_and_every_failure() -> None:
    """One slow round does not change the median; one failed request is reported."""
    together = medians([measured(100), measured(1000), measured(1100, failures=1)])

    assert together.rate == 1000
    assert together.failures == 1


def test_page_lists_every_peer_and_a_dash_without_a_measurement(
    results: Results,
) -> None:
    """The page has ratios, a dash for a missing rival, bytes and versions."""
    stored = {"pymongo": Stored("MongoDB", "200", 300, 100)}

    page = markdown(PEERS, results, stored, {"mongod": "6.0.5"}, FULL)

    assert "| RedisStorage | 1.50 (2.0 / 2.0) | – |" in page
    assert "| EncryptedCookieStorage | – | – |" in page
    assert "| MongoStorage on PyMongo Async | MongoDB | 300 | 100 | 400 | 200 |" in page
    assert "| mongod | 6.0.5 |" in page


def test_page_has_dashes_for_a_program_that_answered_nothing(results: Results) -> None:
    """No answer has no response time, and the processor time cannot be divided by it."""
    results["redis", READ] = measured(0)

    page = markdown(PEERS, results, {}, {}, FULL)

    assert "| RedisStorage | 0 | – | – | – | 40 | 0 |" in page
    assert "| RedisStorage | – | – |" in page


def test_page_compares_few_connections_and_distant_databases(results: Results) -> None:
    """Each ratio stands beside the 99th percentiles, ours first."""
    results |= {
        ("pymongo", Load("read", 2, 5)): replace(measured(900), p99_ms=7.0),
        ("redis", Load("read", 2, 5)): replace(measured(1000), p99_ms=6.0),
    }

    page = markdown(PEERS, results, {}, {}, FULL)

    assert "| round trip | connections | shared finds, nothing opened | RedisStorage |" in page
    assert "| 5 ms | 2 | – | 0.90 (7.0 / 6.0) |" in page
    assert "## Read, 2 connections, 5 ms away" in page


def test_plan_measures_few_connections_at_each_distance() -> None:
    """As the page says; logins and logouts are measured on the same machine only."""
    far = [load for load in FULL.loads() if load.round_trip_ms]

    assert {load.round_trip_ms for load in far} == {1, 5, 20}
    assert {load.connections for load in far} == {1, 2, 8, 64}
    assert {load.kind for load in far} == {"read", "write"}


def test_full_run_takes_at_most_half_an_hour() -> None:
    """Measurements alone; starting and signing in take two minutes more."""
    near, distant = len(PEERS), sum(peer.distant for peer in PEERS)

    seconds = (
        FULL.rounds
        * FULL.seconds
        * sum(distant if load.round_trip_ms else near for load in FULL.loads())
    )

    assert seconds <= 30 * 60


def test_chart_has_a_panel_for_a_distant_database(results: Results) -> None:
    """It shows the ratio to RedisStorage by the number of connections."""
    results |= {
        ("pymongo", Load("read", 1, 5)): measured(950),
        ("redis", Load("read", 1, 5)): measured(1000),
    }

    root = ET.fromstring(svg(PEERS, results))  # noqa: S314 - we wrote it ourselves

    texts = [text.text for text in root.findall("{http://www.w3.org/2000/svg}text")]
    assert texts.count("databases 5 ms away, against RedisStorage") == 1
    assert "1 connection" in texts
    assert "0.95×" in texts


def test_chart_is_well_formed_and_draws_a_bar_for_each_ratio(results: Results) -> None:
    """One rival with one ratio is one bar, besides the two squares of the legend."""
    root = ET.fromstring(svg(PEERS, results))  # noqa: S314 - we wrote it ourselves

    bars = root.findall("{http://www.w3.org/2000/svg}rect")
    texts = [text.text for text in root.findall("{http://www.w3.org/2000/svg}text")]
    assert len(bars) == 3
    assert "1.50×" in texts
    assert "RedisStorage" in texts


@pytest.mark.parametrize("number", [0, 199, 9999])
def test_every_visitors_answer_has_sixty_bytes(number: int) -> None:
    """All peers are compared with answers of the same length."""
    assert len(encode(user(number)).encode()) == ANSWER_BYTES


def test_login_sends_no_cookie_and_other_requests_send_theirs() -> None:
    """A login comes from a new visitor; other requests carry the visitor's cookie."""
    assert request_lines("write", ["session=a"]) == ["POST /write session=a"]
    assert request_lines("login", ["session=a"])[1] == "POST /login?number=1"


def test_peer_without_its_program_gives_the_reason() -> None:
    """A missing peer is named with the reason and never replaced."""
    peer = Peer("x", "X", ("no-such-program",), programs=("no-such-program",))

    assert peer.missing() == "no-such-program is not installed"
