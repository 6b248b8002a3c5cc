"""What an operator can do to accounts and sessions; `parser` says how it is typed and printed.

Each command returns an `Outcome`: a table for people, the same rows for machines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from aiohttp import web

from webapp.accounts.throttle import THROTTLE
from webapp.accounts.users import ACCOUNTS, Account
from webapp.http.app_keys import CONFIG, STORAGE

Row = dict[str, str | int | bool]


class NotDone(Exception):
    """The command could not be carried out; the text says why."""


@dataclass(frozen=True)
class Outcome:
    """What a command found or did: one sentence, and rows with the same columns."""

    sentence: str
    rows: Sequence[Row] = ()


async def stats(app: web.Application) -> Outcome:
    """Count the active sessions, and those that still need another secret than the first."""
    live = await app[STORAGE].count()
    retired = await app[STORAGE].count(retired=True)
    advice = rotation_advice(retired, len(app[CONFIG].session_secrets))
    return Outcome(advice, [{"live_sessions": live, "retired_sessions": retired}])


def rotation_advice(retired: int, secrets: int) -> str:
    """Say what an operator who rotates the secret should do next."""
    if retired == 0 and secrets == 1:
        return "Every session is encrypted with SESSION_SECRET."
    if retired == 0:
        # In the first step of a rotation, the first secret is the old one.
        return (
            "Every session is encrypted with the first secret. If that is the new one, wait a"
            " minute and remove the others from SESSION_SECRET."
        )
    if secrets > 1:
        return f"Keep the older secrets in SESSION_SECRET: {retired} sessions still need one."
    return (
        f"{retired} sessions need a secret that SESSION_SECRET does not list: their users may be"
        " signed out. If this is a mistake, put the old secret back behind the new one."
    )


async def list_sessions(app: web.Application, email: str) -> Outcome:
    """List where an account is signed in, newest activity first."""
    account = await _account(app, email)
    rows: list[Row] = [
        {
            "handle": session.handle,
            "label": session.label,
            "created_at": _shown(session.created_at),
            "last_seen_at": _shown(session.last_seen_at),
            "expires_at": _shown(session.expires_at),
        }
        async for session in app[STORAGE].sessions(account.id)
    ]
    return Outcome(f"Active sessions of {account.email}: {len(rows)}.", rows)


async def revoke(app: web.Application, email: str) -> Outcome:
    """End every session of an account.

    The owner of a session is unknown without the secret that it is under: `stats` counts those.
    """
    account = await _account(app, email)
    ended = await app[STORAGE].revoke_owner(account.id)
    sentence = f"Every session of {account.email} under SESSION_SECRET has ended."
    return Outcome(sentence, [{"ended_sessions": ended}])


async def revoke_all(app: web.Application) -> Outcome:
    """End everybody's sessions, whichever secret they are under (OWASP ASVS 5.0, 7.4.5)."""
    ended = await app[STORAGE].clear()
    return Outcome("Every session has ended.", [{"ended_sessions": ended}])


async def purge(app: web.Application) -> Outcome:
    """Delete expired sessions, for servers without TTL indexes."""
    deleted = await app[STORAGE].purge()
    return Outcome("Expired sessions are deleted.", [{"deleted_sessions": deleted}])


async def add_user(app: web.Application, email: str, username: str, password: str) -> Outcome:
    """Create an account."""
    account = await app[ACCOUNTS].sign_up(username=username, email=email, password=password)
    return Outcome(
        f"{account.email} can sign in now.", [{"email": account.email, "username": username}]
    )


async def set_password(app: web.Application, email: str, password: str) -> Outcome:
    """Give an account a new password, end its sessions, and let it be tried again."""
    account = await _account(app, email)
    if await app[ACCOUNTS].set_password(account, password) is None:
        raise NotDone(f"The account with the email address {email!r} was deleted just now.")
    await app[THROTTLE].forget_failures(account.email)
    ended = await app[STORAGE].revoke_owner(account.id)
    return Outcome(f"{account.email} has a new password.", [{"ended_sessions": ended}])


async def disable(app: web.Application, email: str) -> Outcome:
    """Lock an account and end its sessions; signing in then fails as with a wrong password."""
    account = await _account(app, email)
    await app[ACCOUNTS].set_disabled(account, disabled=True)
    ended = await app[STORAGE].revoke_owner(account.id)
    return Outcome(f"{account.email} is disabled.", [{"ended_sessions": ended}])


async def enable(app: web.Application, email: str) -> Outcome:
    """Unlock an account."""
    account = await _account(app, email)
    changed = await app[ACCOUNTS].set_disabled(account, disabled=False)
    return Outcome(f"{account.email} is enabled.", [{"was_disabled": changed}])


async def _account(app: web.Application, email: str) -> Account:
    account = await app[ACCOUNTS].find(email)
    if account is None:
        raise NotDone(f"There is no account with the email address {email!r}.")
    return account


def _shown(instant: datetime) -> str:
    return instant.isoformat(timespec="seconds")
