"""The public API: names, arguments and defaults, and what an import loads."""

from __future__ import annotations

import asyncio
import inspect
import json
import runpy
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from mongomock_motor import AsyncMongoMockClient

import storage
from storage import (
    IndexConflict,
    MongoStorage,
    SessionEnded,
    SessionNotSerializable,
    SessionTooLarge,
    StorageError,
    StorageUnavailable,
    generate_secret,
    renew_session,
    save_session,
    setup,
)

ROOT = Path(__file__).parents[2]
PINNED = [
    "IndexConflict",
    "MongoStorage",
    "SessionEnded",
    "SessionInfo",
    "SessionNotSerializable",
    "SessionTooLarge",
    "StorageError",
    "StorageUnavailable",
    "generate_secret",
    "renew_session",
    "save_session",
    "setup",
    "watch_session",
]
DEFAULTS = {
    "max_age": 14 * 24 * 3600,
    "absolute_timeout": None,
    "touch_interval": None,
    "owner_key": "user_id",
    "describe": None,
    "max_bytes": 256 * 1024,
    "max_sessions_per_owner": None,
    "operation_timeout": 5.0,
    "cookie_name": "session",
    "domain": None,
    "path": "/",
    "secure": None,
    "httponly": True,
    "samesite": "Lax",
    "partitioned": False,
    "encoder": json.dumps,
    "decoder": json.loads,
    "moving_from": None,
}


@pytest.fixture
def collection() -> Any:
    """Make a collection to which nothing is sent."""
    return AsyncMongoMockClient()["app"]["sessions"]


@pytest.fixture
def lone_storage(collection: Any) -> MongoStorage:
    """Make a storage that nobody uses."""
    return MongoStorage(collection, generate_secret())


def test_public_names_are_the_pinned_ones() -> None:
    """`from storage import *` imports thirteen names, each with a docstring."""
    assert storage.__all__ == PINNED
    assert all(inspect.getdoc(getattr(storage, name)) for name in PINNED)


def test_defaults_of_the_constructor_are_the_pinned_ones() -> None:
    """Collection and secrets are positional; all others are keyword arguments."""
    parameters = list(inspect.signature(MongoStorage).parameters.values())

    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    keywords = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}

    assert positional == ["collection", "secrets"]
    assert keywords == DEFAULTS


def test_storage_has_what_its_users_call(lone_storage: MongoStorage) -> None:
    """What sends commands is awaited; `sessions` is iterated."""
    awaited = ["aclose", "clear", "count", "create_indexes", "purge", "revoke", "revoke_owner"]

    assert all(inspect.iscoroutinefunction(getattr(MongoStorage, name)) for name in awaited)
    assert inspect.iscoroutinefunction(renew_session)
    assert inspect.iscoroutinefunction(save_session)
    assert inspect.isasyncgenfunction(MongoStorage.sessions)
    assert {"clock", "counters", "handle"} <= set(dir(lone_storage))


async def test_storage_can_be_made_in_a_thread(collection: Any) -> None:
    """The keys of aiohttp look for a module on the stack, which a thread does not have."""
    storage = await asyncio.to_thread(MongoStorage, collection, generate_secret())

    assert storage.max_age == 14 * 24 * 3600


def test_importing_storage_imports_neither_motor_nor_the_web_app() -> None:
    """Other apps use the package alone, with either driver."""
    program = (
        "import sys, importlib, pkgutil\n"
        "sys.modules.update({'motor': None, 'webapp': None})\n"
        "import storage\n"
        "for module in pkgutil.walk_packages(storage.__path__, 'storage.'):\n"
        "    importlib.import_module(module.name)\n"
        "print([m for m in sys.modules if m.split('.')[0] in ('motor', 'webapp', 'jinja2')])\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert done.stderr == ""
    assert done.stdout.strip() == "['motor', 'webapp']"  # the two that the program has blocked


def test_errors_have_one_base_and_unavailability_is_a_response() -> None:
    """An app may catch `StorageError`; otherwise aiohttp answers with the 503."""
    unavailable = StorageUnavailable()

    assert issubclass(IndexConflict, StorageError)
    assert issubclass(SessionNotSerializable, StorageError)
    assert issubclass(SessionTooLarge, StorageError)
    assert isinstance(unavailable, StorageError)
    assert isinstance(unavailable, web.HTTPServiceUnavailable)
    assert unavailable.status == 503
    assert int(unavailable.headers["Retry-After"]) > 0
    assert unavailable.text == (
        "The session store does not answer at the moment; please try again."
    )
    assert str(unavailable) == "MongoDB did not answer in time"
    assert str(SessionEnded()) == "the session has ended: revoked, signed out, deleted or expired"


def test_generated_secrets_are_text_that_is_accepted_and_never_repeat(collection: Any) -> None:
    """`generate_secret()` returns 32 random bytes as text."""
    first, second = generate_secret(), generate_secret()

    assert isinstance(first, str)
    assert len(first) == 43
    assert first != second
    MongoStorage(collection, [first, second])


def test_durations_are_seconds_or_timedeltas(collection: Any) -> None:
    """Seconds, fractions of seconds and timedeltas mean the same."""
    storages = [
        MongoStorage(collection, generate_secret(), max_age=age, absolute_timeout=age)
        for age in (90, 90.0, timedelta(minutes=1.5))
    ]

    assert {storage.max_age for storage in storages} == {90}
    assert MongoStorage(collection, generate_secret(), max_age=0.25).max_age == 0.25


def test_setup_refuses_another_librarys_storage() -> None:
    """The error names the type, and the app is not changed."""
    app = web.Application()

    with pytest.raises(TypeError, match=r"storage: dict is not accepted; use a MongoStorage"):
        setup(app, {})  # type: ignore[arg-type]

    assert not app.middlewares


def test_aiohttp_that_is_too_old_is_refused_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At the import of the first module, and not as an AttributeError somewhere later."""
    monkeypatch.delattr(web, "RequestKey")

    with pytest.raises(ImportError, match=r"^storage needs aiohttp 3\.14 or newer"):
        runpy.run_path(inspect.getfile(storage.errors))


def test_aiohttp_that_warns_of_text_keys_in_another_way_is_accepted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The storage keeps it from warning with a private name, which may be gone one day."""
    monkeypatch.delattr(web.BaseRequest, "_seen_str_keys")

    assert "MongoStorage" in runpy.run_path(inspect.getfile(storage.mongo))
