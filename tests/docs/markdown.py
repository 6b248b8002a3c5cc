"""The parts of a Markdown page: fenced blocks, tables, links, names of tests."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PAGES = sorted(
    path for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*.md"))
)
_FENCE = re.compile(r"^( *)```(\w+)[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_TEST = re.compile(r"\b(tests/[\w/]+\.py)(?:::(\w+))?")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and where it starts."""

    language: str
    text: str
    page: Path
    line: int

    @property
    def name(self) -> str:
        """Return an id for the test."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path, language: str | None = None) -> list[Block]:
    """Return the fenced blocks of a page, of one language if one is given."""
    text = page.read_text()
    found = [
        Block(match[2], _dedented(match[3], match[1]), page, text.count("\n", 0, match.start()) + 1)
        for match in _FENCE.finditer(text)
    ]
    return [block for block in found if language in (None, block.language)]


def all_blocks(language: str) -> list[Block]:
    """Return the fenced blocks of one language on every page."""
    return [block for page in PAGES for block in blocks(page, language)]


def table(page: Path, heading: str) -> list[list[str]]:
    """Return the cells of the first table below a heading, without the header row."""
    below = page.read_text().split(f"# {heading}\n", 1)[1]
    lines: list[str] = []
    for line in below.splitlines():
        if line.startswith("|"):
            lines.append(line)
        elif lines:
            break
    return [[cell.strip() for cell in line.strip().strip("|").split(" | ")] for line in lines[2:]]


def links(page: Path) -> Iterator[str]:
    """Yield the targets of a page's links and images."""
    yield from (match[1] for match in _LINK.finditer(_FENCE.sub("", page.read_text())))


def named_tests(page: Path) -> Iterator[tuple[str, str | None]]:
    """Yield the test files that a page names, each with the test's name if it has one."""
    yield from ((match[1], match[2]) for match in _TEST.finditer(page.read_text()))


def commands(block: Block) -> list[tuple[str, str]]:
    """Return the commands of a console block, each with the output shown below it."""
    found: list[tuple[str, str]] = []
    for line in block.text.splitlines(keepends=True):
        if line.startswith("$ "):
            found.append((line[2:].rstrip("\n"), ""))
        else:
            typed, shown = found[-1]
            found[-1] = (typed, shown + line)
    return found


def _dedented(text: str, indent: str) -> str:
    return "".join(line.removeprefix(indent) for line in text.splitlines(keepends=True))
