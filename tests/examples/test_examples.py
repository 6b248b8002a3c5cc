"""Each example does what it says, with real HTTP and a real MongoDB."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import Any

import pytest
import socketio  # type: ignore[import-untyped]

from examples import (
    chat,
    server_sent_events,
    sign_out_everywhere,
    socket_io,
    sub_apps,
    with_security,
)
from storage import MongoStorage
from tests.docs.markdown import ROOT
from tests.examples.conftest import Browser, Serve


async def signed_in(browser: Browser, user: str) -> Browser:
    """Sign a browser in at an example's own address for it."""
    response = await browser.post("/sign-in", data={"user": user})
    assert response.status == 200
    return browser


async def test_security_checks_permissions(serve: Serve) -> None:
    """Identity and permissions come from the session."""
    browser = await serve(with_security.make_app)
    ada, bob, stranger = await browser(), await browser(), await browser()
    await signed_in(ada, "ada")
    await signed_in(bob, "bob")

    statuses = [(await visitor.post("/write")).status for visitor in (ada, bob, stranger)]

    assert statuses == [200, 403, 401]


async def test_security_ends_the_session_at_sign_out(serve: Serve) -> None:
    """`forget` ends the session, so a copied cookie is not valid any more."""
    browser = await serve(with_security.make_app)
    ada, thief = await signed_in(await browser(), "ada"), await browser()
    stolen = ada.session.cookie_jar.filter_cookies(ada.make_url("/"))
    thief.session.cookie_jar.update_cookies(stolen, thief.make_url("/"))

    await ada.post("/sign-out")

    assert (await ada.post("/write")).status == 401
    assert (await thief.post("/write")).status == 401


async def test_security_gives_a_new_token_to_each_user(serve: Serve) -> None:
    """The policy's key is the owner key, so a token that was planted before is useless."""
    browser = await serve(with_security.make_app)
    shared = await browser()
    tokens = set()

    for user in ("ada", "bob"):
        await signed_in(shared, user)
        cookies = shared.session.cookie_jar.filter_cookies(shared.make_url("/"))
        tokens.add(cookies["session"].value)

    assert len(tokens) == 2


async def test_sign_out_everywhere_keeps_this_device_signed_in(serve: Serve) -> None:
    """Of three devices, one signs out the two others."""
    browser = await serve(sign_out_everywhere.make_app)
    here, phone, laptop = [await signed_in(await browser(), "ada") for _ in range(3)]

    response = await here.delete("/devices")

    assert await response.json() == {"ended": 2}
    assert [(await b.get("/devices")).status for b in (here, phone, laptop)] == [200, 401, 401]


async def test_only_the_owner_signs_out_a_device_by_its_handle(serve: Serve) -> None:
    """A stranger who knows the handle cannot end the session."""
    browser = await serve(sign_out_everywhere.make_app)
    here, phone = [await signed_in(await browser(), "ada") for _ in range(2)]
    eve = await signed_in(await browser(), "eve")
    listed = await (await here.get("/devices")).json()
    (handle,) = [device["handle"] for device in listed if not device["this_one"]]

    by_eve = await eve.delete(f"/devices/{handle}")
    by_ada = await here.delete(f"/devices/{handle}")

    assert (by_eve.status, by_ada.status) == (404, 204)
    assert (await phone.get("/devices")).status == 401
    assert "Python" in listed[0]["device"]


async def test_chat_closes_only_for_the_user_who_is_signed_out(serve: Serve) -> None:
    """When Ada is signed out from another device, her socket closes and Bob's stays open."""
    browser = await serve(chat.make_app)
    ada, phone = [await signed_in(await browser(), "ada") for _ in range(2)]
    bob = await signed_in(await browser(), "bob")
    adas, bobs = await ada.ws_connect("/chat"), await bob.ws_connect("/chat")
    await bobs.send_str("hello")
    assert await adas.receive_str() == "bob: hello"
    assert await bobs.receive_str() == "bob: hello"

    await phone.post("/sign-out-everywhere")
    message = await adas.receive(timeout=10)
    await bobs.send_str("anybody here?")

    assert message.data == chat.SIGNED_OUT
    assert await bobs.receive_str() == "bob: anybody here?"
    await bobs.close()


async def test_chat_requires_a_signed_in_user(serve: Serve) -> None:
    """The handshake of a stranger is answered with 401."""
    browser = await serve(chat.make_app)

    assert (await (await browser()).get("/chat")).status == 401


async def test_session_is_saved_before_the_event_stream_starts(serve: Serve) -> None:
    """The stream sets the cookie, and the next stream has the next number."""
    browser = await serve(server_sent_events.make_app)
    reader = await browser()

    first = await reader.get("/events")
    first_line = await first.content.readline()
    second = await reader.get("/events")
    second_line = await second.content.readline()

    assert "session" in first.cookies
    assert first_line == b"data: this is your stream number 1\n"
    assert second_line == b"data: this is your stream number 2\n"
    first.close()
    second.close()


async def test_events_reach_every_reader(serve: Serve) -> None:
    """A message that one client publishes is sent to the others."""
    browser = await serve(server_sent_events.make_app)
    reader, writer = await browser(), await browser()
    stream = await reader.get("/events")
    for _ in range(2):
        await stream.content.readline()

    published = await writer.post("/publish", data="tea is ready")

    assert await published.text() == "sent to 1 readers\n"
    assert await stream.content.readline() == b"data: tea is ready\n"
    stream.close()


