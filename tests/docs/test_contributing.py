"""CONTRIBUTING shows the layout as it is."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.markdown import ROOT, blocks, table

PAGE = ROOT / "CONTRIBUTING.md"
PLACES = {cells[0]: cells[1] for cells in table(PAGE, "Where do I change …")}


def parts(package: str) -> set[str]:
    """Return every word in the diagram's box of one package."""
    (diagram,) = blocks(PAGE, "mermaid")
    box = diagram.text.split(f"subgraph {package}\n")[1].split("    end\n")[0]
    return set(re.findall(r"\w+", box))


def test_diagram_names_every_module_of_storage() -> None:
    """A new module of storage gets its place in the diagram."""
    modules = {path.stem for path in (ROOT / "storage").glob("*.py")}

    assert modules - parts("storage") == set()


def test_diagram_names_every_package_and_module_at_the_top_of_webapp() -> None:
    """A new package or module of webapp gets its place in the diagram."""
    inside = {path.parent.name for path in (ROOT / "webapp").glob("*/__init__.py")}
    inside |= {path.stem for path in (ROOT / "webapp").glob("*.py")} - {"__init__"}

    assert inside - parts("webapp") == set()


@pytest.mark.parametrize("package", ["storage", "webapp"])
def test_diagram_of_a_package_has_a_box_for_it(package: str) -> None:
    """The words of the box are found, so the tests above compare something."""
    assert len(parts(package)) > 10


def defined_in(path: Path) -> set[str]:
    """Return the names that a module defines, methods and attributes as `Class.name`."""

    def names(body: list[ast.stmt], prefix: str = "") -> Iterator[str]:
        for statement in body:
            match statement:
                case ast.ClassDef(name=name, body=inside):
                    yield prefix + name
                    yield from names(inside, f"{name}.")
                case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                    yield prefix + name
                case ast.Assign(targets=targets):
                    for found in (node for target in targets for node in ast.walk(target)):
                        if isinstance(found, ast.Name):
                            yield prefix + found.id
                case ast.AnnAssign(target=ast.Name(id=name)):
                    yield prefix + name

    return set(names(ast.parse(path.read_text()).body))


@pytest.mark.parametrize("question", PLACES)
def test_place_where_a_question_is_decided_exists(question: str) -> None:
    """Each file of the table exists and defines the names that follow it."""
    here: Path | None = None
    for word in re.findall(r"`([^`]+)`", PLACES[question]):
        if word.endswith(".py"):
            here = ROOT / word
            assert here.exists(), word
        elif word != "max_age":
            assert here is not None
            assert word in defined_in(here), f"{word} in {here}"
    assert here is not None


def test_files_and_names_of_the_steps_for_a_new_route_exist() -> None:
    """A person who adds a route finds every place that the steps name."""
    steps = PAGE.read_text().split("To add a route:\n")[1].split("\n## ")[0]
    words = set(re.findall(r"`([^`]+)`", steps))
    paths = {word for word in words if "/" in word and word != "/readyz"}
    files = [ROOT / path for path in paths if path.endswith(".py")]
    code = {name for path in files for name in defined_in(path)}

    assert {path for path in paths if not (ROOT / path).exists()} == set()
    assert len(files) >= 4
    names = {word for word in words - paths if "." not in word}
    assert {name for name in names if name not in code} == set()
