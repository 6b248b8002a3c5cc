"""What happens seldom: odd encoders, damage between two steps of a save, other storages."""

from __future__ import annotations

import json
from collections import OrderedDict
from functools import partial
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from aiohttp_session import SimpleCookieStorage
from aiohttp_session import setup as plain_setup
from pymongo import AsyncMongoClient, MongoClient, monitoring

from storage import MongoStorage, SessionNotSerializable, renew_session
from storage.session import MongoSession
from tests.storage.conftest import (
    MakeStorage,
    OpenSite,
    Site,
    Visitor,
    set_cookie_of,
)


async def save(storage: MongoStorage, **values: Any) -> None:
    """Save a new session without any HTTP."""
    session = await storage.new_session()
    session.update(values)
    await storage.save_session(make_mocked_request("GET", "/"), web.Response(), session)


def refusing(_encoded: object) -> Any:
    """Decode nothing."""
    raise LookupError("the value itself")


@pytest.mark.parametrize("value", [[1], "a"], ids=["nested", "scalar"])
@pytest.mark.parametrize(
    ("codec", "message"),
    [
        pytest.param({"encoder": lambda _: 7}, "the encoder returned int", id="number"),
        pytest.param(
            {"decoder": refusing}, r"the decoder refused .* \(LookupError\)", id="one way"
        ),
    ],
)
async def test_value_that_would_not_come_back_is_refused_by_its_key(
    make_storage: MakeStorage, codec: dict[str, Any], message: str, value: object
) -> None:
    """An encoder that returns no text, and a decoder that cannot follow, are found at the save."""
    storage = make_storage(**codec)

    with pytest.raises(SessionNotSerializable, match=rf"session\['cart'\]: .*{message}") as caught:
        await save(storage, cart=value)

    assert "the value itself" not in str(caught.value)


async def test_exchanged_encoder_rewrites_nothing(
    make_storage: MakeStorage, open_site: OpenSite
) -> None:
    """Another spelling of the same value is not a change."""
    before = await (await open_site(make_storage())).visitor()
    await before.do(lambda session: session.update(cart={"items": [1, 2]}, name="Zoë"))
    spaced = make_storage(encoder=partial(json.dumps, indent=2, ensure_ascii=False))
    after = await (await open_site(spaced)).visitor(before.cookie)

    assert await after.session() == {"cart": {"items": [1, 2]}, "name": "Zoë"}
    assert spaced.counters["updates"] == 0


async def test_nested_value_of_a_foreign_type_is_saved(visitor: Visitor) -> None:
    """What the encoder takes is stored, though it is no plain JSON type."""
    await visitor.do(lambda session: session.update(cart=[]))

    await visitor.do(lambda session: session["cart"].append(OrderedDict(a=1)))

    assert await visitor.session() == {"cart": [{"a": 1}]}


async def test_new_session_has_no_changed_max_age() -> None:
    """Before the first save there is nothing that a max_age could differ from."""
    session = MongoSession(max_age=60)
    session.max_age = 30

    assert not session.max_age_changed


async def test_stream_of_a_handler_without_session_gets_no_cookie(
    site: Site, visitor: Visitor
) -> None:
    """Who never asks for the session streams as if there were none."""

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write_eof(b"streamed")
        return response

    answer = await visitor.visit(stream)

    assert (await answer.read(), set_cookie_of(answer)) == (b"streamed", [])


async def test_renewing_a_session_of_another_storage_says_whose_it_must_be(
    open_site: OpenSite, storage: MongoStorage
) -> None:
    """`renew_session` names the storage that it belongs to."""

    def set_up(app: web.Application, _storage: MongoStorage) -> None:
        plain_setup(app, SimpleCookieStorage())

    visitor = await (await open_site(storage, set_up)).visitor()

    async def renew(request: web.Request) -> web.Response:
        with pytest.raises(TypeError, match="Session is not from a MongoStorage"):
            await renew_session(request)
        return web.Response(text="refused")

    assert await (await visitor.visit(renew)).text() == "refused"


async def test_renewal_goes_on_when_the_old_document_was_damaged_meanwhile(
    visitor: Visitor, collection: Any
) -> None:
    """Nothing can be adopted from it; what this request has loaded moves along."""
    await visitor.do(lambda session: session.update(name="Ada"))

    async def renew(request: web.Request) -> web.Response:
        await renew_session(request)
        await collection.update_one({}, {"$set": {"key_id": "damaged"}})
        return web.Response()

    answer = await visitor.visit(renew)

    assert len(set_cookie_of(answer)) == 1
    assert await visitor.session() == {"name": "Ada"}


class EndsEverythingAfterRemoval(monitoring.CommandListener):
    """Deletes all sessions as soon as a renewal has removed the old one."""

    def __init__(self, uri: str, database: str) -> None:
        self._uri, self._database = uri, database

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        """Ignore it."""

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Delete, from a client of its own."""
        if event.command_name == "findAndModify":
            with MongoClient[dict[str, Any]](self._uri) as client:
                client[self._database]["sessions"].delete_many({})

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """Ignore it."""


async def test_renewal_ends_with_a_session_that_was_ended_in_the_midst_of_it(
    mongo_uri: str, database_name: str, make_storage: MakeStorage, open_site: OpenSite
) -> None:
    """Values to adopt, but no session left to adopt them: no cookie names it."""
    ending = EndsEverythingAfterRemoval(mongo_uri, database_name)
    async with AsyncMongoClient[dict[str, Any]](mongo_uri, event_listeners=[ending]) as client:
        storage = make_storage(client[database_name]["sessions"])
        site = await open_site(storage)
        visitor = await site.visitor()
        await visitor.do(lambda session: session.update(name="Ada"))
        neighbour = await site.visitor(visitor.cookie)

        async def renew(request: web.Request) -> web.Response:
            await renew_session(request)
            await neighbour.do(lambda session: session.update(colour="red"))
            return web.Response()

        answer = await visitor.visit(renew)

        assert set_cookie_of(answer) == []
        assert await storage.count() == 0
        await storage.aclose()


@pytest.fixture
def driver() -> str:
    """Use PyMongo unless a test says otherwise: these paths do not depend on the driver."""
    return "pymongo"


async def test_value_that_the_decoder_refuses_is_no_session_and_no_error_page(
    make_storage: MakeStorage, open_site: OpenSite
) -> None:
    """An app that exchanged its decoder signs people out; it does not break."""
    before = await (await open_site(make_storage())).visitor()
    await before.do(lambda session: session.update(name="Ada"))
    exchanged = make_storage(decoder=refusing)

    after = await (await open_site(exchanged)).visitor(before.cookie)

    assert await after.session() == {}
    assert exchanged.counters["unreadable"] == 1
