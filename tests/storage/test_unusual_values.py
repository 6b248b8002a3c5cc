"""Unusual names and values are stored as they are, or refused by name before any write."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from storage import MongoStorage, SessionNotSerializable, SessionTooLarge, generate_secret
from storage.session import MongoSession
from storage.values import marshalled_copy
from tests.storage.conftest import SECRET, MakeStorage, every_driver, real_drivers
from tests.storage.direct import load, values, visit

NAMES = [
    "", " ", "a", "a.b", ".", "..", "a.", ".a", "$", "$set", "$where", "a$b", "values.x", "_id",
    "0", "-1", "\0", "a\0b", "\n", "é", "e\u0301", "\U0001f36a", "\u202e", "\ufeff", "\ud800",
    "\udfff\ud800", "constructor", "__proto__", "user_id ", "x" * 10_000, "\U0010ffff" * 100,
]  # fmt: skip
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2**31, 2**53 + 1, 2**63, -(2**63) - 1, 2**64, 10**300, 10**4000,
    0.0, -0.0, 0.1, 1e308, 5e-324, float("inf"), float("-inf"),
    "", " ", "\0", "$set", "a.b", "\U0001f36a", "\ud800", "\udc80\udcff", "\u2028", "x" * 100_000,
    [], {}, [[]], [{}], {"": {"": [None]}}, {"$set": {"a.b": 1}}, {"\0": "\ud800"}, [0] * 10_000,
    {"a": [1, 2.5, None, True, "é", {"b": []}]}, {str(n): n for n in range(1000)},
]  # fmt: skip


def nested(depth: int) -> Any:
    """Nest lists in each other."""
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@every_driver
async def test_every_name_keeps_its_value(storage: MongoStorage, collection: Any) -> None:
    """Dots, dollar signs, NUL, emoji, lone surrogates and the empty name are allowed."""
    mine = {name: number for number, name in enumerate(NAMES)}
    cookie = await visit(storage, None, lambda session: session.update(mine))

    assert await values(storage, cookie) == mine
    (document,) = await collection.find({}).to_list(None)
    assert len(document["values"]) == len(NAMES)


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name[:20]))
async def test_value_of_any_name_is_changed_and_removed_alone(
    storage: MongoStorage, name: str
) -> None:
    """An update changes exactly one field, whatever the name is."""
    others = {"other": [1], "more": 2}
    cookie = await visit(storage, None, lambda session: session.update({name: "old", **others}))

    await visit(storage, cookie, lambda session: session.update({name: "new"}))
    assert await values(storage, cookie) == {name: "new", **others}

    await visit(storage, cookie, lambda session: session.pop(name))
    assert await values(storage, cookie) == others


@every_driver
async def test_every_json_value_comes_back_as_it_was(storage: MongoStorage) -> None:
    """Type, sign, length and order of every JSON value are kept."""
    mine = {str(number): value for number, value in enumerate(VALUES)}
    cookie = await visit(storage, None, lambda session: session.update(mine))

    got = await values(storage, cookie)

    # As text: True would equal 1, and -0.0 would equal 0.
    assert {name: repr(value) for name, value in got.items()} == {
        name: repr(value) for name, value in mine.items()
    }


async def test_nan_comes_back_and_is_no_change(storage: MongoStorage) -> None:
    """NaN does not equal itself, but it is not written again if it did not change."""
    cookie = await visit(
        storage, None, lambda session: session.update(x=float("nan"), y=[math.nan])
    )

    begun = await load(storage, cookie)
    await begun.save()

    assert math.isnan(begun.session["x"])
    assert math.isnan(begun.session["y"][0])
    assert storage.counters["updates"] == 0


@pytest.mark.parametrize(
    "value",
    [
        pytest.param({1, 2}, id="set"),
        pytest.param(b"bytes", id="bytes"),
        pytest.param(datetime(2026, 1, 1, tzinfo=UTC), id="datetime"),
        pytest.param(Decimal("0.1"), id="Decimal"),
        pytest.param(1j, id="complex"),
        pytest.param(object(), id="object"),
        pytest.param({(1, 2): 3}, id="tuple as a key"),
        pytest.param([[{"a": {1}}]], id="set deep inside"),
    ],
)
async def test_value_without_a_json_form_is_refused_by_name_and_nothing_is_written(
    storage: MongoStorage, collection: Any, value: Any
) -> None:
    """The stored session does not change, and the error does not show the value."""
    cookie = await visit(storage, None, lambda session: session.update(name="Ada", n=1))
    before = await collection.find_one({})

    with pytest.raises(SessionNotSerializable, match=r"^session\['cart'\]: ") as refusal:
        await visit(storage, cookie, lambda session: session.update(n=2, cart=value))

    assert await collection.find_one({}) == before
    assert repr(value) not in str(refusal.value)


async def test_integer_of_more_digits_than_python_reads_is_refused_by_name(
    storage: MongoStorage,
) -> None:
    """Python reads up to 4300 digits (CVE-2020-10735); the next load would fail with more."""
    with pytest.raises(SessionNotSerializable, match=r"^session\['huge'\]: "):
        await visit(storage, None, lambda session: session.update(huge=[10**5000]))


async def test_value_that_contains_itself_is_refused_by_name(storage: MongoStorage) -> None:
    """A circular reference has no JSON form."""
    circle: list[Any] = []
    circle.append(circle)

    with pytest.raises(SessionNotSerializable, match=r"^session\['circle'\]"):
        await visit(storage, None, lambda session: session.update(circle=circle))


@pytest.mark.parametrize("name", [7, None, True, 1.5, b"name", ("a",)], ids=repr)
async def test_name_that_is_no_text_is_refused(storage: MongoStorage, name: Any) -> None:
    """JSON would turn it into text, which is another name."""
    begun = await load(storage)
    begun.session[name] = 1

    with pytest.raises(SessionNotSerializable, match=f"is {type(name).__name__}; use text"):
        await begun.save()


async def deeper(frames: int, storage: MongoStorage, cookie: str | None) -> dict[str, Any]:
    """Load at a deeper level of the call stack."""
    if frames:
        return await deeper(frames - 1, storage, cookie)
    return await values(storage, cookie)


@pytest.mark.parametrize("depth", [100, 399, 400])
async def test_accepted_nesting_is_read_at_any_stack_depth(
    storage: MongoStorage, depth: int
) -> None:
    """A session that was stored can be loaded where the call stack is deep."""
    deep = nested(depth)
    cookie = await visit(storage, None, lambda session: session.update(deep=deep))

    assert json.dumps(await deeper(150, storage, cookie)) == json.dumps({"deep": deep})


@pytest.mark.parametrize("depth", [401, 900, 985, 100_000])
@pytest.mark.parametrize("kind", [list, tuple, dict])
async def test_nesting_above_400_levels_is_refused_by_name(
    storage: MongoStorage, depth: int, kind: type
) -> None:
    """The recursion limit of Python would depend on the call stack."""
    deep: Any = 1
    for _ in range(depth):
        deep = {"x": deep} if kind is dict else kind([deep])

    with pytest.raises(SessionNotSerializable, match=r"^session\['deep'\]: "):
        await visit(storage, None, lambda session: session.update(deep=deep))


@pytest.mark.long
async def test_largest_session_of_smallest_values_can_be_stored_and_sealed_again(
    make_storage: MakeStorage,
) -> None:
    """Small values need much more space than their bytes, and sealing again twice as much."""
    most, new = 4 * 1024 * 1024, generate_secret()
    storage = make_storage(max_bytes=most, operation_timeout=60)
    small = {f"{number:x}": 1 for number in range(most // 44)}
    cookie = await visit(storage, None, lambda session: session.update(small))

    rotated = make_storage(secrets=[new, SECRET], max_bytes=most, operation_timeout=60)
    await visit(rotated, cookie, lambda session: session.update(f=2))

    assert len(await values(make_storage(secrets=new, operation_timeout=60), cookie)) == len(small)


@real_drivers
async def test_largest_value_can_be_stored_and_sealed_again(make_storage: MakeStorage) -> None:
    """A session of the largest possible `max_bytes` can be rotated."""
    most, new = 4 * 1024 * 1024, generate_secret()
    storage = make_storage(max_bytes=most, operation_timeout=60)
    cookie = await visit(storage, None, lambda session: session.update(big="x" * (most - 200)))

    rotated = make_storage(secrets=[new, SECRET], max_bytes=most, operation_timeout=60)
    await visit(rotated, cookie, lambda session: session.update(small=1))

    got = await values(make_storage(secrets=new, operation_timeout=60), cookie)
    assert (len(got["big"]), got["small"]) == (most - 200, 1)


async def test_size_limit_is_exact_and_names_the_largest_new_value(
    make_storage: MakeStorage, collection: Any
) -> None:
    """One byte more than `max_bytes` is refused, and the message contains the size."""
    cookie = await visit(make_storage(), None, lambda session: session.update(a="x", bb="y"))
    sealed = (await collection.find_one({}))["values"].values()
    total = sum(map(len, sealed))

    exact = make_storage(max_bytes=total)
    await visit(exact, cookie, lambda session: session.update(a="z"))
    tight = make_storage(max_bytes=total - 1)
    with pytest.raises(SessionTooLarge, match=rf"session\['bb'\].*{total} bytes.*{total - 1}"):
        await visit(tight, None, lambda session: session.update(a="z", bb="z"))

    assert await values(exact, cookie) == {"a": "z", "bb": "y"}


async def test_size_limit_is_256_kib_if_the_app_sets_none(make_storage: MakeStorage) -> None:
    """The message says so."""
    with pytest.raises(SessionTooLarge, match=r"allows 262144$"):
        await visit(make_storage(), None, lambda session: session.update(a="x" * 262_144))


async def test_session_above_the_size_limit_may_shrink_and_be_renewed_but_not_grow(
    make_storage: MakeStorage,
) -> None:
    """Parallel saves or a lowered limit may lead there; the visitor must be able to continue."""
    cookie = await visit(make_storage(), None, lambda session: session.update(a="x" * 500, b=""))
    storage = make_storage(max_bytes=300)

    with pytest.raises(SessionTooLarge):
        await visit(storage, cookie, lambda session: session.update(user_id="ada"))
    cookie = await visit(storage, cookie, lambda session: session.renew())
    cookie = await visit(storage, cookie, lambda session: session.update(a="x" * 400))

    assert await values(storage, cookie) == {"a": "x" * 400, "b": ""}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(1, True, id="integer to bool"),
        pytest.param(False, 0, id="bool to integer"),
        pytest.param(1, 1.0, id="integer to float"),
        pytest.param(0.0, -0.0, id="zero to negative zero"),
        pytest.param("1", 1, id="text to number"),
        pytest.param(None, 0, id="None to zero"),
        pytest.param([], {}, id="list to dict"),
        pytest.param([1], [True], id="inside a list"),
        pytest.param({"a": 1, "b": 2}, {"b": 2, "a": 1}, id="order of a dict"),
        pytest.param(10**40, 10**40 + 1, id="large integer"),
        pytest.param("\ud800", "\ud801", id="lone surrogates"),
    ],
)
async def test_value_of_another_type_that_compares_equal_is_saved(
    storage: MongoStorage, before: Any, after: Any
) -> None:
    """Assigned or nested: what Python takes for equal may differ in JSON."""
    cookie = await visit(storage, None, lambda session: session.update(a=before, b=[before]))

    def change(session: MongoSession) -> None:
        session["a"] = after
        session["b"][0] = after

    await visit(storage, cookie, change)

    assert repr(await values(storage, cookie)) == repr({"a": after, "b": [after]})


async def test_value_without_a_json_form_inside_a_stored_one_is_refused_by_name(
    storage: MongoStorage,
) -> None:
    """An object that is appended to a loaded list is refused like any other."""
    cookie = await visit(storage, None, lambda session: session.update(a=[1]))

    with pytest.raises(SessionNotSerializable, match="'a'"):
        await visit(storage, cookie, lambda session: session["a"].append(object()))


async def test_removed_value_makes_room_for_another(make_storage: MakeStorage) -> None:
    """The limit applies to the session after the save."""
    storage = make_storage(max_bytes=2048)
    cookie = await visit(storage, None, lambda session: session.update(a="x" * 1200))

    def exchange(session: Any) -> None:
        del session["a"]
        session["b"] = "y" * 1200

    await visit(storage, cookie, exchange)

    assert await values(storage, cookie) == {"b": "y" * 1200}


async def test_value_is_removed_from_a_session_above_a_lowered_limit(
    make_storage: MakeStorage,
) -> None:
    """A save that only removes values is never too large."""
    cookie = await visit(
        make_storage(), None, lambda session: session.update(a="x" * 4000, b="y" * 4000)
    )
    lowered = make_storage(max_bytes=2048)

    await visit(lowered, cookie, lambda session: session.pop("a"))

    assert await values(lowered, cookie) == {"b": "y" * 4000}


def test_copy_that_changes_are_compared_with_is_made_of_nested_values_alone() -> None:
    """A scalar is compared by itself; a list and its copy differ where only a type does."""
    assert marshalled_copy("text") is None
    assert marshalled_copy([1]) == marshalled_copy([1])
    assert marshalled_copy([1]) != marshalled_copy([True])
