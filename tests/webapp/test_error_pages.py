"""How errors look: pages for people, problems for programs, and no details."""

from __future__ import annotations

import logging

import pytest
from aiohttp import web
from pymongo.errors import AutoReconnect, ExecutionTimeout, OperationFailure

from tests.webapp.conftest import Client, MakeApp
from webapp.handlers import api

DETAILS = "details of an error"


@pytest.fixture
async def failing(make_app: MakeApp, monkeypatch: pytest.MonkeyPatch) -> Client:
    """Start an app with a page and a route that fail in different ways."""
    real = api.add_routes

    async def fail(request: web.Request) -> web.Response:
        if request.match_info["how"] == "database":
            raise AutoReconnect(DETAILS)
        if request.match_info["how"] == "slow":
            raise ExecutionTimeout(DETAILS, code=50)
        if request.match_info["how"] == "refused":
            raise OperationFailure(DETAILS, code=2)
        if request.match_info["how"] == "teapot":
            raise web.HTTPException(text="") from None
        raise RuntimeError(DETAILS)

    def add_routes(app: web.Application) -> None:
        real(app)
        app.router.add_get("/fail/{how}", fail)
        app.router.add_get("/api/fail/{how}", fail)

    monkeypatch.setattr(api, "add_routes", add_routes)
    return await make_app()


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/fail/code", "text/html"),
        ("/api/fail/code", "application/problem+json"),
        ("/api/fail/refused", "application/problem+json"),
    ],
)
async def test_internal_error_is_500_without_details(
    failing: Client, caplog: pytest.LogCaptureFixture, path: str, content_type: str
) -> None:
    """The answer has a sentence, the log has the traceback."""
    response = await failing.get(path)

    assert response.status == 500
    assert response.content_type == content_type
    assert "The error is ours" in await response.text()
    assert DETAILS not in await response.text()
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.exc_info is not None
    assert DETAILS in str(record.exc_info[1])


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/fail/database", "text/html"),
        ("/api/fail/database", "application/problem+json"),
        ("/api/fail/slow", "application/problem+json"),
    ],
)
async def test_unavailable_database_is_503_with_retry_after(
    failing: Client, caplog: pytest.LogCaptureFixture, path: str, content_type: str
) -> None:
    """Accounts and counters fail like sessions: try again shortly; the log has one line."""
    response = await failing.get(path)

    assert response.status == 503
    assert response.content_type == content_type
    assert int(response.headers["Retry-After"]) >= 1
    assert DETAILS not in await response.text()
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert record.message.startswith("MONGO_URI: MongoDB does not answer; check that it runs")
    assert record.exc_info is None


@pytest.mark.parametrize("path", ["/nothing", "/profile/nothing", "/api", "/API/profile"])
async def test_unknown_address_is_a_404_page(client: Client, path: str) -> None:
    """404 in the app's layout, with a link to the start page."""
    response = await client.get(path)

    assert response.status == 404
    assert response.content_type == "text/html"
    assert "There is nothing at this address." in await response.text()
    assert 'href="/"' in await response.text()


async def test_unknown_api_route_is_a_404_problem(client: Client) -> None:
    """404 in the form of RFC 9457."""
    response = await client.get("/api/nothing")

    assert response.status == 404
    assert await response.json(content_type="application/problem+json") == {
        "type": "about:blank",
        "title": "Not Found",
        "status": 404,
        "detail": "There is nothing at this address.",
    }


async def test_cross_site_form_is_refused_with_a_page(client: Client) -> None:
    """403 in the app's layout, with the reason."""
    response = await client.post("/logout", headers={"Sec-Fetch-Site": "cross-site"})

    assert response.status == 403
    assert response.content_type == "text/html"
    assert "This request came from another site." in await response.text()


async def test_error_for_head_has_no_body(client: Client) -> None:
    """HEAD gets the headers of the page only."""
    response = await client.head("/nothing")

    assert response.status == 404
    assert await response.read() == b""
