"""What the driver repeats by itself: where it drops writes, or sends them in a way that fails."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from storage import MongoStorage
from tests.conftest import NewMongod
from tests.faults.proxy import Proxy
from tests.storage.command_log import CommandLog
from tests.storage.conftest import close, make_client, real_drivers, replica_set_of_one, until
from tests.storage.direct import load, loaded, saved, stored, values
from webapp.database.mongod import Mongod

pytestmark = real_drivers

# What a client sends first on each connection contains its name.
FIRST = b"PyMongo"
# One that asks for the state of the server, one that measures the round trip, and one to use.
CONNECTIONS = 3


@pytest.fixture(scope="module")
def member(new_mongod: NewMongod) -> Iterator[Mongod]:
    """Run a replica set of one member: to a single server drivers repeat no write."""
    with replica_set_of_one(new_mongod, "one") as server:
        yield server


@pytest.fixture(params=["mongod", "member"], ids=["single server", "replica set"])
def proxy(request: pytest.FixtureRequest) -> Iterator[Proxy]:
    """Run a proxy in front of a server."""
    server: Mongod = request.getfixturevalue(request.param)
    with Proxy(server.port) as proxy:
        yield proxy


@pytest.fixture
async def collection(
    driver: str, proxy: Proxy, database_name: str, log: CommandLog
) -> AsyncIterator[Any]:
    """Open an empty collection behind the proxy; each command needs a new connection."""
    # A microsecond: within a millisecond, a save used the connection of the load before it again.
    uri = f"mongodb://127.0.0.1:{proxy.port}/?directConnection=true&maxIdleTimeMS=0.001"
    client = make_client(driver, uri, event_listeners=[log])
    yield client[database_name]["sessions"]
    await close(client)


def break_one_connection_attempt(proxy: Proxy) -> None:
    """Break the next connection in the middle of the answer to what is sent first on it."""
    left = [True]
    proxy.break_answers(lambda sent: FIRST in sent and bool(left) and left.pop())


async def test_every_write_of_a_batch_is_sent_when_its_connection_needs_two_attempts(
    storage: MongoStorage, proxy: Proxy, log: CommandLog
) -> None:
    """Of a bulk write of several kinds PyMongo 4.20 sends the first kind only, and raises nothing.

    To a single server it sends the write with a number, which that server refuses.
    """
    signed_out, changed = await stored(storage, 2)
    await until(lambda: len(proxy.connections) >= CONNECTIONS)
    leaving, changing = await loaded(storage, [signed_out, changed])
    new = await load(storage)
    leaving.session.invalidate()
    changing.session["n"] = [1]
    new.session["user_id"] = 2
    log.commands.clear()
    break_one_connection_attempt(proxy)

    results = await saved([leaving, new, changing])

    assert proxy.broken == 1
    assert {"delete", "insert", "update"} <= {*log.names}
    assert results[0] is None
    assert await values(storage, signed_out) == {}
    assert await values(storage, changed) == {"user_id": 1, "n": [1]}
    assert await values(storage, str(results[1])) == {"user_id": 2}
