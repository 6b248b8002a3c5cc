"""The app as a whole: the start-up hooks in order, then what a request passes.

`create_app` is a coroutine because its hooks must pass before a route is mounted; aiohttp's own
`on_startup` comes too late for that, the router is frozen by then.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from aiohttp import web
from pymongo.errors import PyMongoError

from storage import IndexConflict, MongoStorage, StorageUnavailable, setup
from webapp.accounts.passwords import Cost, Passwords
from webapp.accounts.throttle import THROTTLE, Throttle
from webapp.accounts.users import ACCOUNTS, Accounts
from webapp.config.settings import Config, ConfigError
from webapp.database.client import (
    OPERATION_SECONDS,
    START_SECONDS,
    Collection,
    Database,
    connect,
    disconnect,
    open_database,
    ping,
)
from webapp.database.errors import failed_start
from webapp.database.indexes import check_rights
from webapp.handlers import api, pages
from webapp.handlers.devices import describe
from webapp.http import health
from webapp.http.app_keys import CONFIG, DATABASE, FORWARDED_POLICY, IN_FLIGHT, METRICS, STORAGE
from webapp.http.cross_site import same_site_only
from webapp.http.error_pages import error_answers
from webapp.http.headers import header_signal
from webapp.http.in_flight import InFlight
from webapp.http.metrics import Metrics
from webapp.http.middlewares import (
    allowed_host,
    https_only,
    trusted_address,
    with_request_id,
    within_budget,
)
from webapp.http.proxy import ForwardedPolicy

# Bytes of a request's body; the forms of the app are much smaller.
LARGEST_BODY = 64 * 1024


async def create_app(config: Config, *, cost: Cost | None = None) -> web.Application:
    """Run the start-up hooks and return an app that is ready to serve; its clean-up closes all.

    `cost` is what the hash of a password costs, by default `Cost()`; it is for tests.
    Raises `ConfigError` with one sentence per problem, and `DatabaseAway` when MongoDB does not
    answer: nothing is mounted then, and the connection to MongoDB is closed again.
    """
    async with AsyncExitStack() as stack:
        app = await stack.enter_async_context(parts(config, cost=cost))
        _add_middlewares(app, config)
        _add_routes(app)
        opened = stack.pop_all()

    async def close(_app: web.Application) -> None:
        await opened.aclose()

    app.on_cleanup.append(close)
    return app


@asynccontextmanager
async def parts(config: Config, *, cost: Cost | None = None) -> AsyncIterator[web.Application]:
    """Build what every command works with, start-up hooks passed, and close it whatever happens.

    An app without routes, which is no server yet. Raises `ConfigError` and `DatabaseAway`.
    """
    policy = checked_policy(config)
    async with AsyncExitStack() as stack:
        client = connect(config)
        stack.callback(disconnect, client)
        app = web.Application(client_max_size=LARGEST_BODY)
        app[CONFIG] = config
        app[FORWARDED_POLICY] = policy
        app[IN_FLIGHT] = InFlight()
        app[DATABASE] = open_database(client, config.mongo_database)
        app[THROTTLE] = Throttle(
            app[DATABASE], config.session_secrets, per_address=config.throttle_per_address
        )
        app[ACCOUNTS] = Accounts(
            app[DATABASE],
            password_min_length=config.password_min_length,
            passwords=Passwords(cost),
        )
        stack.callback(app[ACCOUNTS].close)
        app[STORAGE] = _storage(config, app[DATABASE])
        stack.push_async_callback(app[STORAGE].aclose)
        app[METRICS] = _metrics(app[STORAGE], app[IN_FLIGHT])
        await prepare_database(app)
        yield app


def checked_policy(config: Config) -> ForwardedPolicy:
    """Build the forwarded-header policy and run its own check."""
    policy = ForwardedPolicy(config.trusted_proxy_hops, config.trusted_proxies)
    try:
        policy.check_itself()
    except AssertionError as problem:
        raise ConfigError(f"TRUSTED_PROXIES: {problem}") from None
    return policy


async def prepare_database(app: web.Application) -> None:
    """Reach MongoDB, then check that the user may write and create the indexes."""
    try:
        await ping(app[DATABASE], seconds=START_SECONDS)
        # Before the indexes: without rights, or with a w= that cannot be met, they fail too, and
        # would be named as the cause.
        await check_rights(app[DATABASE])
        await app[STORAGE].create_indexes()
        await app[ACCOUNTS].create_indexes()
        await app[THROTTLE].create_indexes()
    except (IndexConflict, StorageUnavailable, PyMongoError) as error:
        raise failed_start(error, app[DATABASE].name) from None


def _storage(config: Config, database: Database) -> MongoStorage:
    return MongoStorage(
        database[Collection.SESSIONS],
        config.session_secrets,
        max_age=config.session_max_age.total_seconds(),
        absolute_timeout=config.session_absolute_timeout,
        owner_key="user_id",
        max_sessions_per_owner=config.sessions_per_account,
        operation_timeout=OPERATION_SECONDS,
        describe=describe,
        cookie_name=config.cookie_name,
        secure=config.production,
        samesite=config.cookie_samesite.capitalize(),
        partitioned=config.cookie_partitioned,
    )


def _metrics(storage: MongoStorage, in_flight: InFlight) -> Metrics:
    metrics = Metrics()
    metrics.watch(
        storage.counters,
        gauges={
            "storage_queue_length": lambda: storage.queued,
            "webapp_requests_under_way": lambda: int(in_flight),
        },
    )
    return metrics


def _add_middlewares(app: web.Application, config: Config) -> None:
    """Add what a request passes, in this order, from the socket to the handler."""
    app.middlewares.extend(
        [
            with_request_id,
            error_answers(pages.error_page),
            within_budget,
            trusted_address(config, app[FORWARDED_POLICY]),
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
