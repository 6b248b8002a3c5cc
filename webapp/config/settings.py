"""What an operator can set: every environment variable, its default and its rule.

Each field of `Config` declares its variable, and nothing else has to know it: a new one is a line
here and a row in docs/operations.md.  A start with several mistakes reports all of them at once,
and no message, `repr` or log line carries a secret.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Self

from storage.sealing import MAX_SECRETS, secret_problem
from webapp.config import mongo_address
from webapp.config.variables import (
    Network,
    Variables,
    declared,
    flag,
    host_name,
    listed,
    misspelt,
    networks,
    one_of,
    origin,
    seconds,
    variable,
    whole_number,
)

DEFAULT_PORT = 8080
IDLE_TIMEOUT = timedelta(days=14)
ABSOLUTE_TIMEOUT = timedelta(days=30)
# Sign-ins from one address that may fail within the throttle's `QUOTA_WINDOW`.
ATTEMPTS_PER_ADDRESS = 100
# From a second to the longest that a browser keeps a cookie (RFC 6265bis 5.5).
LIFETIME = seconds(1, 400 * 24 * 60 * 60)
# Longer than the 90 s of Heroku's router: the side that closes first must be the router.
KEEP_ALIVE = timedelta(seconds=95)
# The ranges of private networks and of carriers (RFC 1918, 4193, 6598), where routers are.
PRIVATE_RANGES = networks(
    "10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, 100.64.0.0/10, 127.0.0.0/8, ::1/128, fc00::/7"
)
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
HOPS_HINT = "use 1 behind one router, as on Heroku"
NEW_SECRET = "make one with `python -m webapp secret`"  # noqa: S105
# What stands for a secret in examples, tutorials and other people's repositories, without case
# and punctuation. Seven letters at least: random secrets contain shorter words.
PLACEHOLDERS = re.compile(
    "changeme|changethis|replaceme|replacethis|placeholder|yoursecret|mysecret|supersecret"
    "|sessionsecret|secretkey|secrethere|keyboardcat|notasecret|notsecret|insecure|example"
    "|dontuse|donotuse|thisisa|testsecret|devsecret|password"
)


class ConfigError(Exception):
    """The app cannot start with this environment, or with this MongoDB; `problems` says why."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def _secrets(text: str) -> tuple[str, ...]:
    secrets = listed(_secret)(text)
    if len(secrets) > MAX_SECRETS:
        raise ValueError(f"{len(secrets)} secrets are listed; keep the newest {MAX_SECRETS}")
    if len(set(secrets)) < len(secrets):
        raise ValueError("one secret is listed twice; list each once, newest first")
    return secrets


def _secret(text: str) -> str:
    problem = secret_problem(text.encode())
    if problem is None and PLACEHOLDERS.search(re.sub("[^a-z]", "", text.casefold())):
        problem = "is an example that everybody knows"
    if problem:
        raise ValueError(f"a secret {problem}; {NEW_SECRET}")
    return text


def _metrics_token(text: str) -> str:
    # RFC 6750 2.1: what a bearer token may be made of.
    if not re.fullmatch(r"[A-Za-z0-9._~+/-]+=*", text):
        raise ValueError(f"has characters other than A-Z a-z 0-9 . _ ~ + / -; {NEW_SECRET}")
    return _secret(text)


