"""Show the argument lines of our docstrings as lists.

They are plain text, `name: what it means`, the next line indented; Markdown would join them.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_ARGUMENT = re.compile(r"^([a-z_]+(?:, [a-z_]+)*): ", re.MULTILINE)


class ArgumentLists(griffe.Extension):
    """Rewrites each docstring once, when it has been collected."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Turn paragraphs that begin with an argument's name into lists."""
        if obj.docstring is not None:
            paragraphs = obj.docstring.value.split("\n\n")
            obj.docstring.value = "\n\n".join(map(_as_list, paragraphs))


def _as_list(paragraph: str) -> str:
    return _ARGUMENT.sub(r"- **\1**: ", paragraph) if _ARGUMENT.match(paragraph) else paragraph
