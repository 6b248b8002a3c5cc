"""The visitors: sign in, store the cookie, and check that the peer really stores sessions."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from time import monotonic

import aiohttp

from benchmarks.workload import ANSWER_BYTES, VISITORS

AT_ONCE = 32


async def sign_in(url: str, count: int, *, seconds: float = 3600.0) -> list[str]:
    """Sign in `count` visitors, or as many as possible in `seconds`; return their cookies."""
    deadline = monotonic() + seconds
    numbers = iter(range(count))
    cookies: list[str] = []

    async def one_after_another(client: aiohttp.ClientSession) -> None:
        for number in numbers:
            if monotonic() > deadline:
                return
            cookies.append(await _login(client, number % VISITORS))

    async with _client(url) as client:
        await asyncio.gather(*(one_after_another(client) for _ in range(AT_ONCE)))
    return cookies


async def check(url: str, kinds: Iterable[str]) -> None:
    """Raise `RuntimeError` if the peer does not do what it is measured for."""
    async with _client(url) as client:
        cookie = await _login(client, 1) if "login" in kinds else ""
        async with client.get("/read", headers={"Cookie": cookie}) as response:
            body = await response.read()
            if response.status != 200 or len(body) != ANSWER_BYTES:
                raise _unexpected(url, "read", body)
        if "write" not in kinds:
            return
        async with client.post("/write", headers={"Cookie": cookie}) as response:
            if response.status != 200:
                raise _unexpected(url, "write", await response.read())
            cookie = _cookie(response) or cookie
        async with client.get("/count", headers={"Cookie": cookie}) as response:
            body = await response.read()
            if body != b"1":
                raise _unexpected(url, "count", body)


def _client(url: str) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(url, cookie_jar=aiohttp.DummyCookieJar())


async def _login(client: aiohttp.ClientSession, number: int) -> str:
    async with client.post("/login", params={"number": number}) as response:
        body = await response.read()
        cookie = _cookie(response)
        if response.status != 200 or cookie is None:
            raise _unexpected(str(response.url), "login", body)
        return cookie


def _cookie(response: aiohttp.ClientResponse) -> str | None:
    # The raw header: parsing and quoting again would change the cookies of some peers.
    line = response.headers.get("Set-Cookie")
    return line.partition(";")[0] if line else None


def _unexpected(url: str, what: str, body: bytes) -> RuntimeError:
    return RuntimeError(f"{url} does not {what} as it should: {body[:200]!r}")
