"""How the pages look on a phone and a desktop, in light and dark, and to a screen reader."""

from __future__ import annotations

import pytest
from playwright.async_api import Browser

from tests.browser.chromium import DESKTOP, PHONE, Visitor, visiting
from tests.webapp.conftest import Client
from tests.webapp.people import ADA, sign_up

pytestmark = pytest.mark.long

SIGNED_OUT = ("/", "/signup", "/login", "/login?notice=session-ended", "/nothing")
PLACES = (*SIGNED_OUT, "refused sign-up", "refused sign-in")
SIGNED_IN = ("/", "/profile", "/profile/sessions", "/profile/password", "/profile/delete")
LONG_NAME = "W" * 64

looks = pytest.mark.parametrize(
    ("size", "dark"),
    [
        pytest.param(PHONE, False, id="phone, light"),
        pytest.param(PHONE, True, id="phone, dark"),
        pytest.param(DESKTOP, False, id="desktop, light"),
        pytest.param(DESKTOP, True, id="desktop, dark"),
    ],
)


async def show(visitor: Visitor, place: str) -> None:
    """Open one of the `PLACES`."""
    if place == "refused sign-up":
        await visitor.open("/signup")
        await visitor.press("Create account")
    elif place == "refused sign-in":
        await visitor.open("/login")
        await visitor.fill(email="nobody@example.org", password="wrong")
        await visitor.press("Sign in")
    else:
        await visitor.open(place)


async def sign_in(visitor: Visitor) -> None:
    """Sign in through the form."""
    await visitor.open("/login")
    await visitor.fill(email=ADA["email"], password=ADA["password"])
    await visitor.press("Sign in")
    await visitor.page.wait_for_url("**/profile")


async def overflow(visitor: Visitor) -> int:
    """Return by how many pixels the page is wider than the window."""
    wider: int = await visitor.page.evaluate(
        "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
    return wider


async def findings(visitor: Visitor, axe: str) -> list[str]:
    """Return the findings of axe-core on the current page."""
    await visitor.page.evaluate(axe)
    result = await visitor.page.evaluate("axe.run()")
    return [
        f"{visitor.page.url}: {found['impact']} {found['id']}: {node['target']}"
        for found in result["violations"]
        for node in found["nodes"]
    ]


@looks
async def test_no_page_scrolls_sideways_or_fails_axe(
    browser: Browser, client: Client, site: str, axe: str, size: tuple[int, int], *, dark: bool
) -> None:
    """Every page fits its window, has no accessibility finding, and causes no browser error."""
    await sign_up(client, username=LONG_NAME)
    async with visiting(browser, site, size=size, dark=dark) as visitor:
        wrong = []
        for place in PLACES:
            await show(visitor, place)
            wrong += await findings(visitor, axe)
            assert await overflow(visitor) <= 0, place
        await sign_in(visitor)
        for place in SIGNED_IN:
            await visitor.open(place)
            wrong += await findings(visitor, axe)
            assert await overflow(visitor) <= 0, place

        assert wrong == []
        assert visitor.errors == []


@pytest.mark.parametrize(
    "markup",
    [
        pytest.param('<p style="color: red">red</p>', id="inline style"),
        pytest.param('<img alt="" src="http://127.0.0.2:9/x.png">', id="another site"),
        pytest.param("<script>1</script><p onclick='x()'>x</p>", id="inline script"),
    ],
)
async def test_violation_of_the_content_security_policy_is_noticed(
    browser: Browser, site: str, markup: str
) -> None:
    """The browser blocks what the policy forbids, and the test's record contains it."""
    async with visiting(browser, site) as visitor:
        await visitor.open("/")
        async with visitor.page.expect_console_message():
            await visitor.page.evaluate(
                "markup => document.body.append("
                "document.createRange().createContextualFragment(markup))",
                markup,
            )

        assert visitor.errors != []


async def test_image_without_alternative_text_is_found(
    browser: Browser, site: str, axe: str
) -> None:
    """The accessibility check finds an image without alternative text."""
    async with visiting(browser, site) as visitor:
        await visitor.open("/")
        await visitor.page.evaluate("document.querySelector('img').removeAttribute('alt')")

        (found,) = await findings(visitor, axe)

        assert "critical image-alt" in found


@pytest.mark.parametrize("width", [320, 390])
async def test_large_text_fits_on_a_phone(
    browser: Browser, client: Client, site: str, width: int
) -> None:
    """At 200 % text size nothing is cut off sideways (WCAG 1.4.4, 1.4.10)."""
    await sign_up(client, username=LONG_NAME)
    async with visiting(browser, site, size=(width, 844)) as visitor:
        await sign_in(visitor)
        for place in ("/", "/profile", "/profile/sessions", "/profile/delete"):
            await visitor.open(place)
            await visitor.page.evaluate("document.documentElement.style.fontSize = '200%'")

            assert await overflow(visitor) <= 0, place


async def test_dark_and_light_color_schemes_are_used(browser: Browser, site: str) -> None:
    """The page uses the color scheme of the system."""
    seen = []
    for dark in (False, True):
        async with visiting(browser, site, dark=dark) as visitor:
            await visitor.open("/")
            colour = await visitor.page.evaluate("getComputedStyle(document.body).backgroundColor")
            seen.append(sum(int(part) for part in colour[4:-1].split(",")))

    light, dark_one = seen
    assert light > 600
    assert dark_one < 150


async def test_markup_in_a_name_is_shown_as_text_in_a_real_browser(
    browser: Browser, client: Client, site: str
) -> None:
    """A name with a script, an image and Hebrew is shown as typed and runs nothing."""
    name = "<script>alert(1)</script> <img src=x> עדה 🦊"
    await sign_up(client, username=name)
    async with visiting(browser, site) as visitor:
        await sign_in(visitor)

        heading = visitor.page.get_by_role("heading", level=1)
        assert await heading.inner_text() == name
        assert await visitor.page.locator("script, main img").count() == 0
        assert visitor.errors == []
