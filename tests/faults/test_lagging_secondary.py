"""A member of a replica set lags: what the web app reads must not be the past."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faults.replica_set import Member, ReplicaSet, replica_set
from tests.processes import LISTENING, webapp
from tests.webapp.browsing import PASSWORD, Visitor
from tests.webapp.commands import run_command

pytestmark = pytest.mark.long

NEW_PASSWORD = "other-words-for-a-test-account"
FREE_TRIES = 5  # wrong passwords that an account may have before the next try waits


@pytest.fixture(scope="module")
def pair(mongod_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReplicaSet]:
    """Run two members that know MongoDB's failpoints."""
    with replica_set(
        *(mongod_binary, tmp_path_factory.mktemp("pair")),
        size=2,
        arguments=("--setParameter", "enableTestCommands=1"),
    ) as whole:
        yield whole


@contextmanager
def lagging(member: Member) -> Iterator[None]:
    """Let a secondary serve reads and fetch nothing from the primary."""
    member.command("configureFailPoint", "stopReplProducer", mode="alwaysOn")
    try:
        yield
    finally:
        member.command("configureFailPoint", "stopReplProducer", mode="off")


@pytest.mark.parametrize(
    "options",
    [
        pytest.param("&readPreference=secondary", id="secondary"),
        pytest.param("&readPreference=secondaryPreferred&maxStalenessSeconds=120", id="staleness"),
        pytest.param("&readPreference=nearest&readPreferenceTags=", id="nearest, with tags"),
        pytest.param("&readConcernLevel=majority", id="majority read concern"),
    ],
)
async def test_changed_password_and_ended_session_stay_so_while_a_secondary_lags(
    pair: ReplicaSet, production: dict[str, str], options: str
) -> None:
    """Whatever the address says, accounts, throttle and sessions are those of the primary."""
    pair.wait_until_whole()
    (secondary,) = pair.others(pair.primary())
    # w=1: with two members every other write concern would wait for the one that lags.
    environ = production | {"APP_ENV": "development", "TRUSTED_PROXY_HOPS": "0"}
    environ |= {"MONGO_URI": f"{pair.hosts_uri}&w=1{options}", "ALLOWED_HOSTS": "127.0.0.1"}
    with webapp(environ=environ) as process:
        process.wait_for(LISTENING)
        base = f"http://127.0.0.1:{environ['PORT']}"
        async with Visitor(base) as visitor:
            assert (await visitor.sign_up(), await visitor.sign_in()) == (201, 200)
            pair.wait_until_whole()
            with lagging(secondary):
                code, output = run_command(
                    *("users", "password", visitor.email),
                    environ=environ,
                    stdin=NEW_PASSWORD,
                )
                profile = await visitor.profile()
                old_password = await visitor.sign_in()
                new_password = await visitor.sign_in(NEW_PASSWORD)
                stale = _password_at(secondary, environ["MONGO_DATABASE"])
                current = _password_at(pair.primary(), environ["MONGO_DATABASE"])

    assert code == 0, output
    assert stale != current  # the secondary did lag
    assert profile == 401
    assert old_password == 401
    assert new_password == 200


def _password_at(member: Member, database: str) -> object:
    with member.client as client:
        document = client[database]["users"].find_one()
        assert document is not None
        return document["password"]


async def test_wrong_passwords_are_counted_while_a_secondary_lags(
    pair: ReplicaSet, production: dict[str, str]
) -> None:
    """The throttle is not read from a member that has not heard of the attempts."""
    pair.wait_until_whole()
    (secondary,) = pair.others(pair.primary())
    environ = production | {"APP_ENV": "development", "TRUSTED_PROXY_HOPS": "0"}
    environ |= {"MONGO_URI": f"{pair.hosts_uri}&w=1&readPreference=secondary"}
    environ |= {"ALLOWED_HOSTS": "127.0.0.1"}
    with webapp(environ=environ) as process:
        process.wait_for(LISTENING)
        async with Visitor(f"http://127.0.0.1:{environ['PORT']}") as visitor:
            assert await visitor.sign_up() == 201
            pair.wait_until_whole()
            with lagging(secondary):
                tries = [await visitor.sign_in("not-" + PASSWORD) for _ in range(7)]

    assert set(tries[:FREE_TRIES]) == {401}
    assert 429 in tries[FREE_TRIES:]
