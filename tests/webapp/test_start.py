"""A start that fails: one line per problem, in time, without a secret."""

from __future__ import annotations

import asyncio
import resource
import socket
import ssl
import subprocess
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from pymongo import MongoClient
from pymongo.errors import ConfigurationError, NotPrimaryError, OperationFailure

from storage import StorageUnavailable, causes
from tests.certificates import certificate
from tests.conftest import NewMongod
from tests.processes import LISTENING, free_port, run_webapp, webapp
from tests.webapp.commands import run_command
from tests.webapp.test_config import REFUSED, SECRET
from webapp.app import create_app, parts
from webapp.config.settings import Config, ConfigError
from webapp.database import errors
from webapp.database.client import CLOSE_SECONDS, START_SECONDS
from webapp.database.errors import DatabaseAway, explain, failed_start
from webapp.database.mongod import Mongod
from webapp.http.proxy import ForwardedPolicy

PASSWORD = "the-password-of-a-user"
# Of work, on a machine that does nothing else; a start that is refused takes a third of it.
REFUSED_SECONDS = 2.0
MONGODB_SECONDS = 15.0


def refused(environ: dict[str, str]) -> list[str]:
    """Run `check`, which starts as the app does; assert what holds for each start, return lines."""
    return _refused(environ, *run_command("check", environ=environ | {"LOG_LEVEL": "DEBUG"}))


def postponed(environ: dict[str, str]) -> list[str]:
    """Run `check` on a MongoDB that may answer later: code 75, and otherwise as `refused`."""
    code, output = run_command("check", environ=environ | {"LOG_LEVEL": "DEBUG"})
    return _refused(environ, code, output, expected=75)


def refused_as_a_process(environ: dict[str, str]) -> list[str]:
    """Run the app itself, which must be refused without much work."""
    worked = _children_seconds()
    code, output = run_webapp(environ=environ | {"LOG_LEVEL": "DEBUG"})

    # What it works, not how long it takes: other programs may keep the machine busy.
    assert _children_seconds() - worked < REFUSED_SECONDS
    return _refused(environ, code, output)


def _refused(environ: dict[str, str], code: int, output: str, *, expected: int = 78) -> list[str]:
    assert code == expected, output
    assert "Traceback" not in output
    assert environ.get("SESSION_SECRET", SECRET) not in output
    assert PASSWORD not in output
    return output.splitlines()


def _children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@pytest.fixture
def soon_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for a MongoDB for two seconds only."""
    monkeypatch.setattr("webapp.app.START_SECONDS", 2.0)


WRONG_AT_ONCE = {name: text for name, text, _words, _id in REFUSED if text}


def test_all_wrong_settings_are_reported_at_once() -> None:
    """One line per variable, code 78, in under two seconds, no secret, also at DEBUG."""
    wrong = (
        WRONG_AT_ONCE
        | {
            "SESSION_SECRET": f"{SECRET}\udcff",  # the byte FF, which is no UTF-8
            "MONGO_URI": f"mongodb://app:{PASSWORD}@db/?tls=perhaps",
            "METRICS_TOKEN": PASSWORD[:15],
        }
    )
    del wrong["LOG_LEVEL"]  # set to DEBUG by `refused`

    lines = refused_as_a_process(wrong)

    assert {line.partition(":")[0] for line in lines} == set(wrong)


def test_start_needs_a_database() -> None:
    """Without MONGO_URI nothing is kept in memory instead."""
    lines = refused_as_a_process({"SESSION_SECRET": SECRET, "APP_ENV": "development"})

    assert len(lines) == 1
    assert lines[0].startswith("MONGO_URI: is not set")
    assert "--dev" in lines[0]


@pytest.mark.usefixtures("soon_refused")
def test_unreachable_mongodb_is_reported_in_time(environ: dict[str, str]) -> None:
    """Nothing listens there: reported within 15 seconds, with code 75."""
    uri = f"mongodb://app:{PASSWORD}@127.0.0.1:{free_port()}"

    lines = postponed(environ | {"MONGO_URI": uri})

    assert lines[-1].startswith("MONGO_URI: MongoDB does not answer; check that it runs")
    assert START_SECONDS + CLOSE_SECONDS < MONGODB_SECONDS


@pytest.mark.usefixtures("soon_refused")
def test_silent_mongodb_is_reported_in_time(environ: dict[str, str]) -> None:
    """A server that accepts and never answers is reported within 15 seconds."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        lines = postponed(environ | {"MONGO_URI": f"mongodb://127.0.0.1:{silent.getsockname()[1]}"})

    assert lines[-1].startswith("MONGO_URI: MongoDB does not answer")


