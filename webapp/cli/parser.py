"""What can be typed, and how a result is printed; `actions` does the work."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from webapp.cli.actions import Outcome, Row
from webapp.cli.exit_codes import EXIT_CODES
from webapp.config.settings import DEFAULT_PORT

ENVIRONMENT = (
    "Settings come from environment variables; all problems with them are reported at once."
)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    root = argparse.ArgumentParser(
        prog="python -m webapp",
        description=f"Serve the web app, or manage its accounts and sessions.  {ENVIRONMENT}",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    root.add_argument(
        "--dev",
        action="store_true",
        help=f"serve on 127.0.0.1:{DEFAULT_PORT}"
        " with a MongoDB, a secret and a demo account kept in .dev/",
    )
    commands = root.add_subparsers(dest="command", metavar="command", title="commands")
    _add(commands, "serve", "serve until SIGTERM or Ctrl-C; the same as no command")
    _add(commands, "check", "check settings, MongoDB, indexes and rights, then exit")
    _add(commands, "secret", "print a new secret for SESSION_SECRET")
    _add_sessions(commands)
    _add_users(commands)
    return root


def _add_sessions(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    group = _add(commands, "sessions", "count, list and end sessions")
    actions = group.add_subparsers(dest="action", metavar="action", required=True)
    _add(actions, "stats", "count active sessions, and those that still need an older secret")
    _with_email(_add(actions, "list", "list where an account is signed in"))
    revoke = _destructive(_add(actions, "revoke", "end every session of an account, or of all"))
    whose = revoke.add_mutually_exclusive_group(required=True)
    whose.add_argument("email", nargs="?", help="the account's email address")
    whose.add_argument("--all", action="store_true", help="everybody's sessions")
    _destructive(_add(actions, "purge", "delete expired sessions, for servers without TTL indexes"))
    _printing(actions)


def _add_users(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    group = _add(commands, "users", "manage accounts")
    actions = group.add_subparsers(dest="action", metavar="action", required=True)
    reading = "; the password comes from a prompt, or from the first line of standard input"
    add = _with_email(_add(actions, "add", "create an account" + reading))
    add.add_argument("--username", help="shown to others; the part before the @ unless given")
    _with_email(_add(actions, "password", "set a password and end all sessions" + reading))
    _destructive(_with_email(_add(actions, "disable", "lock an account and end its sessions")))
    _with_email(_add(actions, "enable", "unlock an account"))
    _printing(actions)


def _add(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, what: str
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=what,
        description=f"{what[0].upper()}{what[1:]}.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _with_email(command: argparse.ArgumentParser) -> argparse.ArgumentParser:
    command.add_argument("email", help="the account's email address")
    return command


def _destructive(command: argparse.ArgumentParser) -> argparse.ArgumentParser:
    command.add_argument("--yes", action="store_true", help="do not ask first, on a terminal")
    return command


def _printing(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    for command in actions.choices.values():
        command.add_argument("--json", action="store_true", help="print one JSON object")


def rendered(outcome: Outcome, *, as_json: bool) -> str:
    """Return the text to print: a table and a sentence, or one JSON object."""
    if as_json:
        return json.dumps({"message": outcome.sentence, "rows": list(outcome.rows)}, indent=2)
    return "\n".join([*_table(outcome.rows), outcome.sentence])


def _table(rows: Sequence[Row]) -> list[str]:
    if not rows:
        return []
    lines = [list(rows[0])] + [[str(value) for value in row.values()] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
