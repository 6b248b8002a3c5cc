"""The pages over HTTP, without a browser."""

from __future__ import annotations

import asyncio
import html
import re
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from urllib.parse import urlsplit

import pytest
from aiohttp import ClientResponse

from tests.conftest import NewMongod
from tests.webapp.conftest import Client, MakeApp
from tests.webapp.people import (
    ADA,
    GRACE,
    IPHONE,
    NEW_PASSWORD,
    Browser,
    another_device,
    session_token,
    sign_in,
    sign_up,
    sign_up_and_in,
    stop_throttle_clock,
    text_of,
)
from tests.webapp.test_redirects import HOSTILE
from webapp.accounts.passwords import Passwords
from webapp.accounts.users import ACCOUNTS
from webapp.handlers import pages
from webapp.http.app_keys import STORAGE

# Values that a form cannot send are tested on the function alone.
SENDABLE = [case for case in HOSTILE if case.id not in {"missing", "a list", "lone surrogate"}]
SIGN_OUT = '<form method="post" action="/logout">'
SIGN_IN = {"email": ADA["email"], "password": ADA["password"]}


def redirected_to(response: ClientResponse) -> str:
    """Return the Location of a 303."""
    assert response.status == 303
    return response.headers["Location"]


async def test_sign_up_sign_in_and_sign_out_through_the_pages(client: Client) -> None:
    """Sign up, sign in, see the profile, sign out: each page says what was done."""
    signed_up = await client.post("/signup", data=ADA)
    assert signed_up.url.path == "/login"
    assert "Your account is ready. Please sign in." in await text_of(signed_up)

    signed_in = await client.post("/login", data=SIGN_IN)
    assert signed_in.url.path == "/profile"
    assert ADA["email"] in await text_of(signed_in)
    assert "Member since" in await text_of(signed_in)

    signed_out = await client.post("/logout")
    assert signed_out.url.path == "/"
    assert "You are signed out." in await text_of(signed_out)
    assert signed_out.history[0].headers["Clear-Site-Data"] == '"storage"'


