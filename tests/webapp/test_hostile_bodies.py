"""Bodies that are not the expected form or JSON: 4xx with a sentence, and nothing written."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator
from io import BytesIO
from urllib.parse import quote_plus

import pytest
import pytest_asyncio
from aiohttp import ClientResponse, FormData
from aiohttp.test_utils import TestClient, TestServer
from pymongo import MongoClient

from storage import generate_secret
from tests.webapp.conftest import BROWSER, CHEAP, Client
from tests.webapp.people import ADA, NEW_PASSWORD, sign_up_and_in
from webapp.app import create_app
from webapp.config import Config
from webapp.http.app_keys import DATABASE

JSON = {"Content-Type": "application/json"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
SECRET = "orchid-lamp-that-must-not-be-repeated"

# For tests of bodies that write nothing: most of their time would be the start of an app.
in_one_app = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def one_app(
    mongo_uri: str, shared_client: MongoClient[dict[str, object]]
) -> AsyncIterator[Client]:
    """Start an app for the tests that are marked with ``in_one_app``."""
    database = f"test_{secrets.token_hex(8)}"
    environ = {
        "MONGO_URI": mongo_uri,
        "MONGO_DATABASE": database,
        "SESSION_SECRET": generate_secret(),
        "APP_ENV": "development",
    }
    app = await create_app(Config.from_environ(environ), cost=CHEAP)
    async with TestClient(TestServer(app), headers=BROWSER) as client:
        yield client
    shared_client.drop_database(database)


async def refused(client: Client, response: ClientResponse, status: int) -> str:
    """Check that a body was refused, echoing no secret and writing nothing; return the answer."""
    text = await response.text()
    assert response.status == status, text
    assert SECRET not in text
    assert "Traceback" not in text
    assert await client.app[DATABASE]["users"].count_documents({}) == 0
    return text


BROKEN_JSON = [
    pytest.param(b"", 400, id="nothing"),
    pytest.param(b"{", 400, id="cut short"),
    pytest.param(b'{"username": "\xff"}', 400, id="invalid UTF-8"),
    pytest.param('{"a": 1}'.encode("utf-16"), 400, id="UTF-16"),
    pytest.param(b"\xef\xbb\xbf{}", 400, id="byte order mark"),
    pytest.param(b"[]", 400, id="an array"),
    pytest.param(b'"text"', 400, id="text"),
    pytest.param(b"null", 400, id="null"),
    pytest.param(b"[" * 20_000, 400, id="nested deeply"),
    pytest.param(b'{"a":' * 10_000 + b"1" + b"}" * 10_000, 400, id="objects nested deeply"),
    pytest.param(b'{"password": NaN}', 400, id="NaN"),
    pytest.param(b'{"password": -Infinity}', 400, id="minus infinity"),
    pytest.param(b'{"password": ' + b"9" * 5_000 + b"}", 400, id="a huge number"),
    pytest.param(b'{"email": "a@b.c", "email": "d@e.f"}', 400, id="a field twice"),
    pytest.param(b'{"x": {"a": 1, "a": 2}}', 400, id="a field twice further in"),
    pytest.param(b"{} {}", 400, id="two objects"),
    pytest.param(b"a=b", 400, id="a form"),
    pytest.param(b'{"password": "' + b"x" * 2_000_000 + b'"}', 413, id="two megabytes"),
]


@in_one_app
@pytest.mark.parametrize("path", ["/api/auth/signup", "/api/auth/login"])
@pytest.mark.parametrize(("body", "status"), BROKEN_JSON)
async def test_body_that_is_not_a_json_object_is_refused(
    one_app: Client, path: str, body: bytes, status: int
) -> None:
    """The whole body is refused: 400 or 413."""
    await refused(one_app, await one_app.post(path, data=BytesIO(body), headers=JSON), status)


WRONG_VALUES = [
    pytest.param(None, id="null"),
    pytest.param(7, id="a number"),
    pytest.param(True, id="true"),
    pytest.param([SECRET], id="an array"),
    pytest.param({"$ne": SECRET}, id="a query operator"),
    pytest.param({}, id="an object"),
    pytest.param("", id="empty"),
    pytest.param("a\0b" + SECRET, id="NUL"),
    pytest.param("\ud83d" + SECRET, id="half an emoji"),
    pytest.param(SECRET * 100, id="too long"),
]


@in_one_app
@pytest.mark.parametrize("field", ["username", "email", "password"])
@pytest.mark.parametrize("value", WRONG_VALUES)
async def test_wrong_value_in_a_sign_up_names_its_field(
    one_app: Client, field: str, value: object
) -> None:
    """422; the problem names the wrong field and no other."""
    response = await one_app.post("/api/auth/signup", json=ADA | {field: value})

    problem = json.loads(await refused(one_app, response, 422))
    assert [error["field"] for error in problem["errors"]] == [field]


@in_one_app
@pytest.mark.parametrize("field", ["email", "password", "remember"])
@pytest.mark.parametrize("value", WRONG_VALUES)
async def test_wrong_value_in_a_sign_in_names_its_field(
    one_app: Client, field: str, value: object
) -> None:
    """The same holds for signing in, where `remember` must be true or false."""
    if (field, value) == ("remember", True):
        value = "true"
    body = {"email": ADA["email"], "password": ADA["password"], field: value}

    response = await one_app.post("/api/auth/login", json=body)

    problem = json.loads(await refused(one_app, response, 422))
    assert [error["field"] for error in problem["errors"]] == [field]


@pytest.mark.parametrize("field", ["username", "email", "password"])
async def test_missing_field_is_named(client: Client, field: str) -> None:
    """The problem names the missing field."""
    body = {name: value for name, value in ADA.items() if name != field}

    response = await client.post("/api/auth/signup", json=body)

    problem = json.loads(await refused(client, response, 422))
    assert problem["errors"] == [{"field": field, "detail": "Please fill in this field."}]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        pytest.param("admin", "admin", id="a wish"),
        pytest.param("_id", "_id", id="MongoDB's own"),
        pytest.param("\u202e<b>", "\\u202e<b>", id="direction and markup"),
        pytest.param("\ud800", "\\ud800", id="lone surrogate"),
        pytest.param("x" * 5_000, "x" * 40, id="very long"),
    ],
)
async def test_unknown_field_is_refused_by_name(client: Client, name: str, shown: str) -> None:
    """JSON bodies have known fields only; the name is repeated short and escaped."""
    response = await client.post("/api/auth/signup", json=ADA | {name: SECRET})

    problem = json.loads(await refused(client, response, 422))
    assert problem["errors"] == [{"field": shown, "detail": "This field is not known here."}]


@in_one_app
async def test_answer_to_thousands_of_unknown_fields_names_ten(one_app: Client) -> None:
    """Otherwise the answer would be ten times as large as the request."""
    fields = {f"f{number}": 0 for number in range(5_000)}

    response = await one_app.post("/api/auth/login", json=fields)

    problem = json.loads(await refused(one_app, response, 422))
    assert [error["field"] for error in problem["errors"][:10]] == list(fields)[:10]
    assert len(problem["errors"]) == 12  # with the two that are missing


@pytest.mark.parametrize(
    "content_type",
    [
        pytest.param("text/plain", id="text"),
        pytest.param("application/x-www-form-urlencoded", id="a form"),
        pytest.param("multipart/form-data; boundary=x", id="multipart"),
        pytest.param("application/jsonp", id="nearly JSON"),
        pytest.param("application/problem+json", id="a kind of JSON"),
        pytest.param("", id="none"),
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/api/auth/signup"), ("POST", "/api/auth/login"), ("DELETE", "/api/profile")],
)
async def test_api_accepts_json_only(
    client: Client, method: str, path: str, content_type: str
) -> None:
    """Any other content type is 415, also that of a cross-site form."""
    if method == "DELETE":
        await sign_up_and_in(client)

    response = await client.request(
        method, path, data=json.dumps(ADA).encode(), headers={"Content-Type": content_type}
    )

    assert response.status == 415
    assert response.content_type == "application/problem+json"


@pytest.mark.parametrize("charset", ["utf-8", "klingon"])
async def test_charset_of_a_json_body_is_ignored(client: Client, charset: str) -> None:
    """JSON is UTF-8, whatever charset the header names."""
    response = await client.post(
        "/api/auth/signup",
        data=json.dumps(ADA).encode(),
        headers={"Content-Type": f"application/json; charset={charset}"},
    )

    assert response.status == 201


BROKEN_FORMS = [
    pytest.param(b"username=%FF&email=a@b.c&password=x", 400, id="percent-encoded, not UTF-8"),
    pytest.param(b"username=\xff", 400, id="not UTF-8"),
    pytest.param(b"email=a@b.c&email=d@e.f", 400, id="a field twice"),
    pytest.param(b"&".join(b"f%d=x" % n for n in range(40)), 400, id="forty fields"),
    pytest.param(b"password=" + b"x" * 2_000_000, 413, id="two megabytes"),
    pytest.param(b"", 422, id="nothing"),
    pytest.param(b"&&==&;", 422, id="only separators"),
    pytest.param(b"username", 422, id="a name without a value"),
    pytest.param(b"username=a%00b&email=a%00b&password=x", 422, id="NUL"),
    pytest.param(b"username[]=a&username[$ne]=b", 422, id="another framework's arrays"),
]


@in_one_app
@pytest.mark.parametrize("path", ["/signup", "/login"])
@pytest.mark.parametrize(("body", "status"), BROKEN_FORMS)
async def test_malformed_form_is_refused_with_a_page(
    one_app: Client, path: str, body: bytes, status: int
) -> None:
    """The answer is a page, without a traceback."""
    response = await one_app.post(path, data=BytesIO(body), headers=FORM)

    await refused(one_app, response, status)
    assert response.content_type == "text/html"


@pytest.mark.parametrize("field", ["username", "email", "password"])
async def test_page_names_a_form_field_that_is_too_long(client: Client, field: str) -> None:
    """422, with the sentence at the field."""
    response = await client.post("/signup", data=ADA | {field: "x" * 3_000})

    page = await refused(client, response, 422)
    assert f'id="{field}-error"' in page


@pytest.mark.parametrize("path", ["/signup", "/login"])
async def test_pages_accept_plain_forms_only(client: Client, path: str) -> None:
    """Uploads and JSON are 415."""
    upload = FormData()
    upload.add_field("password", b"\x00" * 100, filename="x.bin")

    for response in (
        await client.post(path, data=upload),
        await client.post(path, json=ADA),
        await client.post(path, data=b"x", headers={"Content-Type": "text/plain"}),
    ):
        await refused(client, response, 415)
        assert response.content_type == "text/html"


async def test_forms_ignore_unknown_fields(client: Client) -> None:
    """A field that a browser extension adds does not matter."""
    response = await client.post(
        "/signup", data=ADA | {"disabled": "1", "_id": "x"}, allow_redirects=False
    )

    assert response.status == 303
    (user,) = await client.app[DATABASE]["users"].find({}).to_list(None)
    assert "disabled" not in user


@pytest.mark.parametrize(
    "password", ["tab\tin the\nmiddle of it", "🦊 und 🐢 und 🦉 und", "%+&=; %00 %41 <'\">"]
)
async def test_password_is_the_same_from_a_form_and_from_json(
    client: Client, password: str
) -> None:
    """Any text that a form sends as a password is the same password in JSON."""
    body = "&".join(
        f"{name}={quote_plus(value)}" for name, value in (ADA | {"password": password}).items()
    )

    response = await client.post("/signup", data=body, headers=FORM, allow_redirects=False)

    assert response.status == 303
    signed_in = await client.post(
        "/api/auth/login", json={"email": ADA["email"], "password": password}
    )
    assert signed_in.status == 200


@in_one_app
@pytest.mark.parametrize("path", ["/api/auth/login", "/login"])
@pytest.mark.parametrize("coding", ["gzip", "DEFLATE", "gzip, gzip"])
async def test_compressed_body_is_refused(one_app: Client, path: str, coding: str) -> None:
    """415 names the only accepted content coding, whether the body is compressed or not."""
    media_type = JSON if path.startswith("/api") else FORM

    response = await one_app.post(path, data=b"", headers=media_type | {"Content-Encoding": coding})

    assert response.headers["Accept-Encoding"] == "identity"
    assert "without compression" in await refused(one_app, response, 415)


async def test_body_without_a_length_is_refused_beyond_the_limit(client: Client) -> None:
    """A chunked body is refused when it becomes too large."""

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(300):
            yield b"x" * 10_000

    response = await client.post("/api/auth/login", data=endless(), headers=JSON)

    assert response.status == 413


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/profile/password", {"current_password": "a\0", "new_password": NEW_PASSWORD}),
        ("/profile/delete", {"current_password": ""}),
        ("/profile/sessions", {"handle": "x" * 3_000}),
        ("/profile/sessions", {"handle": "\0"}),
    ],
)
async def test_hostile_fields_of_a_signed_in_user_change_nothing(
    client: Client, path: str, fields: dict[str, str]
) -> None:
    """The account and the session stay as they are."""
    await sign_up_and_in(client)

    response = await client.post(path, data=fields)

    assert response.status < 500
    assert (await client.get("/api/profile")).status == 200


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/login", "GET,HEAD,POST"),
        ("GET", "/logout", "POST"),
        ("DELETE", "/", "GET,HEAD"),
        ("GET", "/api/auth/login", "POST"),
        ("PATCH", "/api/profile", "DELETE,GET,HEAD"),
    ],
)
async def test_wrong_method_is_405_with_allow(
    client: Client, method: str, path: str, allowed: str
) -> None:
    """405 as a page or as a problem, with `Allow`."""
    response = await client.request(method, path)

    assert response.status == 405
    assert response.headers["Allow"] == allowed
    expected = "application/problem+json" if path.startswith("/api/") else "text/html"
    assert response.content_type == expected
