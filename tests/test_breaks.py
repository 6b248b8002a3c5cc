"""The breaks that `make breaks` draws from."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from coverage import CoverageData

from tests.breaks import (
    FEW,
    MEANINGLESS,
    ROOT,
    START_SECONDS,
    TIMES_LONGER,
    WANTED,
    Coverage,
    Measured,
    Places,
    files_that_name,
)


def breaks_of(source: str) -> set[tuple[str, str]]:
    """Return what is replaced in a program, and by what."""
    return {(one.old, one.new) for one in Places("storage/it.py", source.encode()).found}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        pytest.param(
            "if a < b: pass", {("a < b", "(a <= b)"), ("a < b", "(not (a < b))")}, id="if"
        ),
        pytest.param("a = b and c", {("b and c", "(b or c)")}, id="and"),
        pytest.param("a = not b", {("not b", "(b)")}, id="not"),
        pytest.param("a = True", {("True", "(False)")}, id="a constant"),
        pytest.param("é = 1", {("1", "(2)")}, id="after a character of two bytes"),
        pytest.param("f(a, b=c)", {("f(a, b=c)", "(f(a))"), ("f(a, b=c)", "pass")}, id="a call"),
        pytest.param("raise E", {("raise E", "pass")}, id="raise"),
        pytest.param("a.b = c", {("a.b = c", "pass")}, id="an attribute"),
        pytest.param("def f():\n  return False", {("False", "(True)")}, id="return False"),
        pytest.param("def f():\n  return a", {("return a", "return None")}, id="return"),
    ],
)
def test_each_kind_of_place_is_broken(source: str, expected: set[tuple[str, str]]) -> None:
    """The replacement is the opposite, the next value, or nothing."""
    assert breaks_of(source) == expected


@pytest.mark.parametrize(
    "source",
    [
        pytest.param('"""Words."""', id="a docstring"),
        pytest.param("a: Literal[1]", id="a type"),
        pytest.param("def f(a: Literal[1]) -> Literal[2]: return None", id="types of a function"),
        pytest.param("T = TypeVar('T')", id="a type variable"),
        pytest.param("Name = tuple[int, Literal[1]]", id="a name for a type"),
        pytest.param("if TYPE_CHECKING: a = 1", id="what only mypy sees"),
        pytest.param("a = cast('int', b)", id="the type of a cast"),
        pytest.param("a = zip(b, c, strict=True)", id="an assertion"),
        pytest.param("@dataclass(frozen=True, slots=True)\nclass A: pass", id="a dataclass"),
    ],
)
def test_what_does_not_run_is_not_broken(source: str) -> None:
    """An assertion is not broken either: no test could notice that."""
    assert breaks_of(source) == set()


def test_every_break_of_a_module_can_be_compiled() -> None:
    """A break that is no Python would always be noticed."""
    source = (ROOT / "storage" / "lifetime.py").read_bytes()
    found = Places("storage/lifetime.py", source).found

    assert len(found) > 50
    for one in found:
        ast.parse(source[: one.start] + one.new.encode() + source[one.end :])


def test_exceptions_exist_and_have_a_reason() -> None:
    """An exception whose place has changed is removed, and looked at again."""
    existing = {
        one.meaning
        for path in (ROOT / "storage").glob("*.py")
        for one in Places(f"storage/{path.name}", path.read_bytes()).found
    }

    assert MEANINGLESS.keys() <= existing
    assert all(reason.endswith(".") for reason in MEANINGLESS.values())
    assert WANTED == 0.95


def test_place_that_runs_at_import_is_for_the_tests_of_its_module_too(tmp_path: Path) -> None:
    """They may only read a constant. Tests that import it once more do not stand for them."""
    measured = Measured.under(tmp_path)
    measured.times.write_text(
        '<testsuite><testcase classname="tests.storage.test_it" name="test_number" time="0.1"/>'
        '<testcase classname="tests.storage.test_other" name="test_other" time="0.2"/></testsuite>'
    )
    data = CoverageData(measured.coverage)
    for context, lines in {
        "": [1, 3],
        "tests/storage/test_other.py::test_other|run": [2],
        "tests/storage/test_again.py::test_again|run": [3],
    }.items():
        data.set_context(context)
        data.add_lines({"/somewhere/storage/it.py": lines})
    data.write()
    source = b"NUMBER = 1\nif NUMBER: f()\nOTHER = 3"
    places = Places("storage/it.py", source).found
    own, other = "tests/storage/test_it.py::test_number", "tests/storage/test_other.py::test_other"
    again = "tests/storage/test_again.py::test_again"

    found = {one.old: set(Coverage(measured).of(one)) for one in places}

    assert found["f()"] == {other}
    assert found["1"] == {own, other, again}
    assert found["3"] >= {own, again}


@pytest.mark.parametrize(
    ("module", "file"),
    [
        pytest.param("causes", "tests/docs/test_troubleshooting.py", id="among several names"),
        pytest.param("indexes", "tests/storage/test_causes.py", id="as text"),
        pytest.param("watching", "tests/storage/test_watches.py", id="beside others"),
        pytest.param("causes", "tests/storage/test_causes.py", id="with its own names"),
    ],
)
def test_files_that_import_a_module_are_found(module: str, file: str) -> None:
    """However they write it; a file that does not is none of them."""
    assert file in files_that_name(module)
    assert "tests/storage/test_pacing.py" not in files_that_name(module)


def test_few_tests_are_the_quickest_and_the_quickest_of_each_file(tmp_path: Path) -> None:
    """Those that do not execute the line, and slow ones, are not among them."""
    measured = Measured.under(tmp_path)
    seconds = {f"tests/storage/test_a.py::test_{number:02}": 0.01 for number in range(2 * FEW)}
    seconds |= {"tests/storage/test_b.py::test_it": 0.1, "tests/storage/test_b.py::test_other": 0.2}
    seconds |= {"tests/webapp/test_c.py::test_slow": 5.0}
    cases = ""
    for test, time in seconds.items():
        file, name = test.split("::")
        path = file.removesuffix(".py").replace("/", ".")
        cases += f'<testcase classname="{path}" name="{name}" time="{time}"/>'
    measured.times.write_text(f"<testsuite>{cases}</testsuite>")
    data = CoverageData(measured.coverage)
    for test in [*seconds, "tests/storage/test_d.py::test_elsewhere"]:
        data.set_context(f"{test}|run")
        data.add_lines({"/somewhere/storage/it.py": [2 if "elsewhere" in test else 1]})
    data.write()
    (broken,) = Places("storage/it.py", b"a = 1\nb = c").found

    tests = Coverage(measured)

    few = [*list(seconds)[:FEW], "tests/storage/test_b.py::test_it"]
    assert tests.of(broken) == list(seconds)
    assert tests.few_of(broken) == few
    assert tests.limit(few) == pytest.approx(START_SECONDS + TIMES_LONGER * (FEW * 0.01 + 0.1))
