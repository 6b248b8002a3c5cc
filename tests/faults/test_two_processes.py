"""Parallel requests of one session to two processes."""

from __future__ import annotations

import asyncio

from aiohttp import ClientSession, TCPConnector

from tests.faults.conftest import StartApp
from webapp.database.mongod import Mongod

# Parallel requests to each of the two processes.
MANY = 150


async def test_parallel_changes_in_two_processes_are_all_kept(
    mongod: Mongod, database_name: str, start_app: StartApp
) -> None:
    """Three hundred requests add one value each, half of them with Motor, half with PyMongo."""
    uri, own = f"{mongod.uri}/?journal=true", ("--database", database_name)
    apps = start_app(uri, *own, driver="motor"), start_app(uri, *own, driver="pymongo")
    async with ClientSession(connector=TCPConnector(limit=0)) as client:
        async with client.post(f"{apps[0].base}/login?owner=ada") as answer:
            headers = {"Cookie": f"session={answer.cookies['session'].value}"}

        async def put(number: int) -> int:
            url = f"{apps[number % 2].base}/put?name=n{number}"
            async with client.post(url, headers=headers) as answer:
                return answer.status

        statuses = await asyncio.gather(*(put(number) for number in range(2 * MANY)))
        held = []
        for app in apps:
            async with client.get(f"{app.base}/names", headers=headers) as answer:
                held.append(set(await answer.json()))

    assert set(statuses) == {200}
    everything = {f"n{number}" for number in range(2 * MANY)}
    assert held == [everything, everything]
