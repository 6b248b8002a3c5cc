"""A flood of sign-ins from many forged addresses is throttled; other people can sign in."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import ClientSession, TCPConnector

from tests.faults.conftest import Remark
from tests.faults.people import ROUTER, Person
from tests.processes import Process

pytestmark = pytest.mark.long

FREE_FAILURES = 5
QUOTA = 100
MOST_GUESSES = 50_000

Guess = tuple[str, str]  # the value of X-Forwarded-For, the email address that is tried


@asynccontextmanager
async def flood(
    port: int, guesses: Callable[[int], Guess], number: int, at_once: int
) -> AsyncIterator[tuple[Counter[int], asyncio.Event]]:
    """Send this many guesses, or until the event is set; at the end the statuses are complete."""
    statuses: Counter[int] = Counter()
    ended = asyncio.Event()
    numbers = itertools.takewhile(lambda _: not ended.is_set(), range(number))

    async def attack(client: ClientSession) -> None:
        for count in numbers:
            forwarded, email = guesses(count)
            headers = ROUTER | {"X-Forwarded-For": forwarded}
            fields = {"email": email, "password": f"wrong password number {count}"}
            async with client.post("/api/auth/login", json=fields, headers=headers) as answer:
                statuses[answer.status] += 1
                if answer.status in (429, 503):
                    assert int(answer.headers["Retry-After"]) > 0

    async with ClientSession(f"http://127.0.0.1:{port}", connector=TCPConnector(limit=0)) as client:
        attackers = [asyncio.create_task(attack(client)) for _ in range(at_once)]
        try:
            yield statuses, ended
            await asyncio.gather(*attackers)
        finally:
            for attacker in attackers:
                attacker.cancel()


@pytest.fixture
async def people(site: Process, production: dict[str, str]) -> tuple[Person, Person]:
    """Create Ada, who has signed in from her address before, and Grace, who has not."""
    port = int(production["PORT"])
    ada, grace = Person("Ada", "203.0.113.1", port), Person("Grace", "203.0.113.2", port)
    assert [await ada.sign_up(), await grace.sign_up(), await ada.sign_in()] == [201, 201, 200]
    return ada, grace


async def test_guesses_from_a_thousand_addresses_are_throttled_for_one_account(
    people: tuple[Person, Person], production: dict[str, str], remark: Remark
) -> None:
    """Five guesses are checked, then one after each pause of 1, 2, 4 s; Ada and Grace sign in."""
    ada, grace = people

    def guess(count: int) -> Guess:
        return f"192.0.2.99, 198.51.{count % 250}.{count // 250}", ada.email

    async with flood(int(production["PORT"]), guess, 1000, 32) as (statuses, _):
        signed_in = [await ada.sign_in(), await grace.sign_in(), await ada.sign_in()]
        served = [await ada.is_served(), await grace.is_served()]

    remark(f"1000 guesses at one account from 1000 addresses: {dict(statuses)}")
    assert signed_in == [200, 200, 200]
    assert served == [True, True]
    assert set(statuses) <= {401, 429}
    assert statuses[401] <= FREE_FAILURES + 5
    assert sum(statuses.values()) == 1000


async def test_forged_addresses_left_of_the_routers_are_ignored(
    people: tuple[Person, Person], production: dict[str, str], remark: Remark
) -> None:
    """Whatever addresses a client forges, it has a hundred guesses for all accounts together."""

    def guess(count: int) -> Guess:
        return f"10.0.0.{count}, 203.0.113.{count}, 198.51.100.7", f"user{count}@example.org"

    async with flood(int(production["PORT"]), guess, 250, 16) as (statuses, _):
        signed_in = await people[1].sign_in()

    remark(f"250 guesses at 250 accounts from one address that forges others: {dict(statuses)}")
    assert signed_in == 200
    assert statuses == {401: QUOTA, 429: 250 - QUOTA}


async def test_sign_ins_succeed_while_a_thousand_machines_guess_passwords(
    people: tuple[Person, Person], production: dict[str, str], remark: Remark
) -> None:
    """No throttle applies here; a full queue of the hashing threads is answered with 503 at once.

    People who sign in at that time may get a 503 too, and succeed when they try again.
    """
    ada, grace = people

    def guess(count: int) -> Guess:
        return f"198.51.{count % 250}.{count // 250}", f"user{count}@example.org"

    async def tries(person: Person) -> int:
        for count in itertools.count(1):
            status = await person.sign_in()
            if status == 200:
                return count
            assert status == 503
        raise AssertionError

    async with flood(int(production["PORT"]), guess, MOST_GUESSES, 200) as (statuses, ended):
        needed = await asyncio.gather(tries(ada), tries(grace))
        served = await ada.is_served()
        still_attacked = sum(statuses.values()) < MOST_GUESSES
        ended.set()

    remark(
        f"{sum(statuses.values())} guesses, each at another account from another address:"
        f" {dict(statuses)};"
        f" two people signed in after {needed} tries"
    )
    assert served
    assert still_attacked
    assert set(statuses) <= {401, 503}
