"""Ada and Grace, who sign up and sign in wherever a test needs somebody."""

from __future__ import annotations

import html
from typing import Any

from aiohttp import ClientResponse

from tests.webapp.conftest import Client

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
NEW_PASSWORD = "copper window and slow tea"


async def sign_up(client: Client, **changes: Any) -> ClientResponse:
    """Send Ada's sign-up, with changes, to the API."""
    return await client.post("/api/auth/signup", json=ADA | changes)


async def sign_in(client: Client, **changes: Any) -> ClientResponse:
    """Send Ada's sign-in, with changes, to the API."""
    body = {"email": ADA["email"], "password": ADA["password"]} | changes
    return await client.post("/api/auth/login", json=body)


async def arrive(client: Client, who: dict[str, str] = ADA) -> None:
    """Sign somebody up and in."""
    assert (await sign_up(client, **who)).status == 201
    assert (await sign_in(client, email=who["email"], password=who["password"])).status == 200


async def text_of(response: ClientResponse) -> str:
    """Return a page's text as a browser shows it: entities resolved."""
    return html.unescape(await response.text())
