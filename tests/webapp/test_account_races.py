"""Changes of an account that happen at the same time, over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import ClientResponse, web

from tests.webapp.conftest import Client
from tests.webapp.people import (
    ADA,
    NEW_PASSWORD,
    PATIENCE_SECONDS,
    another_device,
    hold_password_change,
    sign_in,
    sign_up,
    sign_up_and_in,
)
from webapp.accounts.passwords import Cost, Passwords
from webapp.accounts.users import ACCOUNTS, Accounts
from webapp.cli import actions
from webapp.cli.actions import NotDone
from webapp.database.client import Database
from webapp.http.app_keys import DATABASE, STORAGE

OTHER_PASSWORD = "silver ladder and loud rain"
OPERATORS = "set by the operator by hand"


class HeldPasswords(Passwords):
    """Real hashing; the answers of `held` verifications wait until so many are there."""

    def __init__(self, held: int) -> None:
        super().__init__(Cost(memory_kib=8, passes=1))
        self.verified = asyncio.Event()
        self.go_on = asyncio.Event()
        self._held = held

    async def verify(self, password: str, phc: str | None, address: str = "") -> bool:
        """Verify, then wait."""
        matches = await super().verify(password, phc, address)
        self._held -= 1
        if self._held <= 0:
            self.verified.set()
        await self.go_on.wait()
        return matches


def hold(client: Client, verifications: int = 1) -> HeldPasswords:
    """Hold the app between the check of a password and what follows from it."""
    accounts = client.app[ACCOUNTS]
    accounts._passwords.close()
    held = HeldPasswords(verifications)
    accounts._passwords = held
    return held


async def change(client: Client, new: str, *, current: str = ADA["password"]) -> ClientResponse:
    """Send the form that changes Ada's password; redirects are not followed."""
    form = {"current_password": current, "new_password": new}
    return await client.post("/profile/password", data=form, allow_redirects=False)


async def delete(client: Client) -> ClientResponse:
    """Send the deletion of Ada's account to the API."""
    return await client.delete("/api/profile", json={"current_password": ADA["password"]})


async def signs_in(client: Client, password: str) -> bool:
    """Tell whether a device of its own signs in with this password."""
    async with another_device(client) as device:
        return (await sign_in(device, password=password)).status == 200


async def verified(held: HeldPasswords) -> None:
    """Wait until every held verification has its result."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        await held.verified.wait()


async def test_of_two_changes_with_the_same_old_password_one_counts(client: Client) -> None:
    """One is 303, the other 403, as if it had come later; only the new password of one signs in."""
    await sign_up_and_in(client)
    held = hold(client, 2)

    changes = asyncio.gather(change(client, NEW_PASSWORD), change(client, OTHER_PASSWORD))
    await verified(held)
    held.go_on.set()
    first, second = await changes

    assert sorted([first.status, second.status]) == [303, 403]
    assert await signs_in(client, NEW_PASSWORD) is (first.status == 303)
    assert await signs_in(client, OTHER_PASSWORD) is (second.status == 303)
    refused = first if first.status == 403 else second
    assert "This is not your current password." in await refused.text()


@pytest.mark.parametrize("password", [OPERATORS, ADA["password"]], ids=["another", "the same"])
async def test_change_under_way_never_undoes_an_operators_reset(
    client: Client, password: str
) -> None:
    """The password that the operator sets between check and change stays."""
    await sign_up_and_in(client)
    held = hold(client)

    changing = asyncio.ensure_future(change(client, NEW_PASSWORD))
    await verified(held)
    await actions.set_password(client.app, ADA["email"], password)
    held.go_on.set()

    assert (await changing).status == 403
    assert await signs_in(client, password)
    assert not await signs_in(client, NEW_PASSWORD)


async def test_operator_gets_an_error_when_the_account_was_deleted_meanwhile(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sentence says why no password was set."""
    await sign_up_and_in(client)
    find = Accounts.find

    async def find_and_delete(accounts: Accounts, email: str) -> object:
        found = await find(accounts, email)
        assert (await delete(client)).status < 400
        return found

    monkeypatch.setattr(Accounts, "find", find_and_delete)
    with pytest.raises(NotDone, match="was deleted just now"):
        await actions.set_password(client.app, ADA["email"], OPERATORS)


async def test_deletion_under_way_never_follows_an_operators_reset(client: Client) -> None:
    """An account whose password the operator sets between check and deletion stays."""
    await sign_up_and_in(client)
    held = hold(client)

    deleting = asyncio.ensure_future(delete(client))
    await verified(held)
    await actions.set_password(client.app, ADA["email"], OPERATORS)
    held.go_on.set()

    assert (await deleting).status == 403
    assert await signs_in(client, OPERATORS)


@pytest.mark.parametrize("request_held", [change, delete], ids=["password change", "deletion"])
async def test_account_that_is_disabled_meanwhile_is_neither_changed_nor_deleted(
    client: Client, request_held: Callable[..., Awaitable[ClientResponse]]
) -> None:
    """A request that was under way does nothing, also after the account is enabled again."""
    await sign_up_and_in(client)
    held = hold(client)

    arguments = (NEW_PASSWORD,) if request_held is change else ()
    acting = asyncio.ensure_future(request_held(client, *arguments))
    await verified(held)
    await actions.disable(client.app, ADA["email"])
    held.go_on.set()
    answer = await acting

    assert answer.status == 401 or answer.headers["Location"].startswith("/login")
    await actions.enable(client.app, ADA["email"])
    assert await signs_in(client, ADA["password"])


