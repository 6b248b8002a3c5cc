"""How often somebody may try, counted in a real MongoDB with a clock that the tests set."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from ipaddress import IPv6Address

import pytest

from webapp.accounts.networks import networks_of
from webapp.accounts.throttle import FAILURES_IN_A_ROW, Throttle
from webapp.config.settings import ATTEMPTS_PER_ADDRESS
from webapp.database.client import Database
from webapp.http.refusals import Busy, SignInRefused, TooManyAttempts

SECRET = "a secret of the tests that is long enough"
NEW_SECRET = "a new secret of the tests, long enough"
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


def throttle_with(
    database: Database, clock: Clock, *secrets: str, per_address: int = ATTEMPTS_PER_ADDRESS
) -> Throttle:
    """Make the throttle of a process with these secrets, the one to write with first."""
    throttle = Throttle(database, secrets, per_address=per_address)
    throttle.clock = clock
    return throttle


@pytest.fixture
async def throttle(database: Database, clock: Clock) -> Throttle:
    """Return a throttle with the clock of the test.

    Without the TTL index: the server's own clock would delete what is expired by its time.
    """
    return throttle_with(database, clock, SECRET)


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
    for _ in range(ATTEMPTS_PER_ADDRESS):
        await wait_of(throttle)

    await fail(throttle, 1, ATTACKER, "grace@example.org")


async def test_refused_parallel_attempts_do_not_use_the_quota_of_the_address(
    throttle: Throttle,
) -> None:
    """Of fifty at once five are free, and only those count."""
    tries = (fail(throttle) for _ in range(50))
    results = await asyncio.gather(*tries, return_exceptions=True)

    assert sum(isinstance(result, TooManyAttempts) for result in results) == 45
    for number in range(ATTEMPTS_PER_ADDRESS - 5):
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
    lock = ("account", ADA)
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
    for spelling in (ADA, "ADA@example.org", " Ada@Example.ORG", "ada@EXAMPLE.org", ADA):
        await fail(throttle, 1, email=spelling)

    assert await wait_of(throttle, email="aDa@example.org") == 1


async def test_address_has_a_hundred_failures_per_quarter_of_an_hour(
    throttle: Throttle, clock: Clock
) -> None:
    """The hundred and first attempt waits for the rest of the window, then all are free again."""
    for n in range(ATTEMPTS_PER_ADDRESS):
        await fail(throttle, 1, ATTACKER, f"{n}@example.org")
    clock.now += 300

    assert await wait_of(throttle, email="one-more@example.org") == 600
    await fail(throttle, 1, HOME, "one-more@example.org")
    clock.now += 600
    await fail(throttle, 1, ATTACKER, "one-more@example.org")


async def test_attempt_of_one_window_gives_nothing_back_to_the_next(
    throttle: Throttle, clock: Clock
) -> None:
    """Who keeps attempts waiting until the next quarter of an hour has no more failures in it."""
    async with throttle.attempt("mine@example.org", ATTACKER):
        clock.now += 16 * 60
        for number in range(ATTEMPTS_PER_ADDRESS):
            await fail(throttle, email=f"user{number}@example.org")

    with pytest.raises(TooManyAttempts):
        await fail(throttle, email="one.more@example.org")


async def test_successes_do_not_count_against_an_address(throttle: Throttle) -> None:
    """Any number of people behind one address may sign in."""
    for n in range(ATTEMPTS_PER_ADDRESS + 5):
        await succeed(throttle, email=f"{n}@example.org")


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        pytest.param("2001:db8::1", "2001:db8::ffff:2", True, id="one /64"),
        pytest.param("2001:db8::1", "2001:db8:1::1", False, id="two /48"),
    ],
)
async def test_ipv6_addresses_are_counted_by_network(
    throttle: Throttle, one: str, other: str, *, shared: bool
) -> None:
    """A customer has all addresses of a /64; `test_networks` has the other cases."""
    for _ in range(ATTEMPTS_PER_ADDRESS):
        await throttle.count_sign_up(one)

    if shared:
        with pytest.raises(TooManyAttempts):
            await throttle.count_sign_up(other)
    else:
        await throttle.count_sign_up(other)


@pytest.mark.parametrize(
    ("size", "share"),
    [pytest.param(56, 4, id="/56: 400"), pytest.param(48, 16, id="/48: 1600")],
)
async def test_larger_ipv6_networks_have_larger_quotas(
    throttle: Throttle, database: Database, clock: Clock, size: int, share: int
) -> None:
    """A client that changes its /64 each time is stopped by the quota of the larger network."""
    few = throttle_with(database, clock, SECRET, per_address=2)
    step = 1 << (64 if size == 56 else 72)  # another /64, or another /56

    def address(number: int) -> str:
        return str(IPv6Address((0x20010DB8 << 96) + number * step))

    for number in range(2 * share):
        await few.count_sign_up(address(number))
    with pytest.raises(TooManyAttempts):
        await few.count_sign_up(address(2 * share))

    # The refused attempt has used up nothing of its smaller networks.
    refused = networks_of(address(2 * share))[0]
    counter = await database["throttle"].find_one({"_id": few._id("sign-up", refused)})
    assert (counter or {"spent": 0})["spent"] == 0
    await few.count_sign_up("2001:db9::1")


async def test_quota_of_an_address_is_the_configured_one(
    throttle: Throttle, database: Database, clock: Clock
) -> None:
    """A school behind one address may need more than a hundred, or somebody wants less."""
    strict = throttle_with(database, clock, SECRET, per_address=3)
    for number in range(3):
        await fail(strict, 1, ATTACKER, f"{number}@example.org")

    assert await wait_of(strict, email="one-more@example.org") == 900


async def test_quota_of_an_address_does_not_apply_to_accounts_familiar_there(
    throttle: Throttle,
) -> None:
    """A hundred people behind one address: wrong passwords lock out nobody who signed in before."""
    people = [f"{number}@example.org" for number in range(100)]
    for email in people:
        await succeed(throttle, HOME, email)
    for number in range(ATTEMPTS_PER_ADDRESS):
        await fail(throttle, 1, HOME, f"other{number}@example.org")
    assert await wait_of(throttle, HOME, "one-more@example.org") == 900

    for email in people:
        await succeed(throttle, HOME, email)
    await fail(throttle, 4, HOME, people[0])
    await succeed(throttle, HOME, people[0])


async def fail_in_a_row(throttle: Throttle, clock: Clock, times: int = FAILURES_IN_A_ROW) -> None:
    """Fail so often in a row, each time when the lock is open, from ever new addresses."""
    for number in range(times):
        await fail(throttle, 1, f"192.0.2.{number}")
        clock.now += 900


async def test_account_has_a_hundred_failures_in_a_row(throttle: Throttle, clock: Clock) -> None:
    """NIST SP 800-63B: then 429 until thirty days after the first, except at a familiar address."""
    await succeed(throttle, HOME)
    began = clock.now
    await fail_in_a_row(throttle, clock)

    left = 30 * 86400 - (clock.now - began)
    assert await wait_of(throttle, "203.0.113.200") == left
    await succeed(throttle, HOME)
    assert await wait_of(throttle, "203.0.113.200") == left
    clock.now += left
    await fail(throttle, 1, "203.0.113.200")


async def test_success_ends_the_failures_in_a_row(throttle: Throttle, clock: Clock) -> None:
    """Ninety-nine failures and a success: the next hundred begin at one."""
    await fail_in_a_row(throttle, clock, FAILURES_IN_A_ROW - 1)
    await succeed(throttle, "203.0.113.200")

    await fail(throttle, 5)

    assert await wait_of(throttle) == 1


async def test_operators_reset_ends_the_failures_in_a_row(throttle: Throttle, clock: Clock) -> None:
    """With a new password unfamiliar addresses may try again."""
    await fail_in_a_row(throttle, clock)

    await throttle.forget_failures(ADA.upper())

    await succeed(throttle, ATTACKER)


async def test_rotated_secret_keeps_counts_and_familiar_addresses(
    throttle: Throttle, database: Database, clock: Clock
) -> None:
    """What was counted under an older secret still counts, and is written under the new one."""
    await succeed(throttle, HOME)
    await fail(throttle, 5)
    for number in range(ATTEMPTS_PER_ADDRESS - 5):
        await fail(throttle, 1, ATTACKER, f"{number}@example.org")
    rotated = throttle_with(database, clock, NEW_SECRET, SECRET)

    assert await wait_of(rotated, "192.0.2.1") == 1
    assert await wait_of(rotated, email="one-more@example.org") == 900
    await succeed(rotated, HOME)

    new_alone = throttle_with(database, clock, NEW_SECRET)
    assert await wait_of(new_alone, "192.0.2.1") == 1
    await succeed(new_alone, HOME)
    assert await wait_of(new_alone, email="one-more@example.org") == 900


async def test_success_during_a_rotation_is_not_undone_by_the_old_counts(
    throttle: Throttle, database: Database, clock: Clock
) -> None:
    """The failures under the older secret are deleted too."""
    await fail(throttle, 5)
    rotated = throttle_with(database, clock, NEW_SECRET, SECRET)
    clock.now += 1

    await succeed(rotated, ATTACKER)

    await fail(rotated, 4, "192.0.2.1")
    await fail(rotated, 1, "192.0.2.1")
    assert await wait_of(rotated, "192.0.2.1") == 1


async def test_sign_ups_are_limited_per_address(throttle: Throttle, clock: Clock) -> None:
    """The hundred and first sign-up of a quarter of an hour is refused."""
    for _ in range(ATTEMPTS_PER_ADDRESS):
        await throttle.count_sign_up(HOME)

    with pytest.raises(TooManyAttempts) as refused:
        await throttle.count_sign_up(HOME)

    assert refused.value.sentence == "Too many attempts, try again in 15 minutes."
    clock.now += 900
    await throttle.count_sign_up(HOME)


async def test_attempt_that_the_server_is_too_busy_for_is_not_counted(throttle: Throttle) -> None:
    """Neither for the address nor in the failures in a row: no password was checked."""
    for _ in range(ATTEMPTS_PER_ADDRESS + 5):
        await take_back(throttle, ATTACKER)

    await fail(throttle, 5)
    assert await wait_of(throttle) == 1


async def test_all_processes_share_the_counters(
    throttle: Throttle, database: Database, clock: Clock
) -> None:
    """Another process with the same secret sees the same locks."""
    other = throttle_with(database, clock, SECRET)
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
    other_secret = Throttle(
        database, ["another secret of the tests"], per_address=ATTEMPTS_PER_ADDRESS
    )

    documents = await database["throttle"].find({}).to_list(None)

    assert documents
    for readable in (ADA, HOME, ATTACKER):
        assert readable not in str(documents)
    assert throttle._id("account", ADA) in [document["_id"] for document in documents]
    assert other_secret._id("account", ADA) not in [document["_id"] for document in documents]


async def test_every_counter_expires_within_thirty_days(
    throttle: Throttle, database: Database
) -> None:
    """The TTL index deletes every kind of counter."""
    await succeed(throttle)
    await fail(throttle)
    await throttle.count_sign_up(HOME)

    await throttle.create_indexes()
    await throttle.create_indexes()

    indexes = await database["throttle"].index_information()
    assert [index.get("expireAfterSeconds") for index in indexes.values()] == [None, 0]
    latest = datetime.fromtimestamp(throttle.clock(), UTC) + timedelta(days=30)
    assert await database["throttle"].count_documents({"expires_at": {"$lte": latest}}) == 6
    assert await database["throttle"].count_documents({}) == 6
