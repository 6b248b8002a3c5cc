"""The program in README, its transcript, and the two make commands."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

import pytest
from pymongo import MongoClient

from storage import generate_secret
from tests.conftest import missing
from tests.docs.markdown import ROOT, blocks, commands
from tests.processes import free_port

README = ROOT / "README.md"
SECONDS = 30
TOKEN = re.compile(r"session=[A-Za-z0-9_-]{43}")
# The parts that differ in each run; the rest of a transcript must be the same.
CHANGING = (
    (TOKEN, "session=TOKEN"),
    (re.compile(r"Date: [^\r\n]+"), "Date: NOW"),
    (re.compile(r"Server: [^\r\n]+"), "Server: VERSIONS"),
)


def transcript() -> list[list[tuple[str, str]]]:
    """Return the console blocks of README that call curl; the app restarts between them."""
    found = [commands(block) for block in blocks(README, "console")]
    return [typed for typed in found if typed[0][0].startswith("curl ")]


def without_changing_parts(text: str) -> str:
    """Replace the parts that differ in each run."""
    for pattern, word in CHANGING:
        text = pattern.sub(word, text)
    return text.replace("\r\n", "\n")


@contextmanager
def serving(arguments: list[str], environ: dict[str, str], folder: Path) -> Iterator[str]:
    """Run a program until its port is open; yield what it printed. It must exit well."""
    with (folder / "output").open("w+") as output:
        process = subprocess.Popen(
            arguments, cwd=folder, env=environ, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            yield _printed(process, folder / "output")
        finally:
            process.terminate()
            assert process.wait(SECONDS) in (0, -15), (folder / "output").read_text()


def _printed(process: subprocess.Popen[bytes], output: Path) -> str:
    deadline = monotonic() + SECONDS
    while process.poll() is None and monotonic() < deadline:
        text = output.read_text()
        if re.search(r"Ctrl-C|CTRL\+C", text, re.IGNORECASE):
            return text
        try:
            process.wait(0.05)
        except subprocess.TimeoutExpired:
            continue
    raise AssertionError(output.read_text())


@pytest.fixture
def shop(mongo_uri: str) -> Iterator[None]:
    """Delete the sessions of README's program before and after the test."""
    with MongoClient[dict[str, object]](mongo_uri) as client:
        client.drop_database("shop")
        yield
        client.drop_database("shop")


@pytest.fixture
def type_in_bash(tmp_path: Path, mongo_uri: str) -> Callable[[str], str]:
    """Return a function that runs a command of README, with the test's MongoDB and port."""

    def run(command: str) -> str:
        done = subprocess.run(
            ["bash", "-euc", command],
            cwd=tmp_path,
            env=environ_for_commands(),
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=True,
        )
        return done.stdout

    return run


def environ_for_commands() -> dict[str, str]:
    """Return an environment in which `python` is the one that runs the tests."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {"PATH": path, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


def test_program_is_the_smallest_example_of_25_lines_at_most() -> None:
    """README shows the file byte for byte."""
    (program,) = blocks(README, "python")

    assert program.text == (ROOT / "examples" / "smallest.py").read_text()
    assert len(program.text.splitlines()) <= 25


def test_program_gives_its_app_to_another_server_and_starts_none_at_import() -> None:
    """As gunicorn does: it imports the module and awaits `make_app()`."""
    other = "import asyncio; from examples.smallest import *; print(asyncio.run(make_app()))"
    done = subprocess.run(
        [sys.executable, "-c", other],
        cwd=ROOT,
        env={"MONGO_URI": "mongodb://127.0.0.1:1", "SESSION_SECRET": generate_secret()},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert done.stdout.startswith("<Application"), done.stderr


@pytest.mark.usefixtures("shop")
def test_transcript_is_what_curl_prints_across_a_restart(
    tmp_path: Path, mongo_uri: str, type_in_bash: Callable[[str], str]
) -> None:
    """Each command of the transcript gives its output, with the program started as README says."""
    if shutil.which("curl") is None:
        missing("curl is not installed")
    port = str(free_port())
    prepared, *_ = (
        commands(block) for block in blocks(README, "console") if "export" in block.text
    )
    *exports, (start, _) = prepared
    lines = [
        typed.replace("127.0.0.1:27017", mongo_uri[len("mongodb://") :]) for typed, _ in exports
    ]
    shell = "\n".join([*lines, "printenv MONGO_URI SESSION_SECRET"])
    address, secret = type_in_bash(shell).split()
    program = (ROOT / start.removeprefix("python ")).read_text().replace("8080", port)
    (tmp_path / "program.py").write_text(program)
    environ = environ_for_commands() | {"MONGO_URI": address, "SESSION_SECRET": secret}

    for block in transcript():
        with serving([sys.executable, "program.py"], environ, tmp_path):
            for typed, shown in block:
                printed = type_in_bash(typed.replace("curl ", "curl -s ").replace("8080", port))

                assert without_changing_parts(printed) == without_changing_parts(shown)


def test_transcript_shows_a_whole_token_and_two_restarts() -> None:
    """The Set-Cookie line is complete."""
    shown = "".join(output for block in transcript() for _typed, output in block)

    assert len(TOKEN.findall(shown)) == 1
    assert len(transcript()) == 2


def test_make_run_prints_what_is_shown(mongod: object, tmp_path: Path) -> None:
    """README shows what `make run` prints, except for the password and the free port."""
    port = str(free_port())
    (shown,) = blocks(README, "text")
    assert "-m webapp --dev" in (ROOT / "Makefile").read_text()
    environ = environ_for_commands() | {"PORT": port}

    with serving([sys.executable, "-m", "webapp", "--dev"], environ, tmp_path) as printed:
        password = (tmp_path / ".dev" / "demo-password").read_text().strip()

    def without_port(text: str) -> str:
        return re.sub(r"(?<=MONGO_URI=mongodb://127\.0\.0\.1:)\d+", "PORT", text)

    ending = without_port(printed).replace(port, "8080").replace(password, "PASSWORD")
    assert ending.endswith(re.sub(r"(?<=password )\S+", "PASSWORD", without_port(shown.text)))
