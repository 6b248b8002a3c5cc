"""A CDN that terminates TLS, and a balancer behind it that speaks http: both are a real nginx."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.conftest import HOST, Fleet, Router, cookie_lines, run_nginx
from tests.deploy.test_router import curl, status_of
from tests.processes import free_port

pytestmark = pytest.mark.long

# All of 127.0.0.0/8 is this machine: each party connects from an address of its own.
CLIENT, CDN, BALANCER = "127.0.0.5", "127.0.0.6", "127.0.0.7"
FROM_CLIENT = ("--interface", CLIENT)

SERVERS = """
proxy_http_version 1.1;
proxy_set_header Connection "";
proxy_set_header Host $http_host;

server {{
    listen 127.0.0.1:{http_port};
    listen 127.0.0.1:{https_port} ssl;
    ssl_certificate {certificate};
    ssl_certificate_key {key};
    location / {{
        proxy_bind {cdn};
        proxy_pass http://127.0.0.1:{balancer_port};
        proxy_set_header Connection "";
        proxy_set_header Host $http_host;
        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        proxy_set_header X-Forwarded-Proto $scheme;
    }}
}}
server {{
    listen 127.0.0.1:{balancer_port};
    allow {cdn};
    deny all;
    location / {{
        proxy_bind {balancer};
        proxy_pass http://127.0.0.1:{app_port};
        proxy_set_header Connection "";
        proxy_set_header Host $http_host;
        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        proxy_set_header X-Forwarded-Proto "{balancers_scheme}";
    }}
}}
"""
APPENDS, PASSES_ON, REPLACES = (
    "$http_x_forwarded_proto, $scheme",
    "$http_x_forwarded_proto",
    "$scheme",
)


@pytest.fixture(params=[APPENDS, PASSES_ON], ids=["appends its scheme", "passes the scheme on"])
def balancers_scheme(request: pytest.FixtureRequest) -> str:
    """Return what the balancer writes into X-Forwarded-Proto."""
    scheme: str = request.param
    return scheme


@pytest.fixture
def routers(
    fleet: Fleet, certificate: Path, tmp_path: Path, balancers_scheme: str
) -> Iterator[Router]:
    """Run both in a row, in front of one process of the app."""
    routers = Router(
        *(free_port(), free_port(), certificate),
        *(tmp_path / "error.log", tmp_path / "nginx.conf"),
    )
    servers = SERVERS.format(
        http_port=routers.http_port,
        https_port=routers.https_port,
        balancer_port=free_port(),
        app_port=fleet.ports[0],
        certificate=certificate,
        key=certificate.with_name("key.pem"),
        cdn=CDN,
        balancer=BALANCER,
        balancers_scheme=balancers_scheme,
    )
    fleet.environ |= {"TRUSTED_PROXY_HOPS": "2", "TRUSTED_PROXIES": BALANCER}
    with run_nginx(routers, servers, tmp_path):
        yield routers


def test_visitor_is_served_over_https_and_known_by_address(fleet: Fleet, routers: Router) -> None:
    """With two hops there is no redirect on https, and what the client forges is ignored."""
    fleet.start(fleet.ports[0])
    forged = ("-HX-Forwarded-For: 198.51.100.66", "-HX-Forwarded-Proto: http")

    page = curl(routers, *FROM_CLIENT, *forged, f"{routers.https}/login")
    over_http = curl(routers, *FROM_CLIENT, "-HX-Forwarded-Proto: https", f"{routers.http}/login")

    assert status_of(page) == 200
    assert "Strict-Transport-Security: " in page
    (request_id,) = re.findall(r"X-Request-Id: (\S+)", page)
    assert fleet.access_line(request_id)["address"] == CLIENT
    assert status_of(over_http) == 308
    assert f"Location: https://{HOST}/login" in over_http


async def test_sign_in_works_through_both(fleet: Fleet, routers: Router) -> None:
    """The cookie is Secure, and is accepted when it comes back."""
    fleet.start(fleet.ports[0])

    async with routers.visitor("ada@example.com") as visitor:
        assert (await visitor.sign_up(), await visitor.sign_in()) == (201, 200)
        assert await visitor.profile() == 200


@pytest.mark.parametrize("balancers_scheme", [APPENDS], indirect=False)
def test_one_hop_too_few_takes_the_cdn_for_the_client(
    fleet: Fleet, routers: Router, balancers_scheme: str
) -> None:
    """What the page says to look for: a redirect on https, and the CDN's address in the log."""
    fleet.environ["TRUSTED_PROXY_HOPS"] = "1"
    fleet.start(fleet.ports[0])

    answer = curl(routers, *FROM_CLIENT, f"{routers.https}/login")

    assert status_of(answer) == 308
    (request_id,) = re.findall(r"X-Request-Id: (\S+)", answer)
    assert fleet.access_line(request_id)["address"] == CDN
    assert cookie_lines(answer) == []


@pytest.mark.parametrize("balancers_scheme", [REPLACES], indirect=False)
def test_balancer_that_replaces_the_scheme_must_be_reached_over_https(
    fleet: Fleet, routers: Router, balancers_scheme: str
) -> None:
    """As an AWS balancer does: behind a CDN that speaks http to it, every request is redirected."""
    fleet.start(fleet.ports[0])

    assert status_of(curl(routers, *FROM_CLIENT, f"{routers.https}/login")) == 308
