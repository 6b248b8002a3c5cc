"""The description at `/api/openapi.json` against the running app, by schemathesis."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import requests
import schemathesis
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from pymongo import MongoClient
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import ignored_auth, positive_data_acceptance

from storage import generate_secret
from tests.processes import free_port
from tests.webapp.conftest import CHEAP, Client, MakeApp
from tests.webapp.people import ADA
from webapp.app import create_app
from webapp.config import Config
from webapp.handlers import openapi

EXAMPLES = 10


class Served:
    """The app in a thread of its own: schemathesis sends requests without an event loop."""

    def __init__(self, address: str, environ: dict[str, str]) -> None:
        self.address = address
        self._environ = environ

    def clear(self) -> None:
        """Delete the accounts, sessions and counters of earlier requests."""
        with MongoClient[dict[str, Any]](self._environ["MONGO_URI"]) as client:
            for name in ("users", "sessions", "throttle"):
                client[self._environ["MONGO_DATABASE"]][name].delete_many({})

    def cookie(self) -> str:
        """Sign Ada up and in, and return the Cookie header."""
        requests.post(f"{self.address}/api/auth/signup", json=ADA, timeout=30)
        body = {"email": ADA["email"], "password": ADA["password"]}
        answer = requests.post(f"{self.address}/api/auth/login", json=body, timeout=30)
        return f"session={answer.cookies['session']}"


@pytest.fixture(scope="module")
def served(mongo_uri: str) -> Iterator[Served]:
    """Serve the app for schemathesis, on a database of its own."""
    port, database = free_port(), f"test_{secrets.token_hex(8)}"
    environ = {
        "MONGO_URI": mongo_uri,
        "MONGO_DATABASE": database,
        "SESSION_SECRET": generate_secret(),
        "APP_ENV": "development",
        "HOST": "127.0.0.1",
        "PORT": str(port),
    }
    with _in_a_thread(Config.from_environ(environ)):
        yield Served(f"http://127.0.0.1:{port}", environ)
    with MongoClient[dict[str, Any]](mongo_uri) as client:
        client.drop_database(database)


@contextmanager
def _in_a_thread(config: Config) -> Iterator[None]:
    """Serve the app until the block ends."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def start() -> web.AppRunner:
        runner = web.AppRunner(await create_app(config, cost=CHEAP))
        await runner.setup()
        await web.TCPSite(runner, config.host, config.port).start()
        return runner

    runner = asyncio.run_coroutine_threadsafe(start(), loop).result()
    try:
        yield
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


SCHEMA = schemathesis.openapi.from_dict(
    openapi.description(password_min_length=15, cookie_name="session")
)
OPERATIONS = {found.ok().label: found.ok() for found in SCHEMA.get_all_operations()}


# No schema can say which passwords are common, or which names are misleading.
NOT_ALL_IN_THE_SCHEMA = {"POST /api/auth/signup": [positive_data_acceptance]}


def cases() -> Iterator[Any]:
    """Name every operation with allowed input, and with forbidden input where it takes any."""
    for label, operation in OPERATIONS.items():
        yield pytest.param(label, GenerationMode.POSITIVE, id=f"{label}, allowed")
        if operation.body or operation.path_parameters:
            yield pytest.param(label, GenerationMode.NEGATIVE, id=f"{label}, forbidden")


@pytest.mark.parametrize(("label", "mode"), list(cases()))
def test_every_answer_matches_the_description(
    served: Served, label: str, mode: GenerationMode
) -> None:
    """Allowed and forbidden requests: status, type, headers and body are as described."""
    operation = OPERATIONS[label]

    @given(operation.as_strategy(generation_mode=mode))
    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    def ask(case: schemathesis.Case) -> None:
        served.clear()
        headers = {"Cookie": served.cookie()} if operation.definition.raw.get("security") else {}
        case.call_and_validate(
            served.address, headers=headers, excluded_checks=NOT_ALL_IN_THE_SCHEMA.get(label)
        )

    ask()


def test_every_success_matches_the_description(served: Served) -> None:
    """From sign-up to deletion, each success has the described status and body."""
    served.clear()
    password = {"current_password": ADA["password"]}
    sign_in = {"email": ADA["email"], "password": ADA["password"]}
    browser = requests.Session()
    statuses = []

    for label, body in [
        ("POST /api/auth/signup", ADA),
        ("POST /api/auth/login", sign_in | {"remember": True}),
        ("GET /api/profile", None),
        ("GET /api/sessions", None),
        ("DELETE /api/sessions", None),
        ("POST /api/auth/logout", None),
        ("POST /api/auth/login", sign_in),
        ("DELETE /api/profile", password),
    ]:
        content = {"body": body, "media_type": "application/json"} if body else {}
        case = OPERATIONS[label].Case(**content)
        answer = case.call(served.address, session=browser)
        # The session object sends the cookie, so schemathesis thinks that it sent none.
        case.validate_response(answer, excluded_checks=[ignored_auth])
        statuses.append(answer.status_code)

    assert statuses == [201, 200, 200, 200, 204, 204, 200, 204]


async def test_described_routes_are_the_routes_of_the_app(client: Client) -> None:
    """Every route is described, and every described route exists."""
    described = await (await client.get("/api/openapi.json")).json()

    promised = {
        (method.upper(), path)
        for path, item in described["paths"].items()
        for method in item
        if method != "parameters"
    }
    mounted = {
        (route.method, route.resource.canonical)
        for route in client.app.router.routes()
        if route.resource
        and route.resource.canonical.startswith("/api/")
        and route.method != "HEAD"
    }

    assert promised == mounted


async def test_description_contains_the_configured_password_length(make_app: MakeApp) -> None:
    """A front end can check the length before it sends a form."""
    client = await make_app(PASSWORD_MIN_LENGTH="20")

    described = await (await client.get("/api/openapi.json")).json()

    assert described["components"]["schemas"]["SignUp"]["properties"]["password"]["minLength"] == 20
