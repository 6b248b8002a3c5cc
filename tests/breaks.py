"""Break storage/ on purpose at places drawn at random, and see whether the tests notice each.

`make breaks` runs it. It works in a copy of the tracked files. One run of the tests with coverage
shows which tests execute which line; each break then runs those tests only: first a few, and all
of them if the few pass. The seed is printed: the same seed breaks the same files in the same way.

A sample can be taken in pieces, as long as the files stay the same: the same --seed and --number,
--measured to run the tests with coverage once, and --first and --count for the piece.
"""

from __future__ import annotations

import argparse
import ast
import copy
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from time import monotonic
from xml.etree import ElementTree as ET

from coverage import CoverageData

ROOT = Path(__file__).parent.parent
WANTED = 0.95
FEW = 20  # tests that run first, besides one of each file
# A test that takes longer does not run first.
SLOW_SECONDS = 0.5
# What a run of tests may take: a multiple of what it took before, and the start of a mongod.
TIMES_LONGER, START_SECONDS = 10, 30
PASSED, FAILED, INTERRUPTED = 0, 1, 2  # pytest's exit codes
ALONE = ("-n", "0")
SIDE_BY_SIDE = ("-n", "auto", "--maxprocesses", "4", "--dist", "loadfile")  # as in the Makefile

NEVER_EQUAL = "What the event loop's clock measures is never exactly this instant."
# Breaks that change nothing which anybody could observe: file, what was there, what it became.
MEANINGLESS: Mapping[tuple[str, str, str], str] = {
    ("storage/batching.py", "8", "(9)"): (
        "What a busy event loop spends on others' commands: an eighth and a ninth are both little."
    ),
    ("storage/batching.py", "now >= at_last", "(now > at_last)"): NEVER_EQUAL,
    ("storage/batching.py", "deadline <= loop.time()", "(deadline < loop.time())"): NEVER_EQUAL,
    (
        "storage/batching.py",
        "now - looked_at < QUIET_SECONDS",
        "(now - looked_at <= QUIET_SECONDS)",
    ): NEVER_EQUAL,
    ("storage/cache.py", 'b""', "(b'XX')"): "Neither is a document that MongoDB could send.",
    ("storage/commands.py", '"not confirmed"', "('XXnot confirmed')"): (
        "The error is replaced by one that is named after its code; its text is shown to nobody."
    ),
    ("storage/driver.py", "86_400.0", "(86401.0)"): (
        "About a day, for what may take long; a second more or less is no difference."
    ),
    (
        "storage/document.py",
        "datetime(9000, 1, 1, tzinfo=UTC)",
        "(datetime(9000, 1, 1))",
    ): "A date without a time zone is UTC, as MongoDB's drivers return them.",
    (
        "storage/changes.py",
        "len(encoded) > MOST_NESTED",
        "(len(encoded) >= MOST_NESTED)",
    ): "What is nested too deeply has at least one character more for each level.",
    (
        "storage/driver.py",
        "now - reported_at >= REPORT_SECONDS",
        "(now - reported_at > REPORT_SECONDS)",
    ): NEVER_EQUAL,
    (
        "storage/moving.py",
        "now >= self._report_again_at",
        "(now > self._report_again_at)",
    ): NEVER_EQUAL,
    ("storage/moving.py", "0.0", "(1.0)"): "The clock of an event loop is beyond that.",
    ("storage/watching.py", "due_at <= now", "(due_at < now)"): NEVER_EQUAL,
    ("storage/values.py", '""', "('XX')"): "A name or a field that is set before it is read.",
    ("storage/values.py", 'b""', "(b'XX')"): "A value is sealed before its sealed bytes are read.",
    (
        "storage/batching.py",
        "deadline < self._timer.when()",
        "(deadline <= self._timer.when())",
    ): "The timer would be set again for the same instant.",
    ("storage/saving.py", "return {}", "return None"): (
        "A session that was not loaded has no old token to look up in what is returned."
    ),
}

