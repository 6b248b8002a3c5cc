"""A web app in production under hostile requests: no crash, no leak, and it goes on serving."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Iterator
from itertools import chain

import pytest
from aiohttp import ClientSession

from storage import generate_secret
from tests.faults.conftest import Remark
from tests.faults.hostile import MARKER, Hostile
from tests.faults.raw import ask
from tests.processes import LISTENING, Process, free_port, webapp
from webapp.devdb import Mongod

AT_ONCE = 32
COOKIE = "__Host-session"
ROUTER = {
    "Host": "app.example",
    "X-Forwarded-Proto": "https",
    "Sec-Fetch-Site": "same-origin",
}


class Person:
    """Somebody with an account, who comes from one address through the router."""

    def __init__(self, name: str, address: str, port: int) -> None:
        self.email = f"{name.lower()}-who-is-private@example.org"
        self.username = f"{name} Privately"
        self.password = secrets.token_urlsafe(16)
        self.token = ""
        self._port = port
        self._headers = {**ROUTER, "X-Forwarded-For": address}

    async def arrive(self) -> None:
        """Sign up and in."""
        fields = {"username": self.username, "email": self.email, "password": self.password}
        assert (await self.send("POST", "/api/auth/signup", fields))[0] == 201
        assert await self.sign_in() == 200

    async def sign_in(self) -> int:
        """Return the status of a sign-in with the right password."""
        fields = {"email": self.email, "password": self.password}
        return (await self.send("POST", "/api/auth/login", fields))[0]

    async def is_served(self) -> bool:
        """Tell whether the app shows the profile, and the right one."""
        status, told = await self.send("GET", "/api/profile")
        return status == 200 and f'"email": "{self.email}"' in told

    async def send(
        self, method: str, path: str, fields: dict[str, str] | None = None
    ) -> tuple[int, str]:
        """Send one request through the router; return status and text."""
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
        """What nobody else may ever see."""
        return [self.email, self.username, self.password, self.token]


@pytest.fixture
def production(mongod: Mongod, database_name: str) -> dict[str, str]:
    """Give the environment of an app behind one router."""
    return {
        "MONGO_URI": mongod.uri,
        "MONGO_DATABASE": database_name,
        "SESSION_SECRET": generate_secret(),
        "TRUSTED_PROXY_HOPS": "1",
        "ALLOWED_HOSTS": "app.example",
        "HOST": "127.0.0.1",
        "PORT": str(free_port()),
    }


@pytest.fixture
def site(production: dict[str, str]) -> Iterator[Process]:
    """Run the app."""
    with webapp(environ=production) as process:
        process.wait_for(LISTENING)
        yield process


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(1_500, id="short"),
        pytest.param(100_000, id="a hundred thousand", marks=pytest.mark.long),
    ],
)
async def test_hostile_requests_crash_nothing_leak_nothing_and_take_nothing_over(
    site: Process, production: dict[str, str], remark: Remark, number: int
) -> None:
    """No 500, nobody's data in an answer, no secret in the log, and two people still signed in."""
    port = int(production["PORT"])
    people = [Person("Ada", "203.0.113.1", port), Person("Grace", "203.0.113.2", port)]
    for person in people:
        await person.arrive()
    private = [text.encode() for person in people for text in person.private]
    hostile = Hostile([person.token for person in people], cookie_name=COOKIE)
    statuses: Counter[int] = Counter()
    requests = chain(hostile.whole(), hostile.listed(), hostile.generated(number))

    async def attack() -> None:
        for request in requests:
            answer = await ask(port, request)
            statuses[answer.status] += 1
            assert answer.status != 500, request
            assert not [text for text in private if text in answer.head + answer.body], request

    async def live() -> None:
        while not attacks.done():
            for person in people:
                assert await person.is_served()

    attacks = asyncio.gather(*(attack() for _ in range(AT_ONCE)))
    await asyncio.gather(attacks, live())

    remark(f"{sum(statuses.values())} hostile requests: {dict(sorted(statuses.items()))}")
    assert [await person.is_served() for person in people] == [True, True]
    assert [await person.sign_in() for person in people] == [200, 200]
    assert site._process.poll() is None
    for secret in [MARKER, production["SESSION_SECRET"], "Traceback", "$argon2"]:
        assert secret not in site.output
    for person in people:
        assert not [text for text in person.private if text in site.output]
