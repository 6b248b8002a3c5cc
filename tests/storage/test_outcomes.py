"""What became of each write, alone and in a batch with others."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from storage.commands import Delete, Insert, Missed, Update, write_documents
from storage.document import changes_nothing
from storage.driver import Driver
from tests.storage.conftest import NOON, real_drivers

NOW_MS = int(NOON) * 1000
LATER = datetime.fromtimestamp(NOON, UTC) + timedelta(days=1)
EARLIER = datetime.fromtimestamp(NOON, UTC) - timedelta(days=1)
SET: dict[str, Any] = {"$set": {"values.a": b"new"}}
UNSET: dict[str, Any] = {"$unset": {"values.a": ""}}
SAME = changes_nothing(NOW_MS)
AS_IT_WAS: dict[str, Any] = {"values.a": b"old"}
OTHERWISE: dict[str, Any] = {"values.a": b"other"}
NOT_THERE: dict[str, Any] = {"values.a": None}
ONE_IS_NOT_THERE: dict[str, Any] = {**AS_IT_WAS, "values.b": None}


def identifier(name: str) -> bytes:
    """Return an id of 32 bytes."""
    return name.encode().ljust(32)


SESSION, FORWARD, EXPIRED, GONE = map(identifier, ("session", "forward", "expired", "gone"))
DOCUMENTS: list[dict[str, Any]] = [
    {"_id": SESSION, "expires_at": LATER, "values": {"a": b"old"}},
    {"_id": FORWARD, "expires_at": LATER, "forward": b"sealed"},
    {"_id": EXPIRED, "expires_at": EARLIER, "values": {"a": b"old"}},
]
OUTCOMES: list[Any] = [
    pytest.param(Insert({"_id": identifier("new")}), "done", id="insert"),
    pytest.param(Update(SESSION, NOW_MS, SET), "done", id="update"),
    pytest.param(Update(FORWARD, NOW_MS, SET), "forward", id="update of a forward"),
    pytest.param(Update(EXPIRED, NOW_MS, SET), "missed", id="update of an expired session"),
    pytest.param(Update(GONE, NOW_MS, SET), "missed", id="update of nothing"),
    pytest.param(Update(SESSION, NOW_MS, SET, AS_IT_WAS), "done", id="guarded update"),
    pytest.param(Update(SESSION, NOW_MS, UNSET, AS_IT_WAS), "done", id="guarded removal"),
    pytest.param(Update(SESSION, NOW_MS, SET, OTHERWISE), "missed", id="changed meanwhile"),
    pytest.param(Update(SESSION, NOW_MS, UNSET, OTHERWISE), "missed", id="not to be removed"),
    pytest.param(Update(SESSION, NOW_MS, SET, NOT_THERE), "missed", id="added meanwhile"),
    pytest.param(Update(SESSION, NOW_MS, SAME, AS_IT_WAS), "done", id="guarded, changes nothing"),
    pytest.param(Update(SESSION, NOW_MS, SAME, ONE_IS_NOT_THERE), "done", id="one is not there"),
    pytest.param(Update(SESSION, NOW_MS, SAME, OTHERWISE), "missed", id="not as it was"),
    pytest.param(Update(FORWARD, NOW_MS, SET, AS_IT_WAS), "not done", id="guarded, of a forward"),
    pytest.param(Update(GONE, NOW_MS, SET, AS_IT_WAS), "missed", id="guarded, of nothing"),
    pytest.param(Delete(SESSION, NOW_MS), "done", id="delete"),
    pytest.param(Delete(FORWARD, NOW_MS), "forward", id="delete of a forward"),
    pytest.param(Delete(FORWARD), "done", id="delete of a forward that nobody asks about"),
    pytest.param(Delete(GONE, NOW_MS), "done", id="delete of nothing"),
]


@real_drivers
@pytest.mark.parametrize(
    "others",
    [
        pytest.param([], id="alone"),
        pytest.param([Insert({"_id": identifier("another")})], id="with an insert"),
        pytest.param([Update(GONE, NOW_MS, SET)], id="with an update that missed"),
    ],
)
@pytest.mark.parametrize(("write", "expected"), OUTCOMES)
async def test_outcome_of_a_write_says_what_is_in_its_place(
    write: Any, expected: str, others: list[Any], collection: Any
) -> None:
    """Carried out, ended, moved or changed; a forward is never written to and never deleted."""
    await collection.insert_many([dict(document) for document in DOCUMENTS])
    driver = Driver(collection, 5, {"commands": 0, "unavailable": 0})

    outcome, *_ = await write_documents(driver, [write, *others], 5)

    shown = {
        "done": lambda: outcome is None,
        "missed": lambda: outcome == Missed(),
        # After a guarded update the sender looks again in both cases.
        "not done": lambda: isinstance(outcome, Missed),
        "forward": lambda: isinstance(outcome, Missed) and outcome.forward is not None,
    }
    assert shown[expected]()
    assert await collection.count_documents({"forward": b"sealed"}) == 1
    assert await collection.count_documents({"values": {"a": b"new"}}) == (
        expected == "done" and isinstance(write, Update) and write.change is SET
    )


async def test_guarded_removal_that_somebody_has_done_is_looked_at_again_alone(
    collection: Any,
) -> None:
    """Alone, MongoDB has said that it was not this update; in a batch it makes no difference."""
    await collection.insert_one({"_id": SESSION, "expires_at": LATER, "values": {"b": b"old"}})
    driver = Driver(collection, 5, {"commands": 0, "unavailable": 0})
    removal = Update(SESSION, NOW_MS, UNSET, AS_IT_WAS)

    assert await write_documents(driver, [removal], 5) == [Missed()]
    assert await write_documents(driver, [removal, Update(GONE, NOW_MS, SET)], 5) == [
        None,
        Missed(),
    ]


async def test_update_has_missed_although_the_session_was_put_back_before_the_look(
    collection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restored copy does not have what the update would have written."""
    driver = Driver(collection, 5, {"commands": 0, "unavailable": 0})
    find_by_ids = driver.find_by_ids

    async def put_back(*args: Any, **options: Any) -> dict[bytes, bytes]:
        await collection.insert_one({"_id": GONE, "expires_at": LATER, "values": {"a": b"old"}})
        return await find_by_ids(*args, **options)

    monkeypatch.setattr(driver, "find_by_ids", put_back)

    assert await write_documents(driver, [Update(GONE, NOW_MS, SET)], 5) == [Missed()]