Replacements = Iterator[tuple[ast.AST, str]]
COMPARISONS: Mapping[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
OPERATORS: Mapping[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult, ast.Mod: ast.Mult, ast.BitOr: ast.BitAnd, ast.BitAnd: ast.BitOr,
}  # fmt: skip


@dataclass(frozen=True)
class Break:
    """One place of one file, and the text that replaces it."""

    path: str
    lines: range
    around: range  # the function, the class or the file
    start: int
    end: int
    old: str
    new: str

    def __str__(self) -> str:
        """Show it in one line."""
        old, new = (" ".join(text.split()) for text in (self.old, self.new))
        return f"{self.path}:{self.lines.start}: {old}  →  {new}"

    @property
    def meaning(self) -> tuple[str, str, str]:
        """The key in ``MEANINGLESS``."""
        return self.path, self.old, self.new


class Places(ast.NodeVisitor):
    """Every break of one file; types and docstrings are left alone."""

    def __init__(self, path: str, source: bytes) -> None:
        self.found: list[Break] = []
        self._path, self._source = path, source
        self._offsets = [0]
        for line in source.splitlines(keepends=True):
            self._offsets.append(self._offsets[-1] + len(line))
        self._statement: ast.stmt = ast.Pass(lineno=1, end_lineno=1)
        self._around = range(1, len(self._offsets))
        self.visit(ast.parse(source))

    def visit(self, node: ast.AST) -> None:
        """Note what can be broken at this node, then look inside."""
        before = self._statement, self._around
        if isinstance(node, ast.stmt):
            self._statement = node
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            self._around = _lines(node)
        for place, new in _replacements(node):
            self._note(place, new)
        for child in _children(node):
            self.visit(child)
        self._statement, self._around = before

    def _note(self, node: ast.AST, new: str) -> None:
        start = self._offsets[node.lineno - 1] + node.col_offset  # type: ignore[attr-defined]
        end = self._offsets[node.end_lineno - 1] + node.end_col_offset  # type: ignore[attr-defined]
        lines = range(self._statement.lineno, _lines(node).stop)
        old = self._source[start:end].decode()
        self.found.append(Break(self._path, lines, self._around, start, end, old, new))


def _lines(node: ast.AST) -> range:
    return range(node.lineno, node.end_lineno + 1)  # type: ignore[attr-defined]


def _children(node: ast.AST) -> Iterator[ast.AST]:  # noqa: C901, PLR0911, PLR0912 - a case for each kind
    match node:
        case ast.JoinedStr():
            return  # Python 3.11 does not know the positions inside
        case ast.Expr(value=ast.Constant()):
            return  # a docstring
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):
            return
        case ast.Assign(targets=[ast.Name(id="__all__")]):
            return
        case ast.Assign(value=ast.Subscript() | ast.BinOp(op=ast.BitOr())):
            return  # a name for a type
        case ast.Call(func=ast.Name(id="TypeVar" | "NewType" | "ParamSpec")):
            return
        case ast.Call(func=ast.Name(id="dataclass")):
            return  # nothing assigns to frozen fields; mypy is what notices an assignment
        case ast.Call(func=ast.Name(id="zip"), args=args):
            yield from args  # ``strict`` is an assertion: it fails where the program has a mistake
            return
        case ast.Call(func=ast.Name(id="cast"), args=[_, value]):
            yield value
            return
        case ast.AnnAssign(value=value):
            yield from [value] if value else []
            return
        case ast.arguments():
            yield from (one for one in [*node.defaults, *node.kw_defaults] if one)
            return
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            yield from [*node.decorator_list, node.args]
        case ast.ClassDef():
            yield from node.decorator_list
        case _:
            yield from ast.iter_child_nodes(node)
            return
    yield from node.body


def _replacements(node: ast.AST) -> Replacements:  # noqa: C901, PLR0912, PLR0915 - a case for each kind
    match node:
        case ast.Compare(ops=[operator]) if type(operator) in COMPARISONS:
            yield node, _changed(node, "ops", [COMPARISONS[type(operator)]()])
        case ast.BoolOp():
            yield (
                node,
                _changed(node, "op", ast.Or() if isinstance(node.op, ast.And) else ast.And()),
            )
        case ast.BinOp() if type(node.op) in OPERATORS:
            yield node, _changed(node, "op", OPERATORS[type(node.op)]())
        case ast.UnaryOp(op=ast.Not()):
            yield node, f"({ast.unparse(node.operand)})"
        case ast.Constant():
            yield from ((node, f"({new!r})") for new in _other_values(node.value))
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):
            return
        case ast.If() | ast.While() | ast.IfExp():
            yield node.test, f"(not ({ast.unparse(node.test)}))"
        case ast.comprehension():
            yield from ((test, f"(not ({ast.unparse(test)}))") for test in node.ifs)
        case ast.Return(value=ast.Constant(value=None | False)):
            return  # None is as false as False, and mypy notices the difference
        case ast.Return(value=ast.expr()):
            yield node, "return None"
        case ast.Continue():
            yield node, "break"
        case ast.Break():
            yield node, "continue"
        case ast.Raise() | ast.Expr(value=ast.Call() | ast.Await()):
            yield node, "pass"
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]) | ast.AugAssign():
            yield node, "pass"
        case ast.Call(func=ast.Name(id="dataclass" | "zip")):
            return  # see _children
        case ast.Call(keywords=[_, *_]):
            for keyword in node.keywords:
                rest = [other for other in node.keywords if other is not keyword]
                yield node, _changed(node, "keywords", rest)


