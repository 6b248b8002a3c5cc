"""The operator's commands, run as an operator runs them."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import select
import subprocess
import sys
from typing import Any

import pytest

from storage import generate_secret
from tests.processes import ROOT, free_port, inherited
from tests.webapp.browsing import PASSWORD, Visitor
from tests.webapp.commands import run_command
from tests.webapp.conftest import Client
from webapp import __main__ as commands
from webapp.__main__ import main
from webapp.cli.actions import Outcome

EMAIL = "ada@example.com"
OTHER_PASSWORD = "another-plain-text-for-tests"

Served = dict[str, str]


@pytest.fixture
async def served(environ: dict[str, str], client: Client) -> Served:
    """Run the app for as long as the test lasts; return its environment."""
    return environ | {"HOST": "127.0.0.1", "PORT": str(client.port)}


def base_of(served: Served) -> str:
    """Return the address of the running app."""
    return f"http://127.0.0.1:{served['PORT']}"


def run(served: Served, *arguments: str, stdin: str = "") -> tuple[int, str]:
    """Run a command beside the running app."""
    return run_command(*arguments, environ=served, stdin=stdin)


def rows_of(served: Served, *arguments: str) -> list[dict[str, Any]]:
    """Run a command with --json and return its rows."""
    code, output = run(served, *arguments, "--json")
    assert code == 0, output
    rows: list[dict[str, Any]] = json.loads(output)["rows"]
    return rows


async def test_added_account_can_sign_in(served: Served) -> None:
    """The password comes from standard input, the user name from the address."""
    code, output = run(served, "users", "add", EMAIL, stdin=f"{PASSWORD}\nignored\n")

    assert code == 0
    assert f"{EMAIL} can sign in now." in output
    assert PASSWORD not in output
    async with Visitor(base_of(served), EMAIL) as visitor:
        assert await visitor.sign_in() == 200


@pytest.mark.parametrize(
    ("email", "password", "words"),
    [
        pytest.param("ada@example.com", "short", "15", id="weak"),
        pytest.param("ada@example.com", "", "", id="no password"),
        pytest.param("no-address", PASSWORD, "email", id="no address"),
    ],
)
def test_refused_account_says_why(
    environ: dict[str, str], email: str, password: str, words: str
) -> None:
    """Code 1 and the reason, never the password."""
    code, output = run(environ, "users", "add", email, stdin=f"{password}\n")

    assert code == 1
    assert words in output
    assert PASSWORD not in output


def test_account_is_not_added_twice(environ: dict[str, str]) -> None:
    """The second one is refused, with a reason."""
    run(environ, "users", "add", EMAIL, "--username", "Ada", stdin=PASSWORD)

    code, output = run(environ, "users", "add", EMAIL.upper(), stdin=PASSWORD)

    assert code == 1
    assert "already" in output


async def test_all_sessions_are_revoked_at_once(served: Served) -> None:
    """Every user is signed out, without exception, and can sign in again."""
    other = "grace@example.com"
    async with Visitor(base_of(served), EMAIL) as ada, Visitor(base_of(served), other) as grace:
        for visitor in (ada, grace):
            assert (await visitor.sign_up(), await visitor.sign_in()) == (201, 200)

        assert rows_of(served, "sessions", "revoke", "--all", "--yes") == [{"ended_sessions": 2}]

        assert (await ada.profile(), await grace.profile()) == (401, 401)
        assert await ada.sign_in() == 200


async def test_sessions_are_counted_listed_and_revoked(served: Served) -> None:
    """Numbers and rows are those of the collection; a revoked visitor is signed out."""
    assert rows_of(served, "sessions", "stats") == [{"live_sessions": 0, "retired_sessions": 0}]
    async with Visitor(base_of(served), EMAIL) as one, Visitor(base_of(served), EMAIL) as two:
        assert (await one.sign_up(), await one.sign_in(), await two.sign_in()) == (201, 200, 200)

        assert rows_of(served, "sessions", "stats") == [{"live_sessions": 2, "retired_sessions": 0}]
        listed = rows_of(served, "sessions", "list", EMAIL)
        assert len({row["handle"] for row in listed}) == 2
        assert set(listed[0]) == {"handle", "label", "created_at", "last_seen_at", "expires_at"}
        table = run(served, "sessions", "list", EMAIL)[1].splitlines()
        assert table[0].split() == list(listed[0])
        assert listed[0]["handle"][:8] in table[1]
        assert rows_of(served, "sessions", "revoke", EMAIL, "--yes") == [{"ended_sessions": 2}]

        assert (await one.profile(), await two.profile()) == (401, 401)
        assert rows_of(served, "sessions", "list", EMAIL) == []
        assert rows_of(served, "sessions", "purge", "--yes") == [{"deleted_sessions": 0}]


async def test_forgotten_password_is_replaced(served: Served) -> None:
    """The old one is refused, its sessions have ended, and the new one signs in."""
    async with Visitor(base_of(served), EMAIL) as visitor:
        assert (await visitor.sign_up(), await visitor.sign_in()) == (201, 200)

        code, output = run(served, "users", "password", EMAIL, stdin=OTHER_PASSWORD)

        assert code == 0
        assert OTHER_PASSWORD not in output
        assert await visitor.profile() == 401
        assert await visitor.sign_in() == 401
        assert await visitor.sign_in(OTHER_PASSWORD) == 200


async def test_disabled_account_is_signed_out_until_it_is_enabled(served: Served) -> None:
    """Its sessions end, and signing in fails as with a wrong password."""
    async with Visitor(base_of(served), EMAIL) as visitor:
        assert (await visitor.sign_up(), await visitor.sign_in()) == (201, 200)

        assert rows_of(served, "users", "disable", EMAIL, "--yes") == [{"ended_sessions": 1}]
        assert (await visitor.profile(), await visitor.sign_in()) == (401, 401)

        assert rows_of(served, "users", "enable", EMAIL) == [{"was_disabled": True}]
        assert await visitor.sign_in() == 200


@pytest.mark.parametrize(
    "arguments",
    [
        ("sessions", "list", "nobody@example.com"),
        ("users", "password", "nobody@example.com"),
    ],
    ids=" ".join,
)
def test_unknown_account_is_code_1(environ: dict[str, str], arguments: tuple[str, ...]) -> None:
    """Code 1 and a sentence that names the address."""
    code, output = run(environ, *arguments, stdin=PASSWORD)

    assert code == 1
    assert output == "There is no account with the email address 'nobody@example.com'.\n"


async def test_stats_and_check_say_the_next_step_of_a_rotation(served: Served) -> None:
    """Sessions under the older secret are counted; `check` reports a secret removed too early."""
    older, newer = served["SESSION_SECRET"], generate_secret()
    rotated = served | {"SESSION_SECRET": f"{newer},{older}"}
    too_soon = served | {"SESSION_SECRET": newer}
    async with Visitor(base_of(served), EMAIL) as visitor:
        await visitor.sign_up()
        await visitor.sign_in()

        assert rows_of(rotated, "sessions", "stats")[0]["retired_sessions"] == 1
        assert "Keep the older secrets" in run(rotated, "sessions", "stats")[1]
        assert "put the old secret back behind the new one" in run(too_soon, "check")[1]
        run(rotated, "sessions", "revoke", EMAIL)
        assert "wait a minute and remove the others" in run(rotated, "check")[1]
        assert "Every session is encrypted with SESSION_SECRET.\n" in run(too_soon, "check")[1]


def test_missing_mongodb_is_one_sentence(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands run the start-up hooks, so they fail like a start."""
    monkeypatch.setattr("webapp.app.START_SECONDS", 0.2)
    uri = f"mongodb://127.0.0.1:{free_port()}"

    code, output = run(environ | {"MONGO_URI": uri}, "sessions", "stats")

    assert code == 75
    assert output.startswith("MONGO_URI: MongoDB does not answer")


