"""How often somebody may try, counted in a real MongoDB with a clock that the tests set."""

# ruff: noqa: RUF001 -- a look-alike spelling is tested here

from __future__ import annotations

import asyncio

import pytest

from webapp.accounts.throttle import QUOTA, Throttle
from webapp.database.client import Database
from webapp.http.refusals import Busy, SignInRefused, TooManyAttempts

SECRET = "a secret of the tests that is long enough"
ADA = "ada@example.org"
HOME, ATTACKER = "198.51.100.7", "203.0.113.9"


class Clock:
    """Seconds since the epoch, which a test sets."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """Return a clock that stands still."""
    return Clock()


@pytest.fixture
async def throttle(database: Database, clock: Clock) -> Throttle:
    """Return a throttle with the clock of the test.

    Without the TTL index: the server's own clock would delete what is expired by its time.
    """
    found = Throttle(database, SECRET)
    found.clock = clock
    return found


async def succeed(throttle: Throttle, address: str = HOME, email: str = ADA) -> None:
    """Make an attempt with the right password."""
    async with throttle.attempt(email, address):
        pass


async def fail(
    throttle: Throttle, times: int = 1, address: str = ATTACKER, email: str = ADA
) -> None:
    """Make so many attempts with a wrong password."""
    for _ in range(times):
        with pytest.raises(SignInRefused):
            async with throttle.attempt(email, address):
                raise SignInRefused


async def take_back(throttle: Throttle, address: str = HOME) -> None:
    """Make an attempt that ends before anybody looks at the password."""
    with pytest.raises(Busy):
        async with throttle.attempt(ADA, address):
            raise Busy("later", retry_after_seconds=1)


async def wait_of(throttle: Throttle, address: str = ATTACKER, email: str = ADA) -> int:
    """Make one more attempt and return the seconds that the refusal asks for."""
    with pytest.raises(TooManyAttempts) as refused:
        await succeed(throttle, address, email)
    return int(refused.value.headers["Retry-After"])


async def test_open_lock_is_open_to_a_process_whose_clock_is_behind(
    throttle: Throttle, clock: Clock
) -> None:
    """Neither a free failure, nor a success, nor an attempt taken back closes it by a clock."""
    for ahead in (fail, succeed, take_back):
        await ahead(throttle)
        clock.now -= 1
        await succeed(throttle, ATTACKER)
        await succeed(throttle, HOME)


async def test_five_failures_are_free_and_then_each_doubles_the_wait(
    throttle: Throttle, clock: Clock
) -> None:
    """After the fifth failure the waits are 1, 2, 4 ... seconds, up to 15 minutes."""
    await fail(throttle, 5)
    waits = []

    for _ in range(13):
        waits.append(await wait_of(throttle))
        clock.now += waits[-1]
        await fail(throttle, 1)

    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900, 900]


async def test_attempts_while_locked_do_not_extend_the_lock(
    throttle: Throttle, clock: Clock
) -> None:
    """Attempts at a closed lock change nothing; `Retry-After` counts down."""
    await fail(throttle, 5)
    clock.now += 1
    await fail(throttle, 1)

    waits = []
    for _ in range(4):
        waits.append(await wait_of(throttle))
        clock.now += 0.5

    assert waits == [2, 2, 1, 1]
    await fail(throttle, 1)


async def test_attempts_while_locked_do_not_use_the_quota_of_the_address(
    throttle: Throttle, clock: Clock
) -> None:
    """Somebody whose account is locked can still sign in to another one from the same address."""
    await fail(throttle, 5)
    for _ in range(QUOTA):
        await wait_of(throttle)

    await fail(throttle, 1, ATTACKER, "grace@example.org")


async def test_refused_parallel_attempts_do_not_use_the_quota_of_the_address(
    throttle: Throttle,
) -> None:
    """Of fifty at once five are free, and only those count."""
    tries = (fail(throttle) for _ in range(50))
    results = await asyncio.gather(*tries, return_exceptions=True)

    assert sum(isinstance(result, TooManyAttempts) for result in results) == 45
    for number in range(QUOTA - 5):
        await fail(throttle, 1, ATTACKER, f"{number}@example.com")
    await wait_of(throttle, email="one more@example.com")


async def test_success_opens_the_lock(throttle: Throttle, clock: Clock) -> None:
    """After a success the next five failures are free again."""
    await fail(throttle, 4)

    await succeed(throttle, ATTACKER)

    await fail(throttle, 5)
    assert await wait_of(throttle) == 1


async def test_parallel_attempts_get_only_the_free_ones(throttle: Throttle, clock: Clock) -> None:
    """Of fifty at once five are let through, and the others do not extend the lock."""
    answers = await asyncio.gather(*(fail(throttle) for _ in range(50)), return_exceptions=True)

    assert sum(not isinstance(answer, BaseException) for answer in answers) == 5
    assert sum(isinstance(answer, TooManyAttempts) for answer in answers) == 45
    assert await wait_of(throttle) == 1
    clock.now += 1
    await fail(throttle, 1)
    assert await wait_of(throttle) == 2


async def test_late_attempt_does_not_extend_the_lock(throttle: Throttle, clock: Clock) -> None:
    """An attempt that found the lock open and uses it late changes nothing."""
    lock = throttle._id("account", ADA)
    await fail(throttle, 5)
    clock.now += 0.5

    with pytest.raises(TooManyAttempts):
        await throttle._use(lock)

    clock.now += 0.5
    await throttle._use(lock)


async def test_familiar_address_is_not_locked_out_by_others(throttle: Throttle) -> None:
    """The owner signs in from home while the guesses of an attacker have locked the account."""
    await succeed(throttle)
    await fail(throttle, 5)
    assert await wait_of(throttle) == 1

    await succeed(throttle)

    assert await wait_of(throttle) == 1


async def test_familiar_address_has_a_lock_of_its_own(throttle: Throttle) -> None:
    """Guessing from a familiar address is throttled too."""
    await succeed(throttle)

    await fail(throttle, 5, HOME)

    assert await wait_of(throttle, HOME) == 1
    await fail(throttle)


async def test_familiar_address_is_forgotten_after_thirty_days(
    throttle: Throttle, clock: Clock
) -> None:
    """A month later the address is not familiar any more."""
    await succeed(throttle)
    clock.now += 30 * 86400
    await fail(throttle, 5)

    assert await wait_of(throttle, HOME) == 1


async def test_address_is_familiar_to_one_account_only(throttle: Throttle) -> None:
    """The address of one account is not familiar to another."""
    await succeed(throttle, ATTACKER, "mallory@example.org")
    await fail(throttle, 5)

    assert await wait_of(throttle) == 1


async def test_failures_are_forgotten_after_a_day(throttle: Throttle, clock: Clock) -> None:
    """Failures of yesterday do not count, whether they are deleted yet or not."""
    await fail(throttle, 5)
    clock.now += 86401

    await fail(throttle, 5)

    assert await wait_of(throttle) == 1


async def test_email_is_folded_before_it_is_counted(throttle: Throttle) -> None:
    """Another spelling of the address gives no more guesses."""
    for spelling in (ADA, "ADA@example.org", " Ada@Example.ORG", "ａda@example.org", ADA):
        await fail(throttle, 1, email=spelling)

    assert await wait_of(throttle, email="aDa@example.org") == 1


async def test_address_has_a_hundred_failures_per_quarter_of_an_hour(
    throttle: Throttle, clock: Clock
) -> None:
    """The hundred and first attempt waits for the rest of the window, then all are free again."""
    for n in range(QUOTA):
        await fail(throttle, 1, ATTACKER, f"{n}@example.org")
    clock.now += 300

    assert await wait_of(throttle, email="one-more@example.org") == 600
    await fail(throttle, 1, HOME, "one-more@example.org")
    clock.now += 600
    await fail(throttle, 1, ATTACKER, "one-more@example.org")


async def test_successes_do_not_count_against_an_address(throttle: Throttle) -> None:
    """Any number of people behind one address may sign in."""
    for n in range(QUOTA + 5):
        await succeed(throttle, email=f"{n}@example.org")


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        pytest.param("2001:db8::1", "2001:db8::ffff:2", True, id="one /64"),
        pytest.param("2001:db8::1", "2001:db8:0:1::1", False, id="two /64"),
        pytest.param("198.51.100.1", "198.51.100.2", False, id="two IPv4 addresses"),
        pytest.param("::ffff:198.51.100.1", "::ffff:198.51.100.2", False, id="two mapped ones"),
        pytest.param("198.51.100.1", "::ffff:198.51.100.1", True, id="one, mapped and not"),
        pytest.param("fe80::1%eth0", "fe80::2%eth0", True, id="zones"),
        pytest.param("unknown", "unknown", True, id="peers without an address"),
    ],
)
async def test_ipv6_addresses_are_counted_by_network(
    throttle: Throttle, one: str, other: str, *, shared: bool
) -> None:
    """IPv6 addresses count by /64: a customer has all addresses in it."""
    for _ in range(QUOTA):
        await throttle.count_sign_up(one)

    if shared:
        with pytest.raises(TooManyAttempts):
            await throttle.count_sign_up(other)
    else:
        await throttle.count_sign_up(other)


async def test_sign_ups_are_limited_per_address(throttle: Throttle, clock: Clock) -> None:
    """The hundred and first sign-up of a quarter of an hour is refused."""
    for _ in range(QUOTA):
        await throttle.count_sign_up(HOME)

    with pytest.raises(TooManyAttempts) as refused:
        await throttle.count_sign_up(HOME)

    assert refused.value.sentence == "Too many attempts, try again in 15 minutes."
    clock.now += 900
    await throttle.count_sign_up(HOME)


async def test_busy_attempt_is_not_counted(throttle: Throttle) -> None:
    """Attempts that the server was too busy to check use nothing up."""
    for _ in range(QUOTA + 5):
        await take_back(throttle, ATTACKER)

    await fail(throttle, 5)
    assert await wait_of(throttle) == 1


async def test_all_processes_share_the_counters(
    throttle: Throttle, database: Database, clock: Clock
) -> None:
    """Another process with the same secret sees the same locks."""
    other = Throttle(database, SECRET)
    other.clock = clock
    await fail(throttle, 3)
    await fail(other, 2)

    assert await wait_of(throttle) == 1
    assert await wait_of(other) == 1


async def test_collection_contains_no_email_and_no_address(
    throttle: Throttle, database: Database
) -> None:
    """Its keys are keyed hashes: no address, no email, and no plain hash of them."""
    await succeed(throttle)
    await fail(throttle)
    other_secret = Throttle(database, "another secret of the tests")

    documents = await database["throttle"].find({}).to_list(None)

    assert documents
    for readable in (ADA, HOME, ATTACKER):
        assert readable not in str(documents)
    assert throttle._id("account", ADA) in [document["_id"] for document in documents]
    assert other_secret._id("account", ADA) not in [document["_id"] for document in documents]


async def test_every_counter_expires(throttle: Throttle, database: Database) -> None:
    """The TTL index deletes every kind of counter."""
    await succeed(throttle)
    await fail(throttle)
    await throttle.count_sign_up(HOME)

    await throttle.create_indexes()
    await throttle.create_indexes()

    indexes = await database["throttle"].index_information()
    assert [index.get("expireAfterSeconds") for index in indexes.values()] == [None, 0]
    assert await database["throttle"].count_documents({"expires_at": {"$type": "date"}}) == 5
    assert await database["throttle"].count_documents({}) == 5