def _changed(node: ast.expr, field: str, value: object) -> str:
    other = copy.copy(node)
    setattr(other, field, value)
    return f"({ast.unparse(other)})"


def _other_values(value: object) -> Sequence[object]:
    match value:
        case bool():
            return [not value]
        case int() | float():
            return [value + 1]
        case str():
            return ["XX" + value]
        case bytes():
            return [b"XX" + value]
    return []


def all_breaks(root: Path) -> list[Break]:
    """Return every break of storage/ that has a meaning."""
    found: list[Break] = []
    for path in sorted((root / "storage").glob("*.py")):
        source = path.read_bytes()
        found += Places(path.relative_to(root).as_posix(), source).found
    return [one for one in found if one.meaning not in MEANINGLESS]


@dataclass(frozen=True)
class Measured:
    """The files of one run of the tests with coverage: contexts, and times in JUnit's format."""

    coverage: Path
    times: Path

    @classmethod
    def under(cls, folder: Path) -> Measured:
        """Name both files."""
        return cls(folder / ".coverage", folder / "times.xml")


class Coverage:
    """Which tests execute which lines, the quickest first."""

    def __init__(self, measured: Measured) -> None:
        """Read what was measured."""
        self._seconds: dict[str, float] = {}
        for case in ET.parse(measured.times).iter("testcase"):  # noqa: S314 - pytest's own
            name = f"{case.attrib['classname'].replace('.', '/')}.py::{case.attrib['name']}"
            self._seconds[name] = float(case.attrib["time"])
        data = CoverageData(measured.coverage)
        data.read()
        self._at: dict[str, Mapping[int, set[str]]] = {}
        self._imported: dict[str, set[int]] = {}
        for file in data.measured_files():
            contexts = data.contexts_by_lineno(file)
            lines = {line: {_test(one) for one in many if one} for line, many in contexts.items()}
            name = "/".join(Path(file).parts[-2:])
            self._at[name] = lines
            self._imported[name] = {line for line, many in contexts.items() if "" in many}

    def of(self, broken: Break) -> list[str]:
        """Return the tests that execute the place.

        If it runs at import, those that execute what is around it, and those of every file that
        names the module: a test may do no more than read a constant.
        """
        at = self._at.get(broken.path, {})
        found = {test for line in broken.lines for test in at.get(line, ())}
        if not found or self._imported[broken.path].issuperset(broken.lines):
            files = files_that_name(Path(broken.path).stem)
            found |= {test for test in self._seconds if _file(test) in files}
            around = {test for line in broken.around for test in at.get(line, ())}
            found |= around or {test for tests in at.values() for test in tests}
        return sorted(found, key=lambda test: (self._seconds_of(test), test))

    def few_of(self, broken: Break) -> list[str]:
        """Return the quickest of them, and the quickest one of each file."""
        tests = self.of(broken)
        of_files: dict[str, str] = {}
        for test in tests:
            if self._seconds_of(test) < SLOW_SECONDS:
                of_files.setdefault(_file(test), test)
        return list(dict.fromkeys([*tests[:FEW], *of_files.values()]))

    def limit(self, tests: Sequence[str]) -> float:
        """Return how many seconds these tests may take before they count as hanging."""
        return START_SECONDS + TIMES_LONGER * sum(map(self._seconds_of, tests))

    def _seconds_of(self, test: str) -> float:
        return self._seconds.get(test, 1.0)


@cache
def files_that_name(module: str) -> frozenset[str]:
    """Return the files of tests that import a module of storage/, or patch it."""
    # The tests of the public API read signatures.
    found = {f"tests/storage/test_{module}.py", "tests/storage/test_public_api.py"}
    named = re.compile(rf"storage\.{module}\b|from storage import (\([^)]*|[^(\n]*)\b{module}\b")
    for file in (ROOT / "tests").rglob("test_*.py"):
        if named.search(file.read_text()):
            found.add(file.relative_to(ROOT).as_posix())
    return frozenset(found)


def _test(context: str) -> str:
    return context.rpartition("|")[0]


def _file(test: str) -> str:
    return test.partition("::")[0]


