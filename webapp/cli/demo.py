"""The demo account of `--dev`: its name, its password, and what the terminal shows of it."""

from __future__ import annotations

import secrets

from aiohttp import web

from webapp.accounts.users import ACCOUNTS
from webapp.cli.devfolder import DevFolder

EMAIL = "demo@example.com"
USERNAME = "demo"
PASSWORD_FILE = "demo-password"  # noqa: S105
PASSWORD_BYTES = 15


def demo_password(folder: DevFolder, min_length: int) -> str:
    """Return the password that the folder keeps; a new one when that is missing or too short."""
    kept = folder.read(PASSWORD_FILE)
    if kept is not None and len(kept) >= min_length:
        return kept
    return folder.write(PASSWORD_FILE, secrets.token_urlsafe(max(PASSWORD_BYTES, min_length)))


async def prepare_demo_account(app: web.Application, password: str) -> None:
    """Create the account, or give it this password when it has another."""
    accounts = app[ACCOUNTS]
    account = await accounts.find(EMAIL)
    if account is None:
        await accounts.sign_up(username=USERNAME, email=EMAIL, password=password)
    elif await accounts.authenticate(EMAIL, password) is None:
        await accounts.set_password(account, password)


def sign_in_lines(password: str) -> tuple[str, str]:
    """Return what to type into the sign-in form."""
    return f"email {EMAIL}", f"password {password}"
