"""Devices, the active sessions of an account: named in words, listed, signed out."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime

from aiohttp import web
from aiohttp_session import get_session

from webapp.accounts import auth
from webapp.accounts.users import Account
from webapp.http.app_keys import CONFIG, STORAGE
from webapp.http.events import event

UNKNOWN = "Unknown device"
LOGGED_CHARACTERS = 8
_READ_CHARACTERS = 512

# The first match counts: most browsers also name those further down.
_BROWSERS = (
    ("Edg", "Edge"),
    ("OPR/", "Opera"),
    ("Vivaldi/", "Vivaldi"),
    ("SamsungBrowser/", "Samsung Internet"),
    ("FxiOS/", "Firefox"),
    ("Firefox/", "Firefox"),
    ("CriOS/", "Chrome"),
    ("Chrome/", "Chrome"),
    ("Safari/", "Safari"),
    ("curl/", "curl"),
    ("Wget/", "Wget"),
    ("Python", "Python"),
    ("python", "Python"),
)
_SYSTEMS = (
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Android", "Android"),
    ("CrOS", "ChromeOS"),
    ("Windows", "Windows"),
    ("Macintosh", "Mac"),
    ("Linux", "Linux"),
)


@dataclass(frozen=True)
class Device:
    """One active session as its owner sees it. The handle is public; it is not the cookie."""

    handle: str
    label: str
    created_at: datetime
    last_seen_at: datetime
    expires_at: datetime
    current: bool


def describe(request: web.Request) -> str:
    """Say which browser on which system sent a request: "Firefox on Linux".

    Only words from the lists above: nothing of the `User-Agent` itself is stored.
    """
    agent = request.headers.get("User-Agent", "")[:_READ_CHARACTERS]
    browser = next((name for mark, name in _BROWSERS if mark in agent), None)
    system = next((name for mark, name in _SYSTEMS if mark in agent), None)
    if system is None:
        return browser or UNKNOWN
    return f"{browser or 'A browser'} on {system}"


async def signed_in(request: web.Request, account: Account) -> list[Device]:
    """List where `account` is signed in, newest activity first.

    At most as many as an account may have: there can be more from before that was limited.
    """
    storage = request.app[STORAGE]
    here = storage.handle(await get_session(request))
    found: list[Device] = []
    async with aclosing(storage.sessions(account.id)) as sessions:
        async for session in sessions:
            found.append(
                Device(
                    handle=session.handle,
                    label=session.label or UNKNOWN,
                    created_at=session.created_at,
                    last_seen_at=session.last_seen_at,
                    expires_at=session.expires_at,
                    current=session.handle == here,
                )
            )
            if len(found) == request.app[CONFIG].sessions_per_account:
                break
    return found


async def current(request: web.Request) -> Device | None:
    """Return the device that sent a request, from what its own session says; no list is read.

    `None` for a session without the time of its sign-in.
    """
    session = await get_session(request)
    signed_in_at = session.get("signed_in_at")
    if not isinstance(signed_in_at, int):
        return None
    config = request.app[CONFIG]
    created_at = datetime.fromtimestamp(signed_in_at, UTC)
    last_seen_at = datetime.fromtimestamp(session.created, UTC)
    return Device(
        handle=request.app[STORAGE].handle(session) or "",
        label=describe(request),
        created_at=created_at,
        last_seen_at=last_seen_at,
        expires_at=min(
            last_seen_at + config.session_max_age, created_at + config.session_absolute_timeout
        ),
        current=True,
    )


async def sign_out(request: web.Request, account: Account, handle: str) -> Device | None:
    """Sign one device of `account` out and return it; `None` if it was not signed in.

    A handle of another account is treated like one that does not exist.
    """
    devices = await signed_in(request, account)
    device = next((device for device in devices if device.handle == handle), None)
    if device is None:
        return None
    if device.current:
        await auth.sign_out(request)
        return device
    if not await request.app[STORAGE].revoke(handle, owner=account.id):
        return None
    event(request, "revoked", account=account.id, handle=handle[:LOGGED_CHARACTERS])
    return device


async def sign_out_others(request: web.Request, account: Account) -> int:
    """Sign out every other device of `account`; return how many there were."""
    session = await get_session(request)
    count = await request.app[STORAGE].revoke_owner(account.id, keep=session)
    event(request, "revoked", account=account.id, count=count)
    return count
