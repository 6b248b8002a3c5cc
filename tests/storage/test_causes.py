"""MongoDB cannot be used as configured: 503, and the log names the cause and what to do."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NamedTuple

import pytest
from bson import Int64
from pymongo import MongoClient
from pymongo.asynchronous.settings import TopologySettings
from pymongo.errors import (
    AutoReconnect,
    ConfigurationError,
    EncryptionError,
    InvalidOperation,
    NetworkTimeout,
    NotPrimaryError,
    OperationFailure,
    ServerSelectionTimeoutError,
)
from pymongo.server_description import ServerDescription
from pymongo.topology_description import TOPOLOGY_TYPE, TopologyDescription

from storage import IndexConflict, MongoStorage, StorageUnavailable, causes
from storage.causes import Cause, cause_of
from tests.certificates import certificate
from tests.conftest import NewMongod
from tests.storage.conftest import (
    MakeStorage,
    OpenSite,
    close,
    make_client,
    real_drivers,
    replica_set_of_one,
    set_cookie_of,
    until,
)
from tests.storage.direct import visit
from tests.storage.shell_commands import commands_in
from webapp.database.mongod import Mongod

PASSWORD = "of-a-test"
# The driver has met the server by then on the busiest machine.
TIMEOUT = 1.0
Admin = MongoClient[dict[str, Any]]
Connect = Callable[[str], Any]


@pytest.fixture(scope="module")
def faulty(new_mongod: NewMongod) -> Iterator[Mongod]:
    """Run a server without users and TLS, with fail points."""
    with new_mongod("--setParameter", "enableTestCommands=1") as server:
        yield server


@pytest.fixture(scope="module")
def guarded(new_mongod: NewMongod) -> Iterator[Mongod]:
    """Run a server that wants a password, with a user who may only read."""
    with new_mongod("--auth") as server:
        with Admin(server.uri) as client:
            client.admin.command("createUser", "root", pwd=PASSWORD, roles=["root"])
        with Admin(server.uri, username="root", password=PASSWORD) as client:
            client["app"].command("createUser", "reader", pwd=PASSWORD, roles=["read"])
            client["app"]["sessions"].create_index("expires_at", expireAfterSeconds=0)
            client["app"]["sessions"].create_index("owner", sparse=True)
        yield server


@pytest.fixture(scope="module")
def encrypted(new_mongod: NewMongod, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mongod]:
    """Run a server that speaks TLS only, with a certificate that nobody trusts."""
    pem = certificate(tmp_path_factory.mktemp("certificate"))
    with new_mongod("--tlsMode", "allowTLS", "--tlsCertificateKeyFile", str(pem)) as server:
        with Admin(server.uri) as client:
            for mode in ("preferTLS", "requireTLS"):  # one step at a time
                client.admin.command("setParameter", 1, tlsMode=mode)
        yield server


@pytest.fixture(scope="module")
def member(new_mongod: NewMongod) -> Iterator[Mongod]:
    """Run the replica set `rs0`."""
    with replica_set_of_one(new_mongod, "rs0") as server:
        yield server


@pytest.fixture
async def connect(driver: str) -> AsyncIterator[Connect]:
    """Open the collection `app.sessions` at an address."""
    clients: list[Any] = []

    def open_collection(uri: str) -> Any:
        clients.append(make_client(driver, uri))
        return clients[-1]["app"]["sessions"]

    yield open_collection
    for client in clients:
        await close(client)


@pytest.fixture
def collection() -> None:
    """Let each test open its own."""


def reported(caplog: pytest.LogCaptureFixture, name: str = "app.sessions") -> list[tuple[int, str]]:
    """Return the level and the cause of each line about the sessions in a collection."""
    lines = [line for line in caplog.records if line.name == "storage.driver"]
    pairs = [(line.levelno, *line.getMessage().partition(": ")[::2]) for line in lines]
    return [(level, cause) for level, place, cause in pairs if place == f"sessions in {name}"]


def as_logged(cause: Cause) -> tuple[int, str]:
    """Return the level and the text under which a cause is logged."""
    return logging.WARNING if cause.passing else logging.ERROR, cause.sentence


async def _error_of(call: Awaitable[None]) -> StorageUnavailable:
    with pytest.raises(StorageUnavailable) as error:
        await call
    return error.value


class Refused(NamedTuple):
    """What an app without a usable MongoDB does: at its start, and with three visitors."""

    error: str
    at_start: list[tuple[int, str]]
    later: list[tuple[int, str]]
    statuses: list[int]
    cookies: list[list[str]]
    shown_to_visitors: bool
    each_is_counted: bool


def because_of(cause: Cause) -> Refused:
    """Return what it should do: log one line, and answer 503 without a cookie."""
    return Refused(
        cause.sentence,
        at_start=[as_logged(cause)],
        later=[],
        statuses=[503] * 3,
        cookies=[[]] * 3,
        shown_to_visitors=False,
        each_is_counted=True,
    )


async def refused(
    storage: MongoStorage, open_site: OpenSite, caplog: pytest.LogCaptureFixture
) -> Refused:
    """Start an app and let three people visit it."""
    name = storage._driver.collection.full_name
    site = await open_site(storage)
    at_start = reported(caplog, name)
    visitors = [await site.visitor() for _ in range(3)]
    error, *responses = await asyncio.gather(
        _error_of(storage.create_indexes()),
        *(visitor.do(lambda session: session.update(a=1)) for visitor in visitors),
    )
    return Refused(
        str(error),
        at_start,
        reported(caplog, name)[len(at_start) :],
        [response.status for response in responses],
        [set_cookie_of(response) for response in responses],
        str(error) in await responses[0].text(),
        # Each visitor, create_indexes(), and the first try of the index work.
        storage.counters["unavailable"] == 5,
    )


class Mistake(NamedTuple):
    """An address of MongoDB: its server is one of the fixtures, or named as it is."""

    server: str
    options: str
    cause: Cause
    user: str = ""


MISTAKES = {
    "wrong password": Mistake("guarded", "", causes.WRONG_PASSWORD, "root:x@"),
    "unknown user": Mistake("guarded", "", causes.WRONG_PASSWORD, f"joe:{PASSWORD}@"),
    "authSource": Mistake("guarded", "authSource=x", causes.WRONG_PASSWORD, f"reader:{PASSWORD}@"),
    "TLS in the client only": Mistake("faulty", "tls=true", causes.TLS_FAILED),
    "untrusted certificate": Mistake("encrypted", "tls=true", causes.TLS_FAILED),
    "TLS at the server only": Mistake("encrypted", "", causes.CONNECTION_CLOSED),
    "no replica set": Mistake("faulty", "replicaSet=x", causes.WRONG_REPLICA_SET),
    "other replica set": Mistake("member", "replicaSet=x", causes.WRONG_REPLICA_SET),
    "other replica set, directly": Mistake(
        "member", "replicaSet=x&directConnection=true", causes.WRONG_REPLICA_SET
    ),
    # "Away" is said only where nothing answers: an unknown name is another mistake.
    "unknown host name": Mistake("nothing.invalid", "", causes.UNKNOWN_HOST),
    "nothing listens": Mistake("127.0.0.1:1", "", causes.AWAY),
}
# Motor waits in five threads for each core, and an app here sends two commands at once.
AT_ONCE = {"pymongo": len(MISTAKES), "motor": 5 * (os.cpu_count() or 1) // 2}


@pytest.fixture
def one_try(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let index work that has failed not be tried again during the test."""
    monkeypatch.setattr(import_module("storage.indexes"), "RETRY_SECONDS", 600.0)


