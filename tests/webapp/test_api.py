"""The JSON API, from sign-up to the deleted account."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp import ClientResponse

from tests.webapp.conftest import Client, MakeApp
from tests.webapp.people import (
    ADA,
    GRACE,
    NEW_PASSWORD,
    another_device,
    session_token,
    sign_in,
    sign_up,
    sign_up_and_in,
    stop_throttle_clock,
)
from webapp.accounts.passwords import Passwords
from webapp.accounts.throttle import THROTTLE
from webapp.accounts.users import ACCOUNTS
from webapp.cli import actions
from webapp.config.settings import ATTEMPTS_PER_ADDRESS
from webapp.http.app_keys import DATABASE, STORAGE

PROFILE = {"username", "email", "created_at"}


async def problem(response: ClientResponse) -> dict[str, Any]:
    """Return the problem in an answer, after checking its form (RFC 9457)."""
    assert response.content_type == "application/problem+json"
    found: dict[str, Any] = await response.json(content_type=None)
    assert found["status"] == response.status
    assert found["detail"]
    return found


def lifetime(response: ClientResponse) -> str:
    """Return the Max-Age of the session cookie in an answer, "" for none."""
    return response.cookies["session"]["max-age"]


async def test_sign_up_answers_201_with_the_profile_and_opens_no_session(client: Client) -> None:
    """Signing up creates an account and no session."""
    response = await sign_up(client)

    assert response.status == 201
    assert await response.json() == {
        "username": "Ada",
        "email": "ada@example.org",
        "created_at": (await response.json())["created_at"],
    }
    assert "Set-Cookie" not in response.headers
    assert (await client.get("/api/profile")).status == 401


async def test_sign_in_answers_the_profile_and_opens_a_session(client: Client) -> None:
    """After signing in the profile can be read, with the documented fields only."""
    await sign_up(client)

    signed_in = await sign_in(client)
    profile = await client.get("/api/profile")

    assert (signed_in.status, profile.status) == (200, 200)
    assert await profile.json() == await signed_in.json()
    assert set(await profile.json()) == PROFILE
    moment = datetime.fromisoformat((await profile.json())["created_at"])
    assert datetime.now(UTC) - moment < timedelta(minutes=5)


async def test_second_of_two_parallel_sign_ups_is_409(client: Client) -> None:
    """Two requests at once for one account: one 201, one 409 that names the field."""
    answers = await asyncio.gather(sign_up(client), sign_up(client, username="Another"))

    assert sorted(answer.status for answer in answers) == [201, 409]
    (refused,) = (answer for answer in answers if answer.status == 409)
    assert [error["field"] for error in (await problem(refused))["errors"]] == ["email"]
    assert await client.app[DATABASE]["users"].count_documents({}) == 1


async def test_wrong_password_and_an_unknown_user_get_the_same_answer(client: Client) -> None:
    """Status, body and headers do not show whether the account exists."""
    await sign_up(client)

    wrong = await sign_in(client, password="wrong password")
    unknown = await sign_in(client, email="nobody@example.org")

    assert wrong.status == unknown.status == 401
    assert await wrong.read() == await unknown.read()
    for headers in (both := [dict(wrong.headers), dict(unknown.headers)]):
        for varying in ("Date", "X-Request-ID"):
            del headers[varying]
    assert both[0] == both[1]
    assert wrong.headers["WWW-Authenticate"].startswith("Session")


async def test_guesses_under_both_names_of_an_account_count_together(client: Client) -> None:
    """Five wrong passwords close the lock, whichever of the two names they come with."""
    stop_throttle_clock(client)
    await sign_up(client)

    guesses = [
        await sign_in(client, email=name, password=f"guess {n}")
        for n, name in enumerate([ADA["email"], ADA["username"], "ADA", "Ada@Example.org", "ada"])
    ]
    answers = [await sign_in(client, email=name) for name in (ADA["username"], ADA["email"])]

    assert [guess.status for guess in guesses] == [401] * 5
    assert [answer.status for answer in answers] == [429] * 2


@pytest.mark.parametrize("exists", [True, False], ids=["an account", "no account"])
async def test_throttle_does_not_show_whether_a_user_name_has_an_account(
    exists: bool,  # noqa: FBT001
    client: Client,
) -> None:
    """All spellings that would be one user name have one counter, whether there is one or not."""
    stop_throttle_clock(client)
    if exists:
        await sign_up(client, username="Straße")

    guesses = [await sign_in(client, email="straße", password=f"guess {n}") for n in range(5)]
    other_spelling = await sign_in(client, email="STRASSE", password="guess")

    assert [guess.status for guess in guesses] == [401] * 5
    assert other_spelling.status == 429


async def test_wrong_passwords_behind_one_address_lock_out_nobody_who_signed_in_before(
    client: Client,
) -> None:
    """Of 100 people everybody who signed in before still can, by either name; others wait."""
    stop_throttle_clock(client)
    password = ADA["password"]
    people = [(f"pupil{number}@example.org", f"Pupil {number}") for number in range(101)]
    for email, username in people:
        await client.app[ACCOUNTS].sign_up(username=username, email=email, password=password)
    unknown, *known = people
    for email, _username in known:
        assert (await sign_in(client, email=email)).status == 200

    wrong = [await sign_in(client, email=email, password="wrong") for email, _username in known]
    others = [
        await sign_in(client, email=f"eve{n}@example.org") for n in range(ATTEMPTS_PER_ADDRESS)
    ]
    again = [await sign_in(client, email=username) for _email, username in known]
    refused = await sign_in(client, email=unknown[0])

    assert {answer.status for answer in wrong} == {401}
    assert [answer.status for answer in others] == [401] * ATTEMPTS_PER_ADDRESS
    assert {answer.status for answer in again} == {200}
    assert (refused.status, refused.headers["Retry-After"]) == (429, "900")


@pytest.mark.parametrize(
    ("remember", "max_age"),
    [
        pytest.param(True, str(14 * 24 * 3600), id="remembered for the idle timeout"),
        pytest.param(False, "", id="until the browser closes"),
    ],
)
async def test_remember_me_decides_how_long_the_cookie_lives(
    client: Client, *, remember: bool, max_age: str
) -> None:
    """Remembered sessions carry Max-Age, others end with the browser."""
    await sign_up(client)

    response = await sign_in(client, remember=remember)

    assert lifetime(response) == max_age


async def test_sign_in_beyond_the_limit_ends_the_least_recently_used_session(
    make_app: MakeApp,
) -> None:
    """With `SESSIONS_PER_ACCOUNT` of two the third device signs out the first."""
    client = await make_app(SESSIONS_PER_ACCOUNT="2")
    await sign_up_and_in(client)

    async with another_device(client) as second, another_device(client) as third:
        await sign_in(second)
        await sign_in(third)
        statuses = [(await device.get("/api/profile")).status for device in (client, second, third)]

    assert statuses == [401, 200, 200]


async def test_list_of_sessions_is_read_with_a_limit(make_app: MakeApp) -> None:
    """An account with more sessions, from before the limit, gets as many as are allowed."""
    client = await make_app(SESSIONS_PER_ACCOUNT="3")
    await sign_up_and_in(client)
    collection = client.app[DATABASE]["sessions"]
    document = await collection.find_one({})
    assert document
    await collection.insert_many([document | {"_id": n.to_bytes(32, "big")} for n in range(300)])

    listed = (await (await client.get("/api/sessions")).json())["sessions"]

    assert len(listed) == 3


async def test_failures_of_one_address_are_limited_to_the_configured_number(
    make_app: MakeApp,
) -> None:
    """With `THROTTLE_PER_ADDRESS` of three the fourth is 429, whatever the account."""
    client = await make_app(THROTTLE_PER_ADDRESS="3")

    statuses = [
        (await sign_in(client, email=f"{number}@example.org")).status for number in range(4)
    ]

    assert statuses == [401, 401, 401, 429]


async def test_operators_reset_opens_the_lock_for_unfamiliar_addresses(client: Client) -> None:
    """`users password` opens the lock of an account that was guessed at."""
    await sign_up(client)
    stop_throttle_clock(client)
    for _ in range(5):
        await sign_in(client, password="wrong")
    assert (await sign_in(client)).status == 429

    await actions.set_password(client.app, ADA["email"], NEW_PASSWORD)

    assert (await sign_in(client, password=NEW_PASSWORD)).status == 200


@pytest.mark.parametrize("remember", [True, False])
async def test_idle_timeout_holds_for_everybody(make_app: MakeApp, *, remember: bool) -> None:
    """A session that is not used for `SESSION_MAX_AGE` has ended, remembered or not."""
    client = await make_app(SESSION_MAX_AGE="100", SESSION_ABSOLUTE_TIMEOUT="1000")
    await sign_up(client)
    await sign_in(client, remember=remember)
    cookie = session_token(client)
    headers = {"Cookie": f"session={cookie}"}  # a browser that keeps it for ever
    storage = client.app[STORAGE]
    began = storage.clock()

    storage.clock = lambda: began + 99
    assert (await client.get("/api/profile", headers=headers)).status == 200
    storage.clock = lambda: began + 99 + 101
    assert (await client.get("/api/profile", headers=headers)).status == 401


@pytest.mark.parametrize("who", [ADA, GRACE], ids=["the same person", "somebody else"])
async def test_signing_in_takes_a_new_session_and_ends_the_old_one(
    client: Client, who: dict[str, str]
) -> None:
    """Nothing of the previous session is left after the next sign-in: no session fixation."""
    await sign_up(client, **GRACE)
    await sign_up_and_in(client)
    old = session_token(client)

    await sign_in(client, email=who["email"], password=who["password"])

    new = session_token(client)
    assert old != new
    assert (await (await client.get("/api/profile")).json())["username"] == who["username"]
    client.session.cookie_jar.clear()
    stale = await client.get("/api/profile", headers={"Cookie": f"session={old}"})
    assert stale.status == 401
    assert await client.app[STORAGE].count() == 1


async def test_signing_out_ends_the_session_at_the_server(client: Client) -> None:
    """After a logout the cookie is not accepted any more, and the browser clears its data."""
    await sign_up_and_in(client)
    cookie = session_token(client)

    response = await client.post("/api/auth/logout")

    assert response.status == 204
    assert response.headers["Clear-Site-Data"] == '"storage"'
    assert response.cookies["session"].value == ""
    stale = await client.get("/api/profile", headers={"Cookie": f"session={cookie}"})
    assert (await problem(stale))["detail"] == "Your session has ended, please sign in again."


async def test_signing_out_twice_is_fine(client: Client) -> None:
    """Without a session, signing out is no error."""
    assert (await client.post("/api/auth/logout")).status == 204


async def test_sessions_are_listed_with_label_and_times(client: Client) -> None:
    """Both devices are listed, and the current one is marked."""
    await sign_up_and_in(client)
    async with another_device(client) as phone:
        await sign_in(phone)
        answer = await (await phone.get("/api/sessions")).json()

    here, there = answer["sessions"]
    assert (here["label"], here["current"]) == ("Safari on iPhone", True)
    assert there["current"] is False
    assert set(here) == {
        "handle",
        "label",
        "created_at",
        "last_seen_at",
        "expires_at",
        "current",
    }
    for name in ("created_at", "last_seen_at", "expires_at"):
        assert datetime.fromisoformat(here[name]).tzinfo is not None


async def test_one_device_signs_another_out(client: Client) -> None:
    """The session of the other device ends at once; the second time its handle is unknown."""
    await sign_up_and_in(client)
    async with another_device(client) as phone:
        await sign_in(phone)
        (handle,) = await _others(client)

        assert (await client.delete(f"/api/sessions/{handle}")).status == 204

        assert (await phone.get("/api/profile")).status == 401
    assert (await client.delete(f"/api/sessions/{handle}")).status == 404
    assert (await client.get("/api/profile")).status == 200


async def test_events_are_logged_without_whole_handles(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """Each result is one event, with the account if it is known, and 8 characters of a handle."""
    caplog.set_level(logging.INFO, "webapp.events")
    await sign_up_and_in(client)
    await sign_in(client, password="wrong password")
    async with another_device(client) as phone:
        await sign_in(phone)
        (handle,) = await _others(client)
        await client.delete(f"/api/sessions/{handle}")
    await client.delete("/api/sessions")
    await client.delete("/api/profile", json={"current_password": "wrong password"})
    await client.post("/api/auth/logout")

    logged = [record for record in caplog.records if record.name == "webapp.events"]

    assert [record.getMessage() for record in logged] == [
        "sign_up",
        "sign_in",
        "sign_in_failed",
        "sign_in",
        "revoked",
        "revoked",
        "password_refused",
        "sign_out",
    ]
    stored = await client.app[DATABASE]["users"].find_one({})
    assert stored
    accounts = {record.getMessage(): vars(record)["fields"].get("account") for record in logged}
    unknown = {"sign_in_failed", "sign_out"}
    assert {name for name, account in accounts.items() if account is None} == unknown
    assert set(accounts.values()) == {str(stored["_id"]), None}
    fields = str([vars(record) for record in logged])
    assert handle[:8] in fields
    for secret in (handle[:9], ADA["password"], "wrong password", ADA["email"]):
        assert secret not in fields


async def test_parallel_sign_outs_of_a_device_succeed_once(client: Client) -> None:
    """Of five parallel requests one is answered with 204, the others with 404."""
    await sign_up_and_in(client)
    async with another_device(client) as phone:
        await sign_in(phone)
    (handle,) = await _others(client)

    answers = await asyncio.gather(*(client.delete(f"/api/sessions/{handle}") for _ in range(5)))

    assert sorted(answer.status for answer in answers) == [204, 404, 404, 404, 404]


async def test_ending_the_current_session_by_its_handle_is_a_logout(client: Client) -> None:
    """The current handle ends this session and deletes the cookie."""
    await sign_up_and_in(client)
    listed = await (await client.get("/api/sessions")).json()

    response = await client.delete(f"/api/sessions/{listed['sessions'][0]['handle']}")

    assert response.status == 204
    assert response.cookies["session"].value == ""
    assert (await client.get("/api/profile")).status == 401


async def test_session_of_another_account_cannot_be_ended(client: Client) -> None:
    """A handle of another account is answered like one that does not exist."""
    await sign_up_and_in(client, GRACE)
    async with another_device(client) as other:
        await sign_up_and_in(other)
        grace = (await (await client.get("/api/sessions")).json())["sessions"][0]["handle"]

        response = await other.delete(f"/api/sessions/{grace}")

        assert response.status == 404
    assert (await client.get("/api/profile")).status == 200


@pytest.mark.parametrize(
    "handle",
    [
        pytest.param("x", id="a letter"),
        pytest.param("0" * 64, id="an unknown one"),
        pytest.param("%00", id="NUL"),
        pytest.param("%F0%9F%A6%8A", id="emoji"),
        pytest.param("%ff", id="no UTF-8"),
        pytest.param("a" * 4000, id="very long"),
        pytest.param("$ne", id="an operator"),
    ],
)
async def test_malformed_handle_is_not_found(client: Client, handle: str) -> None:
    """Any text that is not a handle is answered with 404."""
    await sign_up_and_in(client)

    response = await client.delete(f"/api/sessions/{handle}")

    assert response.status == 404
    await problem(response)


async def test_all_other_devices_are_signed_out_at_once(client: Client) -> None:
    """The current session stays, the others end."""
    await sign_up_and_in(client)
    async with another_device(client) as phone, another_device(client) as tablet:
        await sign_in(phone)
        await sign_in(tablet)

        assert (await client.delete("/api/sessions")).status == 204

        assert (await phone.get("/api/profile")).status == 401
        assert (await tablet.get("/api/profile")).status == 401
    assert (await client.get("/api/profile")).status == 200


async def test_deleting_the_account_needs_the_password_and_ends_its_sessions(
    client: Client,
) -> None:
    """With the password the account and its sessions are deleted, and the name is free again."""
    await sign_up_and_in(client)
    async with another_device(client) as phone:
        await sign_in(phone)
        refused = await client.delete("/api/profile", json={"current_password": "wrong"})
        assert refused.status == 403
        assert (await problem(refused))["errors"][0]["field"] == "current_password"

        deleted = await client.delete("/api/profile", json={"current_password": ADA["password"]})

        assert deleted.status == 204
        assert (await phone.get("/api/profile")).status == 401
    assert (await client.get("/api/profile")).status == 401
    assert await client.app[STORAGE].count() == 0
    assert (await sign_in(client)).status == 401
    assert (await sign_up(client)).status == 201


async def test_disabled_account_is_signed_out_and_cannot_sign_in(client: Client) -> None:
    """Its sessions end at the next request, and signing in fails as with a wrong password."""
    await sign_up_and_in(client)
    accounts = client.app[ACCOUNTS]
    account = await accounts.find(ADA["email"])
    assert account is not None

    await accounts.set_disabled(account, disabled=True)

    assert (await client.get("/api/profile")).status == 401
    disabled = await sign_in(client)
    wrong = await sign_in(client, password="wrong password")
    assert await disabled.read() == await wrong.read()


async def test_guessing_is_throttled_with_retry_after(client: Client) -> None:
    """The sixth guess is 429 with the seconds to wait; so is the right password until then."""
    stop_throttle_clock(client)
    await sign_up(client)
    for _ in range(5):
        assert (await sign_in(client, password="wrong password")).status == 401

    guess = await sign_in(client, password="wrong password")
    right = await sign_in(client)

    assert guess.status == right.status == 429
    assert guess.headers["Retry-After"] == "1"
    assert (await problem(guess))["detail"] == "Too many attempts, try again in 1 second."


async def test_forged_forwarded_addresses_do_not_evade_the_throttle(make_app: MakeApp) -> None:
    """Entries to the left of the trusted hop are ignored, so every guess has the same address."""
    client = await make_app(TRUSTED_PROXY_HOPS="1")
    stop_throttle_clock(client)
    await sign_up(client, **GRACE)
    statuses = [
        (
            await client.post(
                "/api/auth/login",
                json={"email": GRACE["email"], "password": "wrong password"},
                headers={
                    "X-Forwarded-For": f"10.0.0.{n}, 203.0.113.7",
                    "X-Forwarded-Proto": "http",
                },
            )
        ).status
        for n in range(8)
    ]

    assert statuses == [401] * 5 + [429] * 3


async def test_sign_ups_of_one_address_are_limited(client: Client) -> None:
    """The hundred and first sign-up is 429; refused forms do not count."""
    for _ in range(ATTEMPTS_PER_ADDRESS - 1):
        await client.app[THROTTLE].count_sign_up("127.0.0.1")
    for _ in range(3):
        assert (await sign_up(client, email="nowhere")).status == 422

    first, second = await sign_up(client), await sign_up(client, **GRACE)

    assert (first.status, second.status) == (201, 429)
    assert int(second.headers["Retry-After"]) > 890
    assert (await problem(second))["detail"] == "Too many attempts, try again in 15 minutes."


@pytest.mark.parametrize("confirming", [False, True], ids=["sign-in", "confirmation"])
async def test_full_password_pool_is_503_and_costs_no_attempt(
    client: Client, *, confirming: bool
) -> None:
    """Attempts whose password was not looked at do not count: the user is not locked out."""
    await sign_up_and_in(client)
    accounts = client.app[ACCOUNTS]
    original, accounts._passwords = accounts._passwords, Passwords(most_at_once=1)
    accounts._passwords._idle = 0

    async def attempt() -> ClientResponse:
        if confirming:
            body = {"current_password": ADA["password"]}
            return await client.delete("/api/profile", json=body)
        return await sign_in(client)

    answers = [await attempt() for _ in range(8)]

    assert {answer.status for answer in answers} == {503}
    assert answers[0].headers["Retry-After"] == "2"
    accounts._passwords.close()
    accounts._passwords = original
    assert (await attempt()).ok


async def test_personal_answers_are_neither_stored_nor_rewritten_on_the_way(
    client: Client,
) -> None:
    """Personal answers are `no-store, no-transform`: refusals and those with a cookie too."""
    await sign_up_and_in(client)

    paths = ("/api/profile", "/api/sessions", "/profile", "/login", "/", "/api/nothing")
    answers = [
        await sign_in(client),
        *[await client.get(path) for path in paths],
        await client.post("/logout", allow_redirects=False),
    ]

    assert answers[0].cookies
    assert {answer.headers["Cache-Control"] for answer in answers} == {"no-store, no-transform"}


async def test_visitor_who_stores_nothing_costs_nothing(client: Client) -> None:
    """Reading pages sets no cookie and writes no session."""
    before = client.app[STORAGE].counters["commands"]

    for path in ("/", "/login", "/signup", "/profile", "/api/profile", "/api/openapi.json"):
        response = await client.get(path, allow_redirects=False)
        assert "Set-Cookie" not in response.headers

    assert await client.app[DATABASE]["sessions"].count_documents({}) == 0
    assert client.app[STORAGE].counters["commands"] == before


async def _others(client: Client) -> list[str]:
    listed = await (await client.get("/api/sessions")).json()
    return [session["handle"] for session in listed["sessions"] if not session["current"]]
