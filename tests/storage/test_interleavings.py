"""Random histories of overlapping requests, compared with a model."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import AsyncMongoClient

from tests.conftest import only_in_full
from tests.storage.conftest import close
from tests.storage.interleavings import Interleavings


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    """Run coroutines for a state machine that is not asynchronous."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.mark.parametrize("client_class", [AsyncIOMotorClient, AsyncMongoClient])
@pytest.mark.parametrize(
    "histories",
    [
        pytest.param(10, id="some"),
        pytest.param(60, id="many", marks=pytest.mark.long),
        pytest.param(1500, id="very many", marks=[pytest.mark.long, only_in_full]),
    ],
)
def test_no_acknowledged_change_is_lost_and_no_ended_session_comes_back(
    mongo_uri: str,
    database_name: str,
    runner: asyncio.Runner,
    client_class: Any,
    histories: int,
) -> None:
    """Whatever the order of loads, changes, saves, ends of sessions, restarts and time."""

    async def connect() -> Any:
        return client_class(mongo_uri)

    client = runner.run(connect())

    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        partial(Interleavings, runner, client[database_name]["sessions"]),
        settings=settings(
            max_examples=histories,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )

    runner.run(close(client))
