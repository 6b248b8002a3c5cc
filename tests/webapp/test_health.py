"""The operator's routes."""

from __future__ import annotations

from pathlib import Path

from tests.webapp.conftest import PRODUCTION, Client, MakeApp
from webapp.database.mongod import Mongod

TOKEN = "a-token-of-sixteen-or-more"


async def test_alive_and_ready_answer_200(client: Client) -> None:
    """A running app with its database is alive and ready."""
    assert (await client.get("/healthz")).status == 200
    assert (await client.get("/readyz")).status == 200


async def test_without_its_database_it_is_alive_and_not_ready(
    make_app: MakeApp, mongod: Mongod, tmp_path: Path
) -> None:
    """503 while MongoDB does not answer, 200 when it is back, without a restart."""
    with Mongod(mongod._binary, tmp_path) as own:
        client = await make_app(MONGO_URI=own.uri)
        port = own.port
        own.stop()
        away = [(await client.get(path)).status for path in ("/healthz", "/readyz")]
        with Mongod(mongod._binary, tmp_path, port=port):
            back = await client.get("/readyz")

            assert (away, back.status) == ([200, 503], 200)


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
