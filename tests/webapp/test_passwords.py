"""How passwords are hashed: Argon2id in PHC text, in a pool that refuses work when it is full."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from webapp.accounts.passwords import Cost, Passwords
from webapp.http.refusals import Busy

CHEAP = Cost(memory_kib=64, passes=1)


@pytest.fixture
def passwords() -> Iterator[Passwords]:
    """Return a pool that hashes at a low cost."""
    pool = Passwords(CHEAP)
    yield pool
    pool.close()


async def test_stored_text_is_phc_with_at_least_owasps_parameters() -> None:
    """A stored hash is Argon2id, 19 MiB, two passes, one lane, in PHC text."""
    pool = Passwords()

    phc = await pool.hash("orchid lamp river stone")

    assert phc.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    pool.close()


async def test_password_matches_only_its_own_hash(passwords: Passwords) -> None:
    """The right password verifies and another does not."""
    phc = await passwords.hash("right")

    assert await passwords.verify("right", phc)
    assert not await passwords.verify("wrong", phc)


async def test_two_hashes_of_one_password_differ(passwords: Passwords) -> None:
    """Every hash has its own salt."""
    assert await passwords.hash("same") != await passwords.hash("same")


async def test_composed_and_decomposed_spellings_are_one_password(passwords: Passwords) -> None:
    """A password typed on another keyboard is the same after NFKC."""
    phc = await passwords.hash("caf\u00e9 \ufb01n")

    assert await passwords.verify("cafe\u0301 fin", phc)


async def test_missing_account_never_verifies(passwords: Passwords) -> None:
    """For an unknown user a decoy is verified, and no password matches it."""
    assert not await passwords.verify("anything", None)


@pytest.mark.parametrize(
    "phc",
    [
        pytest.param("", id="nothing"),
        pytest.param("plain text", id="not PHC text"),
        pytest.param("$argon2id$v=19$m=64,t=1,p=1$c2FsdA$", id="no hash"),
        pytest.param("$2b$12$abcdefghijklmnopqrstuv", id="another algorithm"),
    ],
)
async def test_damaged_stored_text_never_verifies(passwords: Passwords, phc: str) -> None:
    """A damaged hash in the database refuses everybody, without an error."""
    assert not await passwords.verify("anything", phc)
    assert passwords.is_outdated(phc)


@pytest.mark.parametrize(
    "cost",
    [
        pytest.param(Cost(memory_kib=128, passes=1), id="more memory"),
        pytest.param(Cost(memory_kib=64, passes=2), id="more passes"),
        pytest.param(Cost(memory_kib=64, passes=1, lanes=2), id="more lanes"),
    ],
)
async def test_hash_of_another_cost_is_outdated(passwords: Passwords, cost: Cost) -> None:
    """After any parameter is raised, old hashes are outdated."""
    raised = Passwords(cost)

    phc = await passwords.hash("x")

    assert raised.is_outdated(phc)
    assert not passwords.is_outdated(phc)
    raised.close()


async def test_full_pool_refuses_at_once_and_has_room_again_later() -> None:
    """A full pool raises `Busy`; a finished hash makes room."""
    pool = Passwords(CHEAP, threads=1, most_at_once=2)
    release = threading.Event()
    held = asyncio.ensure_future(pool._run(release.wait))
    waiting = asyncio.ensure_future(pool.hash("second"))
    await asyncio.sleep(0)

    with pytest.raises(Busy) as refused:
        await pool.hash("third")

    assert refused.value.status == 503
    assert refused.value.headers["Retry-After"] == "2"
    release.set()
    await asyncio.gather(held, waiting)
    assert await pool.hash("fourth")
    pool.close()


async def test_cancelled_hash_keeps_its_place_until_it_is_done() -> None:
    """A cancelled request neither stops the thread nor frees its place too early."""
    pool = Passwords(CHEAP, threads=1, most_at_once=2)
    release, started = threading.Event(), threading.Event()

    def hold() -> None:
        started.set()
        release.wait()

    held = asyncio.ensure_future(pool._run(hold))
    await asyncio.to_thread(started.wait)
    held.cancel()
    with pytest.raises(asyncio.CancelledError):
        await held

    waiting = asyncio.ensure_future(pool.hash("waits"))
    await asyncio.sleep(0)
    with pytest.raises(Busy):
        await pool.hash("too early")
    release.set()
    assert await waiting
    pool.close()


async def test_cancelled_request_gives_back_its_place_in_the_queue() -> None:
    """A request that is cancelled while it waits is not hashed, and its place is free."""
    pool = Passwords(CHEAP, threads=1, most_at_once=2)
    release = threading.Event()
    held = asyncio.ensure_future(pool._run(release.wait))
    gone = asyncio.ensure_future(pool.hash("gone"))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)

    waiting = asyncio.ensure_future(pool.hash("waits"))
    await asyncio.sleep(0)
    release.set()

    assert await waiting
    await held
    pool.close()


async def test_addresses_take_turns_and_the_busiest_one_is_refused_first() -> None:
    """One address with many requests neither delays nor displaces the single one of another."""
    pool = Passwords(CHEAP, threads=1, most_at_once=9)
    release, order = threading.Event(), list[str]()
    held = asyncio.ensure_future(pool._run(release.wait))

    async def hash_for(address: str) -> None:
        await pool.hash("orchid lamp river stone", address)
        order.append(address)

    many = [asyncio.ensure_future(hash_for("many")) for _ in range(8)]
    await asyncio.sleep(0)
    single = asyncio.ensure_future(hash_for("single"))
    await asyncio.sleep(0)
    release.set()
    answers = await asyncio.gather(*many, single, return_exceptions=True)

    assert order.index("single") == 1
    assert [type(answer) for answer in answers] == [*[type(None)] * 7, Busy, type(None)]
    await held
    pool.close()


async def test_busiest_address_is_refused_when_it_sends_more() -> None:
    """With a full queue its next request is refused; those that wait keep their places."""
    pool = Passwords(CHEAP, threads=1, most_at_once=4)
    release = threading.Event()
    held = asyncio.ensure_future(pool._run(release.wait))
    waiting = [asyncio.ensure_future(pool.hash("x", name)) for name in ("one", "two", "two")]
    await asyncio.sleep(0)

    with pytest.raises(Busy):
        await pool.hash("x", "two")

    release.set()
    assert len(await asyncio.gather(*waiting)) == 3
    await held
    pool.close()


async def test_request_that_was_just_cancelled_makes_room_without_an_error() -> None:
    """It gives its place to another one before it has left the queue."""
    pool = Passwords(CHEAP, threads=1, most_at_once=3)
    release = threading.Event()
    held = asyncio.ensure_future(pool._run(release.wait))
    stays, leaves = (asyncio.ensure_future(pool.hash("x", "many")) for _ in range(2))
    await asyncio.sleep(0)

    comes = asyncio.ensure_future(pool.hash("x", "single"))  # asks for its place first
    leaves.cancel()
    await asyncio.wait({leaves})
    release.set()

    assert await comes
    assert await stays
    assert leaves.cancelled()
    await held
    pool.close()


async def test_closing_the_pool_cancels_what_waits() -> None:
    """No request waits for ever for a thread that has ended."""
    pool = Passwords(CHEAP, threads=1)
    release = threading.Event()
    held = asyncio.ensure_future(pool._run(release.wait))
    waiting = asyncio.ensure_future(pool.hash("waits"))
    await asyncio.sleep(0)

    pool.close()
    release.set()

    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await held


async def test_error_in_a_thread_reaches_its_request(passwords: Passwords) -> None:
    """The error is raised in the request, and the thread is free again."""
    with pytest.raises(UnicodeEncodeError):
        await passwords.hash("\ud800")

    assert await passwords.hash("fine")
