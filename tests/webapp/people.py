"""The users of the tests, Ada and Grace: how they sign up and sign in."""

from __future__ import annotations

import asyncio
import html
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import ClientResponse, ClientSession, CookieJar

from tests.webapp.conftest import BROWSER, Client
from webapp.accounts.throttle import THROTTLE
from webapp.accounts.users import ACCOUNTS, Account

Browser = Client | ClientSession

ADA = {
    "username": "Ada",
    "email": "ada@example.org",
    "password": "orchid lamp river stone",
}
GRACE = {
    "username": "Grace",
    "email": "grace@example.org",
    "password": "velvet anchor seven moths",
}
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"
IPHONE = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like"
    " Gecko) Version/17.5 Mobile/15E148 Safari/604.1"
)
NEW_PASSWORD = "copper window and slow tea"
PATIENCE_SECONDS = 20


def stop_throttle_clock(client: Client) -> None:
    """Let no lock of the throttle open by itself, however slow the machine is."""
    now = time.time()
    client.app[THROTTLE].clock = lambda: now


async def sign_up(client: Browser, **changes: Any) -> ClientResponse:
    """Send Ada's sign-up, with changes, to the API."""
    return await client.post("/api/auth/signup", json=ADA | changes)


async def sign_in(client: Browser, **changes: Any) -> ClientResponse:
    """Send Ada's sign-in, with changes, to the API."""
    body = {"email": ADA["email"], "password": ADA["password"]} | changes
    return await client.post("/api/auth/login", json=body)


async def sign_up_and_in(client: Browser, who: dict[str, str] = ADA) -> None:
    """Sign somebody up and in."""
    assert (await sign_up(client, **who)).status == 201
    assert (await sign_in(client, email=who["email"], password=who["password"])).status == 200


def session_token(client: Client) -> str:
    """Return the session token that the browser of a client would send."""
    return client.session.cookie_jar.filter_cookies(client.make_url("/"))["session"].value


async def text_of(response: ClientResponse) -> str:
    """Return a page's text as a browser shows it: entities resolved."""
    return html.unescape(await response.text())


@asynccontextmanager
async def another_device(client: Client, user_agent: str = IPHONE) -> AsyncIterator[ClientSession]:
    """Open a second browser, with its own cookies, on the server that `client` uses."""
    async with ClientSession(
        client.make_url("/"),
        cookie_jar=CookieJar(unsafe=True),
        headers=BROWSER | {"User-Agent": user_agent},
    ) as device:
        yield device


def hold_password_change(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], Awaitable[asyncio.Event]]:
    """Let a change of the password wait between the new password and the new token.

    Returns what waits until the change is there, and then returns the event that lets it go on.
    """
    accounts = client.app[ACCOUNTS]
    changed, go_on = asyncio.Event(), asyncio.Event()
    really_change = accounts.change_password

    async def change_and_wait(*arguments: Any, **keywords: Any) -> Account:
        account = await really_change(*arguments, **keywords)
        changed.set()
        await go_on.wait()
        return account

    async def until_changed() -> asyncio.Event:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await changed.wait()
        return go_on

    monkeypatch.setattr(accounts, "change_password", change_and_wait)
    return until_changed
