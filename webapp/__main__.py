"""The commands. Only this module reads the environment, prints, and ends the process."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager, suppress
from getpass import getpass
from typing import Any, NoReturn

from aiohttp import web
from pymongo.errors import PyMongoError

from storage import StorageUnavailable, generate_secret
from webapp.app import create_app, parts
from webapp.cli import actions, demo, devfolder
from webapp.cli.actions import NotDone, Outcome
from webapp.cli.devfolder import DevFolder
from webapp.cli.exit_codes import DONE, INTERRUPTED, MISCONFIGURED, NOT_DONE, TRY_LATER
from webapp.cli.parser import parser, rendered
from webapp.config.settings import Config, ConfigError
from webapp.database.errors import DatabaseAway, explain
from webapp.database.mongod import Mongod, MongodFailed, MongodNotFound, find_mongod
from webapp.http import logs
from webapp.http.refusals import Refusal
from webapp.server import PortRefused, StopSignals, serve, unless_stopped

PROGRESS_SECONDS = 1.0
LAST_SECONDS = 1.0

_log = logging.getLogger("webapp")


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code; a failure is a sentence on standard error."""
    options = parser().parse_args(arguments)
    try:
        _ask(options)
        asyncio.run(_command(options)(options))
    except FAILURES as failure:
        code, sentences = _explained(failure)
        for sentence in sentences:
            print(sentence, file=sys.stderr)
        return code
    except KeyboardInterrupt:
        return INTERRUPTED
    return DONE


FAILURES = (
    *(ConfigError, DatabaseAway, MongodNotFound, MongodFailed),
    *(PortRefused, NotDone, Refusal, PyMongoError, StorageUnavailable),
)


def _explained(failure: Exception) -> tuple[int, tuple[str, ...]]:
    if isinstance(failure, ConfigError):
        return MISCONFIGURED, failure.problems
    if isinstance(failure, DatabaseAway):
        return TRY_LATER, (str(failure),)
    if isinstance(failure, MongodNotFound | MongodFailed):
        return MISCONFIGURED, (str(failure),)
    if isinstance(failure, Refusal):
        return NOT_DONE, (failure.sentence,)
    if isinstance(failure, PyMongoError | StorageUnavailable):
        return NOT_DONE, (explain(failure, "of the app").sentence,)
    return NOT_DONE, (str(failure),)


def _command(options: argparse.Namespace) -> Callable[[Any], Coroutine[Any, Any, None]]:
    if options.dev and options.command not in (None, "serve"):
        parser().error("--dev always serves; leave the command out")
    if options.dev:
        return _serve_dev
    return {
        None: _serve,
        "serve": _serve,
        "check": _check,
        "secret": _secret,
        "sessions": _operate,
        "users": _operate,
    }[options.command]


async def _serve(_options: argparse.Namespace) -> None:
    with _stop_signals() as signals:
        config = _configured(os.environ)
        await _start_and_serve(create_app(config), signals)


async def _serve_dev(_options: argparse.Namespace) -> None:
    with _stop_signals() as signals:
        devfolder.refuse_production(os.environ)
        with devfolder.opened(devfolder.FOLDER) as folder:
            environ = devfolder.dev_environ(os.environ, folder)
            if "MONGO_URI" in environ:
                await _serve_demo(environ, folder, signals)
            else:
                await _serve_with_mongod(environ, folder, signals)


async def _serve_with_mongod(
    environ: Mapping[str, str], folder: DevFolder, signals: StopSignals
) -> None:
    # The other settings first: a typing error should not cost the start of a database.
    _configured({**environ, "MONGO_URI": "mongodb://127.0.0.1"})
    mongod = Mongod(find_mongod(os.environ), folder.path / "mongod")
    try:
        await asyncio.to_thread(mongod.start)
        # Printed for the operator's commands, and for any other MongoDB client.
        line = f"MONGO_URI={mongod.uri}"
        await _serve_demo({**environ, "MONGO_URI": mongod.uri}, folder, signals, line)
    finally:
        await asyncio.to_thread(mongod.stop)


async def _serve_demo(
    environ: Mapping[str, str], folder: DevFolder, signals: StopSignals, *lines: str
) -> None:
    config = _configured(environ)
    password = demo.demo_password(folder, config.password_min_length)

    async def start() -> web.Application:
        # First, and closed again: when this fails there is no app yet whose clean-up must run.
        async with parts(config) as app:
            await demo.prepare_demo_account(app, password)
        return await create_app(config)

    def announce() -> None:
        print(f"Open http://{config.host}:{config.port} and sign in with the demo account:")
        print(*demo.sign_in_lines(password), sep="\n")
        kept = ("MONGO_URI", "SESSION_SECRET")
        if given := [name for name in kept if os.environ.get(name, "").strip()]:
            print(f"Instead of .dev/, from the environment: {', '.join(given)}")
        for line in lines:
            print(line)
        print("Ctrl-C ends it; accounts and sessions stay.", flush=True)

    await _start_and_serve(start(), signals, when_open=announce)


