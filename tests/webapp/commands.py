"""The commands of `python -m webapp`, run in this process: a new process takes a second."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO

import pytest

from tests.processes import inherited
from webapp.__main__ import main


def run_command(*arguments: str, environ: Mapping[str, str], stdin: str = "") -> tuple[int, str]:
    """Run a command to its end, as a process would; return its exit code and output.

    Not for `serve`: it needs the signals of a process.
    """
    output = StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        redirect_stdout(output),
        redirect_stderr(output),
        _logging_restored(),
        ThreadPoolExecutor(1) as thread,
    ):
        patch.setattr(os, "environ", {**inherited(), **environ})
        patch.setattr(sys, "stdin", StringIO(stdin))
        # In a thread, because a test may have an event loop in this one.
        return thread.submit(main, list(arguments)).result(), output.getvalue()


@contextmanager
def _logging_restored() -> Iterator[None]:
    """Keep pytest's handlers away from a command, which replaces all that there are."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.captureWarnings(capture=False)
