"""Index work of database users with different rights, on a mongod with access control."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from pymongo import MongoClient

from storage import IndexConflict
from tests.conftest import NewMongod
from tests.storage.conftest import MakeStorage, OpenSite, close, make_client, real_drivers
from tests.storage.shell_commands import commands_in
from webapp.database.mongod import Mongod

pytestmark = real_drivers

PASSWORD = "of-a-test"
DATA = ["find", "insert", "update", "remove"]
# The actions that each user may do on the collection of sessions, and nowhere else.
USERS = {
    "writes": DATA,
    "lists": [*DATA, "listIndexes"],
    "creates": [*DATA, "listIndexes", "createIndex"],
    "repairs": [*DATA, "listIndexes", "createIndex", "collMod"],
    "creates only": [*DATA, "createIndex"],
    "reads": ["find"],
    "no access": ["collStats"],
}

Login = Callable[[str], Any]
Admin = MongoClient[dict[str, Any]]


@pytest.fixture(scope="module")
def guarded_mongod(new_mongod: NewMongod) -> Iterator[Mongod]:
    """Run a second server with access control and the users."""
    with new_mongod("--auth") as server:
        with Admin(server.uri) as client:
            client.admin.command("createUser", "root", pwd=PASSWORD, roles=["root"])
        with Admin(server.uri, username="root", password=PASSWORD) as client:
            for user, actions in USERS.items():
                allowed = {"resource": {"db": "app", "collection": "sessions"}, "actions": actions}
                client["app"].command("createRole", user, privileges=[allowed], roles=[])
                client["app"].command("createUser", user, pwd=PASSWORD, roles=[user])
        yield server


@pytest.fixture
def admin(guarded_mongod: Mongod) -> Iterator[Admin]:
    """Log in as the administrator, and delete the collection of sessions."""
    with Admin(guarded_mongod.uri, username="root", password=PASSWORD) as client:
        client["app"].drop_collection("sessions")
        yield client


@pytest.fixture
async def collection_of(guarded_mongod: Mongod, driver: str) -> AsyncIterator[Login]:
    """Open the collection as one of the users."""
    clients: list[Any] = []

    def login(user: str) -> Any:
        options = {"username": user, "password": PASSWORD, "authSource": "app"}
        clients.append(make_client(driver, guarded_mongod.uri, **options))
        return clients[-1]["app"]["sessions"]

    yield login
    for client in clients:
        await close(client)


def create_both(admin: Admin) -> None:
    """Create both indexes as the administrator."""
    admin["app"]["sessions"].create_index([("expires_at", 1)], expireAfterSeconds=0)
    admin["app"]["sessions"].create_index([("owner", 1)], sparse=True)


def names(admin: Admin) -> set[str]:
    """Return the names of the existing indexes."""
    return set(admin["app"]["sessions"].index_information()) - {"_id_"}


@pytest.mark.parametrize("user", ["lists", "creates", "repairs"])
async def test_user_is_served_without_a_warning_when_the_indexes_exist(
    *,
    admin: Admin,
    collection_of: Login,
    make_storage: MakeStorage,
    open_site: OpenSite,
    caplog: pytest.LogCaptureFixture,
    user: str,
) -> None:
    """A running app needs find, insert, update, remove and listIndexes, and no other rights."""
    create_both(admin)
    storage = make_storage(collection_of(user))

    with caplog.at_level(logging.WARNING, logger="storage"):
        await storage.create_indexes()
        visitor = await (await open_site(storage)).visitor()
        await visitor.do(lambda session: session.update(user_id=7))
        await visitor.do(lambda session: session.renew())

    assert await visitor.session() == {"user_id": 7}
    assert len([info async for info in storage.sessions(7)]) == 1
    assert await storage.revoke_owner(7) == 1
    assert caplog.records == []


@pytest.mark.parametrize("user", ["creates", "repairs", "creates only"])
async def test_user_with_create_index_creates_the_indexes(
    admin: Admin, collection_of: Login, make_storage: MakeStorage, user: str
) -> None:
    """No other right is needed."""
    await make_storage(collection_of(user)).create_indexes()

    assert names(admin) == {"expires_at_1", "owner_1"}


@pytest.mark.parametrize("user", ["writes", "lists", "reads", "no access"])
async def test_user_without_create_index_gets_the_commands_for_the_administrator(
    admin: Admin, collection_of: Login, make_storage: MakeStorage, user: str
) -> None:
    """The commands for all indexes in one message, which can be run as they are."""
    storage = make_storage(collection_of(user))

    with pytest.raises(IndexConflict) as conflict:
        await storage.create_indexes()
    for database, command in commands_in(str(conflict.value)):
        admin[database].command(command)

    assert names(admin) == {"expires_at_1", "owner_1"}
    assert admin["app"]["sessions"].index_information()["expires_at_1"]["expireAfterSeconds"] == 0
    if user == "lists":
        await storage.create_indexes()
    else:
        assert "listIndexes" in str(conflict.value)


async def test_sessions_work_for_a_user_without_rights_while_the_indexes_are_missing(
    admin: Admin,
    collection_of: Login,
    make_storage: MakeStorage,
    open_site: OpenSite,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One ERROR line has the commands; sessions work, since every load checks the dates."""
    with caplog.at_level(logging.WARNING, logger="storage"):
        visitor = await (await open_site(make_storage(collection_of("writes")))).visitor()
        await visitor.do(lambda session: session.update(user_id=7))

    assert await visitor.session() == {"user_id": 7}
    assert [line.levelno for line in caplog.records] == [logging.ERROR]
    assert len(commands_in(caplog.records[0].getMessage())) == 2


@pytest.mark.parametrize("options", [{"expireAfterSeconds": 60}, {}], ids=["other TTL", "no TTL"])
async def test_repair_without_coll_mod_is_a_conflict_with_the_command(
    admin: Admin, collection_of: Login, make_storage: MakeStorage, options: dict[str, Any]
) -> None:
    """`readWrite`, as most apps have it, may create indexes but not change them."""
    admin["app"]["sessions"].create_index([("expires_at", 1)], **options)
    storage = make_storage(collection_of("creates"))

    with pytest.raises(IndexConflict) as conflict:
        await storage.create_indexes()
    ((database, command),) = commands_in(str(conflict.value))
    assert set(command) == {"collMod", "index"}
    admin[database].command(command)

    await storage.create_indexes()
    assert admin["app"]["sessions"].index_information()["expires_at_1"]["expireAfterSeconds"] == 0
    assert names(admin) == {"expires_at_1", "owner_1"}


async def test_other_index_is_a_conflict_for_a_user_who_cannot_list_indexes(
    admin: Admin, collection_of: Login, make_storage: MakeStorage
) -> None:
    """An index with other options is not taken for the right one."""
    admin["app"]["sessions"].create_index([("expires_at", 1)], expireAfterSeconds=60)

    with pytest.raises(IndexConflict) as conflict:
        await make_storage(collection_of("creates only")).create_indexes()

    ((_database, command),) = commands_in(str(conflict.value))
    assert command["indexes"][0]["key"] == {"expires_at": 1}
    assert names(admin) == {"expires_at_1", "owner_1"}


async def test_user_with_coll_mod_repairs_the_index(
    admin: Admin, collection_of: Login, make_storage: MakeStorage
) -> None:
    """No administrator is needed."""
    admin["app"]["sessions"].create_index([("expires_at", 1)], expireAfterSeconds=60)

    await make_storage(collection_of("repairs")).create_indexes()

    assert admin["app"]["sessions"].index_information()["expires_at_1"]["expireAfterSeconds"] == 0
