"""The deployed app in a real Chromium, with the host name and ports that a visitor uses."""

from __future__ import annotations

import pytest
from playwright.async_api import async_playwright

from tests.browser.chromium import ARGUMENTS, NOT_FOUND, Visitor, find_chromium
from tests.browser.test_story import sign_in_by_hand, sign_up_by_hand
from tests.conftest import missing
from tests.deploy.conftest import HOST, Fleet, Router

pytestmark = pytest.mark.long


async def test_browser_is_redirected_to_https_and_signs_in_and_out(
    fleet: Fleet, router: Router
) -> None:
    """An http address redirects to https; the cookie is set at sign-in and deleted at sign-out."""
    for port in fleet.ports:
        fleet.start(port)
    executable = find_chromium()
    if executable is None:
        missing(NOT_FOUND)
    places = (
        f"MAP {HOST}:80 127.0.0.1:{router.http_port},MAP {HOST}:443 127.0.0.1:{router.https_port}"
    )
    arguments = [*ARGUMENTS, "--no-sandbox", f"--host-resolver-rules={places}"]

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=executable, args=arguments)
        context = await browser.new_context(ignore_https_errors=True, java_script_enabled=False)
        visitor = Visitor(f"http://{HOST}", context, await context.new_page())
        await visitor.open("/")
        redirected_to = visitor.page.url
        visitor.site = f"https://{HOST}"
        visitor.watch()
        await sign_up_by_hand(visitor)
        before = await context.cookies()
        await sign_in_by_hand(visitor)
        (cookie,) = await context.cookies()
        await visitor.press("Sign out")
        after = await context.cookies()
        await browser.close()

    assert redirected_to == f"https://{HOST}/"
    assert (before, after) == ([], [])
    assert (cookie["name"], cookie["path"], cookie["domain"]) == ("__Host-session", "/", HOST)
    assert (cookie["secure"], cookie["httpOnly"], cookie["sameSite"]) == (True, True, "Lax")
    assert visitor.errors == []
