"""Take the pictures of README and the guide anew: `.venv/bin/python -m tests.docs.screenshots`.

Needs Chromium and a mongod; starts an app of its own and leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path

from aiohttp import ClientSession
from aiohttp.test_utils import TestServer

from storage import generate_secret
from tests.browser.chromium import NOT_FOUND, find_chromium, launched, visiting
from tests.docs.markdown import ROOT
from tests.webapp.people import ADA, IPHONE
from webapp.app import create_app
from webapp.config import Config
from webapp.devdb import Mongod, find_mongod

IMAGES = ROOT / "docs" / "images"
SIZE = (900, 560)
WINDOWS = "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:140.0) Gecko/20100101 Firefox/140.0"
AGENTS = (IPHONE, WINDOWS)


async def take(mongo_uri: str) -> None:
    """Sign Ada in on three devices and photograph the list of them."""
    environ = {"MONGO_URI": mongo_uri, "SESSION_SECRET": generate_secret(), "LOG_LEVEL": "WARNING"}
    app = await create_app(Config.from_environ(environ | {"APP_ENV": "development"}))
    async with TestServer(app) as server:
        site = str(server.make_url("/")).rstrip("/")
        for agent in AGENTS:
            async with ClientSession(headers={"User-Agent": agent}) as device:
                await device.post(f"{site}/api/auth/signup", json=ADA)
                await device.post(
                    f"{site}/api/auth/login",
                    json={name: ADA[name] for name in ("email", "password")},
                )
        async with (
            launched(find_chromium() or NOT_FOUND) as browser,
            visiting(browser, site, size=SIZE) as ada,
        ):
            await ada.open("/login?next=/profile/sessions")
            await ada.fill(email=ADA["email"], password=ADA["password"])
            await ada.press("Sign in")
            await ada.page.screenshot(path=IMAGES / "devices.png")


if __name__ == "__main__":
    with (
        tempfile.TemporaryDirectory() as folder,
        Mongod(find_mongod(os.environ), Path(folder)) as mongod,
    ):
        asyncio.run(take(mongod.uri))