@pytest.mark.usefixtures("soon_refused")
def test_unknown_srv_name_is_reported(environ: dict[str, str]) -> None:
    """A mongodb+srv name without records is a wrong address."""
    lines = refused(environ | {"MONGO_URI": "mongodb+srv://nowhere.invalid/shop"})

    assert lines[-1].startswith("MONGO_URI: ")


@pytest.mark.parametrize("w", ["2", "eu"], ids=["two members", "a tag"])
def test_write_concern_of_a_replica_set_on_a_single_server_is_named(
    w: str, environ: dict[str, str], mongo_uri: str
) -> None:
    """The line says that it is about w=, and that this is a single server."""
    lines = refused(environ | {"MONGO_URI": f"{mongo_uri}/?w={w}"})

    assert "w= asks for several members" in lines[-1]
    assert "single server" in lines[-1]


@pytest.mark.usefixtures("soon_refused")
def test_tls_to_a_server_without_tls_is_reported(environ: dict[str, str], mongo_uri: str) -> None:
    """The sentence names TLS; code 75, for a proxy whose server is away looks the same."""
    lines = postponed(environ | {"MONGO_URI": f"{mongo_uri}/?tls=true"})

    assert lines[-1].startswith("MONGO_URI: ")
    assert "tls=" in lines[-1]


@pytest.mark.usefixtures("soon_refused")
def test_plaintext_to_a_server_with_tls_is_reported(
    environ: dict[str, str], mongod: Mongod, tmp_path: Path
) -> None:
    """A closed connection may pass, code 75; a certificate that is not trusted does not, 78."""
    arguments = ("--tlsMode", "requireTLS", "--tlsCertificateKeyFile", str(certificate(tmp_path)))
    with TlsMongod(mongod._binary, tmp_path / "tls", arguments=arguments) as server:
        plain = postponed(environ | {"MONGO_URI": server.uri})
        untrusted = refused(environ | {"MONGO_URI": f"{server.uri}/?tls=true"})

    assert "tls=true" in plain[-1]
    assert "its certificate is not trusted" in untrusted[-1]


class TlsMongod(Mongod):
    """A mongod with TLS only: it is ready when a TLS handshake succeeds."""

    def _wait_until_it_answers(self, process: subprocess.Popen[bytes]) -> None:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        while process.poll() is None:
            try:
                with socket.create_connection(("127.0.0.1", self.port)) as plain:
                    context.wrap_socket(plain).close()
                    return
            except ConnectionError:
                continue
        raise AssertionError("mongod ended")


@pytest.fixture(scope="module")
def member(new_mongod: NewMongod) -> Iterator[Mongod]:
    """Run one member of a replica set `real` that nobody has initiated."""
    with new_mongod("--replSet", "real") as server:
        yield server


@pytest.mark.usefixtures("soon_refused")
@pytest.mark.parametrize("direct", ["", "&directConnection=true"])
def test_replica_set_that_is_not_initiated_yet_is_waited_for(
    environ: dict[str, str], member: Mongod, direct: str
) -> None:
    """Code 75: the app is often started before `rs.initiate()` has run."""
    lines = postponed(environ | {"MONGO_URI": f"{member.uri}/?replicaSet=real{direct}"})

    assert "has no primary" in lines[-1]
    assert "rs.initiate()" in lines[-1]


