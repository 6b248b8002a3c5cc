"""The tables of README, the guide and speed, and the stored document, field by field."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
import tomllib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp_session import get_session

from storage import MongoStorage
from storage.session import MongoSession
from tests.docs.markdown import ROOT, blocks, table
from tests.storage.conftest import Clock, CommandLog, MakeStorage, OpenSite, Site, Visitor

README = ROOT / "README.md"
GUIDE = ROOT / "docs" / "guide.md"
PLANNING = ROOT / "docs" / "planning.md"
SPEED = ROOT / "docs" / "speed.md"
REQUIRED = inspect.Parameter.empty
NAMES = {"json": json}


def test_settings_table_is_the_constructors_signature() -> None:
    """The same arguments in the same order with the same defaults."""
    rows = [(cells[0].strip("`"), cells[1]) for cells in table(GUIDE, "Settings")]
    stated = [
        (name, REQUIRED if default == "required" else eval(default.strip("`"), NAMES))  # noqa: S307
        for name, default in rows
    ]
    parameters = inspect.signature(MongoStorage).parameters.values()

    assert stated == [(parameter.name, parameter.default) for parameter in parameters]


def test_guide_names_the_lowest_versions_of_what_the_package_needs() -> None:
    """They are those of `pyproject.toml`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [f"python{project['requires-python']}", *project["dependencies"]]
    text = " ".join(GUIDE.read_text().lower().split())

    assert [need for need in needed if need.replace(">=", " ") not in text] == []


async def _nothing(_session: MongoSession) -> None:
    """Read the session and change nothing."""


async def _sign_in(session: MongoSession) -> None:
    session["user_id"] = "7"


async def _put_in_cart(session: MongoSession) -> None:
    session.setdefault("cart", []).append("tea")


async def _sign_out(session: MongoSession) -> None:
    session.invalidate()


Change = Callable[[MongoSession], Awaitable[None]]
# What each row of the cost table does: the visits that prepare it, what happens in between, and
# the visit that is counted.
ROWS: dict[str, tuple[list[Change], str, Change]] = {
    "no cookie, or a cookie that cannot be a session token": ([], "malformed cookie", _nothing),
    "a visitor who stored nothing": ([], "", _nothing),
    "reads the session": ([_put_in_cart], "", _nothing),
    "reads the session, and a touch is due": ([_put_in_cart], "two hours pass", _nothing),
    "changes the session": ([_put_in_cart], "", _put_in_cart),
    "first value of a new session": ([], "", _put_in_cart),
    "sign-in of a known visitor": ([_put_in_cart], "", _sign_in),
    "sign-out": ([_put_in_cart, _sign_in], "", _sign_out),
}


def test_every_row_of_the_cost_table_is_measured() -> None:
    """Every row of the table has a test."""
    assert [cells[0] for cells in table(SPEED, "What a request costs")] == list(ROWS)


@pytest.mark.parametrize(
    ("row", "commands"),
    [pytest.param(row, commands, id=row) for row, commands in table(SPEED, "What a request costs")],
)
async def test_request_costs_what_the_table_says(
    row: str, commands: str, visitor: Visitor, log: CommandLog, clock: Clock
) -> None:
    """The commands are counted at the driver, with a real MongoDB."""
    before, meanwhile, counted = ROWS[row]
    for change in before:
        await visitor.do(change)
    if meanwhile == "two hours pass":
        clock.advance(2 * 3600)
    if meanwhile == "malformed cookie":
        visitor.cookie = "x" * 42
    log.commands.clear()

    response = await visitor.do(counted)

    assert response.status == 200
    assert log.names == re.findall(r"\b1 (\w+)", commands)
    assert ("no cookie" in commands) <= (visitor.cookie is None)


async def test_requests_at_the_same_time_share_their_commands(site: Site, log: CommandLog) -> None:
    """Thirty visits at once need fewer than thirty finds."""
    visitors = [await site.visitor() for _ in range(30)]
    for visitor in visitors:
        await visitor.do(_put_in_cart)
    log.commands.clear()

    sessions = await asyncio.gather(*(visitor.session() for visitor in visitors))

    assert sessions == [{"cart": ["tea"]}] * 30
    assert log.names.count("find") < 30


async def test_stored_session_looks_as_documented(
    make_storage: MakeStorage, open_site: OpenSite, collection: Any
) -> None:
    """The document has the same fields in the same order, with the same types and lengths."""
    site = await open_site(make_storage(describe=lambda _request: "Firefox on Linux"))
    visitor = await site.visitor()

    async def shop(request: web.Request) -> web.Response:
        session = await get_session(request)
        session["user_id"] = "7"
        session["cart"] = ["tea"]
        return web.Response()

    await visitor.visit(shop)

    (shown,) = blocks(PLANNING, "js")
    assert _outline(await collection.find_one()) == _stated(shown.text)


def _outline(document: dict[str, Any]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name, value in document.items():
        if isinstance(value, dict):
            found += [(name, "{")] + [("FIELD", kind) for _field, kind in _outline(value)]
        elif isinstance(value, bytes):
            found.append((name, f"Binary({len(value)})"))
        elif isinstance(value, bool) or value is None:
            found.append((name, json.dumps(value)))
        else:
            found.append((name, "Date"))
    return found


def _stated(text: str) -> list[tuple[str, str]]:
    pairs = re.findall(r'^ +("?[\w-]+"?): ([\w()]+|\{)', text, re.MULTILINE)
    return [("FIELD" if name.startswith('"') else name, kind) for name, kind in pairs]


def test_speed_table_is_that_of_make_bench() -> None:
    """The ratios of README are those of the last run, row by row."""
    assert table(README, "Speed") == table(ROOT / "docs" / "benchmarks.md", "Ratios")
