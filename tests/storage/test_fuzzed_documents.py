"""Two thousand damaged documents: no error, and no session gets values of another."""

from __future__ import annotations

import asyncio
import copy
import random
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from bson import Binary, Code, DBRef, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.datetime_ms import DatetimeMS

from storage import MongoStorage
from storage.tokens import document_id, from_cookie
from tests.storage.conftest import Clock, MakeStorage, real_drivers
from tests.storage.direct import load, values, visit

DOCUMENTS = 2_000
# Of every BSON type, with the extremes of each.
WRONG: list[Any] = [
    None, True, False, 0, 1, -1, 2**31, Int64(2**63 - 1), Int64(-(2**63)),
    0.0, -0.0, 0.5, 1e300, -1e300, 5e-324, float("inf"), float("-inf"), float("nan"),
    "", "text", "x" * 5000, "\0", "\U0001f36a",
    b"", b"\0", bytes(16), bytes(32), bytes(60), b"\x01" * 60,
    Binary(bytes(16), 4), Binary(bytes(7), 3), Binary(b"\xff\0\x01", 9), Binary(b"x", 128),
    [], [1], [[]], {}, {"": b""}, {"a": 1}, {"a": bytes(60)}, {"a": {"b": {"c": b"d"}}}, {"$x": 1},
    datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC),
    DatetimeMS(2**63 - 1), DatetimeMS(-(2**63)), DatetimeMS(253402300800000), DatetimeMS(0),
    ObjectId(), Decimal128("NaN"), Decimal128("1E+6144"), Timestamp(2**32 - 1, 1),
    Regex("(", "imx"), Code("x", {"y": 1}), Code(""), MinKey(), MaxKey(), DBRef("c", 1),
]  # fmt: skip
FIELDS = [
    "created_at", "last_seen_at", "expires_at", "max_age", "persistent", "owner", "key_id",
    "later_key_ids",
    "label", "values", "foreign",
]  # fmt: skip

Document = dict[str, Any]
Damage = Callable[[Document, Document, random.Random], None]


def replace_field(document: Document, other: Document, chance: random.Random) -> None:
    """Put something of a wrong type or size into one field."""
    document[chance.choice(FIELDS)] = chance.choice(WRONG)


def remove_field(document: Document, other: Document, chance: random.Random) -> None:
    """Take one field away."""
    document.pop(chance.choice(FIELDS), None)


def take_field(document: Document, other: Document, chance: random.Random) -> None:
    """Copy one field from another visitor's document."""
    field = chance.choice(FIELDS)
    document[field] = other.get(field)


def take_value(document: Document, other: Document, chance: random.Random) -> None:
    """Copy a sealed value of another visitor, under its own field name or one of this document."""
    theirs = chance.choice(list(other["values"]))
    document["values"][chance.choice([theirs, *document["values"]])] = other["values"][theirs]


def swap_values(document: Document, other: Document, chance: random.Random) -> None:
    """Exchange two sealed values of one session."""
    one, two = chance.sample(list(document["values"]), 2)
    sealed = document["values"]
    sealed[one], sealed[two] = sealed[two], sealed[one]


def drop_value(document: Document, other: Document, chance: random.Random) -> None:
    """Remove one sealed value: only the removal of the owner is noticed."""
    del document["values"][chance.choice(list(document["values"]))]


def replace_value(document: Document, other: Document, chance: random.Random) -> None:
    """Replace a sealed value by a wrong one."""
    document["values"][chance.choice(list(document["values"]))] = chance.choice(WRONG)


def flip_bit(document: Document, other: Document, chance: random.Random) -> None:
    """Flip one bit of a sealed value."""
    field = chance.choice(list(document["values"]))
    sealed = bytearray(document["values"][field])
    sealed[chance.randrange(len(sealed))] ^= 1 << chance.randrange(8)
    document["values"][field] = bytes(sealed)


def cut_value(document: Document, other: Document, chance: random.Random) -> None:
    """Cut a sealed value short, or make it longer."""
    field = chance.choice(list(document["values"]))
    sealed = document["values"][field]
    document["values"][field] = chance.choice([sealed[: chance.randrange(len(sealed))], sealed * 2])


def move_date(document: Document, other: Document, chance: random.Random) -> None:
    """Move a date by anything from a millisecond to millions of years."""
    field = chance.choice(["created_at", "last_seen_at", "expires_at"])
    span = chance.choice([1, -1]) * 10 ** chance.randrange(18)
    document[field] = DatetimeMS(int(document[field]) + span)


