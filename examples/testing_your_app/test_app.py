"""What your own tests can look like. Run them with `pytest`; MONGO_URI must be set."""

from datetime import timedelta
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestClient
from app import STORAGE

Client = TestClient[Any, Any]


async def test_stranger_has_no_profile(stranger: Client) -> None:
    """Without a session the answer is 401."""
    response = await stranger.get("/profile")

    assert response.status == 401


async def test_ada_sees_her_profile(ada: Client) -> None:
    """No sign-in form had to be filled in."""
    response = await ada.get("/profile")

    assert await response.json() == {"user": "ada"}


async def test_ada_can_sign_out(ada: Client) -> None:
    """Her cookie is not valid afterwards."""
    await ada.post("/sign-out")

    assert (await ada.get("/profile")).status == 401


async def test_session_ends_after_fourteen_idle_days(ada: Client, app: web.Application) -> None:
    """The test replaces the storage's clock, so it does not have to wait."""
    storage = app[STORAGE]
    now = storage.clock()
    storage.clock = lambda: now + timedelta(days=14).total_seconds()

    assert (await ada.get("/profile")).status == 401
