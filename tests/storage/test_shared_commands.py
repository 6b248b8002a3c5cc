"""Requests that share a command: each gets its own result, whatever happens to the others."""

from __future__ import annotations

import asyncio
import struct
from itertools import pairwise
from typing import Any

import pytest
from bson.raw_bson import RawBSONDocument

from storage import MongoStorage, StorageUnavailable
from tests.storage.command_log import CommandLog
from tests.storage.conftest import real_drivers
from tests.storage.direct import changed, id_of, loaded, saved, stored, values, visit

pytestmark = real_drivers


def undecodable(identifier: bytes, owner: bytes | None = None) -> RawBSONDocument:
    """Build a document that MongoDB stores and PyMongo cannot decode: its binary is cut short."""

    def binary(name: bytes, data: bytes, subtype: bytes = b"\0") -> bytes:
        return b"\x05" + name + b"\0" + struct.pack("<i", len(data)) + subtype + data

    fields = [binary(b"_id", identifier), binary(b"label", struct.pack("<i", 99), b"\x02")]
    if owner is not None:
        fields.append(binary(b"owner", owner))
    body = b"".join(fields) + b"\0"
    return RawBSONDocument(struct.pack("<i", len(body) + 4) + body)


async def test_requests_that_run_at_once_share_one_find(
    storage: MongoStorage, log: CommandLog
) -> None:
    """Fifty loads in one iteration of the event loop are one command."""
    cookies = await stored(storage, 50)
    log.commands.clear()

    visits = await loaded(storage, cookies)

    assert [begun.session["user_id"] for begun in visits] == list(range(50))
    assert log.names == ["find"]
    assert len(log.commands[0][1]["filter"]["_id"]["$in"]) == 50


async def test_find_of_more_documents_than_a_server_returns_at_once_is_one_command(
    storage: MongoStorage, log: CommandLog
) -> None:
    """By itself it returns 101; requests may send several cookies of our name each."""
    cookies = await stored(storage, 120)
    log.commands.clear()

    visits = await loaded(
        storage, [f"{cookie}; session={other}" for cookie, other in pairwise(cookies)][::2]
    )

    assert [begun.session["user_id"] for begun in visits] == list(range(0, 120, 2))
    assert log.names == ["find"]


@pytest.mark.parametrize("number", [1, 2, 3])
async def test_each_of_a_few_requests_that_run_at_once_gets_its_own_session(
    number: int, storage: MongoStorage, log: CommandLog
) -> None:
    """A lone load asks for one document, two or three for several."""
    cookies = await stored(storage, number)
    log.commands.clear()

    visits = await loaded(storage, cookies)

    assert [begun.session["user_id"] for begun in visits] == list(range(number))
    assert log.names == ["find"]


async def test_saves_that_run_at_once_share_one_bulk_write(
    storage: MongoStorage, log: CommandLog
) -> None:
    """Fifty saves cost one command, and each session has its own change."""
    cookies = await stored(storage, 50)
    visits = await loaded(storage, cookies)
    for number, begun in enumerate(visits):
        begun.session["n"].append(number)
    log.commands.clear()

    await saved(visits)

    assert log.names == ["update"]
    assert [begun.session["n"] for begun in await loaded(storage, cookies)] == [
        [number] for number in range(50)
    ]


async def test_hundreds_of_requests_at_once_lose_nothing(
    storage: MongoStorage, log: CommandLog
) -> None:
    """First saves, loads and changes of 300 visitors are sent in batches of 64; all are stored."""
    cookies = await stored(storage, 300)
    visits = await loaded(storage, cookies)
    for begun in visits:
        begun.session["n"].append("x" * 1000)

    results = await saved(visits)

    assert results == cookies
    assert [b.session["user_id"] for b in await loaded(storage, cookies)] == list(range(300))
    assert all(b.session["n"] == ["x" * 1000] for b in await loaded(storage, cookies))
    assert len(log.commands) < 50
    assert storage.queued == 0


