"""The visitors, and what one request of each kind does: the same for every peer.

A visitor's session contains a `user` of three fields and a `count`. *read* answers with the user as
60 bytes of JSON, *write* adds one to the count and gives the same answer, *login* stores a new
session, *logout* ends one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

Kind = Literal["read", "write", "login", "logout"]

VISITORS = 200
ANSWER_BYTES = 60

ROUTES: dict[Kind, str] = {
    "read": "GET /read",
    "write": "POST /write",
    "login": "POST /login",
    "logout": "POST /logout",
}

encode = json.JSONEncoder(separators=(",", ":")).encode  # as JavaScript writes it


@dataclass(frozen=True, slots=True)
class Load:
    """One kind of request, sent over this number of connections at once.

    ``round_trip_ms`` is the distance of the databases.
    """

    kind: Kind
    connections: int
    round_trip_ms: int = 0


def user(number: int) -> dict[str, str]:
    """Describe visitor `number` (0 to 9999) in 60 bytes of JSON."""
    return {
        "id": f"u{number:04}",
        "name": f"Visitor {number:04}",
        "mail": f"u{number:04}@box.test",
    }


def request_lines(kind: Kind, cookies: list[str]) -> list[str]:
    """Write one line per request for `visitors.lua`: method, path and the visitor's cookie.

    A login comes from a new visitor, so it has no cookie but names the visitor.
    """
    if kind == "login":
        return [f"{ROUTES[kind]}?number={number}" for number in range(VISITORS)]
    return [f"{ROUTES[kind]} {cookie}".rstrip() for cookie in cookies]