@pytest.mark.usefixtures("soon_refused")
def test_wrong_replica_set_name_is_reported(
    environ: dict[str, str], member: Mongod, mongo_uri: str
) -> None:
    """Code 78, for a set of another name and for a server that belongs to none."""
    with MongoClient[dict[str, object]](member.uri, directConnection=True) as client:
        hosts = [{"_id": 0, "host": f"127.0.0.1:{member.port}"}]
        client.admin.command("replSetInitiate", {"_id": "real", "members": hosts})
    with MongoClient[dict[str, object]](member.uri, replicaSet="real") as client:
        client.admin.command("ping")  # waits for the election, which keeps a server busy

    of_another = refused(environ | {"MONGO_URI": f"{member.uri}/?replicaSet=typo"})
    direct = "&directConnection=true"
    asked_directly = refused(environ | {"MONGO_URI": f"{member.uri}/?replicaSet=typo{direct}"})
    of_none = refused(environ | {"MONGO_URI": f"{mongo_uri}/?replicaSet=typo"})

    for lines in (of_another, asked_directly, of_none):
        assert "belongs to the replica set that replicaSet= names" in lines[-1]


@pytest.mark.usefixtures("soon_refused")
def test_app_that_was_started_too_early_passes_at_a_later_start(
    environ: dict[str, str], new_mongod: NewMongod
) -> None:
    """What a supervisor does after code 75: the same command again, until MongoDB answers."""
    port = free_port()
    own = environ | {"MONGO_URI": f"mongodb://127.0.0.1:{port}"}

    too_early = postponed(own)
    with new_mongod(port=port):
        code, output = run_command("check", environ=own)

    assert "does not answer" in too_early[-1]
    assert code == 0, output


@pytest.fixture(scope="module")
def guarded(new_mongod: NewMongod) -> Iterator[Mongod]:
    """Run a mongod with users: a writer of `shop`, a reader of it, a writer of another."""
    with new_mongod("--auth") as server:
        with MongoClient[dict[str, object]](server.uri) as client:
            client.admin.command("createUser", "root", pwd=PASSWORD, roles=["root"])
        root = server.uri.replace("//", f"//root:{PASSWORD}@")
        with MongoClient[dict[str, object]](root) as client:
            for user, role, database in (
                ("writer", "readWrite", "shop"),
                ("reader", "read", "shop"),
                ("stranger", "readWrite", "elsewhere"),
            ):
                roles = [{"role": role, "db": database}]
                client.admin.command("createUser", user, pwd=PASSWORD, roles=roles)
            allowed = ["find", "listIndexes", "createIndex", "createCollection"]
            privilege = {"resource": {"db": "shop", "collection": ""}, "actions": allowed}
            client.admin.command("createRole", "indexes", privileges=[privilege], roles=[])
            client.admin.command("createUser", "indexer", pwd=PASSWORD, roles=["indexes"])
            allowed = ["find", "listIndexes", "insert", "update", "remove"]
            privilege = {"resource": {"db": "shop", "collection": ""}, "actions": allowed}
            client.admin.command("createRole", "least", privileges=[privilege], roles=[])
            client.admin.command("createUser", "least", pwd=PASSWORD, roles=["least"])
        yield server


def uri_of(guarded: Mongod, user: str, password: str = PASSWORD) -> dict[str, str]:
    """Return the settings that this user would have."""
    uri = guarded.uri.replace("//", f"//{user}:{password}@")
    return {"MONGO_URI": f"{uri}/shop?authSource=admin", "MONGO_DATABASE": "shop"}


def test_wrong_database_password_is_reported(environ: dict[str, str], guarded: Mongod) -> None:
    """The sentence names user and password as the cause, and shows neither."""
    lines = refused(environ | uri_of(guarded, "writer", "wrong-" + PASSWORD))

    assert lines[-1].startswith("MONGO_URI: MongoDB refuses the user name or the password")