async def test_event_stream_stores_what_was_read_and_ends_at_sign_out(serve: Serve) -> None:
    """The changes of one stream are there for the next one; a sign-out ends both."""
    browser = await serve(server_sent_events.make_app)
    reader = await browser()
    first = await reader.get("/events")
    await reader.post("/publish", data="tea is ready")
    lines = [await first.content.readline() for _ in range(4)]

    await reader.post("/sign-out")

    assert lines[2] == b"data: tea is ready\n"
    assert await asyncio.wait_for(first.content.read(), 10) == b""


async def test_socket_io_stores_changes_and_disconnects_who_is_signed_out(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """When Ada is signed out from another device, her client is disconnected, and Bob's is not."""
    browser = await serve(socket_io.make_app)
    users = {name: await signed_in(await browser(), name) for name in ("ada", "bob")}
    clients = {name: await connected(user) for name, user in users.items()}
    gone, heard = asyncio.Event(), asyncio.Queue[str]()
    clients["ada"].on("disconnect", lambda _reason: gone.set())
    clients["bob"].on("message", heard.put)

    await clients["ada"].send("hello")
    said = await asyncio.wait_for(heard.get(), 10)
    updates = storage_of(users["ada"]).counters["updates"]
    await users["ada"].post("/sign-out-everywhere")
    await asyncio.wait_for(gone.wait(), 10)

    assert said == "ada: hello"
    assert updates == 1
    assert clients["bob"].connected
    assert [r.getMessage() for r in caplog.records if r.name.startswith("storage")] == []
    await clients["bob"].disconnect()


async def test_socket_io_does_the_same_by_polling(serve: Serve) -> None:
    """The request of the handshake is answered long before the handlers run."""
    browser = await serve(socket_io.make_app)
    ada = await signed_in(await browser(), "ada")
    path = "/socket.io/?EIO=4&transport=polling"
    handshake = await (await ada.get(path)).text()
    path += f"&sid={json.loads(handshake[1:])['sid']}"

    async def received() -> str:
        return await asyncio.wait_for((await ada.get(path)).text(), 10)

    await ada.post(path, data="40")
    welcome = await received()
    await ada.post(path, data='42["message","hello"]')
    said = await received()
    updates = storage_of(ada).counters["updates"]
    await ada.post("/sign-out-everywhere")

    assert welcome.startswith("40{")
    assert said == '42["message","ada: hello"]'
    assert updates == 1
    assert await received() == "41"


async def test_socket_io_refuses_a_visitor_who_is_not_signed_in(serve: Serve) -> None:
    """The handler of the connection looks at the session."""
    browser = await (await serve(socket_io.make_app))()

    with pytest.raises(socketio.exceptions.ConnectionError, match="failed to connect"):
        await connected(browser)


async def connected(browser: Browser) -> Any:
    """Connect a client of python-socketio with the cookie of a browser."""
    client = socketio.AsyncClient(reconnection=False, http_session=browser.session)
    await client.connect(str(browser.make_url("/")), transports=["websocket"])
    return client


def storage_of(browser: Browser) -> MongoStorage:
    """Return the storage of the app that a browser visits."""
    return browser.app[socket_io.STORAGE]  # type: ignore[index]


async def test_sub_app_shares_the_sign_in_of_the_outer_app(serve: Serve) -> None:
    """One sign-in is enough for all parts; changes in the sub-app are saved."""
    browser = await serve(sub_apps.make_app)
    ada = await signed_in(await browser(), "ada")

    orders = [await (await ada.post("/shop/orders")).text() for _ in range(2)]

    assert orders == ["order 1 of ada\n", "order 2 of ada\n"]
    assert await (await ada.get("/")).text() == "hello ada\n"


@pytest.mark.parametrize(
    ("example", "path"),
    [
        pytest.param(chat, "/sign-out-everywhere", id="chat"),
        pytest.param(socket_io, "/sign-out-everywhere", id="socket_io"),
        pytest.param(sub_apps, "/shop/orders", id="sub_apps"),
        pytest.param(with_security, "/write", id="with_security"),
    ],
)
async def test_what_needs_a_user_refuses_a_stranger(serve: Serve, example: Any, path: str) -> None:
    """A visitor who is not signed in gets 401, not 500."""
    stranger = await (await serve(example.make_app))()

    assert (await stranger.post(path)).status == 401


async def test_device_list_marks_the_current_device(serve: Serve) -> None:
    """The list marks the device that requests it."""
    browser = await serve(sign_out_everywhere.make_app)
    here = await signed_in(await browser(), "ada")

    (device,) = json.loads(await (await here.get("/devices")).text())

    assert device["this_one"]


@pytest.mark.long
def test_examples_can_be_copied_into_a_strictly_typed_app() -> None:
    """Strict mypy finds nothing, except in the smallest example, whose client is not typed."""
    programs = [
        path for path in sorted((ROOT / "examples").glob("*.py")) if path.stem != "smallest"
    ]

    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", *programs, "examples/testing_your_app/app.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )

    assert checked.returncode == 0, checked.stdout
