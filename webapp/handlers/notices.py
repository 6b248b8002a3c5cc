"""The sentence on the next page that says what the last request did.

For somebody who is signed in it is kept in the session. Other visitors have no session and must
not get one for this: the address names a sentence of a fixed list, so that a link cannot make
this site say anything else.
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
    """Return the sentence that the address names, if it is in the list."""
    return SENTENCES.get(request.query.get("notice", ""))


async def keep(request: web.Request, sentence: str) -> None:
    """Keep a sentence for the next page of somebody who is signed in."""
    session = await get_session(request)
    session[SESSION_KEY] = sentence


async def take(request: web.Request) -> str | None:
    """Return the kept sentence, once."""
    session = await get_session(request)
    sentence: str | None = session.pop(SESSION_KEY, None)
    return sentence
