"""MongoDB fails between the load and the touch of a request that only reads."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from pymongo import AsyncMongoClient, MongoClient

from tests.storage.conftest import Clock, MakeStorage, OpenSite, cookie_of, set_cookie_of
from webapp.devdb import Mongod, find_mongod


@pytest.fixture(scope="module")
def faulty_mongod(mongod: Mongod, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mongod]:
    """Run a second server, one that fails commands when it is told to."""
    arguments = ("--setParameter", "enableTestCommands=1")
    folder = tmp_path_factory.mktemp("faulty")
    with Mongod(find_mongod(os.environ), folder, arguments=arguments) as server:
        yield server


@pytest.fixture
async def collection(faulty_mongod: Mongod) -> AsyncIterator[Any]:
    """Open a collection on that server."""
    async with AsyncMongoClient[dict[str, Any]](faulty_mongod.uri) as client:
        await client.drop_database("faulty")
        yield client["faulty"]["sessions"]


def fail_updates(server: Mongod, times: int) -> None:
    """Let the server close the connection at the next updates."""
    with MongoClient[dict[str, Any]](server.uri) as client:
        client.admin.command(
            "configureFailPoint",
            "failCommand",
            mode={"times": times},
            data={"failCommands": ["update"], "closeConnection": True},
        )


async def test_touch_that_fails_serves_the_read_without_a_cookie(
    open_site: OpenSite,
    make_storage: MakeStorage,
    faulty_mongod: Mongod,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The visitor sees the page; the log says what was not written; the next request touches."""
    visitor = await (await open_site(make_storage(max_age=1200))).visitor()
    await visitor.do(lambda session: session.update(a=1))
    clock.advance(60)
    fail_updates(faulty_mongod, 1)

    with caplog.at_level(logging.WARNING, logger="storage"):
        failed = await visitor.do(dict)
    following = await visitor.do(dict)

    assert failed.status == 200
    assert await failed.json() == {"a": 1}
    assert set_cookie_of(failed) == []
    assert any("was not touched" in line.getMessage() for line in caplog.records)
    assert cookie_of(following)["max-age"] == "1200"


async def test_save_that_fails_is_unavailable_even_when_a_touch_was_due(
    open_site: OpenSite, make_storage: MakeStorage, faulty_mongod: Mongod, clock: Clock
) -> None:
    """A change that was not stored is no success: 503, no cookie, and the next request touches."""
    visitor = await (await open_site(make_storage(max_age=1200))).visitor()
    await visitor.do(lambda session: session.update(a=1))
    clock.advance(60)
    fail_updates(faulty_mongod, 1)

    failed = await visitor.do(lambda session: session.update(a=2))
    following = await visitor.do(dict)

    assert failed.status == 503
    assert set_cookie_of(failed) == []
    assert await following.json() == {"a": 1}
    assert cookie_of(following)["max-age"] == "1200"


async def test_changed_max_age_that_was_not_stored_is_unavailable(
    open_site: OpenSite, make_storage: MakeStorage, faulty_mongod: Mongod
) -> None:
    """Nobody is told "remember me" when nobody remembers."""
    visitor = await (await open_site(make_storage(max_age=1200))).visitor()
    await visitor.do(lambda session: session.update(a=1))
    fail_updates(faulty_mongod, 1)

    failed = await visitor.do(lambda session: setattr(session, "max_age", 86400))

    assert failed.status == 503
    assert set_cookie_of(failed) == []
