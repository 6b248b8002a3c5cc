"""One address that signs in without a pause does not keep others from signing in."""

from __future__ import annotations

import asyncio
from collections import Counter

from aiohttp import ClientSession, DummyCookieJar, TCPConnector
from pytest_aiohttp import AiohttpClient

from tests.webapp.conftest import BROWSER, Client
from tests.webapp.people import ADA
from webapp.accounts.passwords import Cost
from webapp.accounts.users import ACCOUNTS
from webapp.app import create_app
from webapp.config import Config
from webapp.http.app_keys import DATABASE

BUSY_ACCOUNTS = 20
CONNECTIONS = 80
SLOW = Cost(memory_kib=8 * 1024, passes=1)  # enough for eighty connections to fill the pool
BUSY, OTHER = "203.0.113.9", "198.51.100.7"


async def add_accounts(client: Client) -> list[str]:
    """Add Ada and the accounts of the busy address, all with Ada's password."""
    emails = [ADA["email"], *(f"{n}@example.com" for n in range(BUSY_ACCOUNTS))]
    accounts = client.app[ACCOUNTS]
    await accounts.sign_up(**ADA)
    users = client.app[DATABASE]["users"]
    ada = await users.find_one({}, {"_id": False})
    assert ada
    others = [ada | {"email": email, "username_folded": email} for email in emails[1:]]
    await users.insert_many(others)
    return emails


async def test_one_address_with_eighty_connections_delays_nobody_else(
    environ: dict[str, str], aiohttp_client: AiohttpClient
) -> None:
    """Eighty sign-ins with right passwords at a time from one address: others still sign in."""
    config = Config.from_environ(environ | {"TRUSTED_PROXY_HOPS": "1"})
    app = await create_app(config, cost=SLOW)
    client = await aiohttp_client(app)
    ada, *emails = await add_accounts(client)
    over = asyncio.Event()
    statuses: Counter[int] = Counter()

    async def sign_in(session: ClientSession, email: str, address: str) -> int:
        body = {"email": email, "password": ADA["password"]}
        headers = {"X-Forwarded-For": address, "X-Forwarded-Proto": "http"}
        url = client.make_url("/api/auth/login")
        async with session.post(url, json=body, headers=headers) as answer:
            return answer.status

    async def keep_signing_in(session: ClientSession, email: str) -> None:
        while not over.is_set():
            statuses[await sign_in(session, email, BUSY)] += 1

    async with ClientSession(
        headers=BROWSER, cookie_jar=DummyCookieJar(), connector=TCPConnector(limit=0)
    ) as session:
        flood = [
            asyncio.ensure_future(keep_signing_in(session, emails[n % len(emails)]))
            for n in range(CONNECTIONS)
        ]
        # Until the pool is full; a slow machine may take what comes without ever filling it.
        while not statuses[503] and statuses.total() < 3 * CONNECTIONS:
            await asyncio.wait(flood, timeout=0.1)
        answers = [await sign_in(session, ada, OTHER) for _ in range(8)]
        over.set()
        await asyncio.gather(*flood)

    assert answers == [200] * 8
    assert statuses[200]
