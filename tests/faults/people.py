"""Somebody with an account at a web app in production, behind one router."""

from __future__ import annotations

import secrets

from aiohttp import ClientSession

COOKIE = "__Host-session"
ROUTER = {
    "Host": "app.example",
    "X-Forwarded-Proto": "https",
    "Sec-Fetch-Site": "same-origin",
}


class Person:
    """Somebody who sends requests from one address; `send` goes through the router."""

    def __init__(self, name: str, address: str, port: int) -> None:
        self.email = f"{name.lower()}-who-is-private@example.org"
        self.username = f"{name} Privately"
        self.password = secrets.token_urlsafe(16)
        self.token = ""
        self._port = port
        self._headers = {**ROUTER, "X-Forwarded-For": address}

    async def sign_up(self) -> int:
        """Return the status of a sign-up."""
        fields = {"username": self.username, "email": self.email, "password": self.password}
        return (await self.send("POST", "/api/auth/signup", fields))[0]

    async def sign_in(self) -> int:
        """Return the status of a sign-in with the right password."""
        fields = {"email": self.email, "password": self.password}
        return (await self.send("POST", "/api/auth/login", fields))[0]

    async def is_served(self) -> bool:
        """Return whether the app shows this person's profile."""
        status, text = await self.send("GET", "/api/profile")
        return status == 200 and f'"email": "{self.email}"' in text

    async def send(
        self, method: str, path: str, fields: dict[str, str] | None = None
    ) -> tuple[int, str]:
        """Send one request; return status and text."""
        headers = self._headers | ({"Cookie": f"{COOKIE}={self.token}"} if self.token else {})
        url = f"http://127.0.0.1:{self._port}{path}"
        async with (
            ClientSession() as client,
            client.request(method, url, json=fields, headers=headers) as answer,
        ):
            if COOKIE in answer.cookies:
                self.token = answer.cookies[COOKIE].value
            return answer.status, await answer.text()

    @property
    def private(self) -> list[str]:
        """The texts that nobody else may ever see."""
        return [self.email, self.username, self.password, self.token]
