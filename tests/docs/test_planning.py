"""The planning page has correct calculations, sizes of real documents, and existing fields."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import bson
import pytest
from pymongo import MongoClient

from storage import MongoStorage
from tests.docs.markdown import ROOT, blocks, table
from tests.storage.conftest import MakeStorage
from tests.storage.direct import visit

PAGE = ROOT / "docs" / "planning.md"


def sums() -> list[tuple[str, str, str]]:
    """Return each calculation: its subject, the expression, the result shown."""
    lines = [line for block in blocks(PAGE, "text") for line in block.text.splitlines()]
    parts = [re.split(r"\s{2,}", line, maxsplit=1) for line in lines]
    return [(what, *map(str.strip, rest.split("="))) for what, rest in parts]  # type: ignore[misc]


def number(text: str) -> float:
    """Calculate an expression with numbers as people write them: 1,000 × 2 / 3."""
    spelled = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text).replace("×", "*")
    assert re.fullmatch(r"[\d.+*/() -]+", spelled), text
    return float(eval(spelled))  # noqa: S307 - digits and operators only


@pytest.mark.parametrize(
    ("calculation", "shown"), [pytest.param(how, end, id=what) for what, how, end in sums()]
)
def test_calculation_is_correct(calculation: str, shown: str) -> None:
    """The result on the page is the rounded result of its expression."""
    decimals = len(shown.partition(".")[2])

    assert abs(number(calculation) - number(shown)) <= 0.5001 * 10**-decimals


def _signed_in(session: Any) -> None:
    session["user_id"] = "0123456789abcdef01234567"


def _as_in_the_web_app(session: Any) -> None:
    _signed_in(session)
    session["password_version"] = 1
    session.max_age = None


def _remembered(session: Any) -> None:
    _as_in_the_web_app(session)
    session.max_age = 30 * 86400


SIZES = [
    pytest.param({}, lambda s: s.update(a=1), 161 + 61 + 1 + 1, id="nobody's"),
    pytest.param({}, _signed_in, 161 + 28 + 61 + 7 + 26, id="signed in"),
    pytest.param({"describe": "Firefox on Linux"}, _as_in_the_web_app, 422, id="web app's"),
    pytest.param({"describe": "Firefox on Linux"}, _remembered, 422 + 4, id="remembered"),
]


@pytest.mark.parametrize(("options", "change", "size"), SIZES)
async def test_stored_session_has_the_calculated_size(
    make_storage: MakeStorage,
    collection: Any,
    options: dict[str, str],
    change: Callable[[Any], Any],
    size: int,
) -> None:
    """A document has 161 bytes and the stated bytes for owner, value, label and idle timeout."""
    storage: MongoStorage = make_storage(
        **{name: lambda _request, label=label: label for name, label in options.items()}
    )

    await visit(storage, None, change)

    assert len(bson.encode(await collection.find_one())) == size


def test_every_field_to_watch_is_reported_by_mongodb(mongo_uri: str) -> None:
    """The answer to `serverStatus` has each field that the page names."""
    below = PAGE.read_text().split("`db.serverStatus()` on the primary:")[1]
    fields = re.findall(r"^\| (`.+?) \|", below, re.MULTILINE)
    named = [name for cell in fields for name in re.findall(r"`([^`]+\.[^`]+)`", cell)]
    with MongoClient[dict[str, Any]](mongo_uri) as client:
        status = client.admin.command("serverStatus")

    assert len(named) > 10
    assert [name for name in named if not _has(status, name)] == []


def test_metrics_are_those_of_the_operators_page() -> None:
    """The page names no other metrics, and only counters that the storage has."""
    pattern = r"`((?:webapp|storage)_[a-z_]+)"
    documented = set(re.findall(pattern, (ROOT / "docs" / "operations.md").read_text()))
    counted = {cells[0] for cells in table(ROOT / "docs" / "api.md", "The storage")}

    page = PAGE.read_text()

    assert set(re.findall(pattern, page)) <= documented
    assert {f"`{name}`" for name in re.findall(r'what="(\w+)"', page)} <= counted


def _has(status: dict[str, Any], path: str) -> bool:
    value: Any = status
    for name in path.split("."):
        if not isinstance(value, dict) or name not in value:
            return False
        value = value[name]
    return True
