"""The operator's page: settings, commands, events and numbers are those of the app."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from dataclasses import fields

import pytest

from storage import generate_secret
from tests.docs.markdown import ROOT, commands, table
from tests.docs.markdown import blocks as blocks_of
from tests.webapp.conftest import Client, MakeApp, environ, make_app
from webapp.cli.parser import EXIT_CODES, parser
from webapp.config.settings import KNOWN, Config, ConfigError

__all__ = ["environ", "make_app"]

PAGE = ROOT / "docs" / "operations.md"
# Read by the tools around the app; told in sentences of their own.
OUTSIDE = {"MONGOD", "WEB_CONCURRENCY"}
MINIMAL = {
    "MONGO_URI": "mongodb://127.0.0.1",
    "SESSION_SECRET": generate_secret(),
    "TRUSTED_PROXY_HOPS": "1",
    "ALLOWED_HOSTS": "app.example",
}


def settings() -> dict[str, str]:
    """Return each variable of the table with what is said of its default."""
    return {cells[0].strip("`"): cells[1] for cells in table(PAGE, "Settings")}


def test_table_names_every_variable_and_no_other() -> None:
    """What the app reads is what the page tells."""
    assert set(settings()) == set(KNOWN) - OUTSIDE


@pytest.mark.parametrize(
    ("name", "default"),
    [
        pytest.param(name, match[1], id=name)
        for name, told in settings().items()
        if (match := re.match(r"`([^`]+)`", told))
    ],
)
def test_saying_the_default_changes_nothing(name: str, default: str) -> None:
    """The production default of the table is the one that the app takes."""
    silent, said = Config.from_environ(MINIMAL), Config.from_environ(MINIMAL | {name: default})

    assert all(getattr(silent, f.name) == getattr(said, f.name) for f in fields(Config))


@pytest.mark.parametrize(
    "name", [name for name, told in settings().items() if told.startswith("required")]
)
def test_required_variable_is_missed(name: str) -> None:
    """Without it the app does not start in production."""
    with pytest.raises(ConfigError) as raised:
        Config.from_environ({k: v for k, v in MINIMAL.items() if k != name})

    (problem,) = raised.value.problems
    assert problem.startswith(f"{name}: is not set")


def test_first_start_names_the_required_variables_and_no_more() -> None:
    """The four lines at the top are what an operator has to write."""
    (shown,) = blocks_of(PAGE, "dotenv")

    named = [line.partition("=")[0] for line in shown.text.splitlines()]

    assert sorted(named) == sorted(n for n, t in settings().items() if t.startswith("required"))


def test_problems_shown_are_those_of_an_empty_environment() -> None:
    """All at once, word for word."""
    (shown,) = blocks_of(PAGE, "text")

    with pytest.raises(ConfigError) as raised:
        Config.from_environ({})

    assert tuple(shown.text.splitlines()) == raised.value.problems


def test_words_of_the_check_are_those_of_the_app() -> None:
    """What the page shows below `check` is what the app prints; a test of the app runs it."""
    said = [out for block in blocks_of(PAGE, "console") for _in, out in commands(block) if out]

    code = _code_of_the_app()
    shown = [line.strip() for out in said for line in out.splitlines()]
    assert shown
    assert all(line in code for line in shown)


def test_table_names_every_command_and_no_other() -> None:
    """Each is accepted as it is written, and none is left out."""
    told = [cells[0].strip("`").split()[3:] for cells in table(PAGE, "Commands")]

    for words in told:
        parser().parse_args(words)
    named = {" ".join(word for word in words if word.islower()) for words in told}
    assert named == {"", "--dev", *_commands(parser(), "")} - {"serve"}


def test_exit_codes_are_all_told() -> None:
    """Each code of `--help` stands on the page."""
    codes = re.findall(r"^  (\d+) ", EXIT_CODES, re.MULTILINE)

    sentence = PAGE.read_text().split("Exit codes:")[1].split("\n\n")[0]
    assert re.findall(r"\b\d+\b", sentence) == codes


def test_every_event_is_explained_and_none_is_invented() -> None:
    """The table holds the names that the app's code writes."""
    written = set(re.findall(r'event\(\s*request,\s*"(\w+)"', _code_of_the_app()))

    assert {cells[0].strip("`") for cells in table(PAGE, "Log lines")} == written


async def test_every_number_on_the_page_is_answered(make_app: MakeApp) -> None:
    """Each metric that the page names is in the text of `/metrics`."""
    token = generate_secret()
    client: Client = await make_app(METRICS_TOKEN=token)
    await client.get("/")

    answer = await client.get("/metrics", headers={"Authorization": f"Bearer {token}"})

    text = await answer.text()
    named = set(re.findall(r"`((?:webapp|storage)_[a-z_]+)", PAGE.read_text()))
    assert len(named) == 6
    assert [name for name in named if f"# TYPE {name} " not in text] == []


def _code_of_the_app() -> str:
    return "".join(path.read_text() for path in (ROOT / "webapp").rglob("*.py"))


def _commands(of: argparse.ArgumentParser, before: str) -> Iterator[str]:
    for action in of._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, child in action.choices.items():
                inner = list(_commands(child, f"{before}{name} "))
                yield from inner or [f"{before}{name}"]
