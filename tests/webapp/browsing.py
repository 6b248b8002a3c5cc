"""A visitor of a running app: signs up, signs in, looks at the profile, over real HTTP."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Self

from aiohttp import ClientSession, CookieJar, TCPConnector
from aiohttp.abc import AbstractResolver, ResolveResult

PASSWORD = "plain-words-for-a-test-account"


class Visitor:
    """One browser with its cookies; `base` may change, as behind a router."""

    def __init__(
        self, base: str, email: str = "ada@example.com", *, trusts: Path | None = None
    ) -> None:
        self.base = base
        self.email = email
        self._session = ClientSession(
            cookie_jar=CookieJar(unsafe=True),
            headers={"Sec-Fetch-Site": "same-origin"},
            connector=_to_this_machine(trusts) if trusts else None,
        )

    async def __aenter__(self) -> Self:
        """Open the browser."""
        return self

    async def __aexit__(self, *_error: object) -> None:
        """Close it."""
        await self.close()

    async def close(self) -> None:
        """Close the browser, its connections with it."""
        await self._session.close()

    async def sign_up(self, password: str = PASSWORD) -> int:
        """Return the status of signing up over JSON."""
        username = self.email.partition("@")[0]
        body = {"username": username, "email": self.email, "password": password}
        async with self._session.post(f"{self.base}/api/auth/signup", json=body) as answer:
            return answer.status

    async def sign_in(self, password: str = PASSWORD, *, remember: bool = True) -> int:
        """Return the status of signing in over JSON."""
        body = {"email": self.email, "password": password, "remember": remember}
        async with self._session.post(f"{self.base}/api/auth/login", json=body) as answer:
            return answer.status

    async def post(self, path: str, body: AsyncIterator[bytes]) -> tuple[int, str | None]:
        """Send a JSON body in pieces; return the status and the Connection header."""
        as_json = {"Content-Type": "application/json"}
        async with self._session.post(f"{self.base}{path}", data=body, headers=as_json) as answer:
            return answer.status, answer.headers.get("Connection")

    async def profile(self) -> int:
        """Return the status of looking at the profile."""
        async with self._session.get(f"{self.base}/api/profile") as answer:
            if answer.status == 200:
                assert (await answer.json())["email"] == self.email
            return answer.status

    async def sign_out(self) -> int:
        """Return the status of signing out."""
        async with self._session.post(f"{self.base}/api/auth/logout") as answer:
            return answer.status


class _ThisMachine(AbstractResolver):
    """Resolves every name to this machine, as a hosts file could."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Answer the loopback address."""
        return [
            ResolveResult(
                hostname=host,
                host="127.0.0.1",
                port=port,
                family=socket.AF_INET,
                proto=0,
                flags=0,
            )
        ]

    async def close(self) -> None:
        """Do nothing."""


def _to_this_machine(trusts: Path) -> TCPConnector:
    # A connection per request: one that is kept and closed by the router looks like a lost answer.
    return TCPConnector(
        resolver=_ThisMachine(),
        ssl=ssl.create_default_context(cafile=trusts),
        force_close=True,
    )
