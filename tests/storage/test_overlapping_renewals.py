"""Random requests around renewals, saved at the same time by two storages of one collection.

`test_interleavings` compares whole histories with a model, one save after another. Here the
commands of several saves interleave, and only what every order must give is checked.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from storage import MongoStorage
from tests.storage.conftest import MakeStorage
from tests.storage.direct import Visit, load, values, visit

NOBODY = {"cart": [1]}
ADA = {**NOBODY, "user_id": 7}
REQUESTS = 6
# Turns of the event loop; a renewal takes about as many.
MOST_TURNS = 12

pytestmark = pytest.mark.parametrize(
    "rounds",
    [pytest.param(4, id="some"), pytest.param(40, id="many", marks=pytest.mark.long)],
)


async def after_turns(chance: random.Random, begun: Visit) -> str | None:
    """Save after a random number of turns of the event loop; return the cookie."""
    for _ in range(chance.randrange(MOST_TURNS)):
        await asyncio.sleep(0)
    return await begun.save()


async def begin(storages: list[MongoStorage], cookie: str, first: int) -> list[Visit]:
    """Begin requests in both processes; each adds a value of its own."""
    begun = [await load(storages[n % 2], cookie) for n in range(REQUESTS)]
    for number, one in enumerate(begun, start=first):
        one.session[f"key {number}"] = number
    return begun


def renew_some(chance: random.Random, begun: list[Visit]) -> None:
    """Let one request renew, or several, some with a grace."""
    for one in chance.sample(begun, chance.choice([1, 1, 2, 3])):
        one.session.renew(chance.choice([0, 0, 10_000]))


def one_cookie(saves: list[str | None], old: str) -> str:
    """Return the only new cookie that the requests have got."""
    (new,) = {cookie for cookie in saves if cookie != old}
    return str(new)


@pytest.mark.parametrize("stored", [ADA, NOBODY], ids=["owner", "nobody"])
async def test_no_change_is_lost_when_saves_and_renewals_interleave(
    rounds: int, stored: dict[str, Any], storage: MongoStorage, make_storage: MakeStorage
) -> None:
    """Over two renewals in a row, with requests that overlap both of them."""
    storages = [storage, make_storage()]
    for seed in range(rounds):
        chance = random.Random(seed)
        old = str(await visit(storage, None, lambda session: session.update(stored)))
        slow = await begin(storages, old, 100)

        first = await begin(storages, old, 0)
        renew_some(chance, first)
        early = slow[:2]
        saves = await asyncio.gather(*(after_turns(chance, one) for one in (*first, *early)))
        new = one_cookie(saves, old)
        second = await begin(storages, new, 200)
        renew_some(chance, second)
        late = [after_turns(chance, one) for one in slow[2:]]
        saves = await asyncio.gather(*(after_turns(chance, one) for one in second), *late)
        newest = one_cookie([cookie for cookie in saves if cookie != old], new)

        everything = {f"key {n}": n for base in (0, 100, 200) for n in range(base, base + REQUESTS)}
        assert await values(storage, newest) == {**stored, **everything}, f"seed {seed}"
        assert await storage.count() == 1
        await storage.clear()


async def test_sign_out_is_final_when_it_interleaves_with_saves_and_renewals(
    rounds: int, storage: MongoStorage, make_storage: MakeStorage
) -> None:
    """Whatever was renewed, saved late or asked for a grace at that moment."""
    storages = [storage, make_storage()]
    for seed in range(rounds):
        chance = random.Random(seed)
        old = str(await visit(storage, None, lambda session: session.update(ADA)))
        slow, begun = await begin(storages, old, 100), await begin(storages, old, 0)
        renew_some(chance, begun)
        leaving = await load(storages[seed % 2], old)
        leaving.session.invalidate()

        requests = (*begun, *slow[:3], leaving)
        saves = await asyncio.gather(*(after_turns(chance, one) for one in requests))
        await asyncio.gather(*(one.save() for one in slow[3:]))

        assert await storage.count() == 0, f"seed {seed}"
        for cookie in {old, *saves} - {None}:
            assert await values(storage, cookie) == {}


async def test_sign_in_keeps_every_change_when_it_interleaves_with_saves_and_renewals(
    rounds: int, storage: MongoStorage, make_storage: MakeStorage
) -> None:
    """A renewal of the anonymous session may be faster; then each of them has its cookie."""
    storages = [storage, make_storage()]
    for seed in range(rounds):
        chance = random.Random(seed)
        old = str(await visit(storage, None, lambda session: session.update(NOBODY)))
        slow, begun = await begin(storages, old, 100), await begin(storages, old, 0)
        begun[0].session["user_id"] = 7
        if seed % 2:
            begun[1].session.renew()

        saves = await asyncio.gather(*(after_turns(chance, one) for one in (*begun, *slow[:3])))
        await asyncio.gather(*(one.save() for one in slow[3:]))

        found = [await values(storage, cookie) for cookie in set(saves) - {old}]
        assert len(found) <= 1 + seed % 2
        signed_in = [session for session in found if session.get("user_id") == 7]
        assert len(signed_in) == 1
        names = {f"key {n}" for base in (0, 100) for n in range(base, base + REQUESTS)}
        assert names <= {name for session in found for name in session}, f"seed {seed}"
        assert await values(storage, old) == {}
        await storage.clear()