class PasswordForm(HTMLParser):
    """The form of a page as a password manager reads it: each input by what completes it."""

    def __init__(self, page: str) -> None:
        """Read the page."""
        super().__init__()
        self.inputs: dict[str, dict[str, str | None]] = {}
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an input that is to be completed."""
        given = dict(attrs)
        if tag == "input" and given.get("autocomplete"):
            assert given["autocomplete"] not in self.inputs
            self.inputs[str(given["autocomplete"])] = given

    def filled(self, saved: dict[str, str]) -> dict[str, str]:
        """Return what a browser sends: the values of `saved` by what completes them."""
        return {
            given["name"]: saved[completed_by]
            for completed_by, given in self.inputs.items()
            if given.get("name")
        }


async def test_password_manager_keeps_the_name_that_signs_in(client: Client) -> None:
    """What it saves as name and password at sign-up signs in, and changes the password."""
    person = {"nickname": "Ada", "username": "Ada@Example.org", "new-password": ADA["password"]}
    saved = {"username": person["username"], "current-password": person["new-password"]}

    form = PasswordForm(await (await client.get("/signup")).text())
    assert set(form.inputs) == set(person)
    await client.post("/signup", data=form.filled(person))
    form = PasswordForm(await (await client.get("/login")).text())
    assert set(form.inputs) == set(saved)
    signed_in = await client.post("/login", data=form.filled(saved))
    change = PasswordForm(await (await client.get("/profile/password")).text())
    changed = await client.post(
        "/profile/password", data=change.filled(saved | {"new-password": NEW_PASSWORD})
    )
    delete = PasswordForm(await (await client.get("/profile/delete")).text())

    assert signed_in.url.path == "/profile"
    assert set(change.inputs) == {"username", "current-password", "new-password"}
    assert set(delete.inputs) == {"username", "current-password"}
    for shown in (change, delete):
        assert shown.inputs["username"]["value"] == saved["username"]
        assert "hidden" in shown.inputs["username"]
    assert "Your password is changed." in await text_of(changed)


@pytest.mark.parametrize("name", [ADA["username"], "ADA", " ada ", ADA["email"], "Ada@EXAMPLE.org"])
async def test_user_name_or_email_address_signs_in(client: Client, name: str) -> None:
    """Both names of an account lead to it, however they are typed."""
    await sign_up(client)

    response = await client.post("/login", data={"email": name, "password": ADA["password"]})

    assert response.url.path == "/profile"


async def test_sign_up_redirects_to_the_sign_in_page_without_a_session(client: Client) -> None:
    """303 to /login and no cookie: signing up does not sign in."""
    response = await client.post("/signup", data=ADA, allow_redirects=False)

    assert urlsplit(redirected_to(response)).path == "/login"
    assert "Set-Cookie" not in response.headers


async def test_refused_sign_up_keeps_what_was_typed_but_no_password(client: Client) -> None:
    """422; every wrong field has its sentence; the password is not repeated."""
    response = await client.post(
        "/signup", data={"username": "A & B", "email": "nowhere", "password": "2short"}
    )

    page = await response.text()
    assert response.status == 422
    assert 'value="A &amp; B"' in page
    assert 'value="nowhere"' in page
    assert "2short" not in page
    assert "Use an address such as ada@example.org." in page
    assert "This is too short; use at least 15 characters." in page
    assert "<title>Error: " in page


@pytest.mark.parametrize("field", ["username", "email", "password"])
async def test_error_is_linked_to_its_input(client: Client, field: str) -> None:
    """`aria-describedby` names the sentence and `aria-invalid` marks the field."""
    page = await (await client.post("/signup", data=ADA | {field: ""})).text()

    (input_,) = re.findall(rf'<input id="{field}"[^>]*>', page)
    assert 'aria-invalid="true"' in input_
    (described,) = re.findall(r'aria-describedby="([^"]*)"', input_)
    assert f"{field}-error" in described.split()
    assert f'id="{field}-error"' in page


async def test_taken_address_is_409_on_the_page(client: Client) -> None:
    """The page says which field is taken."""
    await sign_up(client)

    response = await client.post("/signup", data=ADA | {"username": "Somebody"})

    assert response.status == 409
    assert "There is an account with this email address already." in await text_of(response)


async def test_wrong_sign_in_is_401_and_the_same_for_unknown_users(client: Client) -> None:
    """The pages are the same except for the typed address."""
    await sign_up(client)

    wrong = await client.post("/login", data=SIGN_IN | {"password": "wrong", "remember": "yes"})
    unknown = await client.post(
        "/login", data={"email": "eve@example.org", "password": "wrong", "remember": "yes"}
    )

    assert wrong.status == unknown.status == 401
    page = await wrong.text()
    assert "The email address, user name or password is not right." in page
    assert f'value="{ADA["email"]}"' in page
    assert " checked>" in page
    assert page == (await unknown.text()).replace("eve@", "ada@")


async def test_throttled_sign_in_says_how_long_to_wait(client: Client) -> None:
    """429 with Retry-After and a sentence, and the form is still there."""
    stop_throttle_clock(client)
    await sign_up(client)
    for _ in range(5):
        await client.post("/login", data=SIGN_IN | {"password": "wrong"})

    response = await client.post("/login", data=SIGN_IN)

    assert response.status == 429
    assert response.headers["Retry-After"] == "1"
    assert "Too many attempts, try again in 1 second." in await text_of(response)
    assert f'value="{ADA["email"]}"' in await response.text()


async def test_full_password_pool_keeps_what_was_typed(client: Client) -> None:
    """503 with Retry-After and a sentence, in the form, with the address still there."""
    await sign_up(client)
    accounts = client.app[ACCOUNTS]
    accounts._passwords.close()
    accounts._passwords = Passwords(most_at_once=0)
    accounts._passwords._idle = 0

    response = await client.post("/login", data=SIGN_IN)

    assert response.status == 503
    assert response.headers["Retry-After"] == "2"
    assert "Too many people are signing in at this moment" in await text_of(response)
    assert f'value="{ADA["email"]}"' in await response.text()


@pytest.mark.parametrize("signed_in", [False, True], ids=["signed out", "signed in"])
async def test_double_clicked_sign_in_signs_nobody_out(client: Client, *, signed_in: bool) -> None:
    """Whichever answer comes last, its cookie is that of an active session."""
    await sign_up_and_in(client)
    old = session_token(client)
    headers = {"Cookie": f"session={old}"} if signed_in else {}
    client.session.cookie_jar.clear()

    async with another_device(client) as one, another_device(client) as two:
        answers = await asyncio.gather(
            one.post("/login", data=SIGN_IN, headers=headers, allow_redirects=False),
            two.post("/login", data=SIGN_IN, headers=headers, allow_redirects=False),
        )

        assert [answer.status for answer in answers] == [303, 303]
        for answer in answers:
            if "session" in answer.cookies:
                sent = {"Cookie": f"session={answer.cookies['session'].value}"}
                assert (await client.get("/api/profile", headers=sent)).status == 200
        assert any("session" in answer.cookies for answer in answers)


@pytest.mark.parametrize(
    ("ticked", "max_age"),
    [
        pytest.param({"remember": "yes"}, str(14 * 24 * 3600), id="ticked"),
        pytest.param({}, "", id="not ticked"),
    ],
)
async def test_remember_box_decides_how_long_the_cookie_lives(
    client: Client, ticked: dict[str, str], max_age: str
) -> None:
    """The "remember me" box is sent only when it is ticked."""
    await sign_up(client)

    response = await client.post("/login", data=SIGN_IN | ticked, allow_redirects=False)

    assert response.cookies["session"]["max-age"] == max_age


async def test_profile_reads_its_own_session_only(client: Client) -> None:
    """Device, sign-in and end are shown after one find, however many sessions there are."""
    await sign_up_and_in(client)
    before = client.app[STORAGE].counters["commands"]

    page = await text_of(await client.get("/profile"))

    assert client.app[STORAGE].counters["commands"] == before + 1
    assert "Python, signed in" in page
    assert "<dt>Expires</dt>" in page


async def test_visitor_is_redirected_to_sign_in_and_back(client: Client) -> None:
    """`next` goes through the query and the hidden field to the page that was asked for."""
    await sign_up(client)

    asked = await client.get("/profile/sessions")
    assert "Please sign in to see this page." in await text_of(asked)
    (next_,) = re.findall(r'name="next" value="([^"]*)"', await asked.text())
    response = await client.post("/login", data=SIGN_IN | {"next": next_})

    assert response.url.path == "/profile/sessions"


@pytest.mark.parametrize("hostile", SENDABLE)
async def test_hostile_next_stays_on_this_site(client: Client, hostile: str) -> None:
    """Neither the form nor the redirect names another site."""
    await sign_up(client)

    form = await client.get("/login", params={"next": hostile})
    response = await client.post("/login", data=SIGN_IN | {"next": hostile}, allow_redirects=False)

    assert 'name="next" value="/profile"' in await form.text()
    assert redirected_to(response) == "/profile"


async def test_sign_in_page_redirects_a_visitor_who_is_signed_in(client: Client) -> None:
    """The redirect goes to the page that was asked for."""
    await sign_up_and_in(client)

    response = await client.get("/login?next=/profile/sessions", allow_redirects=False)

    assert redirected_to(response) == "/profile/sessions"


async def test_ended_session_redirects_to_sign_in_with_the_reason(client: Client) -> None:
    """A session that was ended elsewhere: 303 to /login with the sentence."""
    await sign_up_and_in(client)
    await client.app[STORAGE].clear()

    response = await client.get("/profile", allow_redirects=False)
    followed = await client.get("/profile")

    assert urlsplit(redirected_to(response)).path == "/login"
    assert "Your session has ended, please sign in again." in await text_of(followed)


async def test_page_says_that_the_session_has_expired(client: Client) -> None:
    """After the idle timeout the page says that the session ended."""
    await sign_up_and_in(client)
    storage = client.app[STORAGE]
    real = storage.clock
    storage.clock = lambda: real() + 15 * 86400

    followed = await client.get("/profile/password")

    assert "Your session has ended, please sign in again." in await text_of(followed)
    assert 'name="next" value="/profile/password"' in await followed.text()


async def test_changing_the_password_signs_out_every_other_device(client: Client) -> None:
    """This device gets a new cookie, the phone is signed out, the old password is refused."""
    await sign_up_and_in(client)
    before = session_token(client)
    async with another_device(client) as phone:
        await sign_in(phone)

        response = await client.post(
            "/profile/password",
            data={"current_password": ADA["password"], "new_password": NEW_PASSWORD},
        )

        assert response.url.path == "/profile"
        page = await text_of(response)
        assert "Your password is changed. All other devices are signed out." in page
        ended = await phone.get("/profile")
        assert "Your session has ended, please sign in again." in await text_of(ended)
    assert await client.app[STORAGE].count() == 1
    after = session_token(client)
    assert before != after
    assert (await sign_in(client)).status == 401
    assert (await sign_in(client, password=NEW_PASSWORD)).status == 200


@pytest.mark.parametrize(
    ("changes", "status", "sentence"),
    [
        pytest.param(
            {"current_password": "wrong"}, 403, "This is not your current password.", id="wrong"
        ),
        pytest.param({"new_password": "short"}, 422, "too short", id="too short"),
        pytest.param(
            {"new_password": ADA["password"]},
            422,
            "Use another password than the current one.",
            id="the same again",
        ),
        pytest.param({"new_password": ""}, 422, "Please fill in this field.", id="empty"),
    ],
)
async def test_refused_password_change_says_why_and_changes_nothing(
    client: Client, changes: dict[str, str], status: int, sentence: str
) -> None:
    """The form is shown with the sentence; password and other devices stay."""
    await sign_up_and_in(client)
    form = {"current_password": ADA["password"], "new_password": NEW_PASSWORD}
    async with another_device(client) as phone:
        await sign_in(phone)

        response = await client.post("/profile/password", data=form | changes)

        assert response.status == status
        assert sentence in await text_of(response)
        assert NEW_PASSWORD not in await response.text()
        assert (await phone.get("/api/profile")).status == 200
    assert (await sign_in(client)).status == 200


async def test_password_managers_find_the_form_for_a_new_password(client: Client) -> None:
    """`/.well-known/change-password` redirects to the form, through the sign-in if needed."""
    await sign_up(client)

    response = await client.get("/.well-known/change-password", allow_redirects=False)
    asked = await client.get("/.well-known/change-password")
    unknown = await client.get("/.well-known/resource-that-should-not-exist")
    await sign_in(client)
    form = await client.get("/.well-known/change-password")

    assert redirected_to(response) == "/profile/password"
    assert 'name="next" value="/profile/password"' in await asked.text()
    # A password manager asks for this one too, and believes no 303 of a site that answers all.
    assert unknown.status == 404
    assert form.url.path == "/profile/password"
    assert 'name="new_password"' in await form.text()


async def test_guessing_the_current_password_is_throttled(client: Client) -> None:
    """In an open browser there are five guesses, as at the sign-in."""
    stop_throttle_clock(client)
    await sign_up_and_in(client)

    statuses = [
        (await client.post("/profile/delete", data={"current_password": f"guess {n}"})).status
        for n in range(7)
    ]

    assert statuses == [403] * 5 + [429] * 2


async def test_session_opened_with_the_old_password_ends(client: Client) -> None:
    """A sign-in that is in flight while the password changes does not stay signed in."""
    await sign_up_and_in(client)
    async with another_device(client) as attacker:
        await sign_in(attacker)
        storage = client.app[STORAGE]
        revoke_owner = storage.revoke_owner
        storage.revoke_owner = _revoke_nothing  # type: ignore[assignment, method-assign]
        await client.post(
            "/profile/password",
            data={"current_password": ADA["password"], "new_password": NEW_PASSWORD},
        )
        storage.revoke_owner = revoke_owner  # type: ignore[method-assign]

        assert (await attacker.get("/api/profile")).status == 401
    assert (await client.get("/api/profile")).status == 200


async def test_deleting_the_account_ends_its_sessions(client: Client) -> None:
    """The page asks for the password, and the start page says that the account is deleted."""
    await sign_up_and_in(client)

    refused = await client.post("/profile/delete", data={"current_password": "wrong"})
    deleted = await client.post("/profile/delete", data={"current_password": ADA["password"]})

    assert refused.status == 403
    assert deleted.url.path == "/"
    assert "Your account and all its sessions are deleted." in await text_of(deleted)
    assert await client.app[STORAGE].count() == 0
    assert (await sign_in(client)).status == 401


async def test_devices_are_listed_and_signed_out_one_by_one(client: Client) -> None:
    """Both devices are listed; the next page names the one that was signed out, once."""
    await sign_up_and_in(client)
    async with another_device(client, IPHONE) as phone:
        await sign_in(phone)
        page = await (await client.get("/profile/sessions")).text()
        assert "Safari on iPhone" in page
        assert page.count("this device</span>") == 1
        handles = re.findall(r'name="handle" value="([^"]*)"', page)
        assert handles[0] == await _current_handle(phone)

        response = await client.post("/profile/sessions", data={"handle": handles[0]})

        assert "Safari on iPhone was signed out." in await text_of(response)
        ended = await phone.get("/profile")
        assert "Your session has ended, please sign in again." in await text_of(ended)
    again = await client.get("/profile/sessions")
    assert "was signed out" not in await text_of(again)
    once_more = await client.post("/profile/sessions", data={"handle": handles[0]})
    assert "That device was signed out already." in await text_of(once_more)


async def test_dates_of_devices_are_relative_to_now(client: Client) -> None:
    """The past is "ago", the future "from now"; the exact time is in the markup."""
    await sign_up_and_in(client)

    page = await (await client.get("/profile/sessions")).text()

    times = re.findall(r'<time datetime="[^"]+" title="[^"]+ UTC">([^<]+)</time>', page)
    signed_in, last_seen, expires = times
    assert re.fullmatch("now|.+ ago", signed_in)
    assert re.fullmatch("now|.+ ago", last_seen)
    assert expires == "14 days from now"


@pytest.mark.parametrize(
    ("away", "words"),
    [
        (timedelta(days=-13, hours=-23, minutes=-59), "14 days ago"),
        (timedelta(days=1, hours=11), "a day from now"),
        (timedelta(hours=23, minutes=59), "a day from now"),
        (timedelta(hours=-5, minutes=-31), "6 hours ago"),
        (timedelta(hours=5, minutes=29), "5 hours from now"),
        (timedelta(minutes=59, seconds=50), "an hour from now"),
        (timedelta(minutes=-1, seconds=-31), "2 minutes ago"),
        (timedelta(seconds=-30), "30 seconds ago"),
        (timedelta(seconds=0), "now"),
    ],
)
def test_relative_dates_are_rounded_to_the_unit_that_is_shown(away: timedelta, words: str) -> None:
    """A session of 14 days expires in 14 days, not in 13 and some hours."""
    assert pages.relative(datetime.now(UTC) + away) == words


async def test_dates_a_month_away_are_given_in_days(make_app: MakeApp) -> None:
    """By itself humanize would say "a month"."""
    client = await make_app(
        SESSION_MAX_AGE=str(45 * 86400), SESSION_ABSOLUTE_TIMEOUT=str(60 * 86400)
    )
    await sign_up_and_in(client)

    page = await (await client.get("/profile")).text()

    assert ">45 days from now</time>" in page


async def test_signing_out_this_device_redirects_to_the_start_page(client: Client) -> None:
    """The button of the current device is a logout."""
    await sign_up_and_in(client)

    response = await client.post(
        "/profile/sessions", data={"handle": await _current_handle(client)}
    )

    assert response.url.path == "/"
    assert "You are signed out." in await text_of(response)


@pytest.mark.parametrize(
    ("others", "sentence"),
    [
        (0, "No other device was signed in."),
        (1, "1 other device was signed out."),
        (2, "2 other devices were signed out."),
    ],
)
async def test_form_without_a_handle_signs_all_others_out(
    client: Client, others: int, sentence: str
) -> None:
    """The sentence counts them, and this device stays signed in."""
    await sign_up_and_in(client)
    for _ in range(others):
        async with another_device(client) as phone:
            await sign_in(phone)

    response = await client.post("/profile/sessions", data={})

    assert sentence in await text_of(response)
    assert await client.app[STORAGE].count() == 1


async def test_device_of_another_account_cannot_be_signed_out(client: Client) -> None:
    """A handle of another account changes nothing."""
    await sign_up_and_in(client, GRACE)
    async with another_device(client) as other:
        await sign_up_and_in(other)

        response = await other.post(
            "/profile/sessions", data={"handle": await _current_handle(client)}
        )

        assert "That device was signed out already." in await text_of(response)
    assert (await client.get("/api/profile")).status == 200


@pytest.mark.parametrize(
    "name",
    [
        pytest.param('<script>alert("x")</script>', id="script"),
        pytest.param("\"'><img src=x onerror=x>", id="attribute"),
        pytest.param("{{ 7 * 7 }}{% raw %}", id="template"),
        pytest.param("👩🏽‍🚀 עדה ada", id="emoji and right-to-left"),
    ],
)
async def test_markup_in_a_user_name_is_shown_as_text(client: Client, name: str) -> None:
    """User names are text on every page, with a text direction of their own."""
    await sign_up_and_in(client, ADA | {"username": name})

    for path in ("/", "/profile", "/profile/delete"):
        page = await (await client.get(path)).text()
        assert f"<bdi>{name}</bdi>" in html.unescape(page)
        assert "<script" not in page
        assert "<img src=x" not in page


async def test_markup_in_a_label_is_shown_as_text(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any label is text too, with direction marks in it."""
    label = '<b onclick="x">\u202eSafari</b> 🦊'
    monkeypatch.setattr("webapp.app.describe", lambda _: label)
    client = await make_app()
    await sign_up_and_in(client)

    page = await (await client.get("/profile/sessions")).text()

    assert "<bdi>&lt;b onclick=&#34;x&#34;&gt;\u202eSafari&lt;/b&gt; 🦊</bdi>" in page


