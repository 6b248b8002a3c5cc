"""The label of a session, which `describe` returns: sealed, and never a reason for an error."""

from __future__ import annotations

import logging
from contextvars import ContextVar
from typing import Any

import pytest
from aiohttp import web

from storage import MongoStorage
from storage.session import MongoSession
from tests.storage.conftest import Clock, MakeStorage, OpenSite, every_driver, set_cookie_of
from tests.storage.direct import values, visit

LANGUAGE: ContextVar[str] = ContextVar("LANGUAGE")


def sign_in(session: MongoSession) -> None:
    """Make 7 the owner."""
    session["user_id"] = 7


async def labels(storage: MongoStorage) -> list[str]:
    """Return the labels of the owner's sessions."""
    return [info.label async for info in storage.sessions(7)]


class Describe:
    """A `describe` that counts its calls."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.calls = 0

    def __call__(self, request: web.Request) -> Any:
        """Return the next answer; the last one is repeated."""
        self.calls += 1
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@every_driver
async def test_label_is_what_describe_returns_for_the_request(
    open_site: OpenSite, make_storage: MakeStorage
) -> None:
    """It gets the request, so that it can read User-Agent."""
    storage = make_storage(describe=lambda request: request.headers["User-Agent"])
    visitor = await (await open_site(storage)).visitor()
    visitor.client.session.headers["User-Agent"] = "Browser of Ada"

    await visitor.do(sign_in)

    assert await labels(storage) == ["Browser of Ada"]


async def test_describe_is_called_for_a_new_token_and_for_a_touch_only(
    make_storage: MakeStorage, clock: Clock
) -> None:
    """Not for every read or save; each label replaces the one before."""
    describe = Describe("first", "touched", "renewed")
    storage = make_storage(max_age=1200, describe=describe)
    cookie = await visit(storage, None, sign_in)
    await visit(storage, cookie, dict)
    await visit(storage, cookie, lambda session: session.update(a=1))
    assert (describe.calls, await labels(storage)) == (1, ["first"])

    clock.advance(60)
    await visit(storage, cookie, dict)
    assert (describe.calls, await labels(storage)) == (2, ["touched"])

    await visit(storage, cookie, lambda session: session.renew())
    assert (describe.calls, await labels(storage)) == (3, ["renewed"])


async def test_label_of_another_session_is_not_shown(
    make_storage: MakeStorage, collection: Any
) -> None:
    """Labels that somebody moves between documents are shown as empty."""
    storage = make_storage(describe=Describe("Ada's", "Bob's"))
    await visit(storage, None, sign_in)
    await visit(storage, None, sign_in)
    one, other = await collection.find().to_list(None)

    for document, label in ((one, other["label"]), (other, one["label"])):
        await collection.update_one({"_id": document["_id"]}, {"$set": {"label": label}})

    assert await labels(storage) == ["", ""]


async def test_damaged_label_is_empty_and_its_session_works(
    make_storage: MakeStorage, collection: Any
) -> None:
    """The label cannot be read, but the session still can."""
    storage = make_storage(describe=lambda _request: "Firefox")
    cookie = await visit(storage, None, sign_in)

    await collection.update_one({}, {"$set": {"label": b"\x01damaged"}})

    assert await labels(storage) == [""]
    assert await values(storage, cookie) == {"user_id": 7}


async def test_session_without_a_label_shows_an_empty_one(make_storage: MakeStorage) -> None:
    """Without `describe` the label is "" and not None."""
    storage = make_storage()

    await visit(storage, None, sign_in)

    assert await labels(storage) == [""]


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        pytest.param("", "", id="empty"),
        pytest.param("n" * 100_000, "n" * 200, id="too long"),
        pytest.param("🍪" * 201, "🍪" * 200, id="cut between characters"),
        pytest.param("\udcff!", "?!", id="surrogates"),
        pytest.param("a\0b\r\nc", "a\0b\r\nc", id="control characters, kept"),
        pytest.param(None, "", id="None"),
        pytest.param(7, "", id="a number"),
        pytest.param(b"Firefox", "", id="bytes"),
    ],
)
async def test_login_succeeds_whatever_describe_returns(
    open_site: OpenSite, make_storage: MakeStorage, answer: Any, shown: str
) -> None:
    """Long text is cut, surrogates are replaced, and anything but text is an empty label."""
    storage = make_storage(describe=lambda _request: answer)
    visitor = await (await open_site(storage)).visitor()

    response = await visitor.do(sign_in)

    assert response.status == 200
    assert await visitor.session() == {"user_id": 7}
    assert await labels(storage) == [shown]


async def test_describe_that_returns_no_text_is_logged_with_the_type_alone(
    make_storage: MakeStorage, caplog: pytest.LogCaptureFixture
) -> None:
    """The value itself, which may be a secret of the request, is not logged."""
    storage = make_storage(describe=lambda _request: b"Firefox")

    await visit(storage, None, sign_in)

    assert caplog.messages == ["describe returned bytes, not text"]


async def test_touch_without_a_new_label_keeps_the_stored_one(
    open_site: OpenSite, make_storage: MakeStorage, clock: Clock
) -> None:
    """The last valid label is still shown."""
    answers: list[Any] = ["Firefox", None]
    storage = make_storage(describe=lambda _request: answers.pop(0))
    visitor = await (await open_site(storage)).visitor()
    await visitor.do(sign_in)
    clock.advance(2 * 3600)

    response = await visitor.do(len)

    assert len(set_cookie_of(response)) == 1
    assert answers == []
    assert await labels(storage) == ["Firefox"]


@pytest.mark.parametrize(
    "error", [RuntimeError("a bug"), KeyError("User-Agent"), web.HTTPForbidden(), RecursionError()]
)
async def test_login_succeeds_when_describe_raises(
    open_site: OpenSite,
    make_storage: MakeStorage,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    """The error is logged; the session gets an empty label."""

    def describe(_request: web.Request) -> str:
        raise error

    storage = make_storage(describe=describe)
    visitor = await (await open_site(storage)).visitor()

    with caplog.at_level(logging.ERROR, logger="storage"):
        response = await visitor.do(sign_in)

    assert response.status == 200
    assert len(set_cookie_of(response)) == 1
    assert await labels(storage) == [""]
    assert caplog.messages == ["describe failed; no label is written"]
    assert ["describe" in line.getMessage() for line in caplog.records] == [True]


async def test_describe_runs_in_the_context_of_its_request(
    open_site: OpenSite, make_storage: MakeStorage
) -> None:
    """It can read a context variable that the handler has set, such as the language."""
    storage = make_storage(describe=lambda _request: LANGUAGE.get())
    visitor = await (await open_site(storage)).visitor()

    def change(session: MongoSession) -> None:
        LANGUAGE.set("Portuguese")
        sign_in(session)

    await visitor.do(change)

    assert await labels(storage) == ["Portuguese"]
