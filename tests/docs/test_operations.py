"""The operator's page has the settings, commands, events and metrics of the app."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from dataclasses import fields
from typing import get_args

import pytest

from storage import generate_secret
from tests.docs.markdown import ROOT, commands, table
from tests.docs.markdown import blocks as blocks_of
from tests.webapp.conftest import Client, MakeApp, environ, make_app
from webapp.cli.exit_codes import EXIT_CODES
from webapp.cli.parser import parser
from webapp.config.settings import KNOWN, Config, ConfigError
from webapp.http.events import Event
from webapp.server import CLEANUP_SECONDS, DRAIN_SECONDS

__all__ = ["environ", "make_app"]

PAGE = ROOT / "docs" / "operations.md"
# Read by the tools around the app; the page describes them outside of the table.
OUTSIDE = {"MONGOD", "WEB_CONCURRENCY"}
MINIMAL = {
    "MONGO_URI": "mongodb://127.0.0.1",
    "SESSION_SECRET": generate_secret(),
    "TRUSTED_PROXY_HOPS": "1",
    "ALLOWED_HOSTS": "app.example",
}


def settings() -> dict[str, str]:
    """Return each variable of the table with the text of its default."""
    return {cells[0].strip("`"): cells[1] for cells in table(PAGE, "Settings")}


def test_table_names_exactly_the_variables() -> None:
    """The page lists the variables that the app reads."""
    assert set(settings()) == set(KNOWN) - OUTSIDE


@pytest.mark.parametrize(
    ("name", "default"),
    [
        pytest.param(name, match[1], id=name)
        for name, text in settings().items()
        if (match := re.match(r"`([^`]+)`", text))
    ],
)
def test_setting_the_default_explicitly_changes_nothing(name: str, default: str) -> None:
    """The production default in the table is the default of the app."""
    silent, said = Config.from_environ(MINIMAL), Config.from_environ(MINIMAL | {name: default})

    assert all(getattr(silent, f.name) == getattr(said, f.name) for f in fields(Config))


@pytest.mark.parametrize(
    "name", [name for name, text in settings().items() if text.startswith("required")]
)
def test_missing_required_variable_is_reported(name: str) -> None:
    """Without a required variable the app does not start in production."""
    with pytest.raises(ConfigError) as raised:
        Config.from_environ({k: v for k, v in MINIMAL.items() if k != name})

    (problem,) = raised.value.problems
    assert problem.startswith(f"{name}: is not set")


def test_first_start_names_exactly_the_required_variables() -> None:
    """The block at the top has the variables that an operator must set, and no other."""
    (shown,) = blocks_of(PAGE, "dotenv")

    named = [line.partition("=")[0] for line in shown.text.splitlines()]

    assert sorted(named) == sorted(n for n, t in settings().items() if t.startswith("required"))


def test_problems_on_the_page_are_those_of_an_empty_environment() -> None:
    """The page shows all problems at once, word for word."""
    (shown,) = blocks_of(PAGE, "text")

    with pytest.raises(ConfigError) as raised:
        Config.from_environ({})

    assert tuple(shown.text.splitlines()) == raised.value.problems


def test_output_of_check_on_the_page_is_that_of_the_app() -> None:
    """The page shows what `check` prints; a test of the app runs the command."""
    said = [out for block in blocks_of(PAGE, "console") for _in, out in commands(block) if out]

    code = _code_of_the_app()
    shown = [line.strip() for out in said for line in out.splitlines()]
    assert shown
    assert all(line in code for line in shown)


PLATFORMS = table(PAGE, "Platforms")


@pytest.mark.parametrize("cells", [pytest.param(cells, id=cells[0]) for cells in PLATFORMS])
def test_settings_of_each_platform_are_accepted(cells: list[str]) -> None:
    """They can be copied from the table, and give no warning."""
    names = ("TRUSTED_PROXY_HOPS", "TRUSTED_PROXIES", "KEEP_ALIVE")
    given = {
        name: cell.strip("`") for name, cell in zip(names, cells[1:4], strict=True) if "`" in cell
    }

    config = Config.from_environ(MINIMAL | given)

    assert config.warnings == ()
    assert str(config.trusted_proxy_hops) == given["TRUSTED_PROXY_HOPS"]


def test_grace_period_of_kubernetes_is_long_enough_for_delay_and_drain() -> None:
    """Otherwise a pod is killed with requests in flight."""
    (block,) = blocks_of(PAGE, "yaml")
    (grace,) = re.findall(r"terminationGracePeriodSeconds: (\d+)", block.text)
    (delay,) = re.findall(r'DRAIN_DELAY, value: "(\d+)"', block.text)

    assert int(grace) > int(delay) + DRAIN_SECONDS + CLEANUP_SECONDS
    assert {"/readyz", "/healthz"} == set(re.findall(r"path: (\S+),", block.text))


def test_table_names_exactly_the_commands() -> None:
    """Every command of the table is accepted, and the table has every command."""
    listed = [cells[0].strip("`").split()[3:] for cells in table(PAGE, "Commands")]

    for words in listed:
        parser().parse_args(words)
    named = {" ".join(word for word in words if word.islower()) for words in listed}
    assert named == {"", "--dev", *_commands(parser(), "")} - {"serve"}


def test_page_lists_every_exit_code() -> None:
    """The page has each exit code of `--help`."""
    codes = re.findall(r"^  (\d+) ", EXIT_CODES, re.MULTILINE)

    sentence = PAGE.read_text().split("Exit codes:")[1].split("\n\n")[0]
    assert re.findall(r"\b\d+\b", sentence) == codes


def test_table_explains_exactly_the_events_of_the_code() -> None:
    """The table has the event names that the app's code writes."""
    written = set(re.findall(r'event\(\s*request,\s*"(\w+)"', _code_of_the_app()))

    listed = {cells[0].strip("`") for cells in table(PAGE, "Log lines")}
    assert listed == set(get_args(Event)) == written


async def test_every_metric_on_the_page_exists(make_app: MakeApp) -> None:
    """Each metric that the page names is in the answer of `/metrics`."""
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