async def test_notice_in_an_address_shows_only_listed_sentences(client: Client) -> None:
    """A link cannot make this site show any other text."""
    page = await (await client.get("/login?notice=Send+your+password+to+eve")).text()

    assert "eve" not in page
    assert 'role="status"' not in page


async def test_start_page_greets_a_signed_in_user(client: Client) -> None:
    """Visitors see how to sign up; users are greeted."""
    assert "Create an account" in await (await client.get("/")).text()

    await sign_up_and_in(client)

    assert "Welcome back" in await (await client.get("/")).text()


@pytest.mark.parametrize(
    "path",
    ["/", "/signup", "/login", "/profile", "/profile/password", "/profile/sessions", "/nothing"],
)
async def test_page_is_smaller_than_thirty_kilobytes_in_all(client: Client, path: str) -> None:
    """The page with its stylesheet and icon, uncompressed; all of it from this site."""
    await sign_up_and_in(client)
    page = await (await client.get(path)).text()

    links = set(re.findall(r'(?:href|src)="(/static/[^"]+)"', page))
    weight = len(page.encode()) + sum(
        [len(await (await client.get(link)).read()) for link in links]
    )

    assert len(links) == 2
    assert weight < 30_000
    assert "//" not in " ".join(re.findall(r'(?:href|src|action)="([^"]*)"', page))
    assert " style=" not in page
    assert "<script" not in page


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/signup",
        "/profile",
        "/profile/password",
        "/profile/delete",
        "/profile/sessions",
        "/no",
    ],
)
async def test_every_page_of_somebody_signed_in_has_the_sign_out_button(
    client: Client, path: str
) -> None:
    """Also those that do not need a session, and error pages (OWASP ASVS 5.0, 7.4.4)."""
    assert SIGN_OUT not in await (await client.get(path)).text()
    await sign_up_and_in(client)

    assert SIGN_OUT in await (await client.get(path)).text()