@dataclass(frozen=True, kw_only=True)
class Config:
    """The settings, named like their variables; made by `from_environ`, never changed."""

    app_env: str = variable("APP_ENV", one_of("production", "development"), "production")
    mongo_uri: str = variable(
        "MONGO_URI",
        mongo_address.address,
        "",
        required="give the address of a MongoDB, or use --dev for one on this machine",
        other_names=("MONGODB_URI", "MONGO_URL", "MONGODB_URL", "DATABASE_URL"),
        secret=True,
    )
    mongo_allow_plaintext: bool = variable("MONGO_ALLOW_PLAINTEXT", flag, default=False)
    # Without it the database that the address names, see `_database`.
    mongo_database: str = variable("MONGO_DATABASE", mongo_address.database, "webapp")
    trusted_proxy_hops: int = variable(
        "TRUSTED_PROXY_HOPS",
        whole_number(0, 9, HOPS_HINT),
        0,
        required_in_production=HOPS_HINT,
    )
    trusted_proxies: tuple[Network, ...] = variable("TRUSTED_PROXIES", networks, PRIVATE_RANGES)
    allowed_hosts: tuple[str, ...] = variable(
        "ALLOWED_HOSTS",
        listed(host_name),
        LOOPBACK_NAMES,
        required_in_production="list the app's own names, separated by commas",
    )
    allowed_origins: tuple[str, ...] = variable("ALLOWED_ORIGINS", listed(origin), ())
    cookie_samesite: str = variable(
        "SESSION_COOKIE_SAMESITE", one_of("lax", "strict", "none"), "lax"
    )
    cookie_partitioned: bool = variable("SESSION_COOKIE_PARTITIONED", flag, default=False)
    session_secrets: tuple[str, ...] = variable(
        "SESSION_SECRET",
        _secrets,
        (),
        required=NEW_SECRET,
        other_names=("SECRET_KEY", "SECRET", "SESSION_KEY"),
        secret=True,
    )
    session_max_age: timedelta = variable("SESSION_MAX_AGE", LIFETIME, IDLE_TIMEOUT)  # noqa: RUF009
    session_absolute_timeout: timedelta = variable(  # noqa: RUF009
        "SESSION_ABSOLUTE_TIMEOUT", LIFETIME, ABSOLUTE_TIMEOUT
    )
    sessions_per_account: int = variable("SESSIONS_PER_ACCOUNT", whole_number(1, 1000), 50)
    throttle_per_address: int = variable(
        "THROTTLE_PER_ADDRESS", whole_number(1, 10_000), ATTEMPTS_PER_ADDRESS
    )
    password_min_length: int = variable("PASSWORD_MIN_LENGTH", whole_number(8, 64), 15)
    host: str = variable("HOST", host_name, "0.0.0.0")  # noqa: S104
    port: int = variable("PORT", whole_number(1, 65535), DEFAULT_PORT)
    # Longer than routers need to hear of it; with the drain it must fit what a platform waits.
    drain_delay: timedelta = variable("DRAIN_DELAY", seconds(0, 300), timedelta(0))  # noqa: RUF009
    keep_alive: timedelta = variable("KEEP_ALIVE", seconds(1, 3600), KEEP_ALIVE)  # noqa: RUF009
    log_format: str = variable("LOG_FORMAT", one_of("json", "text"), "json", development="text")
    log_level: str = variable(
        "LOG_LEVEL", one_of("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"), "INFO"
    )
    metrics_token: str | None = variable("METRICS_TOKEN", _metrics_token, None, secret=True)
    warnings: tuple[str, ...] = ()

    @property
    def production(self) -> bool:
        """Whether https, the `__Host-` cookie and the strict rules apply."""
        return self.app_env == "production"

    @property
    def cookie_name(self) -> str:
        """The session cookie; the prefix binds it to https and to this host (RFC 6265bis 4.1.3)."""
        return "__Host-session" if self.production else "session"

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Self:
        """Build the settings from environment variables.

        Raises `ConfigError` with every problem, one line each, without secrets.
        """
        variables = Variables(environ)
        values: dict[str, Any] = {}
        for name, its in declared(cls).items():
            production = values.get("app_env") == "production"  # declared first, so read first
            values[name] = variables.read(its, production=production)
        values["mongo_database"] = _database(
            variables, values["mongo_uri"], values["mongo_database"]
        )
        config = cls(**values)
        problems = (*variables.problems, *_contradictions(config))
        if problems:
            raise ConfigError(*problems)
        return replace(config, warnings=(*_cautions(config), *_ignored(environ)))


# MONGOD is read by `--dev`, and WEB_CONCURRENCY by other servers.
KNOWN = (*(its.name for its in declared(Config).values()), "MONGOD", "WEB_CONCURRENCY")


def _database(variables: Variables, uri: str, database: str) -> str:
    """Return `database`, or the one in the address if `MONGO_DATABASE` is not set."""
    named = mongo_address.database_of(uri) if uri else None
    if named is None or variables.text("MONGO_DATABASE") is not None:
        return database
    try:
        return mongo_address.database(named)
    except ValueError as problem:
        variables.refuse("MONGO_URI", f"what follows the last / {problem}")
        return database


def _contradictions(config: Config) -> Iterator[str]:
    """Yield what is wrong with settings that were accepted one by one."""
    if config.mongo_uri and config.production:
        for danger in mongo_address.dangers(
            config.mongo_uri, plaintext_allowed=config.mongo_allow_plaintext
        ):
            yield f"MONGO_URI: {danger}"
    for listed_origin in config.allowed_origins:
        if config.production and listed_origin.startswith("http:"):
            yield f"ALLOWED_ORIGINS: {listed_origin!r} is not an origin in production; use https"
    if config.cookie_samesite == "none":
        name = "SESSION_COOKIE_SAMESITE"
        if not config.production:
            yield f"{name}: none needs a Secure cookie, so APP_ENV=production; use lax"
        if not config.allowed_origins:
            yield f"{name}: none is for other sites; list them in ALLOWED_ORIGINS, or use lax"
    if config.cookie_partitioned and config.cookie_samesite != "none":
        yield (
            "SESSION_COOKIE_PARTITIONED: 1 is for cookies in pages of other sites; use it with"
            " SESSION_COOKIE_SAMESITE=none"
        )
    if config.metrics_token in config.session_secrets:
        yield f"METRICS_TOKEN: is a session secret; {NEW_SECRET}"


def _cautions(config: Config) -> Iterator[str]:
    """Yield what is allowed and probably a mistake."""
    if config.production and config.trusted_proxy_hops == 0:
        yield (
            "TRUSTED_PROXY_HOPS: 0 in production redirects every request to https, for the app"
            f" has no TLS of its own; {HOPS_HINT}"
        )
    if config.cookie_samesite == "none" and not config.cookie_partitioned:
        yield (
            "SESSION_COOKIE_SAMESITE: browsers that block third-party cookies do not keep a login"
            " from another site; set SESSION_COOKIE_PARTITIONED=1"
        )
    if config.allowed_origins and config.cookie_samesite != "none":
        yield (
            f"ALLOWED_ORIGINS: with SESSION_COOKIE_SAMESITE={config.cookie_samesite} browsers do"
            " not keep a login from another site; origins of this site work"
        )


def _ignored(environ: Mapping[str, str]) -> Iterator[str]:
    """Yield which variables are not read although somebody seems to think so."""
    yield from misspelt(environ.keys(), KNOWN, prefix="WEBAPP_")
    # Heroku sets it on every dyno, where it is no mistake.
    if environ.get("WEB_CONCURRENCY", "1") != "1" and "DYNO" not in environ:
        yield (
            "WEB_CONCURRENCY: is not read, one process serves;"
            " start more processes for more, they share their sessions"
        )
