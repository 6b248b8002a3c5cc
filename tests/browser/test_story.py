"""What a person does in the app, on two devices, with JavaScript switched off."""

from __future__ import annotations

import pytest
from playwright.async_api import Browser

from tests.browser.chromium import DESKTOP, PHONE, Visitor, visiting
from tests.webapp.people import ADA, FIREFOX, IPHONE, NEW_PASSWORD

pytestmark = pytest.mark.long


async def sign_up_by_hand(visitor: Visitor) -> None:
    """Open the start page, follow the link to the sign-up form, and create an account."""
    await visitor.open("/")
    await visitor.page.get_by_role("link", name="Create an account").click()
    await visitor.fill(**ADA)
    await visitor.press("Create account")
    assert "Your account is ready. Please sign in." in await visitor.reads()


async def sign_in_by_hand(visitor: Visitor, password: str = ADA["password"]) -> None:
    """Sign in through the form."""
    await visitor.open("/login")
    await visitor.fill(email=ADA["email"], password=password)
    await visitor.press("Sign in")
    assert ADA["email"] in await visitor.reads()


async def change_password_by_hand(visitor: Visitor) -> None:
    """Change the password through the form."""
    await visitor.open("/profile/password")
    await visitor.fill(current_password=ADA["password"], new_password=NEW_PASSWORD)
    await visitor.press("Change password")
    assert "Your password is changed." in await visitor.reads()


async def delete_account_by_hand(visitor: Visitor) -> None:
    """Delete the account through the form."""
    await visitor.open("/profile/delete")
    await visitor.fill(current_password=NEW_PASSWORD)
    await visitor.press("Delete my account")
    assert "Your account and all its sessions are deleted." in await visitor.reads()


async def test_every_action_works_on_two_devices_without_javascript(
    browser: Browser, site: str
) -> None:
    """Sign up, sign in twice, sign one device out, change the password, delete the account."""
    async with (
        visiting(browser, site, size=DESKTOP, scripts=False, user_agent=FIREFOX) as laptop,
        visiting(browser, site, size=PHONE, scripts=False, user_agent=IPHONE) as phone,
    ):
        await sign_up_by_hand(laptop)
        await sign_in_by_hand(laptop)
        await sign_in_by_hand(phone)

        await laptop.open("/profile/sessions")
        assert "You are signed in on 2 devices." in await laptop.reads()
        there = laptop.page.locator("li", has_text="Safari on iPhone")
        here = laptop.page.locator("li", has_text="Firefox on Linux")
        assert "this device" in await here.inner_text()
        assert "this device" not in await there.inner_text()
        assert await there.locator("time").first.get_attribute("title")
        await there.get_by_role("button", name="Sign out").click()
        assert "Safari on iPhone was signed out." in await laptop.reads()

        await phone.page.get_by_role("link", name="Profile", exact=True).click()
        assert "Your session has ended, please sign in again." in await phone.reads()
        assert phone.page.url.startswith(f"{site}/login")

        await sign_in_by_hand(phone)
        await change_password_by_hand(laptop)
        await phone.open("/profile")
        assert "Your session has ended, please sign in again." in await phone.reads()

        await delete_account_by_hand(laptop)
        await laptop.open("/profile")
        assert laptop.page.url.startswith(f"{site}/login")
        assert laptop.errors == phone.errors == []


async def test_errors_are_shown_next_to_their_fields(browser: Browser, site: str) -> None:
    """A refused form keeps the input, focuses the first error, and clears the passwords."""
    async with visiting(browser, site, size=PHONE) as visitor:
        await visitor.open("/signup")
        await visitor.fill(username="Ada", email="ada", password="short")
        await visitor.press("Create account")

        assert await visitor.page.title() == "Error: Create an account – Latchkey"
        assert await visitor.page.input_value("#username") == "Ada"
        assert await visitor.page.input_value("#email") == "ada"
        assert await visitor.page.input_value("#password") == ""
        assert await visitor.page.evaluate("document.activeElement.id") == "email"
        email = visitor.page.get_by_role("textbox", name="Email address")
        described = await email.get_attribute("aria-describedby")
        sentence = await visitor.page.locator(f"#{described}").inner_text()
        assert "Use an address such as ada@example.org." in sentence
        assert visitor.errors == []


async def test_browser_sends_an_email_address_as_it_was_typed(browser: Browser, site: str) -> None:
    """straße.example stays; with `type="email"` Chromium makes strasse.example of it."""
    async with visiting(browser, site, scripts=False) as visitor:
        await visitor.open("/signup")
        await visitor.fill(**(ADA | {"email": "Ada@Straße.example"}))
        await visitor.press("Create account")
        await visitor.fill(email="ada@straße.example", password=ADA["password"])
        await visitor.press("Sign in")

        assert "Ada@Straße.example" in await visitor.reads()


async def test_everything_can_be_done_with_the_keyboard(browser: Browser, site: str) -> None:
    """Tab reaches the skip link first, then every control, each with a visible focus."""
    async with visiting(browser, site) as visitor:
        await visitor.open("/login")
        reached = []

        for _ in range(11):
            await visitor.page.keyboard.press("Tab")
            outline, name = await visitor.page.evaluate(
                "(({activeElement: e}) => [getComputedStyle(e).outlineStyle,"
                " e.id || e.textContent.trim()])(document)"
            )
            assert outline == "solid", name
            reached.append(name)
            if name == "Create an account":
                break

        assert reached == [
            "Skip to the content",
            "Latchkey",
            "Sign in",
            "Create account",
            "email",
            "password",
            "remember",
            "Sign in",
            "Create an account",
        ]


async def test_enter_signs_in(browser: Browser, site: str) -> None:
    """The form can be sent with the keyboard, and the remembered cookie has an expiry date."""
    async with visiting(browser, site) as visitor:
        await sign_up_by_hand(visitor)
        await visitor.fill(email=ADA["email"], password=ADA["password"])
        await visitor.page.focus("#remember")
        await visitor.page.keyboard.press("Space")
        await visitor.page.focus("#password")
        await visitor.page.keyboard.press("Enter")
        await visitor.page.wait_for_url("**/profile")

        (cookie,) = await visitor.context.cookies()
        assert cookie["httpOnly"]
        assert cookie["sameSite"] == "Lax"
        assert cookie["expires"] > 0
        assert visitor.errors == []
