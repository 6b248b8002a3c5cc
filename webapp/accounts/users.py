"""The accounts: created, proved by a password, changed and deleted.

Only this module uses the `users` collection. One stored account:

    { _id: ObjectId
      email: str               folded, see `usernames.fold_email`; unique
      email_shown: str         as typed
      username: str            as shown
      username_folded: str     unique
      password: str            Argon2id as PHC text
      password_version: int    counts password changes and locks, see `Account`
      created_at: Date
      disabled: bool           absent, or true }

Older documents have no `email_shown`, and an `email` that was folded like a user name, in which
straße.example is strasse.example. For ASCII addresses both are the same. For others, an account
without `email_shown` is found by the old folding too, and stays as it is.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from aiohttp import web
from bson import ObjectId
from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError

from webapp.accounts import password_rules, usernames
from webapp.accounts.passwords import Passwords
from webapp.database.client import Collection, Database, collection
from webapp.database.indexes import ensure_index
from webapp.http.refusals import AccountExists, FieldsRefused, NotSignedIn, WrongPassword

_TAKEN = {
    "email": "There is an account with this email address already.",
    "username": "This user name is taken.",
}


@dataclass(frozen=True)
class Account:
    """One account as the handlers may see it, without the hash of the password.

    A session contains the `password_version` that it was opened with, and ends when the account
    has a newer one: a sign-in that is in flight while the password changes, or while the account
    is disabled, must not stay signed in.
    """

    id: str
    username: str
    email: str
    created_at: datetime
    password_version: int


@dataclass(frozen=True)
class Proof:
    """That somebody knew the password of an account, and the stored hash that it matched.

    A change of the account is made only while that hash is the stored one.
    """

    account: Account
    password: str = field(repr=False)
    phc: str = field(repr=False)
    address: str


class Accounts:
    """Create, check, change and delete the accounts of one database.

    Raises `Refusal`s with sentences for people, and PyMongo's errors when MongoDB is away.
    `address` is whose turn a hash takes, see `Passwords`; the operator's is empty.
    """

    def __init__(
        self,
        database: Database,
        *,
        password_min_length: int,
        passwords: Passwords | None = None,
    ) -> None:
        self.password_min_length = password_min_length
        self._passwords = passwords or Passwords()
        self._users = collection(database, Collection.USERS)

    async def create_indexes(self) -> None:
        """Create the two unique indexes, unless they exist."""
        await ensure_index(self._users, "email", unique=True)
        await ensure_index(self._users, "username_folded", unique=True)

    def close(self) -> None:
        """End the hashing threads; the client of MongoDB stays open."""
        self._passwords.close()

    def check_sign_up(self, *, username: str, email: str, password: str) -> None:
        """Raise `FieldsRefused` with every problem of a sign-up that is visible without MongoDB."""
        found = {
            "username": usernames.problem_with_username(username),
            "email": usernames.problem_with_email(email),
            "password": self._problem_with_password(password, username, email),
        }
        if wrong := {field: problem for field, problem in found.items() if problem}:
            raise FieldsRefused(wrong)

    async def sign_up(
        self, *, username: str, email: str, password: str, address: str = ""
    ) -> Account:
        """Create an account. Raises `FieldsRefused`, `AccountExists`, or `Busy`."""
        self.check_sign_up(username=username, email=email, password=password)
        if await self.find(email):
            # The index below does not see the same address in the old folding.
            raise AccountExists("email", _TAKEN["email"])
        document = {
            "_id": ObjectId(),
            "email": usernames.fold_email(email),
            "email_shown": usernames.clean_email(email),
            "username": usernames.clean_username(username),
            "username_folded": usernames.fold_username(username),
            "password": await self._passwords.hash(password, address),
            "password_version": 1,
            "created_at": _now(),
        }
        try:
            await self._users.insert_one(document)
        except DuplicateKeyError as error:
            # The unique index decides: two parallel sign-ups could both look and find nothing.
            raise _taken(error) from None
        return _account(document)

    async def authenticate(self, email: str, password: str, address: str = "") -> Account | None:
        """Return the account with this email address and password, or `None`.

        An unknown address, a disabled account and a wrong password cost the same work (OWASP
        ASVS 5.0, 6.3.8). A hash with an older cost is replaced. Raises `Busy`.
        """
        document = await self._with_email(email)
        phc = document["password"] if document else None
        is_right = await self._passwords.verify(password, phc, address)
        if document is None or not is_right or document.get("disabled"):
            return None
        if self._passwords.is_outdated(document["password"]):
            await self._upgrade(document, password, address)
        return _account(document)

    async def email_of(self, name: str) -> str:
        """Return the email address of the account with this address or user name.

        A text that names no account is returned, folded as a user name is: the caller goes on with
        it, so that neither the answer nor the throttle shows that there is none.
        """
        named = {"username_folded": usernames.fold_username(name)}
        by_email, by_name = await self._with_email(name), await self._users.find_one(named)
        # The address first: somebody else may have chosen it as a user name. Both are always
        # looked up: the time must not show which addresses have an account.
        document = by_email or by_name
        if document:
            return _account(document).email
        # Of an account all spellings of the name have one counter, so of no account as well.
        return name if "@" in name else usernames.fold_username(name)

    async def get(self, account_id: str) -> Account | None:
        """Return the account with this id, `None` if it is gone or disabled."""
        if not ObjectId.is_valid(account_id):
            return None
        document = await self._users.find_one({"_id": ObjectId(account_id)})
        return None if document is None or document.get("disabled") else _account(document)

    async def find(self, email: str) -> Account | None:
        """Return the account with this email address, disabled or not: for the operator."""
        document = await self._with_email(email)
        return _account(document) if document else None

    async def confirm(self, account: Account, password: str, address: str = "") -> Proof:
        """Check the password of somebody who is signed in.

        Raises `WrongPassword`, `Busy`, or `NotSignedIn` when the account is gone or disabled.
        """
        document = await self._users.find_one({"_id": ObjectId(account.id)})
        if document is None or document.get("disabled"):
            raise NotSignedIn(ended=True)
        phc = document["password"]
        if not await self._passwords.verify(password, phc, address):
            raise WrongPassword
        return Proof(_account(document), password, phc, address)

    async def change_password(self, proof: Proof, password: str, *, field: str) -> Account:
        """Replace the proved password; return the account, its `password_version` one higher.

        The caller ends the sessions. `field` is the form field that a `FieldsRefused` names.
        Raises `Busy`, and what `confirm` raises when the proved password is not the current one
        any more: of two changes with the same old password one counts, and a new password that
        the operator has set meanwhile stays. So does an account that was disabled meanwhile.
        """
        change = await self._new_password(proof.account, password, field, proof.address)

        async def replace(still_proved: Mapping[str, Any]) -> dict[str, Any] | None:
            return await self._users.find_one_and_update(
                still_proved, change, return_document=ReturnDocument.AFTER
            )

        return await self._while_proved(proof, replace)

    async def delete(self, proof: Proof) -> None:
        """Delete an account. Sessions are not ended.

        Raises what `confirm` raises when the proved password is not the current one any more.
        """
        await self._while_proved(proof, self._users.find_one_and_delete)

    async def set_password(self, account: Account, password: str) -> Account | None:
        """Store a new password, whatever the current one is: for the operator.

        The caller ends the sessions. Returns `None` when the account is gone; raises
        `FieldsRefused` or `Busy`.
        """
        document = await self._users.find_one_and_update(
            {"_id": ObjectId(account.id)},
            await self._new_password(account, password, "password", address=""),
            return_document=ReturnDocument.AFTER,
        )
        return _account(document) if document else None

    async def set_disabled(self, account: Account, *, disabled: bool) -> bool:
        """Lock or unlock an account; `True` if that changed anything.

        The caller ends the sessions of a locked account. One of a sign-in that was under way then
        opens nothing either, also when the account is unlocked: its version is the one before.
        """
        change: dict[str, dict[str, Any]] = {"$unset": {"disabled": ""}}
        if disabled:
            change = {"$set": {"disabled": True}, "$inc": {"password_version": 1}}
        before = {"_id": ObjectId(account.id), "disabled": None if disabled else True}
        result = await self._users.update_one(before, change)
        return bool(result.modified_count)

    async def _with_email(self, email: str) -> dict[str, Any] | None:
        folded, as_before = usernames.fold_email(email), usernames.fold_username(email)
        documents = [
            document
            async for document in self._users.find({"email": {"$in": [folded, as_before]}})
            if document["email"] == folded or "email_shown" not in document
        ]
        # Both exist only if the old one was typed otherwise, so the exact one is meant.
        return max(documents, key=lambda document: document["email"] == folded, default=None)

    async def _while_proved(
        self,
        proof: Proof,
        change: Callable[[Mapping[str, Any]], Awaitable[dict[str, Any] | None]],
    ) -> Account:
        """Make a change whose filter includes the proved hash; return the account."""
        while True:
            account = proof.account
            document = await change(
                {"_id": ObjectId(account.id), "password": proof.phc, "disabled": None}
            )
            if document is not None:
                return _account(document)
            # Another hash. A parallel sign-in may have stored one of the same password at today's
            # cost, see `_upgrade`; only that leaves `password_version` as it is.
            proof = await self.confirm(account, proof.password, proof.address)
            if proof.account.password_version != account.password_version:
                raise WrongPassword

    async def _new_password(
        self, account: Account, password: str, field: str, address: str
    ) -> dict[str, dict[str, Any]]:
        """Return the update that stores a new password. Raises `FieldsRefused` or `Busy`."""
        problem = self._problem_with_password(password, account.username, account.email)
        if problem:
            raise FieldsRefused({field: problem})
        phc = await self._passwords.hash(password, address)
        return {"$set": {"password": phc}, "$inc": {"password_version": 1}}

    def _problem_with_password(self, password: str, username: str, email: str) -> str | None:
        return password_rules.problem_with(
            password,
            min_length=self.password_min_length,
            names=(usernames.clean_username(username), usernames.clean_username(email)),
        )

    async def _upgrade(self, document: Mapping[str, Any], password: str, address: str) -> None:
        phc = await self._passwords.hash(password, address)
        # Only the hash that was verified is replaced: a password that was just changed stays.
        await self._users.update_one(
            {"_id": document["_id"], "password": document["password"]},
            {"$set": {"password": phc}},
        )


ACCOUNTS = web.AppKey("accounts", Accounts)


def _account(document: Mapping[str, Any]) -> Account:
    return Account(
        id=str(document["_id"]),
        username=document["username"],
        email=document.get("email_shown", document["email"]),
        created_at=document["created_at"],
        password_version=document["password_version"],
    )


def _now() -> datetime:
    """Return the time in milliseconds, as MongoDB stores it, so that both are equal."""
    now = datetime.now(UTC)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)


def _taken(error: DuplicateKeyError) -> AccountExists:
    pattern = (error.details or {}).get("keyPattern", {})
    field = "email" if "email" in pattern else "username"
    return AccountExists(field, _TAKEN[field])
