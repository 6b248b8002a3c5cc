"""Sign-up, sign-in, sign-out and changes of an account: what pages and API share.

Each function does one of them from start to end: the throttle, the account, the session, the
event for the log. All raise `Refusal`s, and the storage's `StorageUnavailable`.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict

from aiohttp import web
from aiohttp_session import get_session, new_session

from storage import renew_session
from webapp.accounts.forms import Confirmation, PasswordChange, SignIn, SignUp
from webapp.accounts.networks import networks_of
from webapp.accounts.throttle import THROTTLE
from webapp.accounts.users import ACCOUNTS, Account, Proof
from webapp.http.app_keys import CLIENT, CONFIG, STORAGE
from webapp.http.events import event
from webapp.http.refusals import (
    FieldsRefused,
    NotSignedIn,
    SignInRefused,
    TooManyAttempts,
    WrongPassword,
)


async def current_account(request: web.Request) -> Account:
    """Return the account that is signed in. Raises `NotSignedIn`.

    A session whose account was deleted or disabled is ended. One from before a change of the
    password is refused and left as it is: it may be the session of the very request that changes
    the password, which has not given it the new version and the new token yet.
    """
    session = await get_session(request)
    if "user_id" in session:
        account = await request.app[ACCOUNTS].get(session["user_id"])
        if account is None:
            session.invalidate()
        elif session.get("password_version") == account.password_version:
            return account
    raise NotSignedIn(ended=request.app[CONFIG].cookie_name in request.cookies)


async def sign_up(request: web.Request, form: SignUp) -> Account:
    """Create an account. Signing in is a second step.

    Only what could become an account counts: typing errors do not use up an address's sign-ups.
    """
    accounts, fields = request.app[ACCOUNTS], asdict(form)
    accounts.check_sign_up(**fields)
    try:
        await request.app[THROTTLE].count_sign_up(request[CLIENT].address)
    except TooManyAttempts:
        event(request, "throttled", on="sign_up")
        raise
    account = await accounts.sign_up(**fields, address=_hashing_network(request))
    event(request, "sign_up", account=account.id)
    return account


async def sign_in(request: web.Request, form: SignIn) -> Account:
    """Check the password and open a new session for its account.

    The account is looked up before the throttle: under two names it must not have two counters.
    """
    accounts = request.app[ACCOUNTS]
    email = await accounts.email_of(form.email)
    async with _throttled(request, email):
        account = await accounts.authenticate(email, form.password, _hashing_network(request))
        # Looked up again: hashing takes a while, in which the password may have been changed or the
        # account disabled. Its owner would find a session in the list that opens nothing.
        if account is None or await accounts.get(account.id) != account:
            event(request, "sign_in_failed")
            raise SignInRefused
    await _open_session(request, account, remember=form.remember)
    event(request, "sign_in", account=account.id)
    return account


async def sign_out(request: web.Request) -> None:
    """End this session, if there is one."""
    session = await get_session(request)
    if not session.new:
        event(request, "sign_out")
        session.invalidate()


async def change_password(request: web.Request, account: Account, form: PasswordChange) -> None:
    """Change the password, and sign out every other device (OWASP ASVS 5.0, 7.4.3)."""
    proof = await _confirm(request, account, form.current_password)
    if form.new_password == form.current_password:
        raise FieldsRefused({"new_password": "Use another password than the current one."})
    accounts = request.app[ACCOUNTS]
    changed = await accounts.change_password(proof, form.new_password, field="new_password")
    session = await get_session(request)
    await request.app[STORAGE].revoke_owner(account.id, keep=session)
    session = await renew_session(request)
    session["password_version"] = changed.password_version
    event(request, "password_changed", account=account.id)


async def delete_account(request: web.Request, account: Account, form: Confirmation) -> None:
    """Delete the account and every session of it."""
    proof = await _confirm(request, account, form.current_password)
    # The account first: a session that outlives it for a moment already opens nothing.
    await request.app[ACCOUNTS].delete(proof)
    await request.app[STORAGE].revoke_owner(account.id)
    (await get_session(request)).invalidate()
    event(request, "account_deleted", account=account.id)


async def _open_session(request: web.Request, account: Account, *, remember: bool) -> None:
    # A new session, not the visitor's renewed one: it keeps nothing of another user.
    session = await new_session(request)
    session["user_id"] = account.id
    session["password_version"] = account.password_version
    session["signed_in_at"] = int(time.time())
    # Only whether the cookie outlives the browser: the idle timeout holds for everybody.
    idle_timeout = request.app[CONFIG].session_max_age
    session.max_age = int(idle_timeout.total_seconds()) if remember else None


async def _confirm(request: web.Request, account: Account, password: str) -> Proof:
    """Check the password of a signed-in account again, throttled like a sign-in.

    Somebody who finds an unlocked device must not guess any faster than at the sign-in form.
    """
    async with _throttled(request, account.email):
        try:
            return await request.app[ACCOUNTS].confirm(account, password, _hashing_network(request))
        except WrongPassword:
            event(request, "password_refused", account=account.id)
            raise


def _hashing_network(request: web.Request) -> str:
    """Return the network whose requests share one turn at hashing: of IPv6 the largest, a /48.

    Otherwise a client with many /64 would have as many turns.
    """
    return networks_of(request[CLIENT].address)[-1]


@asynccontextmanager
async def _throttled(request: web.Request, email: str) -> AsyncIterator[None]:
    try:
        async with request.app[THROTTLE].attempt(email, request[CLIENT].address):
            yield
    except TooManyAttempts:
        event(request, "throttled", on="sign_in")
        raise
