"""Every code block and every command on a page is run or checked."""

from __future__ import annotations

import re
import shlex
from functools import cache
from textwrap import dedent, indent

import pytest

from tests.docs.markdown import ROOT, Block, all_blocks, commands
from webapp.cli.parser import parser

# Other programs that a page may tell its readers to run.
PROGRAMS = {"curl", "echo", "export", "git", "grep", "python", ".venv/bin/python"}


def each(language: str) -> pytest.MarkDecorator:
    """Run a test for each block of one language."""
    found = [pytest.param(block, id=block.name) for block in all_blocks(language)]
    return pytest.mark.parametrize("block", found)


@each("python")
def test_python_block_is_part_of_a_program_that_a_test_runs(block: Block) -> None:
    """The block is part of an example or a test, byte for byte, at any indentation."""
    text = dedent(block.text)
    shifted = [indent(text, " " * width) for width in (0, 4, 8, 12)]

    assert any(piece in program for piece in shifted for program in _programs())


@each("console")
def test_command_exists(block: Block) -> None:
    """The command is a make target, a command of the web app, or a known program."""
    for typed, _shown in commands(block):
        words = shlex.split(typed, comments=True)
        while "=" in words[0]:
            words = words[1:]  # a variable before the command
        if words[0] == "make":
            assert words[1] in _targets(), typed
        elif words[1:3] == ["-m", "webapp"]:
            parser().parse_args(words[3:])
        elif words[1:3] == ["-m", "pytest"]:
            assert all((ROOT / word).exists() for word in words if word.startswith("tests/"))
        else:
            assert words[0] in PROGRAMS, typed


@cache
def _programs() -> list[str]:
    return [
        path.read_text()
        for folder in ("examples", "tests")
        for path in sorted((ROOT / folder).rglob("*.py"))
    ]


@cache
def _targets() -> frozenset[str]:
    makefile = (ROOT / "Makefile").read_text()
    return frozenset(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))
