"""The app on the test mongod, and a real Chromium to visit it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Browser

from tests.browser.chromium import NOT_FOUND, find_chromium, launched
from tests.conftest import missing
from tests.webapp.conftest import Client, client, environ, make_app

__all__ = ["client", "environ", "make_app"]

AXE = Path(__file__).parent / "node_modules" / "axe-core" / "axe.min.js"


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    """Yield a headless Chromium."""
    executable = find_chromium()
    if executable is None:
        missing(NOT_FOUND)
    assert executable
    async with launched(executable) as found:
        yield found


@pytest.fixture
def site(client: Client) -> str:
    """Return the address of the running app, without the last slash."""
    return str(client.make_url("/")).rstrip("/")


@pytest.fixture(scope="session")
def axe() -> str:
    """Return the source of axe-core, the accessibility checker."""
    if not AXE.exists():
        missing("axe-core is not installed: run make node")
    return AXE.read_text("utf-8")
