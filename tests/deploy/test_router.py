"""The app behind a router that appends to headers, terminates TLS, and retries no request."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.deploy.conftest import HOST, Fleet, Router, cookie_lines, procfile, program
from tests.processes import ROOT, Process
from tests.webapp.forwarded_cases import CASES, Case

pytestmark = pytest.mark.long

PASSWORD = "the-password-of-a-deployed-account"


def curl(router: Router, *arguments: str) -> str:
    """Run curl against the router; return the answer's headers and body."""
    command = [program("curl"), "-s", "-i", "--cacert", str(router.certificate)]
    for port in (router.https_port, router.http_port):
        command += ["--resolve", f"{HOST}:{port}:127.0.0.1"]
    ran = subprocess.run([*command, *arguments], check=True, capture_output=True, text=True)
    return ran.stdout


def status_of(answer: str) -> int:
    """Return the status of a raw answer."""
    return int(answer.split()[1])


@pytest.fixture
def started(fleet: Fleet) -> Fleet:
    """Start both processes."""
    for port in fleet.ports:
        fleet.start(port)
    return fleet


async def test_honcho_runs_the_procfile_and_the_processes_share_sessions(
    fleet: Fleet, router: Router
) -> None:
    """A sign-in at one process is valid at the other one; both exit with code 0."""
    honcho = Process(
        *("honcho", "start", "-e", "/dev/null", "-f", str(ROOT / "Procfile")),
        *("-c", "web=2", "-p", str(fleet.ports[0]), "--no-colour", "web"),
        environ=fleet.environ | fleet.path(),
    )
    try:
        for port in fleet.ports:
            honcho.wait_for(f"port {port}")
        async with router.visitor("ada@example.com") as visitor:
            assert (await visitor.sign_up(), await visitor.sign_in()) == (201, 200)
            assert [await visitor.profile() for _ in range(6)] == [200] * 6
    finally:
        honcho.end()

    answered = re.findall(r"(web\.[12]) .*/api/profile.*200", honcho.output)
    assert set(answered) == {"web.1", "web.2"}
    assert honcho.output.count('"message": "ended"') == 2
    assert procfile()["release"] == "python -m webapp check"


def test_the_cookie_is_set_and_deleted_with_identical_attributes(
    started: Fleet, router: Router, tmp_path: Path
) -> None:
    """With curl, which checks the `__Host-` prefix like browsers do, the cookie comes and goes."""
    jar = ["-c", str(tmp_path / "jar"), "-b", str(tmp_path / "jar")]
    own_page = ["-H", "Sec-Fetch-Site: same-origin"]
    as_json = ["-H", "Content-Type: application/json"]
    account = {"email": "ada@example.com", "password": PASSWORD}

    def post(path: str, body: object) -> str:
        data = ["--data", json.dumps(body)] if body else ["-X", "POST"]
        return curl(router, *jar, *own_page, *as_json, *data, f"{router.https}/api/auth/{path}")

    assert status_of(post("signup", {"username": "ada", **account})) == 201
    signed_in = post("login", account)
    kept = (tmp_path / "jar").read_text()
    profile = curl(router, *jar, f"{router.https}/api/profile")
    signed_out = post("logout", None)

    (set_line,), (deletion,) = cookie_lines(signed_in), cookie_lines(signed_out)
    attributes = {"Path=/", "Secure", "HttpOnly", "SameSite=Lax"}
    assert set_line.startswith("__Host-session=")
    assert attributes == set(set_line.split("; ")[1:])
    assert attributes <= set(deletion.split("; ")[1:])
    assert "Max-Age=0" in deletion
    assert "__Host-session" in kept
    assert "__Host-session" not in (tmp_path / "jar").read_text()
    assert (status_of(profile), status_of(signed_out)) == (200, 204)
    assert status_of(curl(router, *jar, f"{router.https}/api/profile")) == 401
    assert "Strict-Transport-Security: max-age=" in signed_in


def test_http_is_redirected(started: Fleet, router: Router) -> None:
    """GET requests are redirected to https, others are refused, and no cookie is set."""
    read = curl(router, f"{router.http}/login?next=/profile")
    written = curl(router, "--data", "email=a", f"{router.http}/login")

    assert status_of(read) == 308
    assert f"\nLocation: https://{HOST}/login?next=/profile" in read.replace("\r", "")
    assert status_of(written) == 403
    assert cookie_lines(read + written) == []


