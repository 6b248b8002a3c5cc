"""Where the parts meet: the start-up hooks in their order, then the way of a request.

`create_app` is a coroutine because its hooks must pass before a route is mounted; aiohttp's own
`on_startup` comes too late for that, the router is frozen by then.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo.errors import PyMongoError

from storage import IndexConflict, MongoStorage, StorageUnavailable, setup
from webapp.accounts import users as accounts
from webapp.accounts.throttle import THROTTLE, Throttle
from webapp.accounts.users import ACCOUNTS
from webapp.config.settings import Config, ConfigError
from webapp.database import client as database
from webapp.handlers import api, pages
from webapp.handlers.devices import describe
from webapp.http import health
from webapp.http.app_keys import CONFIG, DATABASE, METRICS, STORAGE, UNDER_WAY
from webapp.http.cross_site import same_site_only
from webapp.http.error_pages import error_answers
from webapp.http.headers import header_signal
from webapp.http.in_flight import UnderWay
from webapp.http.metrics import Metrics
from webapp.http.middlewares import (
    allowed_host,
    https_only,
    identified,
    trusted_address,
    within_budget,
)
from webapp.http.proxy import ForwardedPolicy

# Bytes of a request's body; no form of the app comes near it.
LARGEST_BODY = 64 * 1024


async def create_app(config: Config) -> web.Application:
    """Run the start-up hooks and return the app, ready to be served.

    Raises `ConfigError` with one sentence per problem: nothing is mounted then, and the
    connection to MongoDB is closed again.
    """
    policy = checked_policy(config)
    client = database.connect(config)
    try:
        app = _with_parts(config, client)
        await prepare_database(app)
    except BaseException:
        database.disconnect(client)
        raise
    _add_middlewares(app, config, policy)
    _add_routes(app)
    return app


def checked_policy(config: Config) -> ForwardedPolicy:
    """Build the forwarded-header policy and have it check itself."""
    policy = ForwardedPolicy(config.trusted_proxy_hops, config.trusted_proxies)
    try:
        policy.check_itself()
    except AssertionError as problem:
        raise ConfigError(f"TRUSTED_PROXIES: {problem}") from None
    return policy


async def prepare_database(app: web.Application) -> None:
    """Reach MongoDB, then make the indexes and see that the user may write."""
    await database.ping(app[DATABASE])
    try:
        await app[STORAGE].create_indexes()
        await app[ACCOUNTS].create_indexes()
        await app[THROTTLE].create_indexes()
    except (IndexConflict, StorageUnavailable, PyMongoError) as error:
        raise ConfigError(database.explain(error, app[DATABASE].name)) from None
    await database.check_rights(app[DATABASE])


@asynccontextmanager
async def parts(config: Config) -> AsyncIterator[web.Application]:
    """Lend the parts without a server, hooks passed: what the operator's commands work with."""
    checked_policy(config)
    client = database.connect(config)
    try:
        app = _with_parts(config, client)
        await prepare_database(app)
        yield app
        await app[STORAGE].aclose()
    finally:
        database.disconnect(client)


def _with_parts(config: Config, client: AsyncIOMotorClient[dict[str, object]]) -> web.Application:
    app = web.Application(client_max_size=LARGEST_BODY)
    app[CONFIG] = config
    app[METRICS] = Metrics()
    app[UNDER_WAY] = UnderWay()
    app[DATABASE] = client[config.mongo_database]
    app[STORAGE] = _storage(config, app[DATABASE])
    app[METRICS].watch(
        app[STORAGE].counters,
        gauges={
            "storage_queue_length": lambda: app[STORAGE].queued,
            "webapp_requests_under_way": lambda: int(app[UNDER_WAY]),
        },
    )
    app[THROTTLE] = Throttle(app[DATABASE], config.session_secrets[0])
    accounts.setup(app)

    async def close_client(_app: web.Application) -> None:
        database.disconnect(client)

    app.on_cleanup.append(close_client)
    return app


def _storage(config: Config, database: database.Database) -> MongoStorage:
    return MongoStorage(
        database["sessions"],
        config.session_secrets,
        max_age=config.session_max_age.total_seconds(),
        absolute_timeout=config.session_absolute_timeout,
        owner_key="user_id",
        describe=describe,
        cookie_name=config.cookie_name,
        secure=config.production,
        samesite=config.cookie_samesite.capitalize(),
    )


def _add_middlewares(app: web.Application, config: Config, policy: ForwardedPolicy) -> None:
    """Lay the way of a request, from the socket to the handler."""
    app.middlewares.extend(
        [
            identified,
            error_answers,
            within_budget,
            trusted_address(config, policy),
            allowed_host(config),
            *([https_only] if config.production else []),
            same_site_only(config),
        ]
    )
    setup(app, app[STORAGE])  # the session, inside the clones that trusted_address makes
    app.on_response_prepare.append(header_signal(config))


def _add_routes(app: web.Application) -> None:
    health.add_routes(app)
    pages.add_routes(app)
    api.add_routes(app)
