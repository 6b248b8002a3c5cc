"""CONTRIBUTING shows the layout as it is."""

from __future__ import annotations

import re

import pytest

from tests.docs.markdown import ROOT, blocks

PAGE = ROOT / "CONTRIBUTING.md"


def parts(package: str) -> set[str]:
    """Return every word in the diagram's box of one package."""
    (diagram,) = blocks(PAGE, "mermaid")
    box = diagram.text.split(f"subgraph {package}\n")[1].split("    end\n")[0]
    return set(re.findall(r"\w+", box))


def test_diagram_names_every_module_of_storage() -> None:
    """A new module of storage gets its place in the diagram."""
    modules = {path.stem for path in (ROOT / "storage").glob("*.py")}

    assert modules - parts("storage") == set()


def test_diagram_names_every_room_and_module_at_the_top_of_webapp() -> None:
    """A new package or module of webapp gets its place in the diagram."""
    inside = {path.parent.name for path in (ROOT / "webapp").glob("*/__init__.py")}
    inside |= {path.stem for path in (ROOT / "webapp").glob("*.py")} - {"__init__"}

    assert inside - parts("webapp") == set()


@pytest.mark.parametrize("package", ["storage", "webapp"])
def test_diagram_of_a_package_has_a_box_for_it(package: str) -> None:
    """The words of the box are found, so the tests above compare something."""
    assert len(parts(package)) > 10
