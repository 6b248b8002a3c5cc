"""The document of a session: built, updated, read or refused. No database is used."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import bson
import pytest
from bson import Int64
from bson.datetime_ms import DatetimeMS

from storage.document import (
    DocumentUpdate,
    Stored,
    build,
    checked_values,
    decode,
    not_expired,
    parse_without_values,
    readable,
    readable_session,
)
from storage.errors import Unreadable
from storage.lifetime import Dates, checked_lifetime, from_datetime

NOON_MS = 1_795_435_200_000
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
DATES = Dates(NOON_MS, NOON_MS + 1, NOON_MS + 2, None)
STORED = Stored(
    identifier=b"i" * 32,
    dates=DATES,
    persistent=True,
    owner=b"o" * 16,
    key_id=b"k" * 4,
    label=b"label",
)
VALUES = {"field": b"sealed"}
LATER = {
    "last_seen_at": NOON + timedelta(milliseconds=1),
    "expires_at": NOON + timedelta(milliseconds=2),
}


def read(document: dict[str, Any]) -> Stored:
    """Read a document as a load does; its values are checked too."""
    checked_values(document.get("values"))
    return parse_without_values(document)


def test_document_reads_back_as_it_was_built() -> None:
    """It has ten fields, with aware dates."""
    document = build(STORED, VALUES)

    assert document == {
        "_id": b"i" * 32, "created_at": NOON, **LATER, "max_age": None, "persistent": True,
        "owner": b"o" * 16, "key_id": b"k" * 4, "label": b"label", "values": {"field": b"sealed"},
    }  # fmt: skip
    assert read(document) == STORED


def test_owner_and_label_are_absent_when_there_are_none() -> None:
    """Not null: the sparse index would contain it."""
    stored = STORED._replace(owner=None, label=None)

    document = build(stored, VALUES)

    assert not {"owner", "label"} & set(document)
    assert read(document) == stored


@pytest.mark.parametrize("max_age", [1, 0.25, 2**31, Int64(60)])
def test_own_max_age_reads_back(max_age: float) -> None:
    """Integers and fractions, in 32 and 64 bits."""
    stored = STORED._replace(dates=DATES._replace(max_age=max_age))

    assert read(build(stored, VALUES)).dates.max_age == max_age


def test_dates_are_read_in_every_form_that_a_driver_gives() -> None:
    """As milliseconds, aware or naive."""
    for instant in (DatetimeMS(NOON_MS), NOON, NOON.replace(tzinfo=None)):
        assert read({**build(STORED, VALUES), "created_at": instant}).dates.created_ms == NOON_MS


def test_dates_are_read_from_the_year_1970_to_the_year_9000() -> None:
    """With any timeout added they still fit a datetime."""
    first, last = datetime(1970, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)
    document = build(STORED, VALUES)

    assert read({**document, "created_at": first}).dates.created_ms == 0
    assert read({**document, "expires_at": last}).dates.expires_ms == from_datetime(last)
    with pytest.raises(Unreadable, match="not a date of this age"):
        read({**document, "expires_at": last + timedelta(milliseconds=1)})


def test_text_of_others_that_is_no_utf_8_does_not_hide_a_session() -> None:
    """A field that is not ours may hold what a program in another language wrote."""
    raw = bson.encode({**build(STORED, VALUES), "note": "????"}).replace(b"????", b"\xff\xfe??")

    document, sealed = decode(raw)

    assert parse_without_values(document) == STORED
    assert sealed == VALUES


WRONG: dict[str, list[Any]] = {
    "_id": [None, b"", b"i" * 31, "i" * 32, 7],
    "created_at": [None, 0, "2026", 1.5, DatetimeMS(-1), DatetimeMS(2**62)],
    "last_seen_at": [None, NOON_MS, DatetimeMS(2**62)],
    "expires_at": [None, NOON_MS, DatetimeMS(2**62)],
    "max_age": [0, -1, True, "60", float("inf"), float("nan"), 10**30, {}],
    "persistent": [None, 1, "yes"],
    "owner": [b"", b"o" * 15, "o" * 16, 7],
    "key_id": [None, b"", b"k" * 5, "kkkk"],
    "later_key_ids": [None, b"kkkk", ["kkkk"]],
    "label": ["text", 7, {}],
    "values": [None, {}, [], "text", {"a": "text"}, {"a": None}, {"a": b"fine", "b": {}}],
}
REASONS = {
    "_id": "its field '_id' is not binary of 32 bytes",
    "key_id": "its field 'key_id' is not binary of 4 bytes",
    "later_key_ids": "its field 'later_key_ids' is not a list of binary",
    "persistent": "its field 'persistent' is not true or false",
    "label": "its field 'label' is not binary",
    "owner": "its field 'owner' is not binary of 16 bytes",
    "max_age": "its field 'max_age' is neither null nor an accepted number of seconds",
    "values": "(its field|a field of its) 'values' is not (a document of sealed values|binary)",
}
DATE = "its field '{}' is not a date( of this age)?"
CASES = [(field, value) for field, values in WRONG.items() for value in values]


@pytest.mark.parametrize(
    ("field", "value"), CASES, ids=[f"{field} {value!r}"[:60] for field, value in CASES]
)
def test_wrong_field_is_refused_by_name(field: str, value: Any) -> None:
    """The log names the field, and does not show its value."""
    with pytest.raises(Unreadable, match=f"^{REASONS.get(field, DATE).format(field)}$"):
        read({**build(STORED, VALUES), field: value})


@pytest.mark.parametrize(
    "field",
    ["_id", "created_at", "last_seen_at", "expires_at", "persistent", "key_id", "values"],
)
def test_missing_field_is_refused_by_name(field: str) -> None:
    """All fields but owner, label and max_age are required."""
    document = build(STORED, VALUES)
    del document[field]

    with pytest.raises(Unreadable, match=f"^{REASONS.get(field, DATE).format(field)}$"):
        read(document)


def test_document_without_values_is_read_for_the_list() -> None:
    """The list of the sessions of an owner does not read the values."""
    document = build(STORED, VALUES)
    del document["values"]

    assert parse_without_values(document).dates == DATES


@pytest.mark.parametrize(
    ("change", "operators"),
    [
        pytest.param(DocumentUpdate(values={}), {}, id="nothing"),
        pytest.param(
            DocumentUpdate(values={"f": b"s"}),
            {"$set": {"values.f": b"s"}},
            id="one value",
        ),
        pytest.param(
            DocumentUpdate(values={}, removed=["f"]),
            {"$unset": {"values.f": ""}},
            id="a removed value",
        ),
        pytest.param(
            DocumentUpdate(values={}, dates=DATES), {"$max": LATER}, id="a touch, forward only"
        ),
        pytest.param(
            DocumentUpdate(values={"f": b"s"}, dates=DATES, label=b"l"),
            {"$set": {"values.f": b"s", "label": b"l"}, "$max": LATER},
            id="a save with a touch",
        ),
        pytest.param(
            DocumentUpdate(values={"f": b"s"}, sealed_under=b"kkkk"),
            {"$set": {"values.f": b"s"}, "$addToSet": {"later_key_ids": b"kkkk"}},
            id="a save under one of several secrets",
        ),
        pytest.param(
            DocumentUpdate(values={}, dates=DATES, sealed_under=b"kkkk"),
            {"$max": LATER},
            id="a touch that seals nothing",
        ),
        pytest.param(
            DocumentUpdate(values={}, dates=DATES, persistent=True, sealed_under=b"kkkk"),
            {"$set": {"persistent": True, "max_age": None, **LATER}},
            id="a changed max_age that seals nothing",
        ),
        pytest.param(
            DocumentUpdate(values={}, dates=DATES._replace(max_age=60), persistent=False),
            {"$set": {"persistent": False, "max_age": 60, **LATER}},
            id="a changed max_age, which may move the end back",
        ),
        pytest.param(
            DocumentUpdate(values={}, dates=DATES, persistent=True),
            {"$set": {"persistent": True, "max_age": None, **LATER}},
            id="max_age of the storage again",
        ),
    ],
)
def test_update_uses_operators_on_single_fields(
    change: DocumentUpdate, operators: dict[str, Any]
) -> None:
    """Never a whole document: fields that parallel requests write stay."""
    assert change.to_mongodb() == operators


def test_filters_compare_with_the_same_instant() -> None:
    """A write needs a session that has not expired; a count checks the present timeouts too."""
    assert not_expired(NOON_MS) == {"expires_at": {"$gt": NOON}}
    assert readable_session(NOON_MS) == {"expires_at": {"$gt": NOON}, "forward": None}
    idle_only = readable(checked_lifetime(60, None, None), NOON_MS)
    both = readable(checked_lifetime(60, 3600, None), NOON_MS)
    assert idle_only == {
        "expires_at": {"$gt": NOON},
        "forward": None,
        "$or": [
            {"max_age": {"$ne": None}},
            {"last_seen_at": {"$gt": NOON - timedelta(minutes=1)}},
        ],
    }
    assert both == {**idle_only, "created_at": {"$gt": NOON - timedelta(hours=1)}}