@pytest.mark.parametrize(
    ("path", "form", "status"),
    [
        pytest.param("/signup", ADA, 409, id="a taken name"),
        pytest.param("/login", SIGN_IN | {"password": "wrong"}, 401, id="a wrong sign-in"),
        pytest.param("/profile/password", {}, 422, id="an empty form"),
        pytest.param("/", {}, 405, id="a wrong method"),
    ],
)
async def test_refused_form_of_somebody_signed_in_has_the_sign_out_button(
    client: Client, path: str, form: dict[str, str], status: int
) -> None:
    """Whatever form was refused."""
    await sign_up_and_in(client)

    refused = await client.post(path, data=form)

    assert refused.status == status
    assert SIGN_OUT in await refused.text()


async def test_page_of_somebody_whose_session_ended_offers_to_sign_in(client: Client) -> None:
    """A cookie that opens no session shows no sign-out button."""
    await sign_up_and_in(client)
    await client.app[STORAGE].clear()

    for path in ("/", "/signup", "/login"):
        page = await (await client.get(path)).text()
        assert SIGN_OUT not in page
        assert 'href="/login"' in page


@pytest.mark.parametrize(
    ("cookie", "offered"),
    [
        pytest.param(f"session={'t' * 42}A", True, id="a session token"),
        pytest.param(f'a="b; session={"t" * 42}A; c="d', True, id="one that a quote seems to hold"),
        pytest.param("session=short", False, id="no session token"),
        pytest.param(f"a=b session={'t' * 42}A", False, id="a value that looks like our cookie"),
    ],
)
async def test_error_page_offers_to_sign_out_for_the_cookie_that_a_load_would_read(
    client: Client, cookie: str, *, offered: bool
) -> None:
    """An error page reads the cookie as the storage does, and asks MongoDB nothing."""
    response = await client.get("/nothing", headers={"Cookie": cookie})

    assert response.status == 404
    assert (SIGN_OUT in await response.text()) is offered


