"""How errors look: pages for people, problems for programs, and no details for anybody."""

from __future__ import annotations

import logging

import pytest
from aiohttp import web
from pymongo.errors import AutoReconnect, ExecutionTimeout, OperationFailure

from tests.webapp.conftest import Client, MakeApp
from webapp.handlers import api

TROUBLE = "the wheel came off"


@pytest.fixture
async def troubled(make_app: MakeApp, monkeypatch: pytest.MonkeyPatch) -> Client:
    """Start an app with a page and a route that fail in different ways."""
    real = api.add_routes

    async def fail(request: web.Request) -> web.Response:
        if request.match_info["how"] == "database":
            raise AutoReconnect(TROUBLE)
        if request.match_info["how"] == "slow":
            raise ExecutionTimeout(TROUBLE, code=50)
        if request.match_info["how"] == "refused":
            raise OperationFailure(TROUBLE, code=2)
        if request.match_info["how"] == "teapot":
            raise web.HTTPException(text="") from None
        raise RuntimeError(TROUBLE)

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
async def test_a_mistake_of_ours_is_500_without_details(
    troubled: Client, caplog: pytest.LogCaptureFixture, path: str, content_type: str
) -> None:
    """The reader gets a sentence, the log gets the traceback."""
    response = await troubled.get(path)

    assert response.status == 500
    assert response.content_type == content_type
    assert "The error is ours" in await response.text()
    assert TROUBLE not in await response.text()
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.exc_info is not None
    assert TROUBLE in str(record.exc_info[1])


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/fail/database", "text/html"),
        ("/api/fail/database", "application/problem+json"),
        ("/api/fail/slow", "application/problem+json"),
    ],
)
async def test_a_database_that_is_away_is_503_with_retry_after(
    troubled: Client, path: str, content_type: str
) -> None:
    """Accounts and counters fail like sessions do: try again shortly."""
    response = await troubled.get(path)

    assert response.status == 503
    assert response.content_type == content_type
    assert int(response.headers["Retry-After"]) >= 1
    assert TROUBLE not in await response.text()


@pytest.mark.parametrize("path", ["/nothing", "/profile/nothing", "/api", "/API/profile"])
async def test_an_unknown_page_is_a_page(client: Client, path: str) -> None:
    """404 in the app's layout, with a way home."""
    response = await client.get(path)

    assert response.status == 404
    assert response.content_type == "text/html"
    assert "There is nothing at this address." in await response.text()
    assert 'href="/"' in await response.text()


async def test_an_unknown_route_of_the_api_is_a_problem(client: Client) -> None:
    """404 as RFC 9457 says."""
    response = await client.get("/api/nothing")

    assert response.status == 404
    assert await response.json(content_type="application/problem+json") == {
        "type": "about:blank",
        "title": "Not Found",
        "status": 404,
        "detail": "There is nothing at this address.",
    }


async def test_a_cross_site_form_is_refused_with_a_page(client: Client) -> None:
    """403 in the app's layout, with the reason."""
    response = await client.post("/logout", headers={"Sec-Fetch-Site": "cross-site"})

    assert response.status == 403
    assert response.content_type == "text/html"
    assert "This request came from another site." in await response.text()


async def test_an_error_for_head_has_no_body(client: Client) -> None:
    """HEAD gets the headers of the page and nothing after them."""
    response = await client.head("/nothing")

    assert response.status == 404
    assert await response.read() == b""
