"""Accounts in a real MongoDB: created once, checked with equal work, changed and deleted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from tests.webapp.people import ADA, GRACE, NEW_PASSWORD
from webapp.accounts.passwords import Cost, Passwords
from webapp.accounts.users import Account, Accounts
from webapp.database.client import Database
from webapp.http.refusals import AccountExists, FieldsRefused, NotSignedIn, WrongPassword


class CountingPasswords(Passwords):
    """Real password hashing at a low cost that counts its verifications."""

    def __init__(self) -> None:
        super().__init__(Cost(memory_kib=64, passes=1))
        self.verified = 0

    async def verify(self, password: str, phc: str | None, address: str = "") -> bool:
        """Count, then verify."""
        self.verified += 1
        return await super().verify(password, phc, address)


@pytest.fixture
def passwords() -> CountingPasswords:
    """Return cheap password hashing that counts."""
    return CountingPasswords()


@pytest.fixture
async def accounts(database: Database, passwords: CountingPasswords) -> AsyncIterator[Accounts]:
    """Return accounts with their indexes."""
    found = Accounts(database, password_min_length=15, passwords=passwords)
    await found.create_indexes()
    yield found
    found.close()


@pytest.fixture
async def ada(accounts: Accounts) -> Account:
    """Sign Ada up."""
    return await accounts.sign_up(**ADA)


async def test_stored_account_has_folded_names_and_a_hash(
    accounts: Accounts, database: Database
) -> None:
    """The document has the documented fields, and the password is nowhere in it."""
    await accounts.sign_up(username="Ada", email="Ada@Example.org", password=ADA["password"])

    document = await database["users"].find_one({})

    assert document is not None
    assert document["email"] == "ada@example.org"
    assert document["username"] == "Ada"
    assert document["username_folded"] == "ada"
    assert document["password"].startswith("$argon2id$")
    assert ADA["password"] not in str(document)


async def test_email_address_is_shown_as_typed_and_found_however_it_is_typed(
    accounts: Accounts, database: Database
) -> None:
    """Stored as typed beside the folded one; A-labels and capitals find the account."""
    typed = ADA | {"email": " Ada@Straße.example "}
    ada = await accounts.sign_up(**typed)

    document = await database["users"].find_one({})

    assert document is not None
    assert document["email"] == "ada@xn--strae-oqa.example"
    assert ada.email == document["email_shown"] == "Ada@Straße.example"
    for spelling in ("Ada@Straße.example", "ada@STRAßE.example", "ADA@xn--strae-oqa.example"):
        assert await accounts.authenticate(spelling, ADA["password"]) == ada
    with pytest.raises(AccountExists):
        await accounts.sign_up(**(typed | {"username": "B", "email": "ada@xn--strae-oqa.example"}))


async def test_domains_of_two_owners_have_two_accounts(accounts: Accounts) -> None:
    """The owner of strasse.example cannot take the address of somebody at straße.example."""
    double = await accounts.sign_up(**(GRACE | {"email": "ada@strasse.example"}))
    sharp = await accounts.sign_up(**(ADA | {"email": "ada@straße.example"}))

    assert await accounts.authenticate("ada@straße.example", ADA["password"]) == sharp
    assert await accounts.authenticate("ada@strasse.example", GRACE["password"]) == double
    assert await accounts.authenticate("ada@straße.example", GRACE["password"]) is None


@pytest.mark.parametrize(
    ("stored", "typed"),
    [
        pytest.param("ada@example.org", "Ada@Example.org", id="ASCII"),
        pytest.param("ada@bücher.example", "Ada@Bücher.example", id="umlaut"),
        pytest.param("ada@strasse.example", "ada@straße.example", id="sharp s"),
        pytest.param("strauss@example.org", "Strauß@example.org", id="sharp s before the @"),
    ],
)
async def test_account_with_an_address_in_the_old_folding_goes_on_working(
    accounts: Accounts, ada: Account, database: Database, stored: str, typed: str
) -> None:
    """It signs in, is found by the operator, changes its password, and keeps its address."""
    old = {"$set": {"email": stored}, "$unset": {"email_shown": ""}}
    await database["users"].update_one({}, old)

    found = await accounts.authenticate(typed, ADA["password"])

    assert found is not None
    assert (found.id, found.email) == (ada.id, stored)
    assert await accounts.find(typed) == await accounts.find(stored) == found
    with pytest.raises(AccountExists) as refused:
        await accounts.sign_up(**(GRACE | {"email": typed}))
    assert list(refused.value.fields) == ["email"]
    proof = await accounts.confirm(found, ADA["password"])
    await accounts.change_password(proof, NEW_PASSWORD, field="new_password")
    assert await accounts.authenticate(typed, NEW_PASSWORD) is not None


async def test_address_that_is_stored_exactly_goes_before_the_old_folding(
    accounts: Accounts, ada: Account, database: Database
) -> None:
    """An old strasse.example does not hide a new straße.example."""
    new = await accounts.sign_up(**(GRACE | {"email": "ada@straße.example"}))
    old = {"$set": {"email": "ada@strasse.example"}, "$unset": {"email_shown": ""}}
    await database["users"].update_one({"email": ADA["email"]}, old)

    assert await accounts.find("ada@straße.example") == new
    assert (await accounts.find("ada@strasse.example") or new).id == ada.id


async def test_returned_account_is_the_stored_one(accounts: Accounts, ada: Account) -> None:
    """Sign-up returns what is read later, to the millisecond."""
    assert await accounts.get(ada.id) == ada


async def test_all_problems_of_a_sign_up_are_reported_at_once(
    accounts: Accounts, database: Database
) -> None:
    """Three wrong fields give three sentences, and nothing is written."""
    with pytest.raises(FieldsRefused) as refused:
        await accounts.sign_up(username="\u202e", email="nobody", password="short")

    assert list(refused.value.fields) == ["username", "email", "password"]
    assert "short" not in refused.value.fields["password"].replace("too short", "")
    assert await database["users"].count_documents({}) == 0


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        pytest.param({"username": "Somebody"}, "email", id="the same address"),
        pytest.param({"username": "Somebody", "email": "ADA@example.ORG"}, "email", id="capitals"),
        pytest.param({"email": "other@example.org"}, "username", id="the same name"),
        pytest.param({"email": "other@example.org", "username": "ADA"}, "username", id="folded"),
    ],
)
async def test_taken_name_or_address_is_refused(
    accounts: Accounts, ada: Account, changes: dict[str, str], field: str
) -> None:
    """The refusal names the field that is taken."""
    with pytest.raises(AccountExists) as refused:
        await accounts.sign_up(**(ADA | changes))

    assert list(refused.value.fields) == [field]


async def test_parallel_sign_ups_create_one_account(accounts: Accounts, database: Database) -> None:
    """Ten sign-ups at once with one address create one account."""
    answers = await asyncio.gather(
        *(accounts.sign_up(**(ADA | {"username": f"Ada {n}"})) for n in range(10)),
        return_exceptions=True,
    )

    assert sum(isinstance(answer, Account) for answer in answers) == 1
    assert sum(isinstance(answer, AccountExists) for answer in answers) == 9
    assert await database["users"].count_documents({}) == 1


async def test_email_is_folded_and_password_is_not(accounts: Accounts, ada: Account) -> None:
    """An email address in capitals is the same; a password in capitals is another."""
    assert await accounts.authenticate("ADA@example.org", ADA["password"]) == ada
    assert await accounts.authenticate("ada@example.org", ADA["password"].upper()) is None


async def test_account_is_named_by_its_email_address_or_its_user_name(
    accounts: Accounts, ada: Account
) -> None:
    """Either, however it is typed, leads to the address; a name of no account is folded too."""
    for name in (ADA["email"], "ADA@Example.org", "Ada", " ada ", "\uff21DA"):
        assert await accounts.email_of(name) == ada.email
    assert await accounts.email_of(" \uff25VE") == "eve"
    assert await accounts.email_of("Eve@Example.org") == "Eve@Example.org"


async def test_user_name_that_is_the_address_of_somebody_else_names_the_address(
    accounts: Accounts, ada: Account
) -> None:
    """Nobody diverts a sign-in by choosing an email address as a user name."""
    mallory = await accounts.sign_up(**(GRACE | {"username": ADA["email"]}))

    assert await accounts.email_of(ADA["email"]) == ada.email
    assert await accounts.email_of(GRACE["email"]) == mallory.email


async def test_unknown_disabled_and_wrong_sign_ins_cost_the_same_work(
    accounts: Accounts, passwords: CountingPasswords, ada: Account
) -> None:
    """Each failure hashes exactly once, so the time does not show which accounts exist."""
    grace = await accounts.sign_up(**GRACE)
    await accounts.set_disabled(grace, disabled=True)
    work = []

    for email, password in [
        ("nobody@example.org", ADA["password"]),
        (ADA["email"], "wrong"),
        (GRACE["email"], GRACE["password"]),
    ]:
        before = passwords.verified
        assert await accounts.authenticate(email, password) is None
        work.append(passwords.verified - before)

    assert work == [1, 1, 1]


async def test_outdated_hash_is_replaced_at_sign_in(database: Database, ada: Account) -> None:
    """Signing in at a higher cost stores a new hash, and the password is still accepted."""
    raised = Accounts(
        database, password_min_length=15, passwords=Passwords(Cost(memory_kib=128, passes=1))
    )
    before = (await database["users"].find_one({}) or {})["password"]

    assert await raised.authenticate(ADA["email"], ADA["password"]) == ada
    after = (await database["users"].find_one({}) or {})["password"]
    assert "m=64," in before
    assert "m=128," in after
    assert await raised.authenticate(ADA["email"], ADA["password"]) == ada
    raised.close()


async def test_replacing_a_hash_never_undoes_a_password_change(
    accounts: Accounts, database: Database, ada: Account
) -> None:
    """When the password has changed since the hash was read, nothing is written."""
    stale = await database["users"].find_one({})
    assert stale is not None
    await accounts.set_password(ada, NEW_PASSWORD)

    await accounts._upgrade(stale, ADA["password"], address="")

    assert await accounts.authenticate(ADA["email"], ADA["password"]) is None
    assert await accounts.authenticate(ADA["email"], NEW_PASSWORD) is not None


async def test_password_change_raises_the_version(accounts: Accounts, ada: Account) -> None:
    """Sessions with an older version are those of the old password."""
    changed = await accounts.set_password(ada, NEW_PASSWORD)

    assert changed is not None
    assert changed.password_version == ada.password_version + 1


async def test_refused_new_password_names_the_field_of_the_form(
    accounts: Accounts, ada: Account
) -> None:
    """The refusal names the field that the caller gives."""
    proof = await accounts.confirm(ada, ADA["password"])

    with pytest.raises(FieldsRefused) as refused:
        await accounts.change_password(proof, "ada@example.org", field="new_password")

    assert list(refused.value.fields) == ["new_password"]


async def test_confirming_needs_the_password_of_this_account(
    accounts: Accounts, ada: Account
) -> None:
    """The right password is accepted; a wrong one is refused; nobody is in a deleted account."""
    proof = await accounts.confirm(ada, ADA["password"])

    with pytest.raises(WrongPassword):
        await accounts.confirm(ada, "wrong")
    await accounts.delete(proof)
    with pytest.raises(NotSignedIn):
        await accounts.confirm(ada, ADA["password"])


async def test_proof_shows_neither_password_nor_hash(accounts: Accounts, ada: Account) -> None:
    """The `repr` of a proof names the account alone."""
    shown = repr(await accounts.confirm(ada, ADA["password"]))

    assert ADA["password"] not in shown
    assert "argon2" not in shown


async def test_deleted_account_is_gone(accounts: Accounts, ada: Account) -> None:
    """A deleted account is not found, and cannot be deleted again or changed."""
    proof = await accounts.confirm(ada, ADA["password"])
    await accounts.delete(proof)

    with pytest.raises(NotSignedIn):
        await accounts.delete(proof)
    assert await accounts.get(ada.id) is None
    assert await accounts.find(ADA["email"]) is None
    assert await accounts.set_password(ada, NEW_PASSWORD) is None


async def test_disabled_account_cannot_sign_in_until_it_is_enabled(
    accounts: Accounts, ada: Account
) -> None:
    """A disabled account is found by the operator only; sessions from before stay ended."""
    assert await accounts.set_disabled(ada, disabled=True)
    assert not await accounts.set_disabled(ada, disabled=True)

    assert await accounts.get(ada.id) is None
    newer = replace(ada, password_version=ada.password_version + 1)
    assert await accounts.find(ADA["email"]) == newer
    assert await accounts.set_disabled(ada, disabled=False)
    assert await accounts.authenticate(ADA["email"], ADA["password"]) == newer


async def test_malformed_id_finds_no_account(accounts: Accounts) -> None:
    """A session with a malformed user id has no account, and is no error."""
    assert await accounts.get("no id") is None


async def test_indexes_may_be_created_by_many_processes(accounts: Accounts) -> None:
    """Creating the indexes several times at once is no error."""
    await asyncio.gather(*(accounts.create_indexes() for _ in range(5)))
