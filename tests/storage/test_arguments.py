"""The constructor of `MongoStorage` checks every argument; the message names it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import mongomock
import pytest
from mongomock_motor import AsyncMongoMockClient
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import AsyncMongoClient, MongoClient, WriteConcern

from storage import MongoStorage, generate_secret

SECRET = generate_secret()
OTHER = generate_secret()
# No server listens there; a storage sends nothing when it is made.
NOWHERE = "mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=1"

STARTS_WITH_SLASH = "use a path that starts with /"
WRONG = [
    # keyword, value, error, part of the message
    pytest.param("max_age", 0, ValueError, "1 ms", id="max_age zero"),
    pytest.param("max_age", -1, ValueError, "1 ms", id="max_age negative"),
    pytest.param("max_age", True, TypeError, "use seconds", id="max_age true"),
    pytest.param("max_age", "60", TypeError, "use seconds", id="max_age as text"),
    pytest.param("max_age", float("nan"), ValueError, "1 ms", id="max_age not a number"),
    pytest.param("max_age", float("inf"), ValueError, "days", id="max_age infinite"),
    pytest.param("max_age", 10**12, ValueError, "days", id="max_age of 31 thousand years"),
    pytest.param(
        "max_age",
        timedelta(days=36500, milliseconds=1),
        ValueError,
        "1 ms and 36500 days",
        id="max_age a millisecond too long",
    ),
    pytest.param("max_age", timedelta(0), ValueError, "1 ms", id="max_age a timedelta of zero"),
    pytest.param("absolute_timeout", 0, ValueError, "1 ms", id="absolute_timeout zero"),
    pytest.param(
        "absolute_timeout",
        "1h",
        TypeError,
        "use seconds, a timedelta",
        id="absolute_timeout as text",
    ),
    pytest.param("absolute_timeout", False, TypeError, "use seconds", id="absolute_timeout false"),
    pytest.param("touch_interval", 0, ValueError, "1 ms", id="touch_interval zero"),
    pytest.param(
        "touch_interval", [60], TypeError, "use seconds, a timedelta", id="touch_interval as a list"
    ),
    pytest.param(
        "touch_interval", timedelta(days=14), ValueError, "below max_age", id="touch at max_age"
    ),
    pytest.param(
        "touch_interval", timedelta(days=15), ValueError, "below max_age", id="touch past max_age"
    ),
    pytest.param("owner_key", 7, TypeError, "use a session key", id="owner_key a number"),
    pytest.param("owner_key", b"user_id", TypeError, "use a session key", id="owner_key as bytes"),
    pytest.param(
        "describe", "a label", TypeError, "use a function of the request", id="describe text"
    ),
    pytest.param("max_bytes", 0, ValueError, "from 1 to", id="max_bytes zero"),
    pytest.param(
        "max_bytes", 4 * 1024 * 1024 + 1, ValueError, "from 1 to 4194304", id="max_bytes too many"
    ),
    pytest.param("max_bytes", 10**400, ValueError, "from 1 to", id="max_bytes beyond a float"),
    pytest.param("max_age", 10**400, ValueError, "days", id="max_age beyond a float"),
    pytest.param("max_bytes", 1e5, TypeError, "use a (whole )?number", id="max_bytes a float"),
    pytest.param("max_bytes", True, TypeError, "use a (whole )?number", id="max_bytes true"),
    pytest.param(
        "max_sessions_per_owner", 0, ValueError, "from 1 to", id="max_sessions_per_owner zero"
    ),
    pytest.param(
        "max_sessions_per_owner",
        1_000_001,
        ValueError,
        "from 1 to 1000000",
        id="max_sessions_per_owner too many",
    ),
    pytest.param(
        "max_sessions_per_owner", 2.5, TypeError, "whole number", id="max_sessions_per_owner a half"
    ),
    pytest.param(
        "max_sessions_per_owner",
        True,
        TypeError,
        "use a (whole )?number",
        id="max_sessions_per_owner true",
    ),
    pytest.param("operation_timeout", 0, ValueError, "from 0.01", id="operation_timeout zero"),
    pytest.param(
        "operation_timeout", 0.009, ValueError, "from 0.01", id="operation_timeout too short"
    ),
    pytest.param(
        "operation_timeout", 3600.5, ValueError, "to 3600.0", id="operation_timeout too long"
    ),
    pytest.param(
        "operation_timeout", float("inf"), ValueError, "from 0.01", id="operation_timeout infinite"
    ),
    pytest.param(
        "operation_timeout", float("nan"), ValueError, "from 0.01", id="operation_timeout NaN"
    ),
    pytest.param(
        "operation_timeout", None, TypeError, "use a (whole )?number", id="operation_timeout None"
    ),
    pytest.param(
        "operation_timeout", "5", TypeError, "use a (whole )?number", id="operation_timeout as text"
    ),
    pytest.param("cookie_name", "", ValueError, "use letters", id="cookie_name empty"),
    pytest.param(
        "cookie_name", "my session", ValueError, "use letters", id="cookie_name with a space"
    ),
    pytest.param(
        "cookie_name", "a=b", ValueError, "use letters", id="cookie_name with an equals sign"
    ),
    pytest.param(
        "cookie_name", "a\r\nX: y", ValueError, "use letters", id="cookie_name with a header"
    ),
    pytest.param("cookie_name", "sesión", ValueError, "use letters", id="cookie_name not ASCII"),
    pytest.param("cookie_name", None, TypeError, "use letters", id="cookie_name None"),
    pytest.param(
        "domain", "a.example; Path=/", ValueError, "use a host name", id="domain with a path"
    ),
    pytest.param("domain", 7, TypeError, "use a host name", id="domain a number"),
    pytest.param("path", "", ValueError, STARTS_WITH_SLASH, id="path empty"),
    pytest.param("path", "shop", ValueError, STARTS_WITH_SLASH, id="path without a slash"),
    pytest.param("path", "/; Domain=x", ValueError, STARTS_WITH_SLASH, id="path with a domain"),
    pytest.param("path", "/\n", ValueError, STARTS_WITH_SLASH, id="path with a line break"),
    pytest.param("path", None, TypeError, STARTS_WITH_SLASH, id="path None"),
    pytest.param("secure", "yes", TypeError, "use one of True, False, None", id="secure as text"),
    pytest.param("secure", 1, TypeError, "use one of True, False, None", id="secure a number"),
    pytest.param("httponly", None, TypeError, "use one of True, False", id="httponly None"),
    pytest.param("httponly", 0, TypeError, "use one of True, False", id="httponly a number"),
    pytest.param("partitioned", 1, TypeError, "use one of True, False", id="partitioned a number"),
    pytest.param("partitioned", True, ValueError, "samesite='None'", id="partitioned alone"),
    pytest.param(
        "samesite", "lax", ValueError, "use 'Lax', 'Strict' or 'None'", id="samesite in lower case"
    ),
    pytest.param(
        "samesite", False, ValueError, "use 'Lax', 'Strict' or 'None'", id="samesite false"
    ),
    pytest.param("samesite", ["Lax"], ValueError, "use 'Lax', 'Strict'", id="samesite as a list"),
    pytest.param(
        "encoder", None, TypeError, r"use a function such as json\.dumps", id="encoder None"
    ),
    pytest.param(
        "encoder", "json", TypeError, r"use a function such as json\.dumps", id="encoder as text"
    ),
    pytest.param(
        "decoder", None, TypeError, r"use a function such as json\.loads", id="decoder None"
    ),
    pytest.param("secrets", [], ValueError, "1 to 5", id="no secret"),
    pytest.param("secrets", "", ValueError, "fewer than 32", id="empty secret"),
    pytest.param("secrets", None, TypeError, "use text or bytes", id="secrets None"),
    pytest.param("secrets", 7, TypeError, "use text or bytes", id="secrets a number"),
    pytest.param("secrets", {SECRET: 1}, TypeError, "use text or bytes", id="secrets as a dict"),
    pytest.param("secrets", [SECRET, None], TypeError, "number 2", id="the second secret None"),
    pytest.param(
        "secrets",
        [SECRET, *(generate_secret() for _ in range(5))],
        ValueError,
        "6 given",
        id="six secrets",
    ),
]


@pytest.fixture
def collection() -> Any:
    """Make a collection to which nothing is sent."""
    return AsyncMongoMockClient()["app"]["sessions"]


@pytest.mark.parametrize(("name", "value", "error", "accepted"), WRONG)
def test_wrong_argument_is_refused_by_name(
    collection: Any, name: str, value: Any, error: type[Exception], accepted: str
) -> None:
    """The message starts with the name of the argument and says what is accepted."""
    with pytest.raises(error, match=accepted) as refusal:
        MongoStorage(collection, **{"secrets": SECRET, name: value})

    assert str(refusal.value).startswith(f"{name}: ")
    assert SECRET not in str(refusal.value)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        pytest.param(
            {"cookie_name": "__Host-s", "domain": "a.example"}, "domain=None", id="domain"
        ),
        pytest.param({"cookie_name": "__Host-s", "path": "/shop"}, "path='/'", id="path"),
        pytest.param({"cookie_name": "__Host-s", "secure": False}, "Secure", id="__Host- plain"),
        pytest.param({"cookie_name": "__hOsT-s", "secure": False}, "Secure", id="any case"),
        pytest.param({"cookie_name": "__Secure-s", "secure": False}, "Secure", id="__Secure-"),
    ],
)
def test_prefixed_cookie_name_with_attributes_that_browsers_refuse_is_refused(
    collection: Any, arguments: dict[str, Any], named: str
) -> None:
    """RFC 6265bis: a __Host- cookie has no Domain and the path /, and is Secure."""
    with pytest.raises(ValueError, match=named) as refusal:
        MongoStorage(collection, SECRET, **arguments)

    assert str(refusal.value).startswith("cookie_name: ")


def test_samesite_none_without_secure_is_refused(collection: Any) -> None:
    """Browsers refuse such a cookie, so nobody would stay signed in."""
    with pytest.raises(ValueError, match=r"^samesite: 'None' must be Secure"):
        MongoStorage(collection, SECRET, samesite="None", secure=False)


@pytest.mark.parametrize(
    ("collection", "hint"),
    [
        pytest.param(None, "Motor collection", id="None"),
        pytest.param("sessions", "Motor collection", id="text"),
        pytest.param(object(), "Motor collection", id="an object"),
    ],
)
def test_object_that_is_no_collection_is_refused(collection: Any, hint: str) -> None:
    """The message says which collections are accepted."""
    with pytest.raises(TypeError, match=hint) as refusal:
        MongoStorage(collection, SECRET)

    assert str(refusal.value).startswith("collection: ")


async def test_database_or_client_instead_of_a_collection_is_refused() -> None:
    """Every attribute of a Motor database is a collection, so duck typing would accept it."""
    motor, pymongo = AsyncIOMotorClient[Any](NOWHERE), AsyncMongoClient[Any](NOWHERE)

    for wrong in (motor, motor["app"], pymongo, pymongo["app"]):
        with pytest.raises(TypeError, match=r"^collection: .*client\['app'\]\['sessions'\]"):
            MongoStorage(wrong, SECRET)

    motor.close()
    await pymongo.close()


def test_synchronous_collection_is_refused() -> None:
    """A synchronous collection of PyMongo would block the event loop at every request."""
    with (
        MongoClient[Any](NOWHERE) as client,
        pytest.raises(TypeError, match=r"^collection: .*synchronous"),
    ):
        MongoStorage(client["app"]["sessions"], SECRET)


def test_synchronous_collection_of_mongomock_is_refused() -> None:
    """The client of mongomock imitates PyMongo's synchronous one; mongomock-motor is to be used."""
    with pytest.raises(TypeError, match=r"^collection: .*synchronous"):
        MongoStorage(mongomock.MongoClient()["app"]["sessions"], SECRET)


