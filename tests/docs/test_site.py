"""The site of docs/ is built with --strict and makes no request to another host."""

from __future__ import annotations

import re
import subprocess
import sys
from mimetypes import guess_type
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from playwright.async_api import Browser

from storage import __all__ as public_names
from tests.browser.chromium import PHONE, visiting
from tests.browser.conftest import browser
from tests.docs.markdown import ROOT

__all__ = ["browser"]

# What a browser loads automatically; a link that somebody has to follow is not a request.
FETCHED = re.compile(
    r"<(?:script|img|iframe|source|video|audio)\b[^>]*\bsrc=[\"']?(?:https?:)?//"
    r"|<link\b(?![^>]*rel=[\"']?(?:canonical|next|prev))[^>]*\bhref=[\"']?(?:https?:)?//"
    r"|@import\s+(?:url\()?[\"']?(?:https?:)?//"
    r"|url\([\"']?(?:https?:)?//",
)

WIDER_THAN_THE_WINDOW = "document.documentElement.scrollWidth > window.innerWidth"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site as `make docs` does; a warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT,
        env={"PATH": "", "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    # Never with --quiet: it hides the warnings from --strict as well.
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_is_in_the_site(built: Path) -> None:
    """Every Markdown file has a page."""
    written = {page.stem for page in (ROOT / "docs").glob("*.md")}

    assert written <= {page.stem for page in built.glob("*.html")}


def test_page_has_the_same_name_in_the_navigation_and_as_its_heading() -> None:
    """The nav names every page but the first as the page itself does."""
    nav = (ROOT / "mkdocs.yml").read_text().split("\nnav:\n")[1].split("\n\n")[0]
    named = {file: name for name, file in re.findall(r"- (.+): (\S+\.md)$", nav, re.MULTILINE)}
    pages = {page.name: page.read_text() for page in (ROOT / "docs").glob("*.md")}

    assert named.pop("index.md") == "Start"
    assert named == {
        name: text.partition("\n")[0].removeprefix("# ")
        for name, text in pages.items()
        if name != "index.md"
    }


def test_cells_of_a_long_table_name_their_column(built: Path) -> None:
    """A phone shows a row of the settings as a list, and breaks names only between words."""
    page = (built / "guide.html").read_text()

    (row,) = re.findall(r"<tr>\s*(<td[^>]*><code>touch_interval</code>.*?)</tr>", page, re.DOTALL)

    assert re.findall(r'<td data-column="(.*?)">', row) == [
        "argument",
        "default",
        "unit, accepted values",
        "meaning",
    ]
    promises = (built / "promises.html").read_text()
    assert "<code>tests/<wbr>docs/<wbr>test_<wbr>planning.py::<wbr>test_" in promises


def test_table_of_numbers_stays_a_table_on_a_phone(built: Path) -> None:
    """Its rows are compared with each other; it scrolls."""
    assert "data-column" not in (built / "benchmarks.html").read_text()


def test_no_file_loads_anything_from_another_host(built: Path) -> None:
    """No font, script or image comes from another host."""
    found = {
        file.relative_to(built): match[0]
        for file in built.rglob("*")
        if file.suffix in {".html", ".css"}
        for match in FETCHED.finditer(file.read_text())
    }

    assert found == {}


def test_api_page_has_every_public_name(built: Path) -> None:
    """The API page describes every name that `storage` exports, from its docstring."""
    page = (built / "api.html").read_text()

    missing = [name for name in public_names if not re.search(rf'id="storage[\w.]*\.{name}"', page)]

    assert missing == []
    assert "<strong>max_age</strong>: the idle timeout in seconds" in page


@pytest.mark.long
async def test_browser_requests_no_other_host_and_reports_no_error(
    built: Path, browser: Browser
) -> None:
    """Every page is opened in a real Chromium; no page is wider than a phone."""
    pages, wide = _names(built), []

    async def send(request: web.Request) -> web.Response:
        file = built / request.match_info["name"]
        if not file.is_file():
            raise web.HTTPNotFound
        # Not add_static: a file that is being sent stays open when the browser leaves the page.
        kind = guess_type(file.name)[0] or "application/octet-stream"
        return web.Response(body=file.read_bytes(), content_type=kind)

    app = web.Application()
    app.router.add_get("/{name:.+}", send)
    async with TestServer(app) as server:
        site = str(server.make_url("/")).rstrip("/")
        async with visiting(browser, site, size=PHONE) as visitor:
            for name in pages:
                await visitor.open(f"/{name}")
                await visitor.page.wait_for_load_state("load")
                if await visitor.page.evaluate(WIDER_THAN_THE_WINDOW):
                    wide.append(name)

    assert visitor.errors == []
    assert wide == []


def _names(built: Path) -> list[str]:
    return sorted(page.name for page in built.glob("*.html"))
