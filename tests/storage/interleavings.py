"""Random histories of two storages with one collection, compared with a small model.

Requests overlap: one loads, others load and save, and then the first one saves. Every acknowledged
change must be in the next load of either storage, and a session that has ended must stay ended,
whatever a slow request saves.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
from typing import Any

from aiohttp_session import new_session
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from storage import MongoStorage
from storage.sealing import generate_secret, key_id_of
from tests.storage.conftest import SESSIONS, Clock
from tests.storage.direct import load
from tests.storage.session_model import ABSOLUTE, FOLLOWED, IDLE, TOUCH, Model, Request

MOST_REQUESTS = 3
PROCESSES = st.sampled_from([0, 1])
OWNERS = st.sampled_from([1, 2])
# Counted from the newest active session; None is a visitor without a cookie.
WHICH = st.one_of(st.just(0), st.integers(0, 2), st.integers(0, 4), st.integers(0, 20), st.none())
NAMES = st.sampled_from(["a", "b", "c"])
VALUES = st.one_of(st.integers(0, 3), st.lists(st.integers(0, 3), max_size=2))
Operation = tuple[Any, ...]
OPERATIONS: st.SearchStrategy[Operation] = st.one_of(
    st.tuples(st.just("set"), NAMES, VALUES),
    st.tuples(st.just("append"), NAMES, st.integers(0, 3)),
    st.tuples(st.just("delete"), st.sampled_from(["a", "b", "c", "user_id"])),
    st.tuples(st.just("set"), st.just("user_id"), OWNERS),
    st.tuples(st.sampled_from(["renew", "invalidate", "new_session"])),
    st.tuples(st.just("renew"), st.sampled_from(["10", "60"])),
)

MOVES: st.SearchStrategy[Operation] = st.sampled_from(
    [("renew",), ("renew", "10"), ("set", "user_id", 1), ("set", "user_id", 2)]
)


class Interleavings(RuleBasedStateMachine):
    """Starts requests, changes their sessions, and lets them save in any order."""

    def __init__(self, runner: asyncio.Runner, collection: Any) -> None:
        super().__init__()
        self.runner = runner
        self.collection = collection
        self.clock = Clock()
        self.secrets = [generate_secret(), generate_secret()]
        # How far each process is in the rotations of secrets, three phases in each.
        self.phases: list[int] = []
        self.storages: list[MongoStorage] = []
        self.closed_at_the_end: list[MongoStorage] = []
        self.model = Model(self.clock)
        self.records = self.model.records
        self.requests: list[Request] = []
        self.next_process = itertools.cycle((0, 1))
        self.wait(self.collection.delete_many({}))

    def wait(self, work: Any) -> Any:
        """Run a coroutine or a Future of the driver to its end."""

        async def run() -> Any:
            return await work

        return self.runner.run(run())

    def storage_in(self, phase: int) -> MongoStorage:
        """Start a process with the secrets of a phase."""
        rotation, step = divmod(phase, 3)
        while len(self.secrets) < rotation + 2:
            self.secrets.append(generate_secret())
        old, new = self.secrets[rotation : rotation + 2]
        storage = MongoStorage(
            self.collection,
            [[old], [old, new], [new, old]][step],
            max_age=IDLE,
            absolute_timeout=ABSOLUTE,
            describe=lambda _request: "device",
        )
        storage.clock = self.clock
        self.closed_at_the_end.append(storage)
        return storage

    @initialize(phases=st.sampled_from([(1, 2), (2, 1), (0, 0)]))
    def store_two_sessions(self, phases: tuple[int, int]) -> None:
        """Start two processes, and store a session with an owner and an anonymous one."""
        self.phases = [*phases]
        self.storages = [self.storage_in(phase) for phase in phases]
        for values in ({"user_id": 1, "a": [0], "b": 1}, {"a": [0], "c": 2}):
            self.start(0, None, [("set", name, value) for name, value in values.items()])
            self.finish(0)

    # Requests

    @rule(process=PROCESSES, which=WHICH, operations=st.lists(OPERATIONS, max_size=3))
    def visit(self, process: int, which: int | None, operations: list[Operation]) -> None:
        """Start a request with the cookie of any session, active or not, or without a cookie."""
        if len(self.requests) == MOST_REQUESTS:
            self.finish(0)
        self.start(process, None if which is None else self.cookie(which), operations)

    @rule(process=PROCESSES, which=WHICH, move=MOVES, operations=st.lists(OPERATIONS, max_size=3))
    def renew_during_a_request(
        self, process: int, which: int | None, move: Operation, operations: list[Operation]
    ) -> None:
        """Start a request, and renew its session with another one before it saves."""
        while len(self.requests) > MOST_REQUESTS - 2:
            self.finish(0)
        cookie = self.cookie(which or 0)
        self.start(process, cookie, operations)
        self.start(1 - process, cookie, [move])
        self.finish(-1)

    @precondition(lambda self: self.requests)
    @rule(which=st.integers(0, 2), operation=OPERATIONS)
    def change(self, which: int, operation: Operation) -> None:
        """Change the session of a request that was started."""
        self.apply(self.requests[which % len(self.requests)], *operation)

    @precondition(lambda self: self.requests)
    @rule(which=st.integers(0, 2))
    def finish(self, which: int) -> None:
        """Save a session, and compare the cookie and the next loads with the model."""
        request = self.requests.pop(which % len(self.requests))
        self.check(request.cookie)
        # What a late save finds: the model cannot know of a touch that was not due.
        for cookie in [*self.records]:
            self.check(cookie)
        values = copy.deepcopy(request.values)
        expected = self.model.save(request, values)
        cookie = self.wait(request.visit.save())
        if expected is None:
            assert cookie == request.cookie
        elif expected.ended:
            assert cookie is None
        elif expected is not request.record:
            assert cookie not in (None, *self.records)
            self.records[str(cookie)] = expected
        self.check(request.cookie)
        self.check(cookie)

    def cookie(self, which: int) -> str:
        """Return a cookie; low numbers are those of active sessions, the newest first."""
        now = self.clock()
        cookies = sorted(self.records, key=lambda c: self.records[c].is_active(now) is True)
        return cookies[-1 - which % len(cookies)]

    def start(self, process: int, cookie: str | None, operations: list[Operation]) -> None:
        """Load a session and change it."""
        request = self.loaded(process, cookie)
        self.requests.append(request)
        for operation in operations:
            self.apply(request, *operation)

    def loaded(self, process: int, cookie: str | None) -> Request:
        """Load a session, and compare its values with the model."""
        visit = self.wait(load(self.storages[process], cookie))
        now, active = self.clock(), None
        asked = None if cookie is None else self.records[cookie]
        record = None if asked is None else asked.opened(now)
        seen = dict(visit.session)
        if record is not None:
            active = record.is_active(now)
            if active is None and record.values:
                active = bool(seen)
                record.observe(now, active=active)
        assert seen == (record.values if record is not None and active else {})
        found = record if seen else None
        request = Request(visit, self.phases[process], cookie, found, copy.deepcopy(seen))
        request.by_grace = found is not None and found is not asked
        return request

    def check(self, cookie: str | None) -> None:
        """Load and compare without saving, in each process by turns."""
        if cookie is not None:
            self.loaded(next(self.next_process), cookie)

    def apply(self, request: Request, what: str, name: str = "", value: object = None) -> None:
        """Do to the session what a handler may do."""
        session = request.visit.session
        match what:
            case "set":
                session[name] = copy.deepcopy(value)
                request.assigned.add(name)
                request.changed = True
            case "delete":
                request.changed |= name in session
                session.pop(name, None)
                request.assigned.discard(name)
            case "append":
                # Only a comparison at the save can notice this change.
                if isinstance(session.get(name), list):
                    session[name].append(value)
            case "renew":
                session.renew(1000 * int(name or 0))
                request.renewed, request.grace = True, int(name or 0)
            case "invalidate":
                session.invalidate()
                request.assigned.clear()
                request.invalidated = request.changed = True
            case "new_session":
                request.visit.session = self.wait(new_session(request.visit.request))
                request.assigned.clear()
                request.replaced, request.changed = True, False

    # Time, and the ends of sessions

    @rule(seconds=st.sampled_from([1, 7, 49, 51, 60, 100, 120, 400, 960, 1001]))
    def advance(self, seconds: int) -> None:
        """Move the clock: within a touch interval, beyond it, or beyond the idle timeout."""
        self.clock.advance(seconds)

    @rule(process=PROCESSES, which=st.integers(0, 20))
    def revoke(self, process: int, which: int) -> None:
        """End any session by its handle."""
        cookie = self.cookie(which)
        storage, request = self.storages[process], self.loaded(process, cookie)
        if (handle := storage.handle(request.visit.session)) is not None:
            assert request.record is not None
            assert self.wait(storage.revoke(handle))
            request.record.ended = True

    @rule(process=PROCESSES, owner=OWNERS)
    def revoke_owner(self, process: int, owner: int) -> None:
        """End all sessions of an owner, after the list has shown the active ones."""
        for cookie in self.records:
            self.check(cookie)
        records = [r for r in self.records.values() if r.values.get("user_id") == owner]
        storage, now = self.storages[process], self.clock()
        listed = self.wait(all_of(storage.sessions(owner)))
        assert len(listed) == len([record for record in records if record.is_active(now)])
        self.wait(storage.revoke_owner(owner))
        for record in records:
            record.ended = True

    # Rotation of secrets

    @rule(process=PROCESSES)
    def restart(self, process: int) -> None:
        """Restart a process with the next phase, if no process and no request is behind it."""
        phase = self.phases[process]
        if min(*self.phases, *(request.phase for request in self.requests), phase) < phase:
            return
        if (phase + 1) % 3 == 0:
            self.retire_old_secret(process)
        self.phases[process] = phase + 1
        self.storages[process] = self.storage_in(phase + 1)

    def retire_old_secret(self, process: int) -> None:
        """Touch every session, so that none needs the old secret any more, and no forward."""
        self.clock.advance(max(TOUCH, FOLLOWED) + 1)
        for cookie in [*self.records]:
            self.start(process, cookie, [])
            self.finish(-1)
        emptied = [r for r in self.records.values() if not (r.values or r.ended)]
        assert self.wait(self.storages[process].count(retired=True)) <= len(emptied)

    @invariant()
    def documents_name_every_secret_that_they_need(self) -> None:
        """An operator removes a secret when the count of retired sessions is zero."""
        for document in self.wait(self.collection.find(SESSIONS).to_list(None)):
            sealed = (document["label"], *document["values"].values())
            named = {document["key_id"], *document.get("later_key_ids", [])}
            assert {key_id_of(value) for value in sealed} <= named

    def teardown(self) -> None:
        """Compare every session once more, and close the storages."""
        for cookie in self.records:
            self.check(cookie)
        for storage in self.closed_at_the_end:
            self.wait(storage.aclose())


async def all_of(items: Any) -> list[Any]:
    """Collect what an asynchronous iterator yields."""
    return [item async for item in items]