@real_drivers
@pytest.mark.usefixtures("one_try")
async def test_mistake_in_the_address_is_named_at_start_and_once_a_minute(
    *,
    driver: str,
    request: pytest.FixtureRequest,
    connect: Connect,
    make_storage: MakeStorage,
    open_site: OpenSite,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The same sentence at start, by `create_indexes()` and for requests; never the password.

    All at once, since each refusal comes when the operation timeout has passed.
    """
    servers = {name: request.getfixturevalue(name) for name in ("guarded", "encrypted", "member")}
    servers["faulty"] = request.getfixturevalue("faulty")
    turn = asyncio.Semaphore(AT_ONCE[driver])

    async def try_out(number: int, mistake: Mistake) -> Refused:
        server = servers.get(mistake.server)
        place = mistake.server if server is None else f"127.0.0.1:{server.port}"
        collection = connect(f"mongodb://{mistake.user}{place}/?{mistake.options}")
        own = collection.database[f"sessions_{number}"]
        async with turn:
            return await refused(make_storage(own, operation_timeout=TIMEOUT), open_site, caplog)

    with caplog.at_level(logging.INFO, logger="storage"):
        found = await asyncio.gather(*map(try_out, itertools.count(), MISTAKES.values()))

    assert dict(zip(MISTAKES, found, strict=True)) == {
        name: because_of(mistake.cause) for name, mistake in MISTAKES.items()
    }
    assert PASSWORD not in caplog.text


async def test_member_that_was_never_initiated_is_not_reported_as_another_replica_set(
    connect: Connect,
    make_storage: MakeStorage,
    new_mongod: NewMongod,
) -> None:
    """It has no name yet; to correct the name in the address would not help."""
    with new_mongod("--replSet", "rs0") as server:
        collection = connect(f"{server.uri}/?replicaSet=rs0&directConnection=true")

        error = await _error_of(
            make_storage(collection, operation_timeout=TIMEOUT).create_indexes()
        )

    assert str(error) == causes.NO_PRIMARY.sentence


@pytest.mark.usefixtures("one_try")
async def test_replica_set_without_a_primary_is_not_reported_as_away(
    connect: Connect,
    make_storage: MakeStorage,
    open_site: OpenSite,
    member: Mongod,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its members answer; no write can be sent to any of them."""
    storage = make_storage(connect(f"{member.uri}/?replicaSet=rs0"), operation_timeout=TIMEOUT)
    with Admin(member.uri, directConnection=True) as client:
        client.admin.command("replSetStepDown", 600, force=True)
        try:
            found = await refused(storage, open_site, caplog)
        finally:
            client.admin.command("replSetFreeze", 0)  # it may be elected again

    assert found == because_of(causes.NO_PRIMARY)


@real_drivers
@pytest.mark.parametrize("user", [f"reader:{PASSWORD}@", ""], ids=["may only read", "no user"])
async def test_missing_rights_are_named(
    *,
    connect: Connect,
    make_storage: MakeStorage,
    open_site: OpenSite,
    guarded: Mongod,
    caplog: pytest.LogCaptureFixture,
    user: str,
) -> None:
    """Where the indexes exist, only a save shows that the user may not write."""
    collection = connect(f"mongodb://{user}127.0.0.1:{guarded.port}/?authSource=app")
    visitor = await (await open_site(make_storage(collection))).visitor()

    response = await visitor.do(lambda session: session.update(a=1))

    assert response.status == 503
    assert reported(caplog) == [as_logged(causes.RIGHTS_MISSING)]
    assert PASSWORD not in caplog.text


def create(server: Mongod, **options: Any) -> None:
    """Create the collection of sessions again, with options."""
    with Admin(server.uri) as client:
        client["app"].drop_collection("sessions")
        client["app"].create_collection("sessions", **options)


def with_unique_index(server: Mongod) -> None:
    """Let the collection accept one document without a user_id, and no second one."""
    create(server)
    with Admin(server.uri) as client:
        client["app"]["sessions"].create_index("user_id", unique=True)
        client["app"]["sessions"].insert_one({})


OBSTACLES = [
    pytest.param(
        lambda server: create(server, validator={"$jsonSchema": {"required": ["nope"]}}),
        causes.VALIDATOR,
        id="validator",
    ),
    pytest.param(with_unique_index, causes.UNIQUE_INDEX, id="unique index"),
    pytest.param(
        lambda server: create(server, viewOn="other", pipeline=[]), causes.VIEW, id="view"
    ),
]


@real_drivers
@pytest.mark.parametrize("count", [1, 5], ids=["alone", "in a shared command"])
@pytest.mark.parametrize(("prepare", "cause"), OBSTACLES)
async def test_obstacle_in_the_collection_is_named(
    *,
    connect: Connect,
    make_storage: MakeStorage,
    open_site: OpenSite,
    faulty: Mongod,
    caplog: pytest.LogCaptureFixture,
    prepare: Callable[[Mongod], None],
    cause: Cause,
    count: int,
) -> None:
    """A validator, a unique index or a view refuses each document by itself."""
    await asyncio.to_thread(prepare, faulty)
    storage = make_storage(connect(faulty.uri))
    site = await open_site(storage)
    visitors = [await site.visitor() for _ in range(count)]
    before = storage.counters["unavailable"]

    responses = await asyncio.gather(
        *(visitor.do(lambda session: session.update(a=1)) for visitor in visitors)
    )

    assert [response.status for response in responses] == [503] * count
    assert storage.counters["unavailable"] >= before + count  # index work may have tried again
    assert reported(caplog) == [as_logged(cause)]


@contextmanager
def failing(server: Mongod, code: int, *commands: str, times: int = 0) -> Iterator[None]:
    """Let the server refuse commands of these names with an error code, every time or some."""
    mode = {"times": times} if times else "alwaysOn"
    data = {"failCommands": commands, "errorCode": code, "appName": "sessions"}
    with Admin(server.uri) as client:
        client.admin.command("configureFailPoint", "failCommand", mode=mode, data=data)
        try:
            yield
        finally:
            client.admin.command("configureFailPoint", "failCommand", mode="off")


@real_drivers
@pytest.mark.parametrize(
    ("code", "cause"),
    [
        pytest.param(16500, causes.THROTTLED, id="request rate too large"),
        pytest.param(59, causes.NOT_SUPPORTED, id="command not found"),
        pytest.param(115, causes.NOT_SUPPORTED, id="command not supported"),
        pytest.param(8000, causes.WRONG_PASSWORD, id="wrong password at Atlas"),
        pytest.param(14031, causes.DISK_FULL, id="disk full"),
        pytest.param(50, causes.SLOW, id="time limit exceeded"),
    ],
)
async def test_refused_command_is_named_by_its_code(
    *,
    connect: Connect,
    make_storage: MakeStorage,
    open_site: OpenSite,
    faulty: Mongod,
    caplog: pytest.LogCaptureFixture,
    code: int,
    cause: Cause,
) -> None:
    """For a read and for a write, after a start at which everything worked."""
    await asyncio.to_thread(create, faulty)
    storage = make_storage(connect(f"{faulty.uri}/?appName=sessions"), operation_timeout=TIMEOUT)
    visitor = await (await open_site(storage)).visitor()
    await visitor.do(lambda session: session.update(a=1))

    with failing(faulty, code, "find", "insert"):
        read = await visitor.do(dict)
        visitor.cookie = None
        written = await visitor.do(lambda session: session.update(a=1))

    assert [read.status, written.status] == [503, 503]
    assert reported(caplog) == [as_logged(cause)]


@real_drivers
@pytest.mark.parametrize("count", [1, 5], ids=["alone", "in a shared find"])
async def test_throttled_command_is_repeated_within_the_operation_timeout(
    *,
    connect: Connect,
    make_storage: MakeStorage,
    open_site: OpenSite,
    faulty: Mongod,
    caplog: pytest.LogCaptureFixture,
    count: int,
) -> None:
    """The server asks for patience; no visitor is signed out or refused."""
    await asyncio.to_thread(create, faulty)
    site = await open_site(make_storage(connect(f"{faulty.uri}/?appName=sessions")))
    visitors = [await site.visitor() for _ in range(count)]
    for number, visitor in enumerate(visitors):
        await visitor.do(lambda session, number=number: session.update(a=number))

    with failing(faulty, 16500, "find", times=2):
        seen = await asyncio.gather(*(visitor.session() for visitor in visitors))
    with failing(faulty, 16500, "update", times=2):
        written = await visitors[0].do(lambda session: session.update(a=9))

    assert seen == [{"a": number} for number in range(count)]
    assert written.status == 200
    assert await visitors[0].session() == {"a": 9}
    assert reported(caplog) == []


@real_drivers
async def test_throttled_list_of_sessions_is_refused_and_never_cut_short(
    connect: Connect,
    make_storage: MakeStorage,
    faulty: Mongod,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A cursor that has failed returns nothing when it is asked again."""
    monkeypatch.setattr(import_module("storage.driver"), "READ_AT_ONCE", 2)
    await asyncio.to_thread(create, faulty)
    storage = make_storage(connect(f"{faulty.uri}/?appName=sessions"))
    for _ in range(5):
        await visit(storage, None, lambda session: session.update(user_id=7))

    with failing(faulty, 16500, "getMore", times=1), pytest.raises(StorageUnavailable):
        assert [info async for info in storage.sessions(7)] == []

    assert len([info async for info in storage.sessions(7)]) == 5


async def test_unknown_code_is_logged_without_the_text_of_the_server(
    connect: Connect, make_storage: MakeStorage, faulty: Mongod, caplog: pytest.LogCaptureFixture
) -> None:
    """The text may repeat what was sent; the code is enough to look the error up."""
    storage = make_storage(connect(f"{faulty.uri}/?appName=sessions"))

    with failing(faulty, 12345, "aggregate"), pytest.raises(StorageUnavailable, match="12345"):
        await storage.count()

    assert "code 12345" in caplog.text
    assert "failpoint" not in caplog.text


async def test_error_with_an_invalid_code_is_named_by_its_class(
    connect: Connect, make_storage: MakeStorage, caplog: pytest.LogCaptureFixture
) -> None:
    """A code that is no number must not leave the requests of a batch without an answer."""
    driver = make_storage(connect("mongodb://127.0.0.1:1"))._driver
    odd = OperationFailure("refused", {"$numberInt": "13"})  # type: ignore[arg-type]
    expected = Cause("the operation failed with OperationFailure")

    driver.report(odd)

    assert str(driver.unavailable(odd)) == expected.sentence
    assert reported(caplog) == [as_logged(expected)]


async def test_server_without_retryable_writes_is_named(
    connect: Connect, make_storage: MakeStorage, faulty: Mongod, caplog: pytest.LogCaptureFixture
) -> None:
    """A single mongod refuses the transaction number by which a driver repeats a write."""
    collection = connect(faulty.uri)
    storage = make_storage(collection)
    write = {"insert": "sessions", "documents": [{}], "txnNumber": Int64(1)}

    with pytest.raises(StorageUnavailable, match="retryWrites=false"):
        await storage._driver.call(lambda: collection.database.command(write))

    assert reported(caplog) == [as_logged(causes.NO_RETRYABLE_WRITES)]


async def test_index_work_that_is_interrupted_when_the_app_stops_is_not_reported(
    connect: Connect, make_storage: MakeStorage, faulty: Mongod, caplog: pytest.LogCaptureFixture
) -> None:
    """After `aclose()` a client that is closed is no mistake."""
    storage = make_storage(connect(faulty.uri))
    await storage.aclose()

    storage._driver.report(InvalidOperation("Cannot use AsyncMongoClient after close"))

    assert caplog.text == ""


async def test_client_that_was_closed_too_early_is_named(
    connect: Connect, make_storage: MakeStorage, faulty: Mongod, caplog: pytest.LogCaptureFixture
) -> None:
    """An app may close its client in the wrong clean-up."""
    collection = connect(faulty.uri)
    storage = make_storage(collection)
    await collection.database.client.close()

    with pytest.raises(StorageUnavailable, match="has closed"):
        await storage.create_indexes()

    assert reported(caplog) == [as_logged(causes.CLIENT_CLOSED)]


def test_only_causes_that_may_pass_by_themselves_are_warnings() -> None:
    """Only what somebody has to fix is logged as an error."""
    found = {name: cause for name, cause in vars(causes).items() if isinstance(cause, Cause)}

    passing = {name for name, cause in found.items() if cause.passing}

    assert passing == {
        "AWAY",
        "SLOW",
        "CONNECTION_BROKE",
        "NO_PRIMARY",
        "THROTTLED",
        "NOT_CONFIRMED",
    }


async def test_cause_is_logged_again_after_a_minute(
    connect: Connect,
    make_storage: MakeStorage,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A person who opens the log late still finds it; another cause is logged at once."""
    storage = make_storage(connect("mongodb://127.0.0.1:1"), operation_timeout=0.05)
    refusal, other = OperationFailure("", 18), OperationFailure("", 121)
    for error in (refusal, refusal, other):
        storage._driver.report(error)
    assert reported(caplog) == [as_logged(causes.WRONG_PASSWORD), as_logged(causes.VALIDATOR)]

    monkeypatch.setattr(import_module("storage.driver"), "REPORT_SECONDS", 0.0)
    storage._driver.report(refusal)

    assert reported(caplog)[2:] == [as_logged(causes.WRONG_PASSWORD)]


def names_of_indexes(server: Mongod) -> set[str]:
    """Return the names of the indexes of the sessions."""
    with Admin(server.uri) as client:
        return set(client["app"]["sessions"].index_information()) - {"_id_"}


@real_drivers
@pytest.mark.parametrize(
    ("options", "cause"),
    [
        pytest.param({"capped": True, "size": 4096}, causes.CAPPED, id="capped"),
        pytest.param(
            {"timeseries": {"timeField": "created_at"}}, causes.TIME_SERIES, id="time series"
        ),
        pytest.param(
            {"timeseries": {"timeField": "created_at", "metaField": "owner"}},
            causes.TIME_SERIES,
            id="time series of owners",
        ),
    ],
)
async def test_collection_that_cannot_have_a_ttl_index_is_named_at_start(
    *,
    connect: Connect,
    make_storage: MakeStorage,
    open_site: OpenSite,
    faulty: Mongod,
    caplog: pytest.LogCaptureFixture,
    options: dict[str, Any],
    cause: Cause,
) -> None:
    """No index is advised that nobody can create: another collection is needed."""
    await asyncio.to_thread(create, faulty, **options)
    storage = make_storage(connect(faulty.uri))

    with caplog.at_level(logging.INFO, logger="storage"):
        await open_site(storage)
    with pytest.raises(IndexConflict) as conflict:
        await storage.create_indexes()

    assert str(conflict.value) == f"app.sessions: {cause.sentence}"
    (line,) = caplog.records
    assert (line.levelno, line.getMessage()) == (logging.ERROR, str(conflict.value))


async def test_refusal_of_a_time_series_collection_is_named(
    connect: Connect, make_storage: MakeStorage, faulty: Mongod, caplog: pytest.LogCaptureFixture
) -> None:
    """Its documents cannot be found by a field and deleted."""
    await asyncio.to_thread(create, faulty, timeseries={"timeField": "created_at"})

    with pytest.raises(StorageUnavailable):
        await make_storage(connect(faulty.uri)).revoke_owner(7)

    assert reported(caplog) == [as_logged(causes.TIME_SERIES)]


@real_drivers
@pytest.mark.parametrize("code", [2, 67, 115])
async def test_server_that_refuses_the_ttl_index_still_serves_and_gets_the_owner_index(
    *,
    connect: Connect,
    make_storage: MakeStorage,
    open_site: OpenSite,
    faulty: Mongod,
    caplog: pytest.LogCaptureFixture,
    code: int,
) -> None:
    """One ERROR line says what to do instead, and that no try will be better."""
    await asyncio.to_thread(create, faulty)
    storage = make_storage(connect(f"{faulty.uri}/?appName=sessions"))

    with failing(faulty, code, "createIndexes", times=1):
        visitor = await (await open_site(storage)).visitor()
    response = await visitor.do(lambda session: session.update(user_id=7))

    assert response.status == 200
    assert names_of_indexes(faulty) == {"owner_1"}
    assert storage._index_work._task is not None
    assert storage._index_work._task.done()
    (line,) = caplog.records
    assert line.levelno == logging.ERROR
    assert f"refuses a TTL index on expires_at (code {code})" in line.getMessage()
    assert "purge()" in line.getMessage()
    assert "_ts" in line.getMessage()


@pytest.mark.parametrize("look", [["listCollections"], []], ids=["without rights", "ordinary"])
async def test_server_that_refuses_both_indexes_is_reported_with_both(
    connect: Connect, make_storage: MakeStorage, faulty: Mongod, look: list[str]
) -> None:
    """Also if the user may not ask what kind of collection it is."""
    await asyncio.to_thread(create, faulty)
    storage = make_storage(connect(f"{faulty.uri}/?appName=sessions"))

    with failing(faulty, 115, "createIndexes", *look), pytest.raises(IndexConflict) as conflict:
        await storage.create_indexes()

    assert "a TTL index on expires_at (code 115)" in str(conflict.value)
    assert "an index on owner (code 115)" in str(conflict.value)
    assert "runCommand" not in str(conflict.value)


async def test_server_that_cannot_list_indexes_gets_both(
    connect: Connect, make_storage: MakeStorage, faulty: Mongod
) -> None:
    """To create an index that exists is no error."""
    await asyncio.to_thread(create, faulty)
    storage = make_storage(connect(f"{faulty.uri}/?appName=sessions"))

    with failing(faulty, 59, "listIndexes"):
        await storage.create_indexes()
        await storage.create_indexes()

    assert names_of_indexes(faulty) == {"expires_at_1", "owner_1"}


async def test_server_without_coll_mod_is_a_conflict_with_the_command_that_drops_the_index(
    connect: Connect, make_storage: MakeStorage, faulty: Mongod
) -> None:
    """The next start creates it again, with the right options."""
    await asyncio.to_thread(create, faulty)
    collection = connect(f"{faulty.uri}/?appName=sessions")
    await collection.create_index("expires_at", expireAfterSeconds=60)

    with failing(faulty, 59, "collMod"), pytest.raises(IndexConflict) as conflict:
        await make_storage(collection).create_indexes()
    ((database, command),) = commands_in(str(conflict.value))
    await collection.database.client[database].command(command)
    await make_storage(collection).create_indexes()

    assert (await collection.index_information())["expires_at_1"]["expireAfterSeconds"] == 0


async def test_throttled_index_work_is_tried_again(
    *,
    connect: Connect,
    make_storage: MakeStorage,
    open_site: OpenSite,
    faulty: Mongod,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A server that is busy now may create the index later."""
    monkeypatch.setattr(import_module("storage.indexes"), "RETRY_SECONDS", 0.05)
    await asyncio.to_thread(create, faulty)
    storage = make_storage(connect(f"{faulty.uri}/?appName=sessions"))

    with failing(faulty, 16500, "createIndexes"):
        await open_site(storage)
        assert reported(caplog) == [as_logged(causes.THROTTLED)]
        assert storage._index_work._task is not None
        assert not storage._index_work._task.done()

    await until(storage._index_work._task.done)
    assert names_of_indexes(faulty) == {"expires_at_1", "owner_1"}


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        pytest.param(None, causes.SLOW, id="no answer before the deadline"),
        pytest.param(AutoReconnect("connection closed"), causes.CONNECTION_BROKE, id="broken"),
        pytest.param(NetworkTimeout("timed out"), causes.SLOW, id="timeout"),
        pytest.param(ConfigurationError("no such name"), causes.WRONG_OPTIONS, id="SRV record"),
        pytest.param(NotPrimaryError("not primary"), causes.NO_PRIMARY, id="secondary"),
        pytest.param(
            OperationFailure("Retryable writes are not supported", 301),
            causes.NO_RETRYABLE_WRITES,
            id="Amazon DocumentDB",
        ),
        pytest.param(
            OperationFailure("Retryable writes are not supported.", 2),
            causes.NO_RETRYABLE_WRITES,
            id="Azure Cosmos DB",
        ),
        pytest.param(OperationFailure("", 303), causes.NOT_SUPPORTED, id="feature not supported"),
        pytest.param(
            EncryptionError(ServerSelectionTimeoutError("localhost:27020: refused")),
            causes.ENCRYPTION_FAILED,
            id="mongocryptd missing",
        ),
        pytest.param(OperationFailure("", 100), causes.WRITE_CONCERN, id="write concern"),
    ],
)
def test_error_has_its_cause(error: Exception | None, cause: Cause) -> None:
    """What a test cannot make a server do: the error is written down here."""
    assert cause_of(error) == cause


CODES = {
    causes.WRONG_PASSWORD: [11, 18, 8000],
    causes.RIGHTS_MISSING: [13],
    causes.SLOW: [50, 262],
    causes.NOT_SUPPORTED: [59, 115, 303],
    causes.NOT_CONFIRMED: [64],
    causes.WRITE_CONCERN: [79, 100],
    causes.TIME_SERIES: [72],
    causes.CAPPED: [10003],
    causes.VALIDATOR: [121],
    causes.VIEW: [166],
    causes.UNIQUE_INDEX: [11000, 11001],
    causes.DISK_FULL: [14031],
    causes.THROTTLED: [16500],
}


@pytest.mark.parametrize(
    ("code", "cause"), [(code, cause) for cause, codes in CODES.items() for code in codes]
)
def test_code_of_a_server_has_its_cause(code: int, cause: Cause) -> None:
    """MongoDB's codes, Atlas', Azure Cosmos DB's and Amazon DocumentDB's."""
    assert cause_of(OperationFailure("", code)) == cause


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("SSL handshake failed", causes.TLS_FAILED),
        ("the certificate has expired", causes.TLS_FAILED),
        ("db:27017: connection closed", causes.CONNECTION_CLOSED),
        ("the connection is already closed", causes.CONNECTION_CLOSED),
        ("[Errno 104] Connection reset by peer", causes.CONNECTION_CLOSED),
        ("[Errno -2] Name or service not known", causes.UNKNOWN_HOST),
        ("[Errno -3] Temporary failure in name resolution", causes.UNKNOWN_HOST),
        ("[Errno -5] No address associated with hostname", causes.UNKNOWN_HOST),
        ("[Errno 8] nodename nor servname provided, or not known", causes.UNKNOWN_HOST),
        ("[Errno 11001] getaddrinfo failed", causes.UNKNOWN_HOST),
        ("[Errno 111] Connection refused", causes.AWAY),
    ],
)
def test_connection_that_failed_has_the_cause_that_its_text_says(text: str, cause: Cause) -> None:
    """As Linux, macOS and Windows say it."""
    server = ServerDescription(("db", 27017), error=AutoReconnect(text))
    topology = TopologyDescription(
        TOPOLOGY_TYPE.Unknown, {server.address: server}, None, None, None, TopologySettings()
    )

    assert cause_of(ServerSelectionTimeoutError(text), topology) == cause


def test_error_of_another_library_is_named_by_its_class_only() -> None:
    """Its text may contain anything."""
    assert cause_of(ValueError("secret")) == Cause("the operation failed with ValueError")