def test_metrics_and_readiness_are_not_public(started: Fleet, router: Router) -> None:
    """The example configuration answers /metrics and /readyz with 404; /healthz reaches the app."""
    codes = [
        status_of(curl(router, f"{router.https}/{path}"))
        for path in ("metrics", "readyz", "healthz")
    ]

    assert codes == [404, 404, 200]


SECURITY_HEADERS = (
    *("X-Content-Type-Options", "Cache-Control", "Referrer-Policy", "Content-Security-Policy"),
    *("Cross-Origin-Opener-Policy", "Cross-Origin-Resource-Policy", "Strict-Transport-Security"),
)


def test_answers_of_nginx_itself_carry_the_security_headers(
    started: Fleet, router: Router, tmp_path: Path
) -> None:
    """Those of the app carry them once: nginx adds none where the app has sent them."""
    too_large = tmp_path / "large"
    too_large.write_bytes(b"x" * 70_000)
    of_the_app = curl(router, f"{router.https}/")
    refused = curl(router, f"{router.https}/metrics")
    large = curl(router, "--data-binary", f"@{too_large}", f"{router.https}/login")
    for port in started.ports:
        process = started.running.pop(port)
        assert process.end() == 0
    away = curl(router, f"{router.https}/")
    away_over_http = curl(router, f"{router.http}/")

    answers = [of_the_app, refused, large, away]
    assert [status_of(answer) for answer in answers] == [200, 404, 413, 502]
    for answer in answers:
        names = [line.partition(":")[0] for line in answer.partition("\n\n")[0].splitlines()]
        assert {name: names.count(name) for name in SECURITY_HEADERS} == dict.fromkeys(
            SECURITY_HEADERS, 1
        ), answer
    assert "Strict-Transport-Security" not in away_over_http
    assert "X-Content-Type-Options: nosniff" in away_over_http


def test_another_host_name_is_not_served(started: Fleet, router: Router) -> None:
    """The app refuses a host name that nginx passes on."""
    answer = curl(router, "-H", "Host: evil.example", f"{router.https}/")

    assert status_of(answer) == 421


def test_headers_forged_by_a_client_are_ignored_behind_the_router(
    started: Fleet, router: Router
) -> None:
    """With one hop, a client chooses neither address nor scheme: every case gives 127.0.0.1."""
    found = {case.name: _resolved(router, started, *_lines(case)) for case in CASES if _fits(case)}

    assert len(found) > 40
    assert set(found.values()) == {(200, "127.0.0.1")}


def test_second_trusted_hop_is_used_as_documented(fleet: Fleet, router: Router) -> None:
    """With two hops, the client acts as the outer router, and nginx is the inner one."""
    fleet.environ["TRUSTED_PROXY_HOPS"] = "2"
    for port in fleet.ports:
        fleet.start(port)
    # nginx joins repeated lines and adds its own scheme, which changes those cases.
    cases = [c for c in CASES if c.hops == 1 and len(c.forwarded_for) < 2 and c.proto == ["https"]]

    for case in filter(_fits, cases):
        status, address = _resolved(router, fleet, *_lines(case))

        expected = (200, case.client) if case.client else (400, "127.0.0.1")
        assert (status, address) == expected, case.name


def _fits(case: Case) -> bool:
    """Return whether a case is short enough for a command line and can be sent as a header."""
    return all(len(line) < 2000 and line.isascii() for line in case.forwarded_for)


def _lines(case: Case) -> list[str]:
    lines = [f"X-Forwarded-For: {line}" for line in case.forwarded_for]
    lines += [f"X-Forwarded-Proto: {line}" for line in case.proto]
    # curl sends a header without a value when a semicolon follows its name
    return [line.rstrip(": ") + ";" if line.endswith(": ") else line for line in lines]


def _resolved(router: Router, fleet: Fleet, *headers: str) -> tuple[int, str]:
    """Return the status and the address in the access line that belongs to the answer."""
    answer = curl(
        router, *(f"-H{header}" for header in headers), f"{router.https}/api/openapi.json"
    )
    (request_id,) = re.findall(r"X-Request-Id: (\S+)", answer)
    return status_of(answer), str(fleet.access_line(request_id)["address"])