async def test_start_page_is_served_while_mongodb_is_away(
    make_app: MakeApp, new_mongod: NewMongod, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`/` and static files answer 200; what needs the session says 503 with Retry-After."""
    for module in ("app", "database.client"):
        monkeypatch.setattr(f"webapp.{module}.OPERATION_SECONDS", 1.0)
    with new_mongod() as own:
        client = await make_app(MONGO_URI=own.uri)
        await sign_up_and_in(client)

    home, profile, refused, login = await asyncio.gather(
        client.get("/"), client.get("/profile"), client.get("/api/profile"), sign_in(client)
    )
    sign_up_form = await client.get("/signup")
    (stylesheet,) = re.findall(r'href="(/static/style[^"]+)"', await home.text())

    assert (home.status, sign_up_form.status) == (200, 200)
    for page in (home, sign_up_form, profile):
        assert SIGN_OUT in await page.text()
    assert (await client.get(stylesheet)).status == 200
    assert (profile.status, refused.status, login.status) == (503, 503, 503)
    assert profile.content_type == "text/html"
    assert refused.content_type == login.content_type == "application/problem+json"
    for answer in (profile, refused, login):
        assert int(answer.headers["Retry-After"]) >= 1
        assert "Set-Cookie" not in answer.headers


async def _current_handle(client: Browser) -> str:
    listed = await (await client.get("/api/sessions")).json()
    return next(s["handle"] for s in listed["sessions"] if s["current"])


async def _revoke_nothing(*_: object, **__: object) -> int:
    return 0
