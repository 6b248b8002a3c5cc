"""A real Chromium, driven by Playwright, that records every error it reports."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from playwright.async_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Request,
    async_playwright,
)

NAMES = ("chromium", "chromium-browser", "google-chrome")
NOT_FOUND = "no Chromium on PATH: install Debian's package chromium"
ARGUMENTS = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PHONE, DESKTOP = (390, 844), (1280, 800)


def find_chromium() -> str | None:
    """Return the path of an installed Chromium, or `None`."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@asynccontextmanager
async def launched(executable: str) -> AsyncIterator[Browser]:
    """Yield a headless Chromium with an empty profile."""
    arguments = ARGUMENTS + (["--no-sandbox"] if os.geteuid() == 0 else [])
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=executable, args=arguments)
        yield browser
        await browser.close()


@dataclass
class Visitor:
    """One person with one browser window; `errors` is what the browser reported."""

    site: str
    context: BrowserContext
    page: Page
    errors: list[str] = field(default_factory=list)

    def watch(self) -> None:
        """Record script errors, content security policy reports, and requests to other hosts."""
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("requestfailed", self._note_failure)
        self.page.on("request", self._note_foreign)

    def _note(self, message: ConsoleMessage) -> None:
        # A refused form has a 4xx status on purpose, but Chromium reports it as an error.
        expected = "responded with a status of 4" in message.text
        if message.type in {"error", "warning"} and not expected:
            self.errors.append(message.text)

    def _note_failure(self, request: Request) -> None:
        # Aborted: the visitor opened the next page before the icon was loaded.
        if request.failure != "net::ERR_ABORTED":
            self.errors.append(f"{request.url}: {request.failure}")

    def _note_foreign(self, request: Request) -> None:
        if not request.url.startswith(self.site):
            self.errors.append(request.url)

    async def open(self, path: str) -> None:
        """Go to a path of the site."""
        await self.page.goto(self.site + path)

    async def fill(self, **fields: str) -> None:
        """Type into the fields with these names, in this order."""
        for name, text in fields.items():
            await self.page.fill(f"#{name}", text)

    async def press(self, button: str) -> None:
        """Press the button with exactly this name, and wait for the next page."""
        await self.page.get_by_role("button", name=button, exact=True).first.click()

    async def reads(self) -> str:
        """Return the text of the page's main part."""
        return await self.page.locator("main").inner_text()


@asynccontextmanager
async def visiting(
    browser: Browser,
    site: str,
    *,
    size: tuple[int, int] = DESKTOP,
    dark: bool = False,
    scripts: bool = True,
    user_agent: str | None = None,
) -> AsyncIterator[Visitor]:
    """Yield a visitor with a new profile; `size` is width and height in CSS pixels."""
    context = await browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme="dark" if dark else "light",
        java_script_enabled=scripts,
        user_agent=user_agent,
    )
    visitor = Visitor(site, context, await context.new_page())
    visitor.watch()
    yield visitor
    await context.close()
