"""Malicious requests to a web app in production cause no crash and no leak."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import chain

import pytest

from tests.conftest import only_in_full
from tests.faults.conftest import Remark
from tests.faults.hostile import MARKER, Hostile
from tests.faults.people import COOKIE, Person
from tests.faults.raw import ask
from tests.processes import Process

pytestmark = pytest.mark.long

AT_ONCE = 32
LOOK_EVERY = 250


@pytest.mark.parametrize(
    "generated",
    [
        pytest.param(30_000, id="thirty thousand"),
        pytest.param(100_000, id="a hundred thousand", marks=only_in_full),
    ],
)
async def test_hostile_requests_cause_no_crash_leak_or_takeover(
    site: Process, production: dict[str, str], remark: Remark, generated: int
) -> None:
    """No 500, no data of others in an answer, no secret in the log; two people stay signed in."""
    port = int(production["PORT"])
    people = [Person("Ada", "203.0.113.1", port), Person("Grace", "203.0.113.2", port)]
    for person in people:
        assert (await person.sign_up(), await person.sign_in()) == (201, 200)
    private = [text.encode() for person in people for text in person.private]
    hostile = Hostile([person.token for person in people], cookie_name=COOKIE)
    statuses: Counter[int] = Counter()
    requests = chain(hostile.whole(), hostile.listed(), hostile.generated(generated))

    async def attack() -> None:
        for request in requests:
            answer = await ask(port, request)
            statuses[answer.status] += 1
            assert answer.status != 500, request
            received = answer.head + answer.body
            # The answer may contain what the attacker sent.
            assert not [text for text in private if text in received and text not in request], (
                request
            )
            if sum(statuses.values()) % LOOK_EVERY == 0:
                assert [await person.is_served() for person in people] == [True, True]

    await asyncio.gather(*(attack() for _ in range(AT_ONCE)))

    remark(f"{sum(statuses.values())} hostile requests: {dict(sorted(statuses.items()))}")
    assert [await person.is_served() for person in people] == [True, True]
    assert [await person.sign_in() for person in people] == [200, 200]
    assert site._process.poll() is None
    for secret in [MARKER, production["SESSION_SECRET"], "Traceback", "$argon2"]:
        assert secret not in site.output
    for person in people:
        assert not [text for text in person.private if text in site.output]
