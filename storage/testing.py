"""For the tests of your own app: a client that is signed in without a sign-in page."""

from __future__ import annotations

from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestClient, make_mocked_request

from storage.mongo import MongoStorage
from storage.session import MongoSession


async def give_session(
    client: TestClient[Any, Any], storage: MongoStorage, **values: Any
) -> MongoSession:
    """Give a test client a stored session with these values, and the cookie that opens it.

    client: aiohttp's ``TestClient``, as the fixture ``aiohttp_client`` of pytest-aiohttp makes it.
    storage: the app's own, or another one with the same collection and secrets.
    values: at least one; with ``user_id`` (the default ``owner_key``) the client is signed in.

    The client keeps the cookie like one that the app has set. Returns the session.
    """
    request = make_mocked_request("GET", "/")
    session = await storage.new_session()
    session.update(values)
    await storage.save_session(request, web.Response(), session)
    if session.identity is None:
        raise ValueError("values: none given; a session without values is never stored")
    # Only name and token: a Secure cookie would not travel over the test server's plain http.
    cookies = {storage.cookie_name: session.identity}
    client.session.cookie_jar.update_cookies(cookies, client.make_url("/"))
    return session
