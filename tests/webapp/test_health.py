"""The operator's routes."""

from __future__ import annotations

import asyncio
import threading

import pytest
from aiohttp import web
from motor.frameworks.asyncio import _EXECUTOR

from storage import generate_secret
from tests.conftest import NewMongod
from tests.processes import free_port
from tests.webapp.conftest import PRODUCTION, Client, MakeApp

TOKEN = generate_secret()
BEARER = {"Authorization": f"Bearer {TOKEN}"}
VIA_HTTPS = {"X-Forwarded-For": "203.0.113.7", "X-Forwarded-Proto": "https"}
VIA_HTTP = {**VIA_HTTPS, "X-Forwarded-Proto": "http"}


async def test_alive_and_ready_answer_200(client: Client) -> None:
    """A running app with its database is alive and ready."""
    assert (await client.get("/healthz")).status == 200
    assert (await client.get("/readyz")).status == 200


async def test_without_its_database_it_is_alive_and_not_ready(
    make_app: MakeApp, new_mongod: NewMongod, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503 while MongoDB does not answer, 200 when it is back, without a restart."""
    with new_mongod(port=free_port()) as own:
        client = await make_app(MONGO_URI=own.uri)
        own.stop()
        monkeypatch.setattr("webapp.http.health.PING_SECONDS", 0.5)
        away = [(await client.get(path)).status for path in ("/healthz", "/readyz")]
        own.start()
        monkeypatch.undo()
        back = await client.get("/readyz")

    assert (away, back.status) == ([200, 503], 200)


async def test_not_ready_is_answered_in_time_while_every_thread_waits_for_mongodb(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Probes give up after some seconds; a queue of the driver must not delay the answer."""
    monkeypatch.setattr("webapp.http.health.PING_SECONDS", 0.2)
    go_on = threading.Event()
    waiting = [_EXECUTOR.submit(go_on.wait) for _ in range(_EXECUTOR._max_workers)]

    try:
        async with asyncio.timeout(10):
            busy = await client.get("/readyz")
    finally:
        go_on.set()
    await asyncio.gather(*map(asyncio.wrap_future, waiting))
    monkeypatch.undo()
    idle = await client.get("/readyz")

    assert (busy.status, idle.status) == (503, 200)


async def test_health_checks_work_by_address_over_plain_http(make_app: MakeApp) -> None:
    """A router's health check passes in production without forwarded headers or a known host."""
    client = await make_app(**PRODUCTION)

    answers = [await client.get(path) for path in ("/healthz", "/readyz")]

    assert [answer.status for answer in answers] == [200, 200]


async def test_without_a_token_there_are_no_metrics(client: Client) -> None:
    """Without METRICS_TOKEN the route does not exist."""
    assert (await client.get("/metrics")).status == 404


async def test_metrics_need_the_token(make_app: MakeApp) -> None:
    """A wrong or missing token is 401; the right one gets Prometheus' text."""
    client = await make_app(METRICS_TOKEN=TOKEN)

    missing = await client.get("/metrics")
    wrong = await client.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}x"})
    right = await client.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"})

    assert (missing.status, wrong.status, right.status) == (401, 401, 200)
    assert right.content_type == "text/plain"
    assert "storage_total" in await right.text()
    assert "storage_queue_length" in await right.text()


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEaReR"])
async def test_name_of_the_bearer_scheme_may_be_in_any_case(make_app: MakeApp, scheme: str) -> None:
    """RFC 9110 11.1; some scrapers write it in lower case."""
    client = await make_app(METRICS_TOKEN=TOKEN)

    answer = await client.get("/metrics", headers={"Authorization": f"{scheme} {TOKEN}"})

    assert answer.status == 200


@pytest.mark.parametrize(
    "authorization",
    [
        pytest.param("", id="nothing"),
        pytest.param("Bearer", id="a scheme alone"),
        pytest.param("Bearer ", id="an empty token"),
        pytest.param(TOKEN, id="a token alone"),
        pytest.param(f"Basic {TOKEN}", id="another scheme"),
        pytest.param(f"Bearer{TOKEN}", id="no space between"),
        pytest.param(f"Bearer {TOKEN} x", id="more than the token"),
    ],
)
async def test_anything_but_the_bearer_token_is_401(make_app: MakeApp, authorization: str) -> None:
    """Another scheme, no token, or more than the token."""
    client = await make_app(METRICS_TOKEN=TOKEN)

    answer = await client.get("/metrics", headers={"Authorization": authorization})

    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("peers", "hops", "headers", "status"),
    [
        pytest.param("127.0.0.0/8", "1", {}, 200, id="a scraper beside the router"),
        pytest.param("127.0.0.0/8", "1", VIA_HTTPS, 200, id="through the router, https"),
        pytest.param("127.0.0.0/8", "1", VIA_HTTP, 403, id="through the router, http"),
        pytest.param("127.0.0.0/8", "2", VIA_HTTPS, 403, id="through half of the routers"),
        pytest.param("10.0.0.0/8", "1", VIA_HTTP, 200, id="on this machine"),
        pytest.param("10.0.0.0/8", "0", {}, 200, id="on this machine, without a router"),
    ],
)
async def test_metrics_are_for_https_the_routers_networks_and_this_machine(
    make_app: MakeApp, peers: str, hops: str, headers: dict[str, str], status: int
) -> None:
    """The token is never accepted over a public network without TLS."""
    settings = {**PRODUCTION, "TRUSTED_PROXIES": peers, "TRUSTED_PROXY_HOPS": hops}
    client = await make_app(**settings, METRICS_TOKEN=TOKEN)

    answer = await client.get("/metrics", headers={**BEARER, **headers})

    assert answer.status == status


async def test_metrics_are_refused_to_a_stranger_over_http(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer that is neither this machine nor a router can only have sent the token in clear."""
    client = await make_app(**PRODUCTION, METRICS_TOKEN=TOKEN)
    # No other address than loopback can connect here.
    monkeypatch.setattr(web.Request, "remote", "203.0.113.7")

    answer = await client.get("/metrics", headers={**BEARER, **VIA_HTTPS})

    assert answer.status == 403
