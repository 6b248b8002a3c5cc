"""How a device is named."""

from __future__ import annotations

import pytest
from aiohttp.test_utils import make_mocked_request

from webapp.handlers.devices import UNKNOWN, describe

WEBKIT = "AppleWebKit/537.36 (KHTML, like Gecko)"


@pytest.mark.parametrize(
    ("agent", "words"),
    [
        (
            "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
            "Firefox on Linux",
        ),
        (
            (
                "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15"
                " (KHTML, like Gecko) Version/17.5 Mobile/15E148 Safari/604.1"
            ),
            "Safari on iPhone",
        ),
        (
            (
                "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15"
                " (KHTML, like Gecko) CriOS/126.0 Mobile/15E148 Safari/604.1"
            ),
            "Chrome on iPhone",
        ),
        (
            (
                "Mozilla/5.0 (iPad; CPU OS 17_5 like Mac OS X) AppleWebKit/605.1.15"
                " (KHTML, like Gecko) FxiOS/127.0 Mobile/15E148 Safari/605.1.15"
            ),
            "Firefox on iPad",
        ),
        (
            (
                "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15"
                " (KHTML, like Gecko) Version/17.5 Safari/605.1.15"
            ),
            "Safari on Mac",
        ),
        (
            f"Mozilla/5.0 (Windows NT 10.0; Win64; x64) {WEBKIT} Chrome/126.0 Safari/537.36",
            "Chrome on Windows",
        ),
        (
            f"Mozilla/5.0 (Windows NT 10.0) {WEBKIT} Chrome/126.0 Safari/537.36 Edg/126.0",
            "Edge on Windows",
        ),
        (
            f"Mozilla/5.0 (Windows NT 10.0) {WEBKIT} Chrome/124.0 Safari/537.36 OPR/110.0",
            "Opera on Windows",
        ),
        (
            (
                f"Mozilla/5.0 (Linux; Android 14; SM-S921B) {WEBKIT} SamsungBrowser/25.0"
                " Chrome/121.0 Mobile Safari/537.36"
            ),
            "Samsung Internet on Android",
        ),
        (
            f"Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) {WEBKIT} Chrome/126.0 Safari/537.36",
            "Chrome on ChromeOS",
        ),
        (
            f"Mozilla/5.0 (X11; Linux x86_64) {WEBKIT} HeadlessChrome/156.0 Safari/537.36",
            "Chrome on Linux",
        ),
        ("Mozilla/5.0 (Windows NT 10.0) Something/1.0", "A browser on Windows"),
        ("curl/8.5.0", "curl"),
        ("Python/3.11 aiohttp/3.14", "Python"),
        ("", UNKNOWN),
        ("<script>alert(1)</script>", UNKNOWN),
        ("x" * 100_000 + "Firefox/", UNKNOWN),
        ("Firefox/\u202eLinux", "Firefox on Linux"),
    ],
)
def test_browser_and_system_are_named(agent: str, words: str) -> None:
    """The label has only words of the app's own lists, whatever `User-Agent` contains."""
    request = make_mocked_request("GET", "/", headers={"User-Agent": agent})

    assert describe(request) == words


def test_missing_user_agent_is_an_unknown_device() -> None:
    """Without `User-Agent` the device is unknown; it is no error."""
    assert describe(make_mocked_request("GET", "/")) == UNKNOWN
