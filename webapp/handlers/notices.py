"""The sentence that tells on the next page how the last request ended.

For somebody who is signed in it waits in the session. For everybody else, who has none and
shall not get one for this, the address carries the name of a sentence from a fixed list:
nobody can make this site say words of their own with a link.
"""

from __future__ import annotations

from aiohttp import web
from aiohttp_session import get_session

SENTENCES = {
    "signed-up": "Your account is ready. Please sign in.",
    "signed-out": "You are signed out.",
    "session-ended": "Your session has ended, please sign in again.",
    "sign-in-first": "Please sign in to see this page.",
    "account-deleted": "Your account and all its sessions are deleted.",
}
SESSION_KEY = "notice"


def named(request: web.Request) -> str | None:
    """Return the sentence that the address names, if it is one of ours."""
    return SENTENCES.get(request.query.get("notice", ""))


async def leave(request: web.Request, sentence: str) -> None:
    """Keep a sentence for the next page of somebody who is signed in."""
    session = await get_session(request)
    session[SESSION_KEY] = sentence


async def take(request: web.Request) -> str | None:
    """Return the sentence that was left, once."""
    session = await get_session(request)
    sentence: str | None = session.pop(SESSION_KEY, None)
    return sentence
