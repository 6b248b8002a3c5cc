"""What is final: a change of the password, and a sign-out, whatever other requests do meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import ClientResponse, ClientSession, DummyCookieJar

from tests.webapp.conftest import BROWSER, Client
from tests.webapp.people import ADA, NEW_PASSWORD, hold_password_change, sign_up_and_in


class Tab:
    """A tab that keeps sending the cookie that the browser had when the tab sent its request."""

    def __init__(self, client: Client, http: ClientSession, cookie: str) -> None:
        self._client, self._http, self.cookie = client, http, cookie

    async def send(self, method: str, path: str, **body: Any) -> ClientResponse:
        """Send one request and follow no redirect."""
        address = self._client.make_url(path)
        headers = BROWSER | {"Cookie": f"session={self.cookie}"}
        answer = await self._http.request(
            method, address, headers=headers, allow_redirects=False, **body
        )
        await answer.read()
        return answer

    async def change_password(self) -> ClientResponse:
        """Send the form for a new password."""
        form = {"current_password": ADA["password"], "new_password": NEW_PASSWORD}
        return await self.send("POST", "/profile/password", data=form)


@pytest.fixture
async def http() -> Any:
    """Give a client that keeps no cookies."""
    async with ClientSession(cookie_jar=DummyCookieJar()) as session:
        yield session


async def tab_of(client: Client, http: ClientSession) -> Tab:
    """Sign Ada in, and open a tab of her browser."""
    await sign_up_and_in(client)
    (cookie,) = client.session.cookie_jar
    return Tab(client, http, cookie.value)


SIGN_OUTS = [
    pytest.param("/logout", id="page"),
    pytest.param("/api/auth/logout", id="API"),
]


@pytest.mark.parametrize("path", SIGN_OUTS)
async def test_sign_out_during_a_password_change_is_final(
    path: str, client: Client, http: ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The change counts, and gives no new session."""
    tab = await tab_of(client, http)
    until_changed = hold_password_change(client, monkeypatch)

    changing = asyncio.ensure_future(tab.change_password())
    go_on = await until_changed()
    await tab.send("POST", path)
    go_on.set()
    changed = await changing

    assert "session" not in changed.cookies
    assert (await tab.send("GET", "/api/profile")).status == 401
    body = {"email": ADA["email"], "password": NEW_PASSWORD}
    assert (await tab.send("POST", "/api/auth/login", json=body)).status == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        pytest.param("GET", "/api/profile", id="profile"),
        pytest.param("GET", "/api/sessions", id="sessions"),
        pytest.param("DELETE", "/api/sessions", id="sign out others"),
    ],
)
async def test_cookie_from_before_a_password_change_opens_nothing(
    method: str, path: str, client: Client, http: ClientSession
) -> None:
    """A copy of it opens nothing any more; there is no grace."""
    tab = await tab_of(client, http)
    new = (await tab.change_password()).cookies["session"].value

    assert (await tab.send(method, path)).status == 401

    tab.cookie = new
    assert (await tab.send("GET", "/api/profile")).status == 200


async def test_sign_out_of_nobody_sets_and_deletes_no_cookie(
    client: Client, http: ClientSession
) -> None:
    """The cookie opens no session, but another response may have set a valid one just now."""
    tab = Tab(client, http, "A" * 43)

    signed_out = await tab.send("POST", "/api/auth/logout")

    assert signed_out.status == 204
    assert "session" not in signed_out.cookies
