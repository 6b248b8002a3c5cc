"""The disk of the database is full. It is a file system in memory, so the test needs root."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from tests.faults.conftest import Report, StartApp
from tests.faults.load import VISITORS, Load
from tests.processes import free_port
from tests.waiting import until
from webapp.database.mongod import Mongod

pytestmark = pytest.mark.long

SIZE = "512m"
KEPT_FREE_BYTES = 64 * 1024


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a small file system; skip the test if that is not permitted."""
    where = tmp_path / "disk"
    where.mkdir()
    options = ("-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs")
    mounting = subprocess.run(["mount", *options, str(where)], capture_output=True, check=False)
    if mounting.returncode != 0:
        pytest.skip("mounting a file system is not permitted here; run this test as root")
    yield where
    subprocess.run(["umount", "--lazy", str(where)], check=True)


def fill(disk: Path) -> Path:
    """Fill the free space; return the file that does."""
    ballast = disk / "ballast"
    status = os.statvfs(disk)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, status.f_bavail * status.f_frsize - KEPT_FREE_BYTES)
    return ballast


async def test_nothing_acknowledged_is_lost_when_the_disk_is_full(
    disk: Path, mongod_binary: Path, start_app: StartApp, report: Report
) -> None:
    """The server stops when it cannot write; with free space it starts, and all data is there."""
    server = Mongod(mongod_binary, disk / "mongod", port=free_port())
    with server:
        uri = f"{server.uri}/?journal=true"
        apps = start_app(uri, driver="motor"), start_app(uri, driver="pymongo")
        async with Load([app.base for app in apps]) as load:
            await load.answers(300)
            ballast = await asyncio.to_thread(fill, disk)
            # The journal has space left, but the next checkpoint has none.
            await asyncio.to_thread(checkpoint, server)
            await asyncio.to_thread(until, lambda: has_ended(server))
            await asyncio.to_thread(until, lambda: load.record.refused >= VISITORS)
            ballast.unlink()
            server.stop()
            await asyncio.to_thread(server.start)
            await load.answers(300)

    report("disk full until mongod stopped, then space again", load.record, VISITORS)
    load.record.assert_in_order()


def checkpoint(server: Mongod) -> None:
    """Make the server write what is only in its journal; it may stop because of that."""
    with suppress(PyMongoError), MongoClient[dict[str, object]](server.uri) as client:
        client.admin.command("fsync")


def has_ended(server: Mongod) -> bool:
    """Return whether the server's process has stopped."""
    return server._process is None or server._process.poll() is not None
