"""Parallel requests of one session to two processes."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import ClientSession, TCPConnector

from tests.faults.conftest import App, StartApp
from webapp.database.mongod import Mongod

# Parallel requests to each of the two processes.
MANY = 150
ROUNDS, CHANGES = 40, 5


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


async def post(client: ClientSession, app: App, path: str, token: str = "") -> tuple[int, str]:
    """Send a request; return the status and the token that a browser has afterwards."""
    headers = {"Cookie": f"session={token}"}
    async with client.post(app.base + path, headers=headers) as answer:
        cookie = answer.cookies.get("session")
        return answer.status, token if cookie is None else cookie.value


async def all_wait(client: ClientSession, apps: tuple[App, App]) -> None:
    """Return when every change of a round has loaded its session."""
    waiting = 0
    while waiting < CHANGES:
        waiting = 0
        for app in apps:
            async with client.get(f"{app.base}/held") as answer:
                waiting += await answer.json()


@pytest.mark.long
async def test_parallel_changes_around_renewals_in_two_processes_are_all_kept(
    mongod: Mongod, database_name: str, start_app: StartApp
) -> None:
    """Forty times five requests have loaded the session when it is renewed, and save then."""
    uri, own = f"{mongod.uri}/?journal=true", ("--database", database_name)
    apps = start_app(uri, *own, driver="motor"), start_app(uri, *own, driver="pymongo")
    statuses = set()
    async with ClientSession(connector=TCPConnector(limit=0)) as client:
        _, token = await post(client, apps[0], "/login?owner=ada")
        for number in range(ROUNDS):
            puts = [
                post(client, apps[n % 2], f"/put?hold&name=n{number}-{n}", token)
                for n in range(CHANGES)
            ]
            changes = asyncio.gather(*puts)
            await asyncio.wait_for(all_wait(client, apps), 20)
            renewal = asyncio.create_task(post(client, apps[number % 2], "/renew", token))
            if number % 4:
                await renewal  # else they save at the same time
            await asyncio.gather(*(post(client, app, "/release") for app in apps))
            statuses |= {status for status, _token in await changes}
            _, newer = await renewal
            assert newer != token
            token = newer
        headers = {"Cookie": f"session={token}"}
        async with client.get(f"{apps[0].base}/names", headers=headers) as answer:
            held = set(await answer.json())

    assert statuses == {200}
    assert held == {f"n{number}-{n}" for number in range(ROUNDS) for n in range(CHANGES)}
