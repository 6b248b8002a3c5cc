"""A save that was answered with 503 may still be in progress, and be applied later."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import ClientSession
from pymongo import MongoClient

from tests.faults.conftest import App, StartApp
from tests.faults.proxy import Proxy
from tests.waiting import until_async
from webapp.database.mongod import Mongod

pytestmark = pytest.mark.long


@pytest.fixture(params=["motor", "pymongo"])
def apps(
    server: Mongod, proxy: Proxy, start_app: StartApp, request: pytest.FixtureRequest
) -> tuple[App, App]:
    """Run one process behind the proxy, and one with a direct connection to the server."""
    behind = f"mongodb://127.0.0.1:{proxy.port}/"
    return start_app(behind, driver=request.param), start_app(server.uri)


async def ask(client: ClientSession, app: App, method: str, path: str, token: str) -> Any:
    """Send one request of a session; return the status, or the number in the session."""
    headers = {"Cookie": f"session={token}"}
    async with client.request(method, app.base + path, headers=headers) as answer:
        return (await answer.json()).get("left") if answer.status == 200 else answer.status


async def sign_in(client: ClientSession, app: App) -> str:
    """Create a session; return its token."""
    async with client.post(f"{app.base}/login?owner=ada") as answer:
        assert answer.status == 200
        return answer.cookies["session"].value


async def let_a_save_be_refused(client: ClientSession, app: App, proxy: Proxy, token: str) -> None:
    """Send a save that leaves the app, but reaches MongoDB only when the proxy is healed."""
    proxy.stall_at(lambda sent: b"update\0" in sent)
    assert await ask(client, app, "POST", "/set?n=1", token) == 503


async def test_refused_save_may_be_applied_later_over_a_newer_one(
    apps: tuple[App, App], proxy: Proxy
) -> None:
    """This limit is that of every store behind a network: a 503 means "not known"."""
    slow, other = apps
    async with ClientSession() as client:
        token = await sign_in(client, slow)
        await let_a_save_be_refused(client, slow, proxy, token)
        assert await ask(client, other, "POST", "/set?n=2", token) == 2
        assert await ask(client, other, "GET", "/read", token) == 2

        proxy.heal()

        async def has_arrived() -> bool:
            return bool(await ask(client, other, "GET", "/read", token) == 1)

        assert await until_async(has_arrived)


async def test_refused_save_applied_after_a_logout_restores_no_session(
    apps: tuple[App, App], proxy: Proxy, server: Mongod
) -> None:
    """The save is an update and never an upsert, so it finds nothing to change."""
    slow, other = apps
    async with ClientSession() as client:
        token = await sign_in(client, slow)
        await let_a_save_be_refused(client, slow, proxy, token)
        before = updates_seen(server)
        assert await ask(client, other, "POST", "/logout", token) is None

        proxy.heal()

        async def has_arrived() -> bool:
            return updates_seen(server) > before

        assert await until_async(has_arrived)
        assert await ask(client, other, "GET", "/read", token) == 401
        with MongoClient[dict[str, Any]](server.uri) as direct:
            assert direct["faults"]["sessions"].count_documents({}) == 0


def updates_seen(server: Mongod) -> int:
    """Return how many updates the server has received."""
    with MongoClient[dict[str, Any]](server.uri) as client:
        return int(client.admin.command("serverStatus")["opcounters"]["update"])
