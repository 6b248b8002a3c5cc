"""Two processes of the app behind a real nginx, which runs on the example configuration."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from storage import generate_secret
from tests import certificates
from tests.conftest import missing
from tests.processes import LISTENING, ROOT, Process, free_port, is_free, listens
from tests.waiting import until
from tests.webapp.browsing import Visitor

HOST = "app.example"
# Much less than the limit of the drain: new requests must not delay the stop.
DRAIN_AT_MOST_SECONDS = 15.0
NGINX_FOLDERS = "/usr/sbin:/usr/local/sbin:/opt/homebrew/bin"


def program(name: str) -> str:
    """Find a program on this machine. Without it skip the test, but never in CI."""
    found = shutil.which(name, path=f"{os.environ['PATH']}:{NGINX_FOLDERS}")
    if found is None:
        missing(f"{name} is missing; install Debian's package of that name")
    return found


def procfile() -> dict[str, str]:
    """Return the command of each process type."""
    lines = (ROOT / "Procfile").read_text().splitlines()
    return {name: command.strip() for name, _, command in (line.partition(":") for line in lines)}


@dataclass
class Router:
    """The running nginx: its two ports, its certificate, and its error log."""

    https_port: int
    http_port: int
    certificate: Path
    error_log: Path
    configuration: Path
    running: Process | None = None

    @property
    def https(self) -> str:
        """The address that a browser would use."""
        return f"https://{HOST}:{self.https_port}"

    @property
    def http(self) -> str:
        """The same address without TLS."""
        return f"http://{HOST}:{self.http_port}"

    def visitor(self, email: str) -> Visitor:
        """Open a browser that resolves the host to this machine and trusts the certificate."""
        return Visitor(self.https, email, trusts=self.certificate)

    def leave_out(self, port: int) -> None:
        """Stop sending requests to a process, as a platform's router does when it stops it."""
        self._reload(f"127.0.0.1:{port} max_fails=0;", f"127.0.0.1:{port} down;")

    def send_to(self, port: int) -> None:
        """Send requests to this process again."""
        self._reload(f"127.0.0.1:{port} down;", f"127.0.0.1:{port} max_fails=0;")

    def _reload(self, old: str, new: str) -> None:
        # Replaced in one step, so that an earlier signal never finds an incomplete file.
        changed = self.configuration.with_suffix(".new")
        changed.write_text(self.configuration.read_text().replace(old, new))
        changed.replace(self.configuration)
        if self.running:
            self.running.signal(signal.SIGHUP)

    def errors(self) -> list[str]:
        """Return the lines of the error log."""
        return self.error_log.read_text().splitlines()


def consecutive_ports() -> tuple[int, int]:
    """Return two free ports, the second one higher, as honcho numbers its processes."""
    while not is_free((first := free_port()) + 1):
        pass
    return first, first + 1