def test_user_of_another_database_is_reported(environ: dict[str, str], guarded: Mongod) -> None:
    """A user of another database may not create indexes here."""
    lines = refused(environ | uri_of(guarded, "stranger"))

    assert "indexes" in lines[-1] or "may not write" in lines[-1]
    assert "an administrator run" in lines[-1]


def test_read_only_user_is_reported(environ: dict[str, str], guarded: Mongod) -> None:
    """Found at start, not at the first sign-in, also when the indexes exist."""
    without_indexes = refused(environ | uri_of(guarded, "reader"))
    assert run_command("check", environ=environ | uri_of(guarded, "writer"))[0] == 0
    with_indexes = refused(environ | uri_of(guarded, "reader"))

    assert "an administrator run" in without_indexes[-1]
    assert "may not write" in with_indexes[-1]
    assert "db.grantRolesToUser" in with_indexes[-1]


def test_user_without_index_rights_is_served_when_the_indexes_exist(
    environ: dict[str, str], guarded: Mongod
) -> None:
    """Least privilege: an administrator creates the indexes once, with `check`."""
    least = environ | uri_of(guarded, "least")
    with MongoClient[dict[str, object]](guarded.uri.replace("//", f"//root:{PASSWORD}@")) as client:
        client.drop_database("shop")

    missing = refused(least)
    assert run_command("check", environ=environ | uri_of(guarded, "writer"))[0] == 0
    code, output = run_command("check", environ=least)

    assert "an administrator run" in missing[-1]
    assert code == 0, output


def test_user_who_may_only_create_indexes_is_reported(
    environ: dict[str, str], guarded: Mongod
) -> None:
    """Missing rights to write are found by a write that changes nothing."""
    lines = refused(environ | uri_of(guarded, "indexer"))

    assert "may not write to the database 'shop'" in lines[-1]


