"""What protects browsers: headers, the cross-site check, CORS."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from multidict import CIMultiDict

from tests.webapp.conftest import PRODUCTION, Client, MakeApp
from webapp.http.cross_site import is_own_site
from webapp.http.headers import CORS_HEADERS, CSP
from webapp.http.proxy import Client as Who

FRONT_END = "https://front.example"
ORIGIN = {"ALLOWED_ORIGINS": FRONT_END}
SITE, OTHER = "https://app.example", "https://evil.example"
ROUTED = {
    "X-Forwarded-For": "203.0.113.7",
    "X-Forwarded-Proto": "https",
    "Host": "app.example",
    "Sec-Fetch-Site": "same-origin",
}


@pytest.mark.parametrize(
    ("path", "status"),
    [
        pytest.param("/", 200, id="page"),
        pytest.param("/login", 200, id="form"),
        pytest.param("/nowhere", 404, id="missing page"),
        pytest.param("/api/profile", 401, id="refused JSON"),
        pytest.param("/api/nowhere", 404, id="missing JSON"),
        pytest.param("/healthz", 200, id="health"),
        pytest.param("/static/style.css", 200, id="static file"),
    ],
)
async def test_every_answer_carries_the_headers(client: Client, path: str, status: int) -> None:
    """Pages, JSON, files and errors."""
    answer = await client.get(path)

    assert answer.status == status
    assert answer.headers["Content-Security-Policy"] == CSP
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "same-origin"
    assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "camera=()" in answer.headers["Permissions-Policy"]
    assert answer.headers["Server"] == "webapp"
    assert "X-Request-Id" in answer.headers
    assert "Strict-Transport-Security" not in answer.headers


async def test_hsts_is_sent_on_https_for_a_year_or_more(make_app: MakeApp) -> None:
    """Over https, with errors too; never over http, where anybody could change it."""
    client = await make_app(**PRODUCTION)

    found = [(await client.get(path, headers=ROUTED)).headers for path in ("/", "/nowhere")]

    for headers in found:
        age = headers["Strict-Transport-Security"].removeprefix("max-age=").partition(";")[0]
        assert int(age) >= 365 * 24 * 3600


async def test_unmet_expectation_is_answered_with_the_headers(client: Client) -> None:
    """The server answers `Expect` before any middleware runs."""
    answer = await client.get("/", headers={"Expect": "the-unexpected"})

    assert answer.status == 417
    assert answer.headers["Content-Security-Policy"] == CSP
    assert "X-Request-Id" in answer.headers


@pytest.mark.parametrize(
    ("headers", "own"),
    [
        pytest.param([("Sec-Fetch-Site", "same-origin")], True, id="own page"),
        pytest.param([("Sec-Fetch-Site", "none")], True, id="typed address or bookmark"),
        pytest.param([("Sec-Fetch-Site", "same-site")], False, id="sibling subdomain"),
        pytest.param([("Sec-Fetch-Site", "cross-site")], False, id="another site"),
        pytest.param([("Sec-Fetch-Site", "")], False, id="empty"),
        pytest.param([("Sec-Fetch-Site", "same-origin")] * 2, False, id="twice"),
        pytest.param(
            [("Sec-Fetch-Site", "cross-site"), ("Origin", SITE)], False, id="site over origin"
        ),
        pytest.param([("Origin", SITE)], True, id="own origin"),
        pytest.param([("Origin", SITE + ":443")], True, id="own origin, default port"),
        pytest.param([("Origin", "https://APP.example")], True, id="own origin, capitals"),
        pytest.param([("Origin", SITE + ":8443")], False, id="another port"),
        pytest.param([("Origin", "http://app.example")], False, id="another scheme"),
        pytest.param([("Origin", "https://www.app.example")], False, id="sibling origin"),
        pytest.param([("Origin", "https://app.example.evil.example")], False, id="prefix"),
        pytest.param([("Origin", OTHER)], False, id="another origin"),
        pytest.param([("Origin", "null")], False, id="null"),
        pytest.param([("Origin", "https://[")], False, id="unreadable"),
        pytest.param([("Origin", "https://xn--a")], False, id="a name that cannot be decoded"),
        pytest.param([("Origin", "https://app.example:port")], False, id="unreadable port"),
        pytest.param([("Origin", SITE)] * 2, False, id="origin twice"),
        pytest.param([], False, id="neither"),
    ],
)
def test_only_the_sites_own_pages_may_change_anything(
    headers: list[tuple[str, str]],
    own: bool,  # noqa: FBT001
) -> None:
    """`Sec-Fetch-Site` decides, else `Origin`; everything unclear is refused."""
    client = Who(address="203.0.113.7", scheme="https", host="app.example")

    assert is_own_site(CIMultiDict(headers), client, (), without_evidence=False) is own


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        pytest.param("localhost:8080", "http://localhost:8080", id="development"),
        pytest.param("[::1]:8080", "http://[::1]:8080", id="IPv6"),
        pytest.param("localhost", "http://localhost:80", id="default port"),
    ],
)
def test_origin_is_compared_with_its_port(host: str, origin: str) -> None:
    """A missing port is the default of the scheme."""
    client = Who(address="127.0.0.1", scheme="http", host=host)

    assert is_own_site(CIMultiDict(Origin=origin), client, (), without_evidence=False)
    assert not is_own_site(CIMultiDict(Origin=origin + "9"), client, (), without_evidence=False)


async def test_cross_site_request_is_refused_before_its_body_is_read(client: Client) -> None:
    """403 before the body has arrived."""
    answered = asyncio.Event()

    async def held_back() -> AsyncIterator[bytes]:
        yield b"email="
        await answered.wait()

    answer = await client.post("/login", data=held_back(), headers={"Sec-Fetch-Site": "cross-site"})

    assert answer.status == 403
    answered.set()


async def test_request_without_origin_is_refused_in_production_only(make_app: MakeApp) -> None:
    """With neither header: allowed in development, refused in production."""
    development = await make_app()
    production = await make_app(**PRODUCTION)
    body = {"email": "a@example.com", "password": "wrong"}
    as_json = {"Content-Type": "application/json"}

    def routed(**more: str) -> dict[str, str]:
        return {k: v for k, v in ROUTED.items() if k != "Sec-Fetch-Site"} | as_json | more

    development.session.headers.popall("Sec-Fetch-Site")
    production.session.headers.popall("Sec-Fetch-Site")
    first = await development.post("/api/auth/login", json=body, headers=as_json)
    second = await production.post("/api/auth/login", json=body, headers=routed())
    third = await production.post("/api/auth/login", json=body, headers=routed(Origin=SITE))

    assert (first.status, second.status, third.status) == (401, 403, 401)


@pytest.mark.parametrize("path", ["/api/auth/logout", "/logout"])
async def test_program_without_origin_learns_which_header_it_must_send(
    make_app: MakeApp, path: str
) -> None:
    """The 403 names the header, and the request is accepted with it; so says the description."""
    client = await make_app(**PRODUCTION)
    client.session.headers.popall("Sec-Fetch-Site")
    without_origin = {k: v for k, v in ROUTED.items() if k != "Sec-Fetch-Site"}

    refused = await client.post(path, headers=without_origin, allow_redirects=False)
    accepted = await client.post(
        path, headers=without_origin | {"Origin": SITE}, allow_redirects=False
    )
    described = await client.get("/api/openapi.json", headers=without_origin)

    assert refused.status == 403
    assert f"must send Origin: {SITE}" in await refused.text()
    assert accepted.status in {204, 303}
    assert f"`Origin: {SITE}`" in (await described.json())["info"]["description"]


async def test_refusal_of_another_site_does_not_name_the_accepted_header(make_app: MakeApp) -> None:
    """Only a request without `Sec-Fetch-Site` and `Origin` is told which header to send."""
    client = await make_app(**PRODUCTION)

    answer = await client.post("/logout", headers=ROUTED | {"Sec-Fetch-Site": "cross-site"})

    assert "This request came from another site." in await answer.text()


async def test_trace_is_not_allowed(client: Client) -> None:
    """TRACE would show scripts the headers that they must not read."""
    assert (await client.request("TRACE", "/")).status == 405


async def test_allowed_origin_may_use_the_api_with_its_cookie(make_app: MakeApp) -> None:
    """Preflight and request are allowed for exactly this origin, with credentials."""
    client = await make_app(**ORIGIN)
    cross = {"Origin": FRONT_END, "Sec-Fetch-Site": "cross-site"}

    preflight = await client.options(
        "/api/auth/login", headers={**cross, "Access-Control-Request-Method": "POST"}
    )
    answer = await client.post(
        "/api/auth/login", json={"email": "a@example.com", "password": "x"}, headers=cross
    )

    assert (preflight.status, answer.status) == (204, 401)
    for headers in (preflight.headers, answer.headers):
        assert headers["Access-Control-Allow-Origin"] == FRONT_END
        assert headers["Access-Control-Allow-Credentials"] == "true"
        assert "Origin" in headers.getall("Vary")
    assert "POST" in preflight.headers["Access-Control-Allow-Methods"]
    assert "Content-Type" in preflight.headers["Access-Control-Allow-Headers"]


@pytest.mark.parametrize(
    ("wanted", "allowed"),
    [
        pytest.param("traceparent", "traceparent", id="tracing"),
        pytest.param(
            "content-type,sentry-trace, baggage", "content-type,sentry-trace, baggage", id="several"
        ),
        pytest.param(None, CORS_HEADERS, id="none asked for"),
        pytest.param("", CORS_HEADERS, id="empty"),
        pytest.param("no name", CORS_HEADERS, id="a blank inside"),
        pytest.param("x, <script>", CORS_HEADERS, id="not the name of a header"),
    ],
)
async def test_preflight_of_an_allowed_origin_may_ask_for_any_header(
    make_app: MakeApp, wanted: str | None, allowed: str
) -> None:
    """Tracing libraries add headers of their own; what is not the name of one is not repeated."""
    client = await make_app(**ORIGIN)
    asked = {} if wanted is None else {"Access-Control-Request-Headers": wanted}
    preflight = asked | {"Access-Control-Request-Method": "POST", "Sec-Fetch-Site": "cross-site"}

    answer = await client.options("/api/auth/login", headers=preflight | {"Origin": FRONT_END})
    other = await client.options("/api/auth/login", headers=preflight | {"Origin": OTHER})

    assert answer.headers["Access-Control-Allow-Headers"] == allowed
    assert "Access-Control-Allow-Headers" not in other.headers


async def test_allowed_origin_never_reaches_the_pages(make_app: MakeApp) -> None:
    """CORS is for the API only; a form of another site is refused."""
    client = await make_app(**ORIGIN)

    answer = await client.post(
        "/login", data={}, headers={"Origin": FRONT_END, "Sec-Fetch-Site": "cross-site"}
    )

    assert answer.status == 403
    assert "Access-Control-Allow-Origin" not in answer.headers


@pytest.mark.parametrize("origin", [OTHER, "null", FRONT_END + ".evil.example", FRONT_END + "/"])
async def test_other_origins_get_no_permission(make_app: MakeApp, origin: str) -> None:
    """No answer names an origin that is not listed, and its POST is refused."""
    client = await make_app(**ORIGIN)
    cross = {"Origin": origin, "Sec-Fetch-Site": "cross-site"}

    read = await client.get("/api/profile", headers=cross)
    written = await client.post("/api/auth/logout", headers=cross)

    assert "Access-Control-Allow-Origin" not in read.headers
    assert "Origin" in read.headers.getall("Vary")
    assert written.status == 403


async def test_without_allowed_origins_there_is_no_cors(client: Client) -> None:
    """A preflight is then answered like any OPTIONS."""
    answer = await client.options(
        "/api/auth/login", headers={"Origin": OTHER, "Access-Control-Request-Method": "POST"}
    )

    assert answer.status == 405
    assert "Access-Control-Allow-Origin" not in answer.headers