class Copy:
    """A copy of the tracked files, whose storage/ is broken and restored."""

    def __init__(self, root: Path) -> None:
        self.root = root
        names = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.split("\0")
        for name in filter(None, names):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, root / name)
        subprocess.run(["git", "init", "-q"], cwd=root, check=True)  # tests list tracked files
        subprocess.run(["git", "add", "."], cwd=root, check=True)

    def pytest(self, *arguments: str, seconds: float) -> tuple[int | None, str]:
        """Run tests; returns the exit code, None at the time limit, and the output."""
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
            cwd=self.root,
            env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            said, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)  # pytest ends its mongod
            try:
                process.communicate(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
            return None, ""
        return process.returncode, said

    def measured(self, kept: Path | None) -> Measured:
        """Run the tests of `make test` with coverage, unless the results have been kept."""
        measured = Measured.under(kept or self.root)
        if measured.coverage.exists():
            return measured
        measured.coverage.parent.mkdir(parents=True, exist_ok=True)
        here = Measured.under(self.root)
        code, said = self.pytest(
            *(*SIDE_BY_SIDE, "-m", "not long"),
            *("--cov=storage", "--cov-context=test", "--cov-report="),
            f"--junitxml={here.times}",
            seconds=3600,
        )
        if code != PASSED:
            sys.exit(f"The tests fail before anything is broken:\n{said}")
        if kept is not None:
            shutil.copy(here.times, measured.times)
            shutil.copy(here.coverage, measured.coverage)
        return measured

    def noticed_by(
        self, broken: Break, tests: Sequence[str], how: Sequence[str], seconds: float
    ) -> str | None:
        """Break one place; returns which of these tests noticed it, or None."""
        path = self.root / broken.path
        source = path.read_bytes()
        path.write_bytes(source[: broken.start] + broken.new.encode() + source[broken.end :])
        try:
            return self._noticed(tests, how, seconds)
        finally:
            path.write_bytes(source)

    def _noticed(self, tests: Sequence[str], how: Sequence[str], seconds: float) -> str | None:
        code, said = self.pytest(*how, "-x", *tests, seconds=seconds)
        if code is None:
            return "a test that did not end"
        if code == PASSED:
            return None
        # When it stops at a failure, pytest-xdist says that it was interrupted.
        if code in {FAILED, INTERRUPTED}:
            lines = (
                one for one in said.splitlines() if one.startswith(("FAILED tests", "ERROR tests"))
            )
            return next(lines, "an error of import")
        if "ImportError while loading conftest" in said:
            return "an error of import"
        # The name of a parametrised test may contain what is broken.
        files = sorted(set(map(_file, tests)))
        code, said = self.pytest(*how, "-x", "-m", "not long", *files, seconds=seconds)
        return None if code == PASSED else f"exit code {code} of {' '.join(files)}"


def main() -> None:
    """Break, and report what nobody noticed."""
    given = _arguments()
    with tempfile.TemporaryDirectory(prefix="breaks-") as folder:
        tree = Copy(Path(folder))
        tests = Coverage(tree.measured(given.measured))
        rng = random.Random(given.seed)
        places = [
            one for one in all_breaks(tree.root) if one.path in given.files or not given.files
        ]
        drawn = rng.sample(places, min(given.number, len(places)))[given.first - 1 :][: given.count]
        print(f"Seed {given.seed}: {len(drawn)} of {len(places)} places", flush=True)

        def noticed_by_few(broken: Break) -> str | None:
            few = tests.few_of(broken)
            return tree.noticed_by(broken, few, ALONE, tests.limit(few))

        def noticed_by_all(broken: Break) -> str | None:
            every = tests.of(broken)
            return tree.noticed_by(broken, every, SIDE_BY_SIDE, tests.limit(every))

        # The survivors of a few tests are few; only they are worth all tests.
        left = list(_survivors(drawn, noticed_by_few))
        left = list(_survivors(left, noticed_by_all))
    noticed = len(drawn) - len(left)
    print(f"Seed {given.seed}: {noticed} of {len(drawn)} noticed ({noticed / len(drawn):.1%})")
    for one in left:
        print(f"  not noticed: {one}")
    if noticed < WANTED * len(drawn):
        sys.exit(f"Fewer than {WANTED:.0%} are noticed.")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.breaks", description=__doc__)
    parser.add_argument("--number", type=int, default=150, help="how many places (default: 150)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument(
        "--measured", type=Path, help="keep the coverage and the times in this folder for next time"
    )
    parser.add_argument("--first", type=int, default=1, help="begin with this place of the sample")
    parser.add_argument("--count", type=int, help="end after so many places")
    parser.add_argument("--files", nargs="*", default=[], help="only these, as storage/store.py")
    return parser.parse_args()


def _survivors(
    drawn: Sequence[Break], noticed_by: Callable[[Break], str | None]
) -> Iterator[Break]:
    for number, broken in enumerate(drawn, 1):
        began = monotonic()
        found = noticed_by(broken)
        print(f"{number:3} {monotonic() - began:5.1f} s  {broken}", flush=True)
        print(f"            {found or 'NOT NOTICED'}", flush=True)
        if found is None:
            yield broken


if __name__ == "__main__":
    main()
