"""Write the screenshots of README and docs: `python -m tests.browser.screenshots`.

It starts a mongod, an app and a Chromium of its own, so that a screenshot never shows the account
of a real person. Look at the screenshots before you commit them.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.async_api import Browser

from storage import generate_secret
from tests.browser.chromium import NOT_FOUND, PHONE, Visitor, find_chromium, launched, visiting
from tests.processes import LISTENING, free_port, webapp
from tests.webapp.people import ADA, FIREFOX, IPHONE
from webapp.database.mongod import Mongod, find_mongod

IMAGES = Path(__file__).parent.parent.parent / "docs" / "images"
DESK = (1100, 880)
EDGE = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko)"
    " Chrome/126.0 Safari/537.36 Edg/126.0"
)
WHO = ADA | {"username": "Ada Lovelace"}


@contextmanager
def served() -> Iterator[str]:
    """Serve the app with its own mongod and yield its address."""
    port = free_port()
    with (
        tempfile.TemporaryDirectory() as folder,
        Mongod(find_mongod(os.environ), Path(folder)) as mongod,
    ):
        environ = {
            "MONGO_URI": mongod.uri,
            "SESSION_SECRET": generate_secret(),
            "APP_ENV": "development",
            "HOST": "127.0.0.1",
            "PORT": str(port),
        }
        with webapp(environ=environ) as process:
            process.wait_for(LISTENING)
            yield f"http://127.0.0.1:{port}"


async def sign_in(visitor: Visitor) -> None:
    """Sign in with the form and "remember me"."""
    await visitor.open("/login")
    await visitor.fill(email=WHO["email"], password=WHO["password"])
    await visitor.page.check("#remember")
    await visitor.press("Sign in")


async def keep(visitor: Visitor, name: str) -> None:
    """Save what the visitor sees."""
    await visitor.page.screenshot(path=IMAGES / f"{name}.png", full_page=False)


async def signed_out(browser: Browser, site: str) -> None:
    """Take the start page and a sign-up with errors, then create the account."""
    async with visiting(browser, site, size=DESK) as visitor:
        await visitor.open("/")
        await keep(visitor, "start")
    async with visiting(browser, site, size=PHONE) as visitor:
        await visitor.open("/signup")
        await visitor.fill(username=WHO["username"], email="ada", password="short")
        await visitor.press("Create account")
        await keep(visitor, "sign-up-phone")
        await visitor.fill(**WHO)
        await visitor.press("Create account")


async def signed_in(browser: Browser, site: str) -> None:
    """Sign in on three devices; take light desktop screenshots and dark phone screenshots."""
    async with (
        visiting(browser, site, user_agent=EDGE) as office,
        visiting(browser, site, size=PHONE, dark=True, user_agent=IPHONE) as phone,
        visiting(browser, site, size=DESK, user_agent=FIREFOX) as desk,
    ):
        for visitor in (office, phone, desk):
            await sign_in(visitor)
        await phone.open("/profile")
        await keep(phone, "profile-phone-dark")
        await phone.open("/profile/sessions")
        await keep(phone, "devices-phone-dark")
        await desk.open("/profile/sessions")
        await keep(desk, "devices")


async def main() -> None:
    """Write all screenshots."""
    executable = find_chromium()
    if executable is None:
        raise SystemExit(NOT_FOUND)
    IMAGES.mkdir(parents=True, exist_ok=True)
    with served() as site:
        async with launched(executable) as browser:
            await signed_out(browser, site)
            await signed_in(browser, site)


if __name__ == "__main__":
    asyncio.run(main())