async def test_load_sees_every_earlier_save_of_a_busy_storage(
    storage: MongoStorage,
) -> None:
    """A load never joins a batch that was sent: its result would be older than the save."""
    cookies = await stored(storage, 20)

    async def write_and_read(cookie: str) -> None:
        for number in range(10):
            await visit(storage, cookie, lambda session: session["n"].append(len(session["n"])))
            assert (await values(storage, cookie))["n"] == list(range(number + 1))

    await asyncio.gather(*(write_and_read(cookie) for cookie in cookies))


@pytest.mark.parametrize("gone", [[0], [9], [3, 5, 8], list(range(10))], ids=str)
async def test_bulk_write_reports_which_sessions_have_ended(
    storage: MongoStorage, collection: Any, gone: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    """For a session that was revoked meanwhile nothing is written; the others are saved."""
    cookies, visits = await changed(storage, 10)
    for number in gone:
        assert await storage.revoke(str(storage.handle(visits[number].session)))
    caplog.set_level("INFO", "storage")

    await saved(visits)

    assert [begun.session.abandoned for begun in visits] == [n in gone for n in range(10)]
    assert [bool(b.session) for b in await loaded(storage, cookies)] == [
        n not in gone for n in range(10)
    ]
    assert await collection.count_documents({}) == 10 - len(gone)
    assert caplog.text.count("ended during a request") == len(gone)


@pytest.mark.parametrize(("bad", "count"), [(0, 1), (4, 10)], ids=["alone", "among others"])
async def test_refused_write_does_not_affect_the_others_of_its_batch(
    storage: MongoStorage, collection: Any, bad: int, count: int
) -> None:
    """Its request gets the error; the others of the bulk write are saved."""
    cookies, visits = await changed(storage, count)
    await collection.update_one({"_id": id_of(cookies[bad])}, {"$set": {"values": "no document"}})

    results = await saved(visits)

    assert [type(result) for result in results] == [
        StorageUnavailable if number == bad else str for number in range(count)
    ]
    assert [b.session.get("n") for b in await loaded(storage, cookies)] == [
        None if number == bad else [1] for number in range(count)
    ]


async def test_refused_write_and_ended_session_in_one_bulk_write(
    storage: MongoStorage, collection: Any
) -> None:
    """Both are reported: which write was refused, and which session has ended."""
    cookies, visits = await changed(storage, 6)
    await collection.update_one({"_id": id_of(cookies[2])}, {"$set": {"values": 0}})
    await storage.revoke(str(storage.handle(visits[4].session)))

    results = await saved(visits)

    assert [isinstance(result, StorageUnavailable) for result in results] == [
        number == 2 for number in range(6)
    ]
    assert [number for number in range(6) if visits[number].session.abandoned] == [2, 4]


@pytest.mark.parametrize(("bad", "count"), [(0, 1), (4, 10)], ids=["alone", "among others"])
async def test_undecodable_document_does_not_affect_the_others_of_its_find(
    *,
    storage: MongoStorage,
    collection: Any,
    log: CommandLog,
    caplog: pytest.LogCaptureFixture,
    bad: int,
    count: int,
) -> None:
    """It is no session, and one warning is logged; the others of the find are read."""
    cookies = await stored(storage, count)
    await collection.delete_one({"_id": id_of(cookies[bad])})
    await collection.insert_one(undecodable(id_of(cookies[bad])))
    log.commands.clear()

    visits = await loaded(storage, cookies)

    assert log.names == ["find"]
    assert [begun.session.get("user_id") for begun in visits] == [
        None if number == bad else number for number in range(count)
    ]
    (warning,) = (record for record in caplog.records if record.levelname == "WARNING")
    assert id_of(cookies[bad]).hex()[:8] in warning.getMessage()
    assert storage.counters["unreadable"] == 1


async def test_undecodable_document_does_not_hide_its_owners_other_sessions(
    storage: MongoStorage, collection: Any
) -> None:
    """The list leaves it out, since nobody can use it; `revoke_owner` deletes it too."""
    await visit(storage, None, lambda session: session.update(user_id=7))
    owner = (await collection.find_one({}))["owner"]
    await collection.insert_one(undecodable(bytes(32), owner))

    listed = [info.handle async for info in storage.sessions(7)]

    assert len(listed) == 1
    assert await storage.revoke_owner(7) == 2
