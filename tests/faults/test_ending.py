"""Processes end in time although MongoDB has gone."""

from __future__ import annotations

import os
import signal
import time

import pytest
from aiohttp import ClientSession

from tests.faults.conftest import StartApp
from tests.processes import LISTENING, webapp
from webapp.database.mongod import Mongod

# Half a minute is what platforms give a process before they kill it.
SOON_SECONDS = 10.0


async def test_web_app_ends_in_time_when_mongodb_is_away(
    server: Mongod, production: dict[str, str]
) -> None:
    """It used MongoDB, MongoDB is killed, SIGTERM: exit code 0, without looking for a server."""
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


@pytest.mark.long
@pytest.mark.parametrize("driver", ["motor", "pymongo"])
def test_storage_ends_in_time_when_mongodb_is_away(
    server: Mongod, start_app: StartApp, driver: str
) -> None:
    """The same for an app of one's own that closes its client under `pymongo.timeout`."""
    app = start_app(server.uri, driver=driver)
    server.stop()
    begun = time.monotonic()

    app.process.signal(signal.SIGTERM)

    assert app.process.wait() == 0
    assert time.monotonic() - begun < SOON_SECONDS
