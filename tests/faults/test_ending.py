"""Processes stop in time although MongoDB cannot be reached."""

from __future__ import annotations

import os
import signal
import time

import pytest
from aiohttp import ClientSession

from tests.faults.conftest import StartApp
from tests.processes import LISTENING, webapp
from webapp.database.mongod import Mongod

pytestmark = pytest.mark.long

# Platforms usually kill a process half a minute after SIGTERM.
SOON_SECONDS = 10.0


async def test_web_app_stops_in_time_when_mongodb_is_unreachable(
    server: Mongod, production: dict[str, str]
) -> None:
    """MongoDB was used and is killed; SIGTERM leads to exit code 0 without server selection."""
    with webapp(environ=production | {"MONGO_URI": server.uri}) as process:
        process.wait_for(LISTENING)
        async with (
            ClientSession() as client,
            client.get(f"http://127.0.0.1:{production['PORT']}/readyz") as answer,
        ):
            assert answer.status == 200
        os.kill(server.pid, signal.SIGKILL)
        server.stop()
        begun = time.monotonic()

        process.signal(signal.SIGTERM)

        assert process.wait() == 0
        assert time.monotonic() - begun < SOON_SECONDS


@pytest.mark.parametrize("driver", ["motor", "pymongo"])
def test_storage_closes_in_time_when_mongodb_is_unreachable(
    server: Mongod, start_app: StartApp, driver: str
) -> None:
    """An app that closes its client under `pymongo.timeout` stops in time too."""
    app = start_app(server.uri, driver=driver)
    server.stop()
    begun = time.monotonic()

    app.process.signal(signal.SIGTERM)

    assert app.process.wait() == 0
    assert time.monotonic() - begun < SOON_SECONDS
