"""The files that platforms read match the app."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from storage import generate_secret
from tests.deploy.conftest import procfile
from tests.processes import LISTENING, ROOT, free_port, webapp
from tests.webapp.conftest import environ
from webapp.cli.exit_codes import MISCONFIGURED, TRY_LATER
from webapp.config.settings import KNOWN, Config, ConfigError

__all__ = ["environ"]

ANYWHERE = "0.0.0.0"  # noqa: S104


def test_the_procfile_names_the_release_phase_and_the_process() -> None:
    """Two process types, and nothing else."""
    assert procfile() == {"release": "python -m webapp check", "web": "python -m webapp"}


def test_app_json_has_every_required_variable_and_generates_the_secret() -> None:
    """With its values, and with answers to its questions, the app starts."""
    variables = json.loads((ROOT / "app.json").read_text())["env"]
    answers = {"MONGO_URI": "mongodb+srv://u:p@c.example/db", "ALLOWED_HOSTS": "app.example"}
    generated = "0123456789abcdef" * 2 + generate_secret().encode().hex()[:32]  # 64 hex digits
    environ = {
        name: v.get("value") or answers.get(name, generated) for name, v in variables.items()
    }

    assert variables["SESSION_SECRET"]["generator"] == "secret"
    assert set(variables) <= set(KNOWN)
    assert Config.from_environ(environ).warnings == ()
    for name in environ:
        with pytest.raises(ConfigError, match=f"{name}: is not set"):
            Config.from_environ({k: v for k, v in environ.items() if k != name})


def test_container_has_the_app_and_runs_it_like_the_procfile() -> None:
    """The copied files exist and are not ignored; Python is the pinned one; the user is no root."""
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    copied = [line.split()[1] for line in lines if line.startswith("COPY ")]
    let_in = re.findall(r"^!(\S+)", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    command = json.loads(next(line for line in lines if line.startswith("CMD "))[4:])

    assert copied == let_in
    assert all((ROOT / name).exists() for name in copied)
    assert " ".join(command) == procfile()["web"]
    python = (ROOT / ".python-version").read_text().strip()
    (base,) = [line for line in lines if line.startswith("FROM ")]
    assert re.fullmatch(rf"FROM python:{re.escape(python)}-slim@sha256:[0-9a-f]{{64}}", base)
    (install,) = [line for line in lines if "pip install" in line]
    assert {"--require-hashes", "--only-binary :all:"} <= set(
        re.findall(r"--[a-z-]+(?: :\w+:)?", install)
    )
    assert any(re.fullmatch(r"USER [1-9]\d+", line) for line in lines)


@pytest.mark.parametrize(
    ("listens_on", "hosts"),
    [
        pytest.param("::", ["", ANYWHERE, "::", "[::1]", "127.0.0.1", "localhost"], id="all"),
        pytest.param("::1", ["::1"], id="IPv6 loopback alone"),
    ],
)
def test_health_check_of_the_container_asks_where_the_app_listens_and_no_proxy(
    environ: dict[str, str], listens_on: str, hosts: list[str]
) -> None:
    """It follows HOST and PORT, ignores HTTP_PROXY, and fails when nothing listens."""
    text = (ROOT / "Dockerfile").read_text()
    (check,) = re.findall(r"^HEALTHCHECK .*?CMD (\[.*\])$", text, re.MULTILINE)
    _python, *arguments = json.loads(check)
    port = str(free_port())
    proxies = dict.fromkeys(("HTTP_PROXY", "http_proxy", "all_proxy"), "http://127.0.0.1:9")

    def codes() -> list[int]:
        return [
            subprocess.run(
                [sys.executable, *arguments],
                env={"HOST": host, "PORT": port, **proxies},
                capture_output=True,
                check=False,
            ).returncode
            for host in hosts
        ]

    with webapp(environ=environ | {"HOST": listens_on, "PORT": port}) as process:
        process.wait_for(LISTENING)
        healthy = codes()
    assert healthy == [0] * len(hosts)
    assert 0 not in codes()


def test_the_unit_starts_the_app_again_until_mongodb_answers_and_never_with_wrong_settings() -> (
    None
):
    """Code 75 restarts without an end, code 78 never."""
    unit = (ROOT / "deploy" / "webapp@.service").read_text().splitlines()

    assert f"RestartForceExitStatus={TRY_LATER}" in unit
    assert f"RestartPreventExitStatus={MISCONFIGURED}" in unit
    assert "StartLimitIntervalSec=0" in unit


def test_settings_of_the_unit_win_over_those_of_the_file() -> None:
    """A HOST or PORT in /etc/webapp.env changes nothing: the command sets them again."""
    unit = (ROOT / "deploy" / "webapp@.service").read_text()
    (command,) = re.findall(r"^ExecStart=(.*)$", unit, re.MULTILINE)
    show = [sys.executable, "-c", "import os; print(os.environ['HOST'], os.environ['PORT'])"]
    prefix = command.replace("%i", "8081").split(" /srv/")[0].split()
    from_the_file = {"HOST": ANYWHERE, "PORT": "80"}

    shown = subprocess.run([*prefix, *show], env=from_the_file, capture_output=True, check=True)

    assert shown.stdout.decode().split() == ["127.0.0.1", "8081"]
    assert "\nEnvironment=" not in unit
    assert re.search(r"^MemoryMax=\d+M$", unit, re.MULTILINE)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
def test_the_unit_is_valid_and_hardened(tmp_path: Path) -> None:
    """Systemd reports no problem, and rates the exposure as low."""
    unit = tmp_path / "webapp@8081.service"
    text = (ROOT / "deploy" / "webapp@.service").read_text()
    unit.write_text(text.replace("/srv/webapp/.venv/bin/python", sys.executable))

    verified = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False
    )
    rated = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--threshold=20", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (verified.returncode, verified.stderr) == (0, "")
    assert rated.returncode == 0, rated.stdout.splitlines()[-1]