async def _start_and_serve(
    start: Coroutine[Any, Any, web.Application],
    signals: StopSignals,
    when_open: Callable[[], None] = lambda: None,
) -> None:
    app = await unless_stopped(start, signals)
    if app is not None:
        await serve(app, signals, when_open=when_open)


@contextmanager
def _stop_signals() -> Iterator[StopSignals]:
    signals = StopSignals()
    try:
        yield signals
    finally:
        signals.ignore_from_now_on()


async def _check(_options: argparse.Namespace) -> None:
    async with parts(_configured(os.environ)) as app:
        print("All checks passed: settings, MongoDB, its indexes and the user's rights.")
        # Here an operator sees a rotation in the wrong order before anybody is signed out.
        with suppress(StorageUnavailable):
            print((await actions.stats(app)).sentence)


async def _secret(_options: argparse.Namespace) -> None:
    print(generate_secret())


async def _operate(options: argparse.Namespace) -> None:
    async with parts(_configured(os.environ, log_to_stderr=True)) as app:
        outcome = await _with_progress(ACTIONS[options.command, options.action](app, options))
    print(rendered(outcome, as_json=options.json))


ACTIONS: Mapping[
    tuple[str, str], Callable[[web.Application, argparse.Namespace], Awaitable[Outcome]]
] = {
    ("sessions", "stats"): lambda app, _: actions.stats(app),
    ("sessions", "list"): lambda app, typed: actions.list_sessions(app, typed.email),
    ("sessions", "revoke"): lambda app, typed: (
        actions.revoke_all(app) if typed.all else actions.revoke(app, typed.email)
    ),
    ("sessions", "purge"): lambda app, _: actions.purge(app),
    ("users", "add"): lambda app, typed: actions.add_user(
        app, typed.email, typed.username or typed.email.partition("@")[0], typed.new_password
    ),
    ("users", "password"): lambda app, typed: actions.set_password(
        app, typed.email, typed.new_password
    ),
    ("users", "disable"): lambda app, typed: actions.disable(app, typed.email),
    ("users", "enable"): lambda app, typed: actions.enable(app, typed.email),
}


def _ask(options: argparse.Namespace) -> None:
    """Ask for what is still needed: a yes before data is deleted, a password for an account."""
    if getattr(options, "yes", True) is False and sys.stdin.isatty():
        accounts = getattr(options, "email", None) or "all accounts"
        if input(f"{options.command} {options.action}, {accounts}: are you sure? [y/N] ") != "y":
            raise NotDone("Nothing was changed.")
    if options.command == "users" and options.action in ("add", "password"):
        options.new_password = _password()


def _password() -> str:
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    password = getpass("New password: ")
    if getpass("Once more: ") != password:
        raise NotDone("The two passwords differ; nothing was changed.")
    return password


async def _with_progress(work: Awaitable[Outcome]) -> Outcome:
    task = asyncio.ensure_future(work)
    seconds = 0
    while not (await asyncio.wait({task}, timeout=PROGRESS_SECONDS))[0]:
        seconds += 1
        if sys.stderr.isatty():
            print(f"\rstill working, {seconds} s", end="", file=sys.stderr, flush=True)
    if seconds and sys.stderr.isatty():
        print(file=sys.stderr)
    return task.result()


def _configured(environ: Mapping[str, str], *, log_to_stderr: bool = False) -> Config:
    config = Config.from_environ(environ)
    stream = sys.stderr if log_to_stderr else sys.stdout
    logs.configure(config.log_format, config.log_level, stream)
    for warning in config.warnings:
        _log.warning(warning)
    return config


def leave(code: int) -> NoReturn:
    """End the process with this exit code, a second later whatever its threads do.

    Python waits for every thread, and those of Motor may wait another five seconds for a MongoDB
    that does not answer. Together with the drain that is longer than the 25 seconds of the docs.
    """

    def cut_off() -> None:
        with suppress(OSError):  # nobody reads it any more
            sys.stdout.flush()
        os._exit(code)

    limit = threading.Timer(LAST_SECONDS, cut_off)
    limit.daemon = True
    limit.start()
    sys.exit(code)


if __name__ == "__main__":
    leave(main())
