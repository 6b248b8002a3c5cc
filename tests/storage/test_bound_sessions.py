"""A request that has bound a client session of MongoDB, as for a transaction of the app."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler
from pymongo import AsyncMongoClient

from storage import MongoStorage, setup
from tests.storage.command_log import CommandLog
from tests.storage.conftest import OpenSite


@pytest.mark.parametrize("another_client", [False, True], ids=["same client", "another client"])
async def test_client_session_of_a_request_reaches_no_command_of_the_storage(
    *,
    another_client: bool,
    open_site: OpenSite,
    storage: MongoStorage,
    collection: Any,
    log: CommandLog,
    mongo_uri: str,
) -> None:
    """An aborted transaction would undo what others have saved with the same command."""
    other = AsyncMongoClient[Any](mongo_uri)
    client = other if another_client else collection.database.client
    within: list[str] = []

    @web.middleware
    async def bind(request: web.Request, handler: Handler) -> web.StreamResponse:
        async with client.start_session().bind() as session:
            before = len(log.commands)
            await client.admin.command("ping")  # one of the app's own commands
            response = await handler(request)
            # Looked up at once: the driver uses the ids of ended sessions again.
            for name, command in log.commands[before:]:
                if command["lsid"] == session.session_id:
                    within.append(name)
            return response

    def set_up(app: web.Application, storage: MongoStorage) -> None:
        app.middlewares.append(bind)
        setup(app, storage)

    visitor = await (await open_site(storage, set_up)).visitor()
    statuses = [
        (await visitor.do(change)).status
        for change in (
            lambda session: session.update(user_id=7),
            lambda session: session.update(n=2),
            lambda session: session.renew(),
            lambda session: session.invalidate(),
        )
    ]
    await other.close()

    assert statuses == [200] * 4
    assert within == ([] if another_client else ["ping"] * 4)
