"""Who comes in and who goes out: what pages and API both do, whatever the answer looks like.

Each function is one decision from start to end: the throttle, the account, the session, the
event for the log. All raise `Refusal`s, and the storage's `StorageUnavailable`.
"""

from __future__ import annotations

from dataclasses import asdict

from aiohttp import web
from aiohttp_session import get_session, new_session

from storage import renew_session
from webapp.accounts.forms import Confirmation, PasswordChange, SignIn, SignUp
from webapp.accounts.throttle import THROTTLE, Attempt
from webapp.accounts.users import ACCOUNTS, Account
from webapp.http.app_keys import CLIENT, CONFIG, STORAGE
from webapp.http.events import event
from webapp.http.refusals import (
    Busy,
    FieldsRefused,
    NotSignedIn,
    SignInRefused,
    TooManyAttempts,
    WrongPassword,
)


async def current_account(request: web.Request) -> Account:
    """Return whose session this is. Raises `NotSignedIn`.

    A session whose account is gone, disabled, or has another password by now is ended.
    """
    session = await get_session(request)
    account = None
    if "user_id" in session:
        account = await request.app[ACCOUNTS].get(session["user_id"])
        if account and session.get("password_version") == account.password_version:
            return account
        session.invalidate()
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
    account = await accounts.sign_up(**fields)
    event(request, "sign_up", account=account.id)
    return account


async def sign_in(request: web.Request, form: SignIn) -> Account:
    """Prove an account and open a new session for it."""
    accounts, throttle = request.app[ACCOUNTS], request.app[THROTTLE]
    attempt = await _counted(request, form.email)
    try:
        account = await accounts.authenticate(form.email, form.password)
    except Busy:
        await throttle.withdraw(attempt)
        raise
    if account is None:
        event(request, "sign_in_failed")
        raise SignInRefused
    await throttle.succeeded(attempt)
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
    await _confirm(request, account, form.current_password)
    if form.new_password == form.current_password:
        raise FieldsRefused({"new_password": "Use another password than the current one."})
    accounts = request.app[ACCOUNTS]
    changed = await accounts.set_password(account, form.new_password, field="new_password")
    session = await get_session(request)
    await request.app[STORAGE].revoke_owner(account.id, keep=session)
    session = await renew_session(request)
    session["password_version"] = changed.password_version
    event(request, "password_changed", account=account.id)


async def delete_account(request: web.Request, account: Account, form: Confirmation) -> None:
    """Delete the account and every session of it."""
    await _confirm(request, account, form.current_password)
    # The account first: a session that outlives it for a moment already opens nothing.
    await request.app[ACCOUNTS].delete(account)
    await request.app[STORAGE].revoke_owner(account.id)
    (await get_session(request)).invalidate()
    event(request, "account_deleted", account=account.id)


async def _open_session(request: web.Request, account: Account, *, remember: bool) -> None:
    # A new session, not the visitor's renewed one: nothing of a former user carries over.
    session = await new_session(request)
    session["user_id"] = account.id
    session["password_version"] = account.password_version
    lifetime = request.app[CONFIG].session_absolute_timeout
    session.max_age = int(lifetime.total_seconds()) if remember else None


async def _confirm(request: web.Request, account: Account, password: str) -> None:
    """Ask for the password of a signed-in account again, as throttled as a sign-in.

    Whoever finds an unlocked device must not guess any faster than a stranger.
    """
    throttle = request.app[THROTTLE]
    attempt = await _counted(request, account.email)
    try:
        await request.app[ACCOUNTS].confirm(account, password)
    except Busy:
        await throttle.withdraw(attempt)
        raise
    except WrongPassword:
        event(request, "password_refused", account=account.id)
        raise
    await throttle.succeeded(attempt)


async def _counted(request: web.Request, email: str) -> Attempt:
    try:
        return await request.app[THROTTLE].count_sign_in(email, request[CLIENT].address)
    except TooManyAttempts:
        event(request, "throttled", on="sign_in")
        raise
