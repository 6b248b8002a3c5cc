"""Requests whose body is still arriving when their session ends, over raw sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlencode

import pytest

from tests.webapp.conftest import Client
from tests.webapp.people import ADA, NEW_PASSWORD, another_device, sign_in, sign_up_and_in
from webapp.accounts.users import ACCOUNTS
from webapp.http.app_keys import IN_FLIGHT

CONFIRMATION = {"current_password": ADA["password"]}
JSON = "application/json"
FORM = "application/x-www-form-urlencoded"


class SlowRequest:
    """A request of which everything but the last byte of the body was sent."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, last: bytes
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._last = last

    async def finish(self) -> bytes:
        """Send the last byte and return the answer."""
        self._writer.write(self._last)
        return await self._reader.read()


@asynccontextmanager
async def slow_request(
    client: Client, method: str, path: str, media_type: str, body: str
) -> AsyncIterator[SlowRequest]:
    """Begin a request with the client's cookies, and wait until the app has its head."""
    cookies = client.session.cookie_jar.filter_cookies(client.make_url("/"))
    head = [
        f"{method} {path} HTTP/1.1",
        "Host: 127.0.0.1",
        "Connection: close",
        "Sec-Fetch-Site: same-origin",
        "Cookie: " + "; ".join(f"{name}={cookie.value}" for name, cookie in cookies.items()),
        f"Content-Type: {media_type}",
        f"Content-Length: {len(body)}",
    ]
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    writer.write(("\r\n".join(head) + "\r\n\r\n" + body[:-1]).encode())
    while not int(client.app[IN_FLIGHT]):
        await client.app[IN_FLIGHT].wait_for_change()
    try:
        yield SlowRequest(reader, writer, body[-1:].encode())
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("method", "path", "media_type", "body"),
    [
        pytest.param("DELETE", "/api/profile", JSON, json.dumps(CONFIRMATION), id="delete, API"),
        pytest.param("POST", "/profile/delete", FORM, urlencode(CONFIRMATION), id="delete, page"),
        pytest.param(
            "POST",
            "/profile/password",
            FORM,
            urlencode(CONFIRMATION | {"new_password": NEW_PASSWORD}),
            id="change the password",
        ),
        pytest.param("POST", "/profile/sessions", FORM, "everywhere=1", id="sign out the others"),
    ],
)
async def test_request_whose_session_ends_while_its_body_arrives_does_nothing(
    client: Client, method: str, path: str, media_type: str, body: str
) -> None:
    """The session is looked at when the body is there: 401 or the sign-in page, nothing done."""
    await sign_up_and_in(client)

    async with (
        another_device(client) as other,
        slow_request(client, method, path, media_type, body) as slow,
    ):
        assert (await sign_in(other)).status == 200
        assert (await other.delete("/api/sessions")).status == 204
        answer = await slow.finish()

        status, _, rest = answer.partition(b"\r\n")
        assert b" 401 " in status or b"Location: /login?notice=session-ended" in rest
        assert (await other.get("/api/profile")).status == 200
        assert await client.app[ACCOUNTS].authenticate(ADA["email"], ADA["password"])