LOCKED: list[Any] = [
    pytest.param([lambda app: actions.set_password(app, ADA["email"], OPERATORS)], id="password"),
    pytest.param([lambda app: actions.disable(app, ADA["email"])], id="disabled"),
    pytest.param(
        [
            lambda app: actions.disable(app, ADA["email"]),
            lambda app: actions.enable(app, ADA["email"]),
        ],
        id="disabled and enabled",
    ),
]


@pytest.mark.parametrize("meanwhile", LOCKED)
async def test_sign_in_under_way_while_the_account_changes_is_refused_and_leaves_no_session(
    client: Client, meanwhile: list[Callable[[web.Application], Awaitable[Any]]]
) -> None:
    """The list of devices never shows a session that opens nothing."""
    assert (await sign_up(client)).status == 201
    held = hold(client)

    signing_in = asyncio.ensure_future(sign_in(client))
    await verified(held)
    for act in meanwhile:
        await act(client.app)
    held.go_on.set()

    assert (await signing_in).status == 401
    assert (await actions.stats(client.app)).rows[0]["live_sessions"] == 0


async def test_session_from_before_a_lock_opens_nothing_when_the_account_is_unlocked(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even one that the operator's command has not found, as of a sign-in that was under way."""
    await sign_up_and_in(client)

    async def find_none(_owner: object, **_keep: object) -> int:
        return 0

    monkeypatch.setattr(client.app[STORAGE], "revoke_owner", find_none)
    await actions.disable(client.app, ADA["email"])
    await actions.enable(client.app, ADA["email"])

    assert (await client.get("/api/profile")).status == 401


async def test_of_two_deletions_at_once_one_counts(client: Client) -> None:
    """One is 204; for the other the account is gone, and its session with it."""
    await sign_up_and_in(client)
    held = hold(client, 2)

    deletions = asyncio.gather(delete(client), delete(client))
    await verified(held)
    held.go_on.set()

    assert sorted(answer.status for answer in await deletions) == [204, 401]
    assert not await signs_in(client, ADA["password"])


async def test_page_of_a_deletion_that_came_second_says_that_the_session_ended(
    client: Client,
) -> None:
    """A double click on "Delete my account" leads to the sign-in page, with its reason."""
    await sign_up_and_in(client)
    held = hold(client, 2)
    form = {"current_password": ADA["password"]}

    clicks = asyncio.gather(
        *(client.post("/profile/delete", data=form, allow_redirects=False) for _ in range(2))
    )
    await verified(held)
    held.go_on.set()

    targets = sorted(answer.headers["Location"] for answer in await clicks)
    assert targets[0] == "/?notice=account-deleted"
    assert targets[1].startswith("/login?notice=session-ended")


async def test_change_succeeds_although_a_sign_in_renews_the_hash_meanwhile(
    client: Client,
) -> None:
    """A hash of the same password at another cost is still the current password."""
    await sign_up_and_in(client)
    held = hold(client)

    changing = asyncio.ensure_future(change(client, NEW_PASSWORD))
    await verified(held)
    await _renew_hash(client.app[DATABASE])
    held.go_on.set()

    assert (await changing).status == 303
    assert await signs_in(client, NEW_PASSWORD)
    assert not await signs_in(client, ADA["password"])


async def _renew_hash(database: Database) -> None:
    """Sign in to an app whose hashes cost more."""
    before = (await database["users"].find_one({}) or {})["password"]
    costly = Accounts(
        database, password_min_length=15, passwords=Passwords(Cost(memory_kib=64, passes=1))
    )
    assert await costly.authenticate(ADA["email"], ADA["password"])
    costly.close()
    assert (await database["users"].find_one({}) or {})["password"] != before


async def test_device_that_changes_the_password_stays_signed_in_while_its_tabs_poll(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests with the cookie of before come between the new password and the new token."""
    await sign_up_and_in(client)
    until_changed = hold_password_change(client, monkeypatch)
    changing = asyncio.ensure_future(change(client, NEW_PASSWORD))
    go_on = await until_changed()
    polls = [await client.get(path) for path in ("/api/profile", "/profile", "/")]
    go_on.set()

    assert (await changing).status == 303
    assert all("Set-Cookie" not in poll.headers for poll in polls)
    profile = await client.get("/profile")
    assert profile.url.path == "/profile"
    assert "Your password is changed." in await profile.text()


async def test_device_stays_signed_in_through_changes_under_polls(client: Client) -> None:
    """Twelve changes in a row, each while four tabs poll without a pause."""
    await sign_up_and_in(client)
    ended = False

    async def poll() -> None:
        while not ended:
            await client.get("/api/profile")

    tabs = [asyncio.ensure_future(poll()) for _ in range(4)]
    current, kept = ADA["password"], []
    for number in range(12):
        new = f"{NEW_PASSWORD} {number}"
        kept.append((await change(client, new, current=current)).status)
        current = new
    ended = True
    await asyncio.gather(*tabs)

    assert kept == [303] * 12
    assert (await client.get("/api/profile")).status == 200
