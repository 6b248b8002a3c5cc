"""The files, headings and tests that the pages name exist; each comparison has a test."""

from __future__ import annotations

import ast
import re
import tomllib
from functools import cache
from pathlib import Path

import pytest

from tests.docs.markdown import PAGES, ROOT, links, named_tests, table

README = ROOT / "README.md"
PROMISES = ROOT / "docs" / "promises.md"

each_page = pytest.mark.parametrize(
    "page", [pytest.param(page, id=str(page.relative_to(ROOT))) for page in PAGES]
)


@each_page
def test_links_have_a_target(page: Path) -> None:
    """Every relative link names a file, and its fragment a heading in that file."""
    for target in links(page):
        if target.startswith(("https://", "http://")):
            continue
        path, _, fragment = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if fragment:
            assert fragment in _anchors(file), target


@each_page
def test_named_tests_exist(page: Path) -> None:
    """Every test that a page names exists."""
    for file, name in named_tests(page):
        assert (ROOT / file).is_file(), file
        if name is not None:
            assert name in _tests_of(ROOT / file), f"{file}::{name}"


@each_page
def test_named_modules_exist(page: Path) -> None:
    """Every file of the two packages that a page names exists."""
    for file in re.findall(r"`((?:storage|webapp)/[\w/]+\.py)`", page.read_text()):
        assert (ROOT / file).is_file(), file


@each_page
def test_no_placeholder_for_a_figure_is_left(page: Path) -> None:
    """A figure that is not measured yet is written @@NAME@@."""
    assert "@@" not in page.read_text()


def test_every_row_of_the_comparison_has_a_test() -> None:
    """docs/promises.md names a test for each row of the comparison in README."""
    compared = [cells[0] for cells in table(README, "Compared")]
    backed = {cells[0]: cells[-1] for cells in table(PROMISES, "The comparison in README")}

    assert compared == list(backed)
    assert all("::test_" in tests for tests in backed.values())


def test_every_row_of_the_promises_names_a_test() -> None:
    """A promise without a test is not on the page."""
    lines = [line for line in PROMISES.read_text().splitlines() if line.startswith("| ")]
    rows = [line for line in lines if not line.endswith("| test |")]

    assert len(rows) > 100
    assert [row for row in rows if "::test_" not in row] == []


def test_changelog_begins_with_the_version_of_the_project() -> None:
    """The first entry of the changelog is for the current version."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

    newest = re.search(r"^## ([\d.]+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)

    assert newest is not None
    assert newest[1] == version


@cache
def _tests_of(file: Path) -> frozenset[str]:
    nodes = ast.walk(ast.parse(file.read_text()))
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in nodes if isinstance(node, functions))


@cache
def _anchors(page: Path) -> frozenset[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return frozenset(
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings
    )