@dataclass
class Fleet:
    """The processes of the app; each can be stopped and started again with other settings."""

    environ: dict[str, str]
    ports: tuple[int, int] = field(default_factory=consecutive_ports)
    running: dict[int, Process] = field(default_factory=dict)
    ended: list[Process] = field(default_factory=list)

    def path(self) -> dict[str, str]:
        """Return a PATH on which `python` and `honcho` are those of this environment."""
        return {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def start(self, port: int) -> None:
        """Start a process as the Procfile says, and wait until it listens."""
        command = procfile()["web"].split()
        environ = self.environ | {"PORT": str(port)}
        process = self.running[port] = Process(*command, environ=environ | self.path())
        process.wait_for(LISTENING)

    def restart(self, port: int, router: Router) -> None:
        """Stop a process like a platform does, with two SIGTERMs, and start the next one.

        The router is notified at the same moment, not before: requests sent meanwhile count.
        """
        process = self.running.pop(port)
        self.ended.append(process)
        process.signal(signal.SIGTERM)
        router.leave_out(port)
        process.wait_for("ending:")
        process.signal(signal.SIGTERM)
        assert process.wait(DRAIN_AT_MOST_SECONDS) == 0, process.output
        self.start(port)
        router.send_to(port)

    def stop(self) -> None:
        """Stop all processes."""
        for process in self.running.values():
            assert process.end() == 0

    def access_line(self, request_id: str) -> dict[str, object]:
        """Return the access line of one request; it is written after the answer."""

        def access_line() -> str | None:
            lines = self.output().splitlines()
            parts = (request_id, '"event": "request"')
            return next((line for line in lines if all(part in line for part in parts)), None)

        found: dict[str, object] = json.loads(until(access_line))
        return found

    def output(self) -> str:
        """Return what all processes wrote, including the ones that have stopped."""
        return "".join(p.output for p in [*self.ended, *self.running.values()])


@pytest.fixture
def fleet(mongo_uri: str, database_name: str) -> Iterator[Fleet]:
    """Configure two processes for production; the test starts them."""
    fleet = Fleet(
        {
            "MONGO_URI": mongo_uri,
            "MONGO_DATABASE": database_name,
            "SESSION_SECRET": generate_secret(),
            "HOST": "127.0.0.1",
            "TRUSTED_PROXY_HOPS": "1",
            "ALLOWED_HOSTS": HOST,
        }
    )
    yield fleet
    fleet.stop()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a certificate for the host, with its key in the same folder."""
    folder = tmp_path_factory.mktemp("certificate")
    return certificates.certificate(folder, f"DNS:{HOST}").with_name("cert.pem")


@pytest.fixture
def router(fleet: Fleet, certificate: Path, tmp_path: Path) -> Iterator[Router]:
    """Run nginx with the example configuration, with the ports and paths of this machine."""
    router = Router(
        *(free_port(), free_port(), certificate),
        *(tmp_path / "error.log", tmp_path / "nginx.conf"),
    )
    example = (ROOT / "deploy" / "nginx.conf").read_text()
    for old, new in (
        ("server 127.0.0.1:8081;", f"server 127.0.0.1:{fleet.ports[0]} max_fails=0;"),
        ("server 127.0.0.1:8082;", f"server 127.0.0.1:{fleet.ports[1]} max_fails=0;"),
        ("listen 80;", f"listen 127.0.0.1:{router.http_port};"),
        ("listen 443 ssl;", f"listen 127.0.0.1:{router.https_port} ssl;"),
        ("/etc/ssl/app.example.pem", str(certificate)),
        ("/etc/ssl/app.example.key", str(certificate.with_name("key.pem"))),
    ):
        assert example.count(old) == 1, old
        example = example.replace(old, new)
    with run_nginx(router, example, tmp_path):
        yield router


@contextmanager
def run_nginx(router: Router, servers: str, folder: Path) -> Iterator[None]:
    """Run nginx with these servers, until the context ends."""
    router.configuration.write_text(_main_configuration(folder, servers))
    command = [program("nginx"), "-p", str(folder), "-c", str(router.configuration)]
    command += ["-e", str(router.error_log)]
    subprocess.run([*command, "-t", "-q"], check=True)
    router.running = Process(*command, environ={})
    try:
        until(lambda: router.errors() or listens(router.http_port, router.https_port))
        assert not router.errors()
        yield
    finally:
        code = router.running.end()
    assert code == 0


def _main_configuration(folder: Path, example: str) -> str:
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    # proxy_next_upstream off: a platform's router also sends a request only once, to one process.
    return (
        ("user root;\n" if os.geteuid() == 0 else "")
        + f"daemon off;\nworker_processes 1;\npid {folder}/nginx.pid;\n"
        + "events { worker_connections 512; }\n"
        + f"http {{\naccess_log off;\nproxy_next_upstream off;\n{temporary}{example}}}\n"
    )


def cookie_lines(headers: str) -> list[str]:
    """Return the Set-Cookie lines of a raw answer."""
    return re.findall(r"^set-cookie: (.*?)\r?$", headers, re.IGNORECASE | re.MULTILINE)
