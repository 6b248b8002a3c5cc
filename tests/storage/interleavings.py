"""Two storages over one collection, driven at random and compared with a small model.

Requests overlap: one loads, others load and save, and only then the first one saves. What was
acknowledged must be there for the next load of either storage; what has ended must stay ended,
whichever request is still on its way.
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
from tests.storage.conftest import Clock
from tests.storage.direct import load
from tests.storage.session_model import ABSOLUTE, IDLE, TOUCH, Model, Record, Request

OPEN_AT_MOST = 3
PROCESSES = st.sampled_from([0, 1])
OWNERS = st.sampled_from([1, 2])
# Counted from the newest session; None is a visitor without a cookie.
WHICH = st.one_of(st.just(0), st.integers(0, 2), st.integers(0, 4), st.integers(0, 20), st.none())
NAMES = st.sampled_from(["a", "b", "c"])
PLAIN = st.one_of(st.integers(0, 3), st.lists(st.integers(0, 3), max_size=2))
Operation = tuple[Any, ...]
OPERATIONS: st.SearchStrategy[Operation] = st.one_of(
    st.tuples(st.just("set"), NAMES, PLAIN),
    st.tuples(st.just("append"), NAMES, st.integers(0, 3)),
    st.tuples(st.just("delete"), st.sampled_from(["a", "b", "c", "user_id"])),
    st.tuples(st.just("set"), st.just("user_id"), OWNERS),
    st.tuples(st.sampled_from(["renew", "log out", "begin anew"])),
)


class Interleavings(RuleBasedStateMachine):
    """Opens requests, changes their sessions, and lets them save in any order."""

    def __init__(self, runner: asyncio.Runner, collection: Any) -> None:
        super().__init__()
        self.runner = runner
        self.collection = collection
        self.clock = Clock()
        self.secrets = [generate_secret(), generate_secret()]
        self.phases: list[int] = []
        self.made: list[MongoStorage] = []
        self.storages: list[MongoStorage] = []
        self.model = Model(self.clock)
        self.records = self.model.records
        self.requests: list[Request] = []
        self.turns = itertools.cycle((0, 1))
        self.wait(self.collection.delete_many({}))

    def wait(self, work: Any) -> Any:
        """Run a coroutine or a Future of the driver to its end."""

        async def run() -> Any:
            return await work

        return self.runner.run(run())

    def storage_at(self, phase: int) -> MongoStorage:
        """Start a process: its secrets are those of one step of a rotation."""
        turn, step = divmod(phase, 3)
        while len(self.secrets) < turn + 2:
            self.secrets.append(generate_secret())
        old, new = self.secrets[turn : turn + 2]
        storage = MongoStorage(
            self.collection,
            [[old], [old, new], [new, old]][step],
            max_age=IDLE,
            absolute_timeout=ABSOLUTE,
            describe=lambda _request: "device",
        )
        storage.clock = self.clock
        self.made.append(storage)
        return storage

    @initialize(phases=st.sampled_from([(1, 2), (2, 1), (0, 0)]))
    def two_visitors(self, phases: tuple[int, int]) -> None:
        """Begin somewhere in a rotation, with a session of somebody signed in, and nobody's."""
        self.phases = [*phases]
        self.storages = [self.storage_at(phase) for phase in phases]
        for values in ({"user_id": 1, "a": [0], "b": 1}, {"a": [0], "c": 2}):
            self.begin(0, None, [("set", name, value) for name, value in values.items()])
            self.finish(0)

    # What requests do

    @rule(process=PROCESSES, which=WHICH, operations=st.lists(OPERATIONS, max_size=3))
    def visit(self, process: int, which: int | None, operations: list[Operation]) -> None:
        """Load a session that was ever given out, or come without a cookie, and change it."""
        if len(self.requests) == OPEN_AT_MOST:
            self.finish(0)
        self.begin(process, None if which is None else self.cookie(which), operations)

    @precondition(lambda self: self.requests)
    @rule(which=st.integers(0, 2), operation=OPERATIONS)
    def go_on(self, which: int, operation: Operation) -> None:
        """Change the session of a request under way."""
        self.apply(self.requests[which % len(self.requests)], *operation)

    def cookie(self, which: int) -> str:
        """Pick a cookie; the lower the number, the rather one of a session that is alive."""
        now = self.clock()
        cookies = sorted(self.records, key=lambda cookie: self.records[cookie].alive(now) is True)
        return cookies[-1 - which % len(cookies)]

    def begin(self, process: int, cookie: str | None, operations: list[Operation]) -> None:
        """Open a request, and change its session."""
        request = self.loaded(process, cookie)
        self.requests.append(request)
        for operation in operations:
            self.apply(request, *operation)

    def loaded(self, process: int, cookie: str | None) -> Request:
        """Load, and compare with the model."""
        visit = self.wait(load(self.storages[process], cookie))
        record = None if cookie is None else self.records[cookie]
        seen, alive = dict(visit.session), False
        if record is not None:
            alive = record.alive(self.clock())  # type: ignore[assignment]
            if alive is None and record.values:
                alive = bool(seen)
                self.settle(record, alive=alive)
            assert seen == (record.values if alive else {})
        else:
            assert seen == {}
        record = record if seen else None
        return Request(visit, self.phases[process], record, cookie, copy.deepcopy(seen))

    def settle(self, record: Record, *, alive: bool) -> None:
        """Note what a load has shown where the model left it open."""
        if alive:
            record.seen_after = max(record.seen_after, self.clock() - IDLE + 1)
        else:
            record.ended = True

    def apply(self, request: Request, what: str, name: str = "", value: object = None) -> None:
        """Do to the session what a handler may do."""
        session = request.visit.session
        match what:
            case "set":
                session[name] = copy.deepcopy(value)
                request.assigned.add(name)
                request.touched = True
            case "delete":
                request.touched |= name in session
                session.pop(name, None)
                request.assigned.discard(name)
            case "append":
                # A nested change, of which the session is not told.
                if isinstance(session.get(name), list):
                    session[name].append(value)
            case "renew":
                session.renew()
                request.renewed = True
            case "log out":
                session.invalidate()
                request.assigned.clear()
                request.invalidated = request.touched = True
            case "begin anew":
                request.visit.session = self.wait(new_session(request.visit.request))
                request.assigned.clear()
                request.begun_anew, request.touched = True, False

    @precondition(lambda self: self.requests)
    @rule(which=st.integers(0, 2))
    def finish(self, which: int) -> None:
        """Save, and compare the cookie and the outcome with the model."""
        request = self.requests.pop(which % len(self.requests))
        self.peek(request.cookie)
        values = copy.deepcopy(request.values)
        expected = self.model.outcome(request, values)
        cookie = self.wait(request.visit.save())
        if expected is None:
            assert cookie == request.cookie
        elif expected.ended:
            assert cookie is None
        elif expected is not request.record:
            assert cookie not in (None, *self.records)
            self.records[str(cookie)] = expected
        self.peek(request.cookie)
        self.peek(cookie)

    def peek(self, cookie: str | None) -> None:
        """Load and compare, at one process and then at the other, without saving."""
        if cookie is not None:
            self.loaded(next(self.turns), cookie)

    # What happens around them

    @rule(seconds=st.sampled_from([1, 7, 49, 51, 60, 100, 120, 400, 960, 1001]))
    def time_passes(self, seconds: int) -> None:
        """Move the clock: within a touch interval, beyond it, beyond the idle timeout."""
        self.clock.advance(seconds)

    @rule(process=PROCESSES, which=st.integers(0, 20))
    def revoke(self, process: int, which: int) -> None:
        """End any session from outside, by its handle."""
        cookie = self.cookie(which)
        storage, session = self.storages[process], self.loaded(process, cookie).visit.session
        if (handle := storage.handle(session)) is not None:
            assert self.wait(storage.revoke(handle))
            self.records[cookie].ended = True

    @rule(process=PROCESSES, owner=OWNERS)
    def revoke_owner(self, process: int, owner: int) -> None:
        """End all sessions of an owner: exactly the live ones were listed before."""
        for cookie in self.records:
            self.peek(cookie)
        theirs = [r for r in self.records.values() if r.values.get("user_id") == owner]
        storage, now = self.storages[process], self.clock()
        listed = self.wait(all_of(storage.sessions(owner)))
        assert len(listed) == len([record for record in theirs if record.alive(now)])
        self.wait(storage.revoke_owner(owner))
        for record in theirs:
            record.ended = True

    # How secrets rotate

    @rule(process=PROCESSES)
    def restart(self, process: int) -> None:
        """Take the next step of a rotation at one process, as the steps allow it."""
        at = self.phases[process]
        if min(*self.phases, *(request.phase for request in self.requests), at) < at:
            return
        if (at + 1) % 3 == 0:
            self.retire_old_secret(process)
        self.phases[process] = at + 1
        self.storages[process] = self.storage_at(at + 1)

    def retire_old_secret(self, process: int) -> None:
        """Use every session once: afterwards nothing hangs on the old secret any more."""
        self.clock.advance(TOUCH + 1)
        for cookie in [*self.records]:
            self.begin(process, cookie, [])
            self.finish(-1)
        emptied = [r for r in self.records.values() if not (r.values or r.ended)]
        assert self.wait(self.storages[process].count(retired=True)) <= len(emptied)

    @invariant()
    def documents_name_every_secret_that_they_need(self) -> None:
        """Whoever drops a secret trusts the count of sessions that still need it."""
        for document in self.wait(self.collection.find().to_list(None)):
            sealed = (document["label"], *document["values"].values())
            named = {document["key_id"], *document.get("later_key_ids", [])}
            assert {key_id_of(value) for value in sealed} <= named

    def teardown(self) -> None:
        """Look at every session that ever was once more."""
        for cookie in self.records:
            self.peek(cookie)
        for storage in self.made:
            self.wait(storage.aclose())


async def all_of(items: Any) -> list[Any]:
    """Collect what an asynchronous iterator yields."""
    return [item async for item in items]
