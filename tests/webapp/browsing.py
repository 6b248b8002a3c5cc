"""A visitor of a running app: signs up, signs in, looks at the profile, over real HTTP."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from aiohttp import ClientSession, CookieJar

PASSWORD = "plain-words-for-a-test-account"


class Visitor:
    """One browser with its cookies; `base` may change, as behind a router."""

    def __init__(self, base: str, email: str = "ada@example.com") -> None:
        self.base = base
        self.email = email
        self._session = ClientSession(
            cookie_jar=CookieJar(unsafe=True), headers={"Sec-Fetch-Site": "same-origin"}
        )

    async def __aenter__(self) -> Self:
        """Open the browser."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close it."""
        await self._session.close()

    async def sign_up(self, password: str = PASSWORD) -> int:
        """Return the status of signing up over JSON."""
        username = self.email.partition("@")[0]
        body = {"username": username, "email": self.email, "password": password}
        async with self._session.post(f"{self.base}/api/auth/signup", json=body) as answer:
            return answer.status

    async def sign_in(self, password: str = PASSWORD) -> int:
        """Return the status of signing in over JSON, remembered."""
        body = {"email": self.email, "password": password, "remember": True}
        async with self._session.post(f"{self.base}/api/auth/login", json=body) as answer:
            return answer.status

    async def profile(self) -> int:
        """Return the status of looking at the profile."""
        async with self._session.get(f"{self.base}/api/profile") as answer:
            if answer.status == 200:
                assert (await answer.json())["email"] == self.email
            return answer.status
