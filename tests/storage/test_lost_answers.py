"""A renewal or a save is carried out, and the connection breaks before its answer arrives.

On a single server: there the drivers repeat no write.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from storage import MongoStorage, StorageUnavailable, save_session
from storage.session import MongoSession
from tests.faults.proxy import Proxy
from tests.storage.conftest import Visitor, close, make_client, real_drivers, set_cookie_of
from tests.storage.direct import load, values, visit
from tests.storage.overlap import during
from webapp.database.mongod import Mongod

pytestmark = real_drivers


@pytest.fixture
def proxy(mongod: Mongod) -> Iterator[Proxy]:
    """Run a proxy in front of the shared server."""
    with Proxy(mongod.port) as proxy:
        yield proxy


@pytest.fixture
async def collection(driver: str, proxy: Proxy, database_name: str) -> AsyncIterator[Any]:
    """Open an empty collection behind the proxy."""
    client = make_client(driver, f"mongodb://127.0.0.1:{proxy.port}")
    yield client[database_name]["sessions"]
    await close(client)


def lose_one_answer(proxy: Proxy, command: bytes = b"findAndModify", *, skip: int = 0) -> None:
    """Break the connection in the middle of the answer to a command, after `skip` others."""
    left = [True, *[False] * skip]

    def breaks(sent: bytes) -> bool:
        # A BSON string of this name, with which the command begins.
        return b"\x02%b\x00" % command in sent and bool(left) and left.pop()

    proxy.break_answers(breaks)


def renewing(own: dict[str, Any]) -> Callable[[MongoSession], None]:
    """Return a change that renews the session and sets values."""

    def change(session: MongoSession) -> None:
        session.renew()
        session.update(own)

    return change


@pytest.mark.parametrize("own", [{}, {"user_id": 7}], ids=["a renewal", "a sign-in"])
async def test_renewal_whose_answer_was_lost_signs_nobody_out(
    own: dict[str, Any],
    visitor: Visitor,
    storage: MongoStorage,
    proxy: Proxy,
) -> None:
    """One more look shows that it was carried out."""
    await visitor.do(lambda session: session.update(name="Ada"))
    old = visitor.cookie
    late = await load(storage, old)
    lose_one_answer(proxy)

    renewed = await visitor.do(renewing(own))
    late.session["late"] = True
    await late.save()

    assert proxy.broken == 1
    assert renewed.status == 200
    assert len(set_cookie_of(renewed)) == 1
    assert await visitor.session() == {"name": "Ada", "late": True, **own}
    assert await values(storage, old) == {}
    assert await storage.count() == 1


async def test_changes_before_a_renewal_whose_answer_was_lost_are_kept(
    visitor: Visitor, proxy: Proxy
) -> None:
    """They were copied to the new session before the old one was replaced."""
    await visitor.do(lambda session: session.update(user_id=7, cart=[0]))

    async def meanwhile() -> None:
        await visitor.do(lambda session: session["cart"].append(1))
        # The first one finds that the session has changed.
        lose_one_answer(proxy, skip=1)

    renewed = await during(visitor, meanwhile, lambda session: session.renew())

    assert renewed.status == 200
    assert await visitor.session() == {"user_id": 7, "cart": [0, 1]}


@pytest.mark.parametrize("renewed", ["before", "after"])
async def test_save_after_one_whose_answer_was_lost_is_stored_although_the_session_was_renewed(
    renewed: str, storage: MongoStorage, proxy: Proxy
) -> None:
    """What it finds at the new place are its own values, and not somebody else's."""
    cookie = await visit(storage, None, lambda session: session.update(user_id=7, step=1, gone=1))
    begun = await load(storage, cookie)
    if renewed == "before":
        cookie = await visit(storage, cookie, MongoSession.renew)
    begun.session.update(step=2, added=True)
    del begun.session["gone"]
    begun.session.max_age = 600
    # The first update misses a session that was renewed.
    lose_one_answer(proxy, b"update", skip=renewed == "before")
    with pytest.raises(StorageUnavailable):
        await save_session(begun.request)
    if renewed == "after":
        cookie = await visit(storage, cookie, MongoSession.renew)
    assert await values(storage, cookie) == {"user_id": 7, "step": 2, "added": True}

    begun.session.update(step=3, gone=2)
    del begun.session["added"]
    begun.session.max_age = 60
    await save_session(begun.request)

    there = (await load(storage, cookie)).session
    assert dict(there) == {"user_id": 7, "step": 3, "gone": 2}
    assert there.max_age == 60


async def test_save_whose_answer_was_lost_is_not_followed_over_a_sign_in(
    storage: MongoStorage, proxy: Proxy
) -> None:
    """Of nobody's session somebody else may know the values: its new owner's stay."""
    cookie = await visit(storage, None, lambda session: session.update(step=1))
    begun = await load(storage, cookie)
    begun.session["step"] = 2
    lose_one_answer(proxy, b"update")
    with pytest.raises(StorageUnavailable):
        await save_session(begun.request)
    cookie = await visit(storage, cookie, lambda session: session.update(user_id=7))

    begun.session["step"] = 3
    await save_session(begun.request)

    assert await values(storage, cookie) == {"user_id": 7, "step": 2}


async def test_save_after_two_that_failed_leaves_what_the_first_one_stored(
    storage: MongoStorage, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the last of them is known: the value counts as somebody else's after a renewal."""
    cookie = await visit(storage, None, lambda session: session.update(user_id=7, step=1))
    begun = await load(storage, cookie)
    begun.session["step"] = 2
    lose_one_answer(proxy, b"update")
    with pytest.raises(StorageUnavailable):
        await save_session(begun.request)
    begun.session["step"] = 3
    with monkeypatch.context() as patched:
        patched.setattr(storage._driver, "timeout_seconds", -1.0)  # it is not even sent
        with pytest.raises(StorageUnavailable):
            await save_session(begun.request)
    cookie = await visit(storage, cookie, MongoSession.renew)

    begun.session["step"] = 4
    await save_session(begun.request)

    assert await values(storage, cookie) == {"user_id": 7, "step": 2}
