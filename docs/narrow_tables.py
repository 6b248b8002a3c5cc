"""Make tables readable on a phone: a hook of MkDocs, which calls it with the HTML of each page.

A table with long texts is marked. ``site.css`` shows each of its rows as a list there, every cell
below the name of its column; other tables scroll. Long names in code may be broken after an
underscore, a slash or a colon.
"""

from __future__ import annotations

import re
from html import escape, unescape
from itertools import cycle
from typing import Any

LONG = 60  # characters: a cell that does not fit beside another one on a phone
_TABLE = re.compile(r"<table>.*?</table>", re.DOTALL)
_CELL = re.compile(r"<td(?=[ >])(.*?)</td>", re.DOTALL)
_NAME = re.compile(r"<code>[^<]{25,}</code>")


def on_page_content(html: str, **_page: Any) -> str:
    """Return the HTML of a page with its tables marked and its long names breakable."""
    return _NAME.sub(_breakable, _TABLE.sub(_marked, html))


def _marked(table: re.Match[str]) -> str:
    longest = max((len(_text(cell[0])) for cell in _CELL.finditer(table[0])), default=0)
    if longest <= LONG:
        return table[0]
    columns = cycle(
        _text(cell) for cell in re.findall(r"<th.*?</th>", table[0].split("<tbody>")[0])
    )
    named = _CELL.sub(
        lambda cell: f'<td data-column="{escape(next(columns))}"{cell[1]}</td>', table[0]
    )
    return named.replace("<table>", "<table data-long>", 1)


def _breakable(name: re.Match[str]) -> str:
    return re.sub(r"(_|/|::)(?=[^\W\d])", r"\1<wbr>", name[0].removesuffix("</code>")) + "</code>"


def _text(html: str) -> str:
    return unescape(re.sub(r"<[^>]+>", "", html)).strip()