async def test_unacknowledged_write_concern_is_refused() -> None:
    """With w=0 nobody would notice a session that was not stored."""
    motor, pymongo = AsyncIOMotorClient[Any](NOWHERE), AsyncMongoClient[Any](NOWHERE)
    unacknowledged = WriteConcern(w=0)

    for client in (motor, pymongo):
        collection = client["app"].get_collection("sessions", write_concern=unacknowledged)
        with pytest.raises(ValueError, match=r"^collection: its write concern is unacknowledged"):
            MongoStorage(collection, SECRET)

    motor.close()
    await pymongo.close()


def test_every_secret_type_is_accepted(collection: Any) -> None:
    """Text, bytes, and a list or a tuple of one to five of them."""
    for secrets in (
        SECRET,
        SECRET.encode(),
        [SECRET],
        (SECRET, OTHER.encode()),
        [generate_secret() for _ in range(5)],
    ):
        MongoStorage(collection, secrets)


def test_values_at_their_bounds_are_accepted(collection: Any) -> None:
    """The values just inside each range."""
    for arguments in (
        {"max_age": 0.001},
        {"max_age": timedelta(days=36500)},
        {"max_age": None, "touch_interval": 3600},
        {"max_age": 60, "absolute_timeout": 30},
        {"max_age": 60, "touch_interval": 59.5},
        {"max_bytes": 1},
        {"max_sessions_per_owner": 1},
        {"max_sessions_per_owner": 1_000_000},
        {"max_bytes": 4 * 1024 * 1024},
        {"operation_timeout": 0.01},
        {"operation_timeout": 3600},
        {"samesite": None},
        {"samesite": "None"},
        {"samesite": "Strict", "httponly": False},
        {"cookie_name": "__Host-session", "secure": True},
        {"cookie_name": "__Secure-session", "domain": ".example.com", "path": "/shop"},
        {"owner_key": None},
        {"owner_key": ""},
    ):
        MongoStorage(collection, SECRET, **arguments)


def test_aiohttp_session_knows_the_cookie_as_it_is_sent(collection: Any) -> None:
    """Other libraries read these public attributes of a storage."""
    cookie = {
        "max_age": 60,
        "domain": ".example.com",
        "path": "/shop",
        "secure": True,
        "httponly": False,
        "samesite": "Strict",
    }
    storage = MongoStorage(collection, SECRET, cookie_name="shop", **cookie)

    assert dict(storage.cookie_params) == cookie
    assert (storage.cookie_name, storage.max_age) == ("shop", 60)


def test_secrets_in_another_container_are_refused(collection: Any) -> None:
    """A sequence has an order, the first one seals; the message names the type."""
    with pytest.raises(TypeError, match=r"^secrets: set is not accepted"):
        MongoStorage(collection, {SECRET})  # type: ignore[arg-type]
