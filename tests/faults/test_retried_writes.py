"""The driver repeats a write whose answer was lost; the server must not apply it twice."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

from tests.faults.conftest import App, Report, StartApp
from tests.faults.load import VISITORS, Load
from tests.faults.replica_set import ReplicaSet, replica_set
from tests.waiting import until_async

pytestmark = pytest.mark.long

SESSIONS = "faults.sessions"


@pytest.fixture(scope="module")
def members(mongod_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReplicaSet]:
    """Run three members that elect a primary quickly."""
    directory = tmp_path_factory.mktemp("members")
    with replica_set(mongod_binary, directory, election_seconds=2) as whole:
        yield whole


def applied_writes(members: ReplicaSet) -> Counter[tuple[Any, ...]]:
    """Count how often each retryable write is in the oplog, by its number."""
    query = {"ns": SESSIONS, "op": {"$in": ["i", "u", "d"]}}
    with members.primary().client as client:
        entries = list(client.local["oplog.rs"].find(query))
    # The statements of a bulk write are separate entries too, each with its own number.
    numbered = [e for e in entries if "txnNumber" in e]
    return Counter((e["lsid"]["id"], e["txnNumber"], e["stmtId"]) for e in numbered)


def retried_statements(members: ReplicaSet) -> int:
    """Return how many repeated statements the members recognised as already applied."""
    return sum(
        int(member.command("serverStatus")["transactions"]["retriedStatementsCount"])
        for member in members.members
    )


async def number_in(client: ClientSession, app: App, token: str) -> int:
    """Read the number in the session."""
    headers = {"Cookie": f"session={token}"}
    async with client.get(f"{app.base}/read", headers=headers) as answer:
        assert answer.status == 200
        return int((await answer.json())["left"])


@pytest.mark.parametrize("driver", ["motor", "pymongo"])
async def test_save_whose_answer_was_lost_does_not_undo_a_newer_one(
    members: ReplicaSet, start_app: StartApp, driver: str
) -> None:
    """The answer to "1" is lost, another process saves "2", then the driver repeats "1".

    Setting a value twice leaves no trace, but this order shows it: if "1" were applied again, the
    older value would be there at the end.
    """
    slow, other = start_app(members.uri, driver=driver), start_app(members.uri)
    proxy = members.primary().proxy
    before = retried_statements(members)
    async with ClientSession() as client:
        async with client.post(f"{slow.base}/login?owner=1") as answer:
            token = answer.cookies["session"].value
        headers = {"Cookie": f"session={token}"}

        def is_update(sent: bytes) -> bool:
            if proxy.broken or b"update\0" not in sent or b"txnNumber" not in sent:
                return False
            # Runs in the proxy's thread, so before the repeated command can pass.
            proxy.stall_from_now_on({slow.process.pid})
            return True

        proxy.break_answers(is_update)
        first = asyncio.ensure_future(client.post(f"{slow.base}/set?n=1", headers=headers))
        try:
            await until_async(lambda: asyncio.sleep(0, proxy.broken))
            async with client.post(f"{other.base}/set?n=2", headers=headers) as second:
                assert second.status == 200
            assert await number_in(client, other, token) == 2
        finally:
            proxy.heal()

        async with await first as answer:
            assert answer.status == 200
        assert await number_in(client, other, token) == 2

    assert retried_statements(members) == before + 1
    assert set(applied_writes(members).values()) == {1}


async def test_no_write_is_in_the_oplog_twice_after_lost_answers_and_elections(
    members: ReplicaSet, start_app: StartApp, report: Report
) -> None:
    """Every fiftieth answer to a write is lost, and the primary changes, under load."""
    apps = start_app(members.uri, driver="motor"), start_app(members.uri, driver="pymongo")
    before = retried_statements(members)
    seen = Counter[str]()

    def one_of_fifty(sent: bytes) -> bool:
        is_write = b"txnNumber" in sent and SESSIONS.partition(".")[0].encode() in sent
        seen["writes"] += is_write
        return is_write and seen["writes"] % 50 == 0

    for member in members.members:
        member.proxy.break_answers(one_of_fifty)
    async with Load([app.base for app in apps]) as load:
        for _ in range(3):
            await load.answers(1000)
            await asyncio.to_thread(members.primary().step_down)
            await asyncio.to_thread(members.wait_until_whole)

    report("answers to writes lost, 1 in 50, and 3 elections", load.record, VISITORS)
    counts = applied_writes(members)
    assert retried_statements(members) > before
    assert len(counts) > 1000
    assert set(counts.values()) == {1}
    load.record.assert_in_order()
