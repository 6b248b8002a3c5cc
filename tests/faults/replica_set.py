"""Real mongods that form a replica set, each behind its own proxy."""

from __future__ import annotations

import os
import signal
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

from tests.faults.proxy import Proxy
from tests.processes import free_port
from tests.waiting import until
from webapp.database.mongod import Mongod

NAME = "faults"
MEMBERS = 3
# MongoDB's default: how long members wait for a primary that does not answer before an election.
ELECTION_SECONDS = 10.0


@dataclass(frozen=True)
class Member:
    """One server; members and apps know only the port of its proxy."""

    mongod: Mongod
    proxy: Proxy

    @property
    def client(self) -> MongoClient[dict[str, Any]]:
        """A connection to this member without the proxy, whatever its state; close it."""
        return MongoClient(
            self.mongod.uri, directConnection=True, serverSelectionTimeoutMS=2000, timeoutMS=20_000
        )

    def command(self, name: str, value: object = 1, **options: object) -> dict[str, Any]:
        """Run one command of the admin database."""
        with self.client as client:
            return client.admin.command(name, value, **options)

    @property
    def is_primary(self) -> bool:
        """Whether the member says that it is the primary."""
        try:
            return bool(self.command("hello")["isWritablePrimary"])
        except PyMongoError:
            return False

    def kill(self) -> None:
        """Kill it with SIGKILL, like a power failure."""
        os.kill(self.mongod.pid, signal.SIGKILL)
        self.mongod.stop()

    def freeze(self) -> None:
        """Freeze it with SIGSTOP: it neither answers nor closes a connection."""
        os.kill(self.mongod.pid, signal.SIGSTOP)

    def step_down(self) -> None:
        """Make it hand over to a member that has caught up, as in a rolling upgrade."""

        def accepts() -> bool:
            try:
                self.command("replSetStepDown", 4, secondaryCatchUpPeriodSecs=3)
            except OperationFailure:
                return False
            return True

        until(accepts)

    def resume(self) -> None:
        """Let it continue, with SIGCONT."""
        os.kill(self.mongod.pid, signal.SIGCONT)


class ReplicaSet:
    """What a test does to the members, and how an app reaches them."""

    def __init__(self, members: list[Member]) -> None:
        self.members = members

    @property
    def uri(self) -> str:
        """The address for apps, with `w=majority`."""
        return f"{self.hosts_uri}&w=majority"

    @property
    def hosts_uri(self) -> str:
        """The address without any option but the name of the set; others can be appended."""
        hosts = ",".join(f"127.0.0.1:{member.proxy.port}" for member in self.members)
        return f"mongodb://{hosts}/?replicaSet={NAME}"

    def primary(self, *, other_than: Member | None = None) -> Member:
        """Wait for a primary and return it."""
        candidates = [member for member in self.members if member is not other_than]
        return until(lambda: next((m for m in candidates if m.is_primary), None))

    def others(self, member: Member) -> list[Member]:
        """Return the other members."""
        return [other for other in self.members if other is not member]

    def cut_off(self, member: Member, *, with_apps: Collection[int] = ()) -> None:
        """Disconnect a member, and app processes with it, from all others in both directions."""
        member.proxy.stall(spare=with_apps)
        for other in self.others(member):
            other.proxy.stall(sources={member.mongod.pid, *with_apps})

    def heal(self) -> None:
        """Restore all connections."""
        for member in self.members:
            member.proxy.heal()

    def wait_until_whole(self) -> None:
        """Return when one is primary, and the others are secondaries that follow it closely."""

        def is_whole() -> bool:
            try:
                states = self.primary().command("replSetGetStatus")["members"]
            except PyMongoError:
                return False
            names = sorted(state["stateStr"] for state in states)
            applied = [state["optime"]["ts"].time for state in states if "optime" in state]
            whole = names == ["PRIMARY", *["SECONDARY"] * (len(self.members) - 1)]
            return whole and max(applied) - min(applied) <= 1

        until(is_whole, seconds=90)


@contextmanager
def replica_set(
    binary: Path,
    directory: Path,
    *,
    size: int = MEMBERS,
    election_seconds: float = ELECTION_SECONDS,
    arguments: Sequence[str] = (),
) -> Iterator[ReplicaSet]:
    """Run a replica set; every member is stopped afterwards, frozen ones too.

    `arguments` are added to the command line of each member.
    """
    arguments = ("--replSet", NAME, "--oplogSize", "64", *arguments)
    with ExitStack() as stack:
        members = []
        for number in range(size):
            port = free_port()
            mongod = Mongod(binary, directory / str(number), port=port, arguments=arguments)
            members.append(Member(mongod, stack.enter_context(Proxy(port))))
            stack.callback(_end, mongod)
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda member: member.mongod.start(), members))
        hosts = [
            {"_id": number, "host": f"127.0.0.1:{member.proxy.port}"}
            for number, member in enumerate(members)
        ]
        settings = {"electionTimeoutMillis": int(election_seconds * 1000)}
        members[0].command("replSetInitiate", {"_id": NAME, "members": hosts, "settings": settings})
        whole = ReplicaSet(members)
        until(lambda: _stands_for_election(members[0]))
        whole.wait_until_whole()
        yield whole


def _stands_for_election(member: Member) -> bool:
    # Without this command it would first wait for another primary, as long as for a failed one.
    try:
        member.command("replSetStepUp")
    except PyMongoError:
        return False
    return True


def _end(mongod: Mongod) -> None:
    # SIGKILL also stops frozen ones; a primary that is asked to stop waits for the others.
    if mongod._process is not None:
        mongod._process.kill()
    mongod.stop()
