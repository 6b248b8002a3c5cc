"""The stylesheet and the icon."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.webapp.conftest import Client
from webapp.handlers.static_files import IMMUTABLE, StaticFiles


@pytest.mark.parametrize(
    ("name", "content_type"), [("style.css", "text/css"), ("icon.svg", "image/svg+xml")]
)
async def test_linked_address_is_immutable(client: Client, name: str, content_type: str) -> None:
    """The versioned address is immutable; with no version, or an old one, browsers ask again."""
    address = StaticFiles().address(name)

    linked = await client.get(address)
    unversioned = await client.get(f"/static/{name}")
    old = await client.get(f"/static/{name}?v=000000000000")

    assert linked.content_type == content_type
    assert linked.headers["Cache-Control"] == IMMUTABLE
    assert unversioned.headers["Cache-Control"] == old.headers["Cache-Control"] == "no-cache"
    assert await linked.read() == await old.read()


def test_changed_content_has_another_address(tmp_path: Path) -> None:
    """A new page never uses an old stylesheet."""
    file = tmp_path / "style.css"
    file.write_text("a")
    before = StaticFiles(tmp_path).address("style.css")

    file.write_text("b")

    assert StaticFiles(tmp_path).address("style.css") != before


@pytest.mark.parametrize(
    "path",
    [
        "/static/nothing.css",
        "/static/../pages.py",
        "/static/..%2fpages.py",
        "/static/%2e%2e/pages.py",
        "/static/",
        "/static/style.css/",
    ],
)
async def test_nothing_else_is_served(client: Client, path: str) -> None:
    """Only the files of the folder are served, by their exact names."""
    assert (await client.get(path)).status == 404
