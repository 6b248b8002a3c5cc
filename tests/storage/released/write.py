"""Writes the sessions of a release as they are stored in MongoDB, once, when it is released.

    python -m tests.storage.released.write 0.1.0

makes ``tests/storage/released/0.1.0.json``, and refuses to overwrite a file: a released one never
changes. Bytes are base64, dates are milliseconds since the epoch.
"""

from __future__ import annotations

import asyncio
import json
import sys
from base64 import b64decode, b64encode
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from mongomock_motor import AsyncMongoMockClient

from storage import MongoStorage, generate_secret
from storage.lifetime import from_datetime, to_datetime
from storage.session import MongoSession
from tests.storage.conftest import NOON
from tests.storage.direct import load, visit

FOLDER = Path(__file__).parent
EVERY_TYPE = {
    "text": "tea, чай, 🍵, \udcff, \0",
    "number": -7,
    "large number": 2**80,
    "fraction": 0.1,
    "yes": True,
    "nothing": None,
    "list": [1, [2, {"three": []}]],
    "": "an empty name",
    "dots.and.$dollars": {"$set": {"a.b": 1}},
    "\udcff": "a name that has no UTF-8 form",
}


def write_release(release: str) -> None:
    """Write the file of one release."""
    with (FOLDER / f"{release}.json").open("x", encoding="ascii") as file:
        json.dump(asyncio.run(make_release(release)), file, indent=1)
        file.write("\n")


async def make_release(release: str) -> dict[str, Any]:
    """Make sessions of every kind with the code as it is now."""
    new, old = generate_secret(), generate_secret()
    sessions = [
        await make_session("values of every type", EVERY_TYPE, [new]),
        await make_session(
            "signed in", {"user_id": 7, "cart": [1]}, [new], label="Firefox – Linux"
        ),
        await make_session("remembered", {"a": 1}, [new], max_age=90 * 86400),
        await make_session("remembered for fractions of a second", {"a": 1}, [new], max_age=7.25),
        await make_session("until the browser ends", {"a": 1}, [new], max_age=None),
        await make_session("bytes", {"a": [1]}, [new], encoder=lambda v: json.dumps(v).encode()),
        await make_session("older secret", {"user_id": "ada", "a": 1}, [old, new], label="Safari"),
        await make_session("secret as bytes", {"user_id": "é"}, [old.encode()], label=""),
    ]
    return {"release": release, "secrets": [new, old], "read_at": NOON, "sessions": sessions}


async def make_session(
    about: str,
    values: dict[str, Any],
    secrets: list[str | bytes],
    *,
    label: str | None = None,
    max_age: float | None = 14 * 86400,
    encoder: Callable[[Any], Any] = json.dumps,
) -> dict[str, Any]:
    """Make one session, and return it with everything that a later release must read from it."""
    collection = AsyncMongoMockClient()["app"]["sessions"]
    describe = None if label is None else lambda _request: label
    storage = MongoStorage(collection, secrets, describe=describe, encoder=encoder)
    storage.clock = lambda: NOON

    def fill(session: MongoSession) -> None:
        session.update(values)
        if max_age != 14 * 86400:
            session.max_age = max_age  # type: ignore[assignment]

    cookie = await visit(storage, None, fill)
    session = (await load(storage, cookie)).session
    owner = None if "user_id" not in values else str(values["user_id"])
    return {
        "about": about,
        "cookie": cookie,
        "handle": storage.handle(session),
        "owner": owner,
        "label": label,
        "max_age": max_age,
        "values": values,
        "document": to_json(await collection.find_one({})),
    }


def to_json(value: Any) -> Any:
    """Write bytes and dates, which JSON does not have, as objects with one name."""
    if isinstance(value, dict):
        return {name: to_json(inner) for name, inner in value.items()}
    if isinstance(value, bytes):
        return {"base64": b64encode(value).decode()}
    if isinstance(value, datetime):
        return {"milliseconds": from_datetime(value)}
    return value


def from_json(value: Any) -> Any:
    """Return a document as it is inserted into MongoDB."""
    if not isinstance(value, dict):
        return value
    match value:
        case {"base64": str(text)}:
            return b64decode(text)
        case {"milliseconds": int(instant_ms)}:
            return to_datetime(instant_ms)
    return {name: from_json(inner) for name, inner in value.items()}


if __name__ == "__main__":
    write_release(sys.argv[1])
