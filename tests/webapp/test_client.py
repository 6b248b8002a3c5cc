"""How the app connects to MongoDB: what it asks for, and what the address may change."""

from __future__ import annotations

import pytest
from pymongo import ReadPreference

from tests.webapp.test_config import SECRET
from webapp.config.settings import Config
from webapp.database.client import OPERATION_SECONDS, connect, disconnect, open_database

ADDRESS = "mongodb://127.0.0.1/shop"


@pytest.mark.parametrize(
    ("options", "write_concern"),
    [
        pytest.param("", {"j": True}, id="by default"),
        pytest.param("?w=majority", {"j": True, "w": "majority"}, id="w=majority"),
        pytest.param("?journal=false", {"j": False}, id="the address says otherwise"),
        pytest.param("?w=1&JOURNAL=false", {"j": False, "w": 1}, id="in capitals"),
    ],
)
async def test_writes_are_acknowledged_with_the_journal_unless_the_address_says_otherwise(
    options: str, write_concern: dict[str, object]
) -> None:
    """What `w=` asks for is kept."""
    client = connect(_config(options))

    assert client.write_concern.document == write_concern
    disconnect(client)


@pytest.mark.parametrize(
    "options",
    [
        "",
        "?readPreference=secondary",
        "?readPreference=nearest&maxStalenessSeconds=120&readConcernLevel=majority",
    ],
)
async def test_database_is_read_from_the_primary_as_it_is_now(options: str) -> None:
    """Neither the read preference nor the read concern of the address counts."""
    client = connect(_config(options))
    database = open_database(client, "shop")

    assert database.read_preference == ReadPreference.PRIMARY
    assert database.read_concern.level == "local"
    disconnect(client)


@pytest.mark.parametrize(
    ("options", "seconds"),
    [
        pytest.param("", OPERATION_SECONDS, id="by default"),
        pytest.param("?timeoutMS=900", 0.9, id="the address says otherwise"),
    ],
)
async def test_operations_end_in_time(options: str, seconds: float) -> None:
    """Every operation has a time limit, that of the address where it has one."""
    client = connect(_config(options))

    assert client.options.timeout == seconds
    disconnect(client)


def _config(options: str) -> Config:
    environ = {"APP_ENV": "development", "SESSION_SECRET": SECRET}
    return Config.from_environ(environ | {"MONGO_URI": ADDRESS + options})
