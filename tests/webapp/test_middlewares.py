"""What a request passes before its handler."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest
from aiohttp import web

from storage import generate_secret
from tests.webapp.conftest import PRODUCTION, Client, MakeApp
from tests.webapp.forwarded_cases import CASES, REAL
from webapp.http import middlewares
from webapp.http.app_keys import CLIENT

HTTPS = {"X-Forwarded-For": REAL, "X-Forwarded-Proto": "https", "Host": "app.example"}
HTTP = {**HTTPS, "X-Forwarded-Proto": "http"}
TWO_HOSTS = PRODUCTION | {"ALLOWED_HOSTS": "app.example, www.app.example"}


@pytest.fixture
async def behind_router(make_app: MakeApp) -> Client:
    """Start the app as in production, behind one router: the test client."""
    return await make_app(**TWO_HOSTS)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[web.Request]:
    """Note each request as it reaches the handlers."""
    requests: list[web.Request] = []
    original = middlewares.https_only

    @web.middleware
    async def note(request: web.Request, handler: middlewares.Handler) -> web.StreamResponse:
        if request.path not in middlewares.EXEMPT:
            requests.append(request)
        return await original(request, handler)

    monkeypatch.setattr("webapp.app.https_only", note)
    return requests


async def test_forwarded_headers_over_http(
    seen: list[web.Request], make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    """A handler sees the client of the case; each refusal is a 400, one event and one count."""
    caplog.set_level(logging.INFO)
    token = generate_secret()
    client = await make_app(**TWO_HOSTS, METRICS_TOKEN=token)
    cases = [case for case in CASES if case.hops == 1]

    for case in cases:
        seen.clear()
        headers = [("Host", "app.example")]
        headers += [("X-Forwarded-For", line) for line in case.forwarded_for]
        headers += [("X-Forwarded-Proto", line) for line in case.proto]
        answer = await client.get("/api/openapi.json", headers=headers, allow_redirects=False)

        if case.client is None:
            assert (answer.status, seen) == (400, []), case.name
        else:
            assert answer.status == (200 if case.scheme == "https" else 308), case.name
            assert (seen[0].remote, seen[0].scheme) == (case.client, case.scheme), case.name
            assert seen[0].secure is (case.scheme == "https")
            assert seen[0][CLIENT].address == case.client

    refused = sum(case.client is None for case in cases)
    metrics = await client.get("/metrics", headers={"Authorization": f"Bearer {token}"})
    counted = f'webapp_events_total{{event="forwarded_refused"}} {float(refused)}'
    assert counted in await metrics.text()
    assert [r.message for r in caplog.records].count("forwarded_refused") == refused
    assert not any(REAL in str(r.__dict__.get("fields")) for r in caplog.records)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        pytest.param("app.example", 200, id="listed"),
        pytest.param("APP.EXAMPLE.", 200, id="capitals and a trailing dot"),
        pytest.param("www.app.example:8443", 200, id="with a port"),
        pytest.param("evil.example", 421, id="unlisted"),
        pytest.param("app.example.evil.example", 421, id="listed name as a prefix"),
        pytest.param("app.example@evil.example", 421, id="user part"),
        pytest.param("127.0.0.1", 421, id="address"),
        pytest.param("", 421, id="empty"),
    ],
)
async def test_only_the_apps_own_names_are_served(
    behind_router: Client, host: str, status: int
) -> None:
    """Another Host is 421: the app must not create links or fill caches for it."""
    answer = await behind_router.get("/", headers={**HTTPS, "Host": host})

    assert answer.status == status


@pytest.mark.parametrize(
    ("target", "status"),
    [
        pytest.param("http://app.example/", 200, id="own host"),
        pytest.param("http://APP.example:80/", 200, id="own host with a port"),
        pytest.param("http://evil.example/", 421, id="another host"),
        pytest.param("http://www.app.example/", 421, id="another own host than in Host"),
    ],
)
async def test_absolute_target_names_the_same_host(
    behind_router: Client, target: str, status: int
) -> None:
    """RFC 9112 3.2.2: a target with a host replaces Host, so both must be equal."""
    lines = [f"GET {target} HTTP/1.1", *(f"{k}: {v}" for k, v in HTTPS.items())]

    reader, writer = await asyncio.open_connection("127.0.0.1", behind_router.port)
    writer.write("\r\n".join([*lines, "Connection: close", "", ""]).encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()

    assert int(answer.split()[1]) == status


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_get_and_head_over_http_are_redirected_to_https(
    behind_router: Client, method: str
) -> None:
    """The redirect keeps path and query, removes the port, and has the host that was checked."""
    answer = await behind_router.request(
        method,
        "/login?next=/profile%20x",
        headers={**HTTP, "Host": "app.example:80"},
        allow_redirects=False,
    )

    assert answer.status == 308
    assert answer.headers["Location"] == "https://app.example/login?next=/profile%20x"
    assert "Strict-Transport-Security" not in answer.headers


async def test_path_with_two_slashes_redirects_to_the_same_host(behind_router: Client) -> None:
    """`//evil.example` stays a path of this site."""
    url = f"http://127.0.0.1:{behind_router.port}//evil.example/"

    answer = await behind_router.session.get(url, headers=HTTP, allow_redirects=False)

    assert answer.headers["Location"].startswith("https://app.example/")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_other_methods_over_http_are_refused(behind_router: Client, method: str) -> None:
    """What a form sent over http may be known to others; a redirect would hide that."""
    answer = await behind_router.request(method, "/login", headers=HTTP)

    assert answer.status == 403


async def test_untrusted_direct_connection_is_logged_once(
    make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    """A peer outside TRUSTED_PROXIES is logged once, and its headers are ignored."""
    client = await make_app(**TWO_HOSTS, TRUSTED_PROXIES="10.0.0.0/8")

    answers = [await client.get("/", headers=HTTPS, allow_redirects=False) for _ in range(3)]

    logged = [r.getMessage() for r in caplog.records if "TRUSTED_PROXIES" in r.getMessage()]
    assert [answer.status for answer in answers] == [308, 308, 308]
    assert len(logged) == 1
    assert "127.0.0.1" in logged[0]
    assert REAL not in logged[0]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        pytest.param("abcDEF-12345", True, id="plain"),
        pytest.param("a" * 200, True, id="200 characters"),
        pytest.param("short-1", False, id="seven characters"),
        pytest.param("a" * 201, False, id="201 characters"),
        pytest.param("has blanks in it", False, id="blanks"),
        pytest.param('quote"-and-more', False, id="quotes"),
    ],
)
async def test_valid_request_id_is_kept(client: Client, given: str, kept: bool) -> None:  # noqa: FBT001
    """A valid `X-Request-Id` is kept, any other is replaced; the answer always has one."""
    answer = await client.get("/healthz", headers={"X-Request-Id": given})

    assert (answer.headers["X-Request-Id"] == given) is kept
    assert len(answer.headers["X-Request-Id"]) >= 8


async def test_two_request_ids_are_replaced(client: Client) -> None:
    """Nobody can tell which of two the router wrote."""
    answer = await client.get(
        "/healthz", headers=[("X-Request-Id", "first-id-1"), ("X-Request-Id", "second-id-2")]
    )

    assert answer.headers["X-Request-Id"] not in ("first-id-1", "second-id-2")


async def test_slow_handler_is_answered_with_503(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The app answers with Retry-After before the router gives up, and logs an event."""
    monkeypatch.setattr(middlewares, "BUDGET_SECONDS", 0.05)
    caplog.set_level(logging.INFO)
    client = await make_app()

    async def unfinished_body() -> object:
        yield b'{"email": '
        await asyncio.Event().wait()

    answer = await client.post(
        "/api/auth/login", data=unfinished_body(), headers={"Content-Type": "application/json"}
    )

    assert answer.status == 503
    assert int(answer.headers["Retry-After"]) > 0
    assert "over_budget" in [record.message for record in caplog.records]
    assert json.loads(await answer.text())["status"] == 503


async def test_timeout_inside_a_handler_is_500(
    monkeypatch: pytest.MonkeyPatch, make_app: MakeApp
) -> None:
    """A TimeoutError of the handler itself is an internal error, not a slow request."""

    async def give_up(_request: web.Request) -> web.Response:
        raise TimeoutError

    monkeypatch.setattr("webapp.http.health.healthz", give_up)
    client = await make_app()

    assert (await client.get("/healthz")).status == 500