async def test_policy_that_fails_its_own_check_stops_the_start(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hook 2: the app does not start when it would believe forged headers."""

    def believe(_policy: ForwardedPolicy, peer: str, _headers: object) -> tuple[str, str]:
        return peer, "https"

    monkeypatch.setattr(ForwardedPolicy, "resolve", believe)

    with pytest.raises(ConfigError, match=r"TRUSTED_PROXIES: .* believes the wrong entry"):
        await create_app(Config.from_environ(environ))


def test_conflicting_index_is_reported(environ: dict[str, str], guarded: Mongod) -> None:
    """An index that sessions cannot use is named with the command that fixes it."""
    root = guarded.uri.replace("//", f"//root:{PASSWORD}@")
    with MongoClient[dict[str, object]](root) as client:
        client.drop_database("shop")
        client["shop"]["sessions"].create_index("expires_at", unique=True)

    lines = refused(environ | uri_of(guarded, "writer"))
    with MongoClient[dict[str, object]](root) as client:
        client.drop_database("shop")

    assert lines[-1].startswith("MongoDB: ")
    assert "dropIndexes" in lines[-1]


async def opened_and_closed(config: Config) -> None:
    """Open the parts as the operator's commands do."""
    async with parts(config):
        pass


@pytest.mark.parametrize("start", [create_app, opened_and_closed])
async def test_failed_start_closes_its_connections(
    environ: dict[str, str], start: Callable[[Config], Awaitable[object]]
) -> None:
    """An error after MongoDB was reached leaves no thread of the driver behind."""
    with MongoClient[dict[str, object]](environ["MONGO_URI"]) as client:
        sessions = client[environ["MONGO_DATABASE"]]["sessions"]
        sessions.create_index("expires_at", unique=True)
    before = set(threading.enumerate())

    with pytest.raises(ConfigError, match="MongoDB: "):
        await start(Config.from_environ(environ))

    left = [t for t in set(threading.enumerate()) - before if t.name.startswith("pymongo")]
    for thread in left:
        await asyncio.to_thread(thread.join, MONGODB_SECONDS)
    assert not [thread for thread in left if thread.is_alive()]


def test_check_passes_and_opens_no_port(environ: dict[str, str]) -> None:
    """The release phase exits with 0 and serves nothing."""
    code, output = run_command("check", environ=environ)

    assert code == 0
    assert LISTENING not in output


def test_failed_start_opens_no_port(environ: dict[str, str]) -> None:
    """The port is closed until the hooks have passed."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = free_port()
        uri = f"mongodb://127.0.0.1:{silent.getsockname()[1]}"
        with webapp(environ=environ | {"MONGO_URI": uri, "PORT": str(port)}) as process:
            silent.accept()[0].close()  # it waits for MongoDB now
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port))
            process.end()


def test_warnings_are_logged_and_do_not_stop_the_start(environ: dict[str, str]) -> None:
    """A probable typing error is reported by name, without its value."""
    code, output = run_command("check", environ=environ | {"MONGODB_URI": "mongodb://private"})

    assert code == 0
    assert "did you mean MONGO_URI" in output
    assert "private" not in output


def test_unknown_error_is_reported_by_its_code() -> None:
    """The server's message is left out: it may repeat what was sent."""
    error = OperationFailure("the text with private things", code=12345)

    meaning = explain(error, "shop")

    assert meaning.sentence.startswith("MONGO_URI: MongoDB refused an operation with code 12345")
    assert "private" not in meaning.sentence
    assert not meaning.passing


# Of commands that only sessions send, and of the kind of their collection.
OF_SESSIONS_ALONE = {59, 72, 115, 121, 166, 303, 10003, 11000, 11001, 14031}


def test_web_app_explains_the_same_codes_as_the_storage() -> None:
    """A code that one of the two tables gets needs a decision in the other one."""
    by_rule = {errors.UNAUTHORIZED, 50}  # the database is named; PyMongo knows 50 as a timeout

    assert {*errors._CODES, *by_rule} == set(causes._CODES) - OF_SESSIONS_ALONE


@pytest.mark.parametrize("code", sorted(causes._CODES))
def test_code_that_passes_for_sessions_passes_at_the_start(code: int) -> None:
    """A start that time may fix is code 75, with the same codes for which sessions only warn."""
    meaning = explain(OperationFailure("private", code=code), "shop")

    assert meaning.passing is causes._CODES[code].passing


@pytest.mark.parametrize(
    ("error", "words", "passing"),
    [
        pytest.param(
            ConfigurationError("The DNS query name does not exist: private."),
            "cannot be found",
            False,
            id="unknown name",
        ),
        pytest.param(
            ConfigurationError("The resolution lifetime expired after 21.2 seconds: private"),
            "no name server answers",
            True,
            id="no name server",
        ),
        pytest.param(OperationFailure("private", code=100), "can never confirm", False, id="w=9"),
        pytest.param(OperationFailure("private", code=50), "not answer", True, id="out of time"),
        pytest.param(OperationFailure("private", code=64), "confirmed", True, id="members lag"),
        pytest.param(OperationFailure("private", code=16500), "too busy", True, id="rate limited"),
        pytest.param(OperationFailure("private", code=11), "user name", False, id="unknown user"),
        pytest.param(NotPrimaryError("private"), "not answer", True, id="stepped down"),
        pytest.param(StorageUnavailable(), "not answer", True, id="storage unavailable"),
    ],
)
def test_error_says_whether_a_later_start_may_succeed(
    error: Exception,
    words: str,
    passing: bool,  # noqa: FBT001
) -> None:
    """Only what time may fix is code 75."""
    meaning = explain(error, "shop")

    assert words in meaning.sentence
    assert "private" not in meaning.sentence
    assert meaning.passing is passing
    assert isinstance(failed_start(error, "shop"), DatabaseAway if passing else ConfigError)