def test_new_secret_is_accepted(environ: dict[str, str]) -> None:
    """`secret` prints a secret that is accepted, another one each time."""
    first, second = (run({}, "secret")[1].strip() for _ in range(2))

    assert first != second
    assert run(environ | {"SESSION_SECRET": first}, "check")[0] == 0


@pytest.mark.parametrize(
    "command",
    [
        *((), ("serve",), ("check",), ("secret",), ("sessions",), ("sessions", "stats")),
        *(("sessions", "list"), ("sessions", "revoke"), ("sessions", "purge"), ("users",)),
        *(("users", "add"), ("users", "password"), ("users", "disable"), ("users", "enable")),
    ],
    ids=lambda command: " ".join(command) or "alone",
)
def test_help_documents_every_exit_code(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """The help of each command lists every exit code."""
    with pytest.raises(SystemExit) as ended:
        main([*command, "--help"])

    output = capsys.readouterr().out
    assert ended.value.code == 0
    assert [line.split()[0] for line in re.split("exit codes:\n", output)[1].splitlines()
            if re.match(r"  \d", line)] == ["0", "1", "2", "75", "78", "130"]  # fmt: skip


@pytest.mark.parametrize(
    "typed",
    [
        *(("sessions",), ("users", "ad"), ("sessions", "list"), ("what",), ("--dev", "check")),
        *(("sessions", "revoke"), ("sessions", "revoke", EMAIL, "--all")),
    ],
    ids=" ".join,
)
def test_wrong_arguments_are_code_2(
    typed: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """The usage is printed before the environment is read."""
    with pytest.raises(SystemExit) as ended:
        main([*typed])

    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("usage: python -m webapp")


# Tests that run in the background ignore Ctrl-C, and processes inherit that.
LOG_IN = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.login_tty(int(sys.argv[1]))
os.execv(sys.executable, sys.argv[2:])
"""


def typed_at_a_terminal(environ: dict[str, str], *arguments: str, answers: str) -> tuple[int, str]:
    """Run a command in a terminal of its own and type `answers`."""
    ours, theirs = pty.openpty()
    # getpass and Ctrl-C need the controlling terminal.
    process = subprocess.Popen(
        [sys.executable, "-c", LOG_IN, str(theirs), sys.executable, "-m", "webapp", *arguments],
        env={**inherited(), **environ},
        cwd=ROOT,
        pass_fds=[theirs],
    )
    os.close(theirs)
    shown, answered = b"", 0
    pending = answers.encode().splitlines(keepends=True)
    while select.select([ours], [], [], 30)[0]:
        try:
            shown += os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
        if pending and shown[answered:].rstrip().endswith((b"[y/N]", b"password:", b"more:")):
            answered = len(shown)
            os.write(ours, pending.pop(0))
    os.close(ours)
    return process.wait(30), shown.decode()


async def test_destructive_commands_ask_first_on_a_terminal(served: Served) -> None:
    """Any answer but y changes nothing; y and --yes do it."""
    async with Visitor(base_of(served), EMAIL) as visitor:
        await visitor.sign_up()
        await visitor.sign_in()
        revoke = ("sessions", "revoke", EMAIL)

        refused = typed_at_a_terminal(served, *revoke, answers="no\n")
        assert (refused[0], await visitor.profile()) == (1, 200)
        assert "Nothing was changed." in refused[1]

        agreed = typed_at_a_terminal(served, *revoke, answers="y\n")
        assert (agreed[0], await visitor.profile()) == (0, 401)

        assert typed_at_a_terminal(served, *revoke, "--yes", answers="")[0] == 0


def test_password_is_typed_twice_and_not_shown_on_a_terminal(environ: dict[str, str]) -> None:
    """Two different ones are refused."""
    wrong = typed_at_a_terminal(
        environ, "users", "add", EMAIL, answers=f"{PASSWORD}\n{OTHER_PASSWORD}\n"
    )
    right = typed_at_a_terminal(environ, "users", "add", EMAIL, answers=f"{PASSWORD}\n{PASSWORD}\n")

    assert wrong[0] == 1
    assert "differ" in wrong[1]
    assert right[0] == 0
    assert PASSWORD not in wrong[1] + right[1]


async def test_long_work_shows_its_progress_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a terminal the seconds are counted on standard error, elsewhere not."""
    monkeypatch.setattr(commands, "PROGRESS_SECONDS", 0.01)
    asked = asyncio.Event()

    async def long_work() -> Outcome:
        await asked.wait()
        return Outcome("done")

    def ask() -> bool:
        asked.set()
        return on_a_terminal

    monkeypatch.setattr(sys.stderr, "isatty", ask)
    for on_a_terminal in (True, False):
        asked.clear()
        assert (await commands._with_progress(long_work())).sentence == "done"

        assert ("still working, 1 s" in capsys.readouterr().err) is on_a_terminal


def test_ctrl_c_at_a_question_is_code_130(environ: dict[str, str]) -> None:
    """Interrupted, without a traceback."""
    code, output = typed_at_a_terminal(environ, "users", "add", EMAIL, answers="\x03\n")

    assert (code, "Traceback" in output) == (130, False)
