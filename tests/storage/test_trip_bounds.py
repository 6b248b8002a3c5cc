"""How much a process asks of MongoDB at once is a setting that checks itself."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from storage.batching import TripBounds
from tests.storage.conftest import CommandLog, MakeStorage, OpenSite, real_drivers


@pytest.mark.parametrize("name", ["in_flight", "batch", "queue"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "1", None], ids=repr)
def test_bound_that_is_no_whole_number_from_1_is_refused_by_name(name: str, value: Any) -> None:
    """The error names the bound and says what is accepted."""
    with pytest.raises(ValueError, match=rf"TripBounds\.{name}: .* use a whole number from 1"):
        TripBounds(**{name: value})


def test_storage_refuses_bounds_of_another_type(make_storage: MakeStorage) -> None:
    """A number is not a set of bounds."""
    with pytest.raises(TypeError, match=r"trips: int is not accepted; use a TripBounds"):
        make_storage(trips=64)


@real_drivers
async def test_storage_keeps_to_the_bounds_it_was_given(
    make_storage: MakeStorage, open_site: OpenSite, log: CommandLog
) -> None:
    """With batches of one, no command carries two sessions."""
    site = await open_site(make_storage(trips=TripBounds(batch=1)))
    visitors = [await site.visitor() for _ in range(5)]
    for visitor in visitors:
        await visitor.do(lambda session: session.update(name="Ada"))
    log.commands.clear()

    await asyncio.gather(*(visitor.session() for visitor in visitors))

    assert log.names == ["find"] * 5
    assert all(command["filter"]["_id"] for _name, command in log.commands)
