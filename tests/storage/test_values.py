"""What a session keeps from one request to the next."""

from __future__ import annotations

from typing import Any

from tests.storage.conftest import Site, Visitor, every_driver, set_cookie_of

pytestmark = every_driver


async def test_stored_values_come_back_with_the_next_request(visitor: Visitor) -> None:
    """The next request reads what the first one stored."""
    await visitor.do(lambda session: session.update(name="Ada", visits=1))

    assert await visitor.session() == {"name": "Ada", "visits": 1}


async def test_nested_change_is_saved_without_calling_changed(visitor: Visitor) -> None:
    """An append to a nested list is noticed."""
    await visitor.do(lambda session: session.update(cart={"items": [1]}))

    await visitor.do(lambda session: session["cart"]["items"].append(2))

    assert await visitor.session() == {"cart": {"items": [1, 2]}}


async def test_anonymous_visit_that_stores_nothing_gets_no_cookie(
    visitor: Visitor, collection: Any
) -> None:
    """Reading an empty session sends no write and no cookie."""
    response = await visitor.do(len)

    assert set_cookie_of(response) == []
    assert await collection.count_documents({}) == 0


async def test_two_visitors_share_nothing(site: Site) -> None:
    """Each cookie has its own session."""
    ada, bob = await site.visitor(), await site.visitor()
    await ada.do(lambda session: session.update(name="Ada"))

    await bob.do(lambda session: session.update(name="Bob"))

    assert await ada.session() == {"name": "Ada"}
