"""Parallel requests that remove values while another one renews: what was removed stays away."""

from __future__ import annotations

from typing import Any

import pytest

from storage import MongoStorage
from tests.storage.direct import load, values, visit


@pytest.mark.parametrize(
    "own",
    [pytest.param({}, id="a renewal"), pytest.param({"user_id": 7}, id="a login")],
)
async def test_renewal_does_not_restore_values_removed_in_parallel(
    storage: MongoStorage, collection: Any, own: dict[str, Any]
) -> None:
    """Two requests have emptied the session together before the third one moves it."""
    cookie = await visit(storage, None, lambda session: session.update(a=1, b=2))
    renewing, one, other = [await load(storage, cookie) for _ in range(3)]
    renewing.session.renew()
    renewing.session.update(own)
    del one.session["a"], other.session["b"]
    await one.save()
    await other.save()

    renewed = await renewing.save()

    assert await values(storage, renewed) == own
    assert await collection.count_documents({}) == len(own)
    assert (renewed != cookie) is bool(own)


async def test_renewal_of_a_session_that_others_have_half_emptied_moves_the_other_half(
    storage: MongoStorage,
) -> None:
    """Only what is still there moves along."""
    cookie = await visit(storage, None, lambda session: session.update(a=1, b=2))
    renewing, other = await load(storage, cookie), await load(storage, cookie)
    renewing.session.renew()
    del other.session["a"]
    await other.save()

    assert await values(storage, await renewing.save()) == {"b": 2}


async def test_session_that_parallel_requests_emptied_together_has_ended(
    storage: MongoStorage,
) -> None:
    """The next request with its cookie starts anew, under a new token."""
    cookie = await visit(storage, None, lambda session: session.update(a=1, b=2))
    one, other = await load(storage, cookie), await load(storage, cookie)
    del one.session["a"], other.session["b"]
    await one.save()
    await other.save()

    renewed = await visit(storage, cookie, lambda session: session.update(c=3))

    assert renewed != cookie
    assert await values(storage, renewed) == {"c": 3}
    assert await values(storage, cookie) == {}
