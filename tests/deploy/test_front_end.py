"""A front end on another site, in a real Chromium that blocks third-party cookies."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from playwright.async_api import Page, async_playwright

from tests.browser.chromium import ARGUMENTS, NOT_FOUND, find_chromium
from tests.conftest import missing
from tests.deploy.conftest import HOST, Fleet, Router
from tests.processes import free_port
from tests.webapp.people import ADA

pytestmark = pytest.mark.long

FRONT_END = "front.example"
# What the user chooses under "Third-party cookies" in the settings of the browser.
ALLOWED, BLOCKED = 0, 1
CALL = """async ([method, path, body]) => {
  const answer = await fetch("https://app.example" + path, {
    method,
    credentials: "include",
    headers: {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
              ...(body && {"Content-Type": "application/json"})},
    body: body && JSON.stringify(body),
  });
  return answer.status;
}"""
SIGN_IN = {"email": ADA["email"], "password": ADA["password"]}
WARNING = "set SESSION_COOKIE_PARTITIONED=1"


async def call(page: Page, method: str, path: str, body: Mapping[str, str] | None = None) -> int:
    """Send a request as a script of the front end does, and return the status."""
    status: int = await page.evaluate(CALL, [method, path, body])
    return status


@asynccontextmanager
async def front_end(certificate: Path) -> AsyncIterator[int]:
    """Serve one page over https and yield the port."""
    app = web.Application()
    app.router.add_get("/", _page)
    runner = web.AppRunner(app)
    await runner.setup()
    secured = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    secured.load_cert_chain(certificate, certificate.with_name("key.pem"))
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port, ssl_context=secured).start()
    yield port
    await runner.cleanup()


async def _page(_request: web.Request) -> web.Response:
    return web.Response(text="<!doctype html><title>Front end</title>", content_type="text/html")


@asynccontextmanager
async def opened(router: Router, profile: Path, *, third_party: int) -> AsyncIterator[Page]:
    """Yield the page of the front end in a Chromium that allows or blocks third-party cookies."""
    executable = find_chromium()
    if executable is None:
        missing(NOT_FOUND)
    preferences = profile / "Default" / "Preferences"
    preferences.parent.mkdir(parents=True)
    preferences.write_text(json.dumps({"profile": {"cookie_controls_mode": third_party}}))
    async with front_end(router.certificate) as port, async_playwright() as playwright:
        places = (
            f"MAP {HOST}:443 127.0.0.1:{router.https_port},MAP {FRONT_END}:443 127.0.0.1:{port}"
        )
        # A regular profile: those of new_context() are incognito, where Chromium always blocks.
        context = await playwright.chromium.launch_persistent_context(
            profile,
            executable_path=executable,
            args=[*ARGUMENTS, "--no-sandbox", f"--host-resolver-rules={places}"],
            ignore_https_errors=True,
        )
        page = await context.new_page()
        await page.goto(f"https://{FRONT_END}/")
        yield page
        await context.close()


@pytest.mark.parametrize(
    ("partitioned", "third_party", "status"),
    [
        pytest.param("1", BLOCKED, 200, id="partitioned"),
        pytest.param("0", BLOCKED, 401, id="not partitioned"),
        pytest.param("0", ALLOWED, 200, id="not partitioned, third-party cookies allowed"),
    ],
)
async def test_front_end_on_another_site_stays_signed_in_with_a_partitioned_cookie(
    fleet: Fleet,
    router: Router,
    tmp_path: Path,
    *,
    partitioned: str,
    third_party: int,
    status: int,
) -> None:
    """By `fetch` it signs in, sees the profile and signs out; without `Partitioned` it cannot."""
    fleet.environ |= {
        "ALLOWED_ORIGINS": f"https://{FRONT_END}",
        "SESSION_COOKIE_SAMESITE": "none",
        "SESSION_COOKIE_PARTITIONED": partitioned,
    }
    for port in fleet.ports:
        fleet.start(port)

    async with opened(router, tmp_path / "profile", third_party=third_party) as page:
        before = [
            await call(page, "POST", "/api/auth/signup", ADA),
            await call(page, "POST", "/api/auth/login", SIGN_IN),
        ]
        cookies = await page.context.cookies()
        signed_in = await call(page, "GET", "/api/profile")
        signed_out = await call(page, "POST", "/api/auth/logout")
        after = await call(page, "GET", "/api/profile")
        left = await page.context.cookies()

    assert before == [201, 200]
    assert (signed_in, signed_out, after) == (status, 204, 401)
    assert [cookie["name"] for cookie in cookies] == ["__Host-session"] * (status == 200)
    assert left == []
    assert (WARNING in fleet.output()) is (partitioned == "0")