AS_MILLISECONDS = CodecOptions[Document](datetime_conversion=DatetimeConversion.DATETIME_MS)
DAMAGES: list[Damage] = [
    replace_field, remove_field, take_field, take_value, swap_values, drop_value, replace_value,
    flip_bit, cut_value, move_date,
]  # fmt: skip


async def stored_sessions(storage: MongoStorage, count: int) -> dict[str, Document]:
    """Store sessions of different owners; return each cookie with its values."""

    async def store(number: int) -> tuple[str, Document]:
        mine = {"user_id": number, "name": f"visitor {number}", "cart": [number]}
        return str(await visit(storage, None, lambda session: session.update(mine))), mine

    return dict(await asyncio.gather(*(store(number) for number in range(count))))


async def damage_all(storage: MongoStorage, chance: random.Random) -> None:
    """Damage every document of the collection, each in one or two ways."""
    collection = storage._driver.collection.with_options(codec_options=AS_MILLISECONDS)
    documents = await collection.find({}, batch_size=DOCUMENTS + 1).to_list(None)
    damaged = copy.deepcopy(documents)
    for document in damaged:
        for damage in chance.sample(DAMAGES, chance.choice([1, 1, 2])):
            try:
                damage(document, chance.choice(documents), chance)
            except (AttributeError, LookupError, TypeError, ValueError):
                continue  # the first damage left nothing for the second one to damage
    await collection.delete_many({})
    await collection.insert_many(damaged)


@pytest.mark.parametrize(
    ("driver", "absolute_timeout"),
    [
        pytest.param("motor", None, id="motor, idle timeout only"),
        pytest.param("pymongo", 86400, id="pymongo, idle and absolute timeout"),
    ],
    indirect=["driver"],
)
async def test_two_thousand_damaged_documents_break_no_request_and_mix_no_sessions(
    make_storage: MakeStorage, absolute_timeout: int | None
) -> None:
    """Every visitor gets their own values, or some of them, or an empty session."""
    storage = make_storage(
        absolute_timeout=absolute_timeout, describe=lambda _request: "x", operation_timeout=60
    )
    stored = await stored_sessions(storage, DOCUMENTS)
    await damage_all(storage, random.Random(11))

    seen = await asyncio.gather(*(values(storage, cookie) for cookie in stored))

    for mine, got in zip(stored.values(), seen, strict=True):
        assert got.items() <= mine.items()
    assert storage.counters["unreadable"] > DOCUMENTS // 4


@real_drivers
async def test_damaged_documents_break_no_save_no_list_and_no_housekeeping(
    make_storage: MakeStorage, clock: Clock
) -> None:
    """Saves, lists, counts and deletions work with damaged documents in the collection."""
    storage = make_storage(describe=lambda _request: "label")
    stored = await stored_sessions(storage, DOCUMENTS // 20)
    await damage_all(storage, random.Random(13))
    clock.advance(7200)

    for cookie in stored:
        saved = await visit(storage, cookie, lambda session: session.update(seen=True))
        assert (await values(storage, saved))["seen"] is True
    for mine in stored.values():
        async for info in storage.sessions(mine["user_id"]):
            assert await storage.revoke(info.handle, mine["user_id"])
    await storage.count()
    await storage.count(retired=True)
    await storage.purge()
    assert await storage.clear() > 0


@pytest.mark.parametrize("field", FIELDS)
async def test_any_bson_value_in_any_field_breaks_no_request(
    make_storage: MakeStorage, field: str
) -> None:
    """The session is read unchanged, or it is no session."""
    storage = make_storage(describe=lambda _request: "label")
    collection = storage._driver.collection

    async def damage_and_visit(number: int, wrong: Any) -> None:
        mine = {"user_id": number, "name": "Ada"}
        cookie = await visit(storage, None, lambda session: session.update(mine))
        assert cookie is not None
        identifier = document_id(from_cookie(cookie) or b"")
        await collection.update_one({"_id": identifier}, {"$set": {field: wrong}})

        begun = await load(storage, cookie)

        assert dict(begun.session) in ({}, mine), wrong
        begun.session["more"] = 1
        begun.session.max_age = 60
        assert (await values(storage, await begun.save()))["more"] == 1, wrong
        assert len([info async for info in storage.sessions(number)]) <= 1, wrong

    await asyncio.gather(*(damage_and_visit(*case) for case in enumerate(WRONG)))
