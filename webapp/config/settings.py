"""What an operator can set: every environment variable, its default and its rule.

`Config.from_environ` is the only way from text to settings.  A start with several mistakes tells
all of them at once, and no message, `repr` or log line carries a secret.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Self

from storage.sealing import MAX_SECRETS, secret_problem
from webapp.config import mongo_address
from webapp.config.variables import (
    Network,
    Variables,
    development_origin,
    flag,
    host_name,
    https_origin,
    listed,
    misspelt,
    network,
    one_of,
    seconds,
    whole_number,
)

KNOWN = (
    *("MONGO_URI", "MONGO_DATABASE", "MONGO_ALLOW_PLAINTEXT", "SESSION_SECRET", "APP_ENV"),
    *("HOST", "PORT", "TRUSTED_PROXY_HOPS", "TRUSTED_PROXIES", "ALLOWED_HOSTS", "ALLOWED_ORIGINS"),
    *("SESSION_COOKIE_SAMESITE", "SESSION_MAX_AGE", "SESSION_ABSOLUTE_TIMEOUT"),
    *("PASSWORD_MIN_LENGTH", "LOG_FORMAT", "LOG_LEVEL", "METRICS_TOKEN"),
    *("MONGOD", "WEB_CONCURRENCY"),
)
# The ranges of private networks and of carriers (RFC 1918, 4193, 6598), where routers live.
PRIVATE_RANGES = tuple(
    map(
        network,
        (
            *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"),
            *("127.0.0.0/8", "::1/128", "fc00::/7"),
        ),
    )
)
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
HOPS_HINT = "use 1 behind one router, as on Heroku"
NEW_SECRET = "make one with `python -m webapp secret`"  # noqa: S105
# What stands in the place of a secret in examples, tutorials and other people's repositories,
# once case and punctuation are gone. Seven letters at least: random secrets hold shorter words.
PLACEHOLDERS = re.compile(
    "changeme|changethis|replaceme|replacethis|placeholder|yoursecret|mysecret|supersecret"
    "|sessionsecret|secretkey|secrethere|keyboardcat|notasecret|notsecret|insecure|example"
    "|dontuse|donotuse|thisisa|testsecret|devsecret|password"
)


class ConfigError(Exception):
    """The environment, or something it names, is not fit to start with; `problems` says why."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, kw_only=True)
class Config:
    """The settings, named like their variables; made by `from_environ`, never changed."""

    mongo_uri: str = field(repr=False)
    mongo_database: str
    session_secrets: tuple[str, ...] = field(repr=False)
    app_env: str
    host: str
    port: int
    trusted_proxy_hops: int
    trusted_proxies: tuple[Network, ...]
    allowed_hosts: tuple[str, ...]
    allowed_origins: tuple[str, ...]
    cookie_samesite: str
    session_max_age: timedelta
    session_absolute_timeout: timedelta
    password_min_length: int
    log_format: str
    log_level: str
    metrics_token: str | None = field(repr=False)
    warnings: tuple[str, ...]

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
        production = (
            variables.read("APP_ENV", one_of("production", "development"), "production")
            == "production"
        )
        uri = _read_mongo_uri(variables, production=production)
        hops, proxies, hosts = _read_router(variables, production=production)
        origins = variables.read(
            "ALLOWED_ORIGINS", listed(https_origin if production else development_origin), ()
        )
        samesite = _read_samesite(variables, origins, production=production)
        secrets = _read_secrets(variables)
        config = cls(
            mongo_uri=uri,
            mongo_database=_read_database(variables, uri),
            session_secrets=secrets,
            app_env="production" if production else "development",
            host=variables.read("HOST", host_name, "0.0.0.0"),  # noqa: S104
            port=variables.read("PORT", whole_number(1, 65535), 8080),
            trusted_proxy_hops=hops,
            trusted_proxies=proxies,
            allowed_hosts=hosts,
            allowed_origins=origins,
            cookie_samesite=samesite,
            session_max_age=variables.read("SESSION_MAX_AGE", seconds, timedelta(days=14)),
            session_absolute_timeout=variables.read(
                "SESSION_ABSOLUTE_TIMEOUT", seconds, timedelta(days=30)
            ),
            password_min_length=variables.read("PASSWORD_MIN_LENGTH", whole_number(8, 64), 15),
            log_format=variables.read(
                "LOG_FORMAT", one_of("json", "text"), "json" if production else "text"
            ),
            log_level=variables.read("LOG_LEVEL", _log_level, "INFO"),
            metrics_token=variables.read("METRICS_TOKEN", _metrics_token(secrets), None),
            warnings=(
                *_cautions(hops, origins, samesite, production=production),
                *_ignored(environ),
            ),
        )
        if variables.problems:
            raise ConfigError(*variables.problems)
        return config


def _read_mongo_uri(variables: Variables, *, production: bool) -> str:
    how = "give the address of a MongoDB, or say --dev for one on this machine"
    uri = variables.read("MONGO_URI", mongo_address.address, "", required=how)
    plaintext_allowed = variables.read("MONGO_ALLOW_PLAINTEXT", flag, default=False)
    if uri and production:
        for danger in mongo_address.dangers(uri, plaintext_allowed=plaintext_allowed):
            variables.refuse("MONGO_URI", danger)
    return uri


def _read_database(variables: Variables, uri: str) -> str:
    named = mongo_address.database_of(uri) if uri else None
    if named and variables.text("MONGO_DATABASE") is None:
        try:
            return mongo_address.database(named)
        except ValueError as problem:
            variables.refuse("MONGO_URI", f"what follows the last / {problem}")
    return variables.read("MONGO_DATABASE", mongo_address.database, "webapp")


def _read_router(
    variables: Variables, *, production: bool
) -> tuple[int, tuple[Network, ...], tuple[str, ...]]:
    hops = variables.read(
        "TRUSTED_PROXY_HOPS",
        whole_number(0, 9, HOPS_HINT),
        0,
        required=HOPS_HINT if production else None,
    )
    hosts = variables.read(
        "ALLOWED_HOSTS",
        listed(host_name),
        LOOPBACK_NAMES,
        required="list the app's own names, comma apart" if production else None,
    )
    return hops, variables.read("TRUSTED_PROXIES", listed(network), PRIVATE_RANGES), hosts


def _read_samesite(variables: Variables, origins: tuple[str, ...], *, production: bool) -> str:
    name = "SESSION_COOKIE_SAMESITE"
    samesite = variables.read(name, one_of("lax", "strict", "none"), "lax")
    if samesite == "none" and not production:
        variables.refuse(name, "none needs a Secure cookie, so APP_ENV=production; use lax")
    if samesite == "none" and not origins:
        variables.refuse(name, "none serves other sites; list them in ALLOWED_ORIGINS, or use lax")
    return samesite


def _read_secrets(variables: Variables) -> tuple[str, ...]:
    name = "SESSION_SECRET"
    secrets = variables.read(name, listed(_secret), (), required=NEW_SECRET)
    if len(secrets) > MAX_SECRETS:
        variables.refuse(name, f"{len(secrets)} secrets are listed; keep the newest {MAX_SECRETS}")
    if len(set(secrets)) < len(secrets):
        variables.refuse(name, "one secret is listed twice; list each once, newest first")
    return secrets


def _secret(text: str) -> str:
    problem = secret_problem(text.encode("utf-8", "replace"))
    if problem is None and PLACEHOLDERS.search(re.sub("[^a-z]", "", text.casefold())):
        problem = "is an example, and everybody knows it"
    if problem:
        raise ValueError(f"a secret {problem}; {NEW_SECRET}")
    return text


def _log_level(text: str) -> str:
    return one_of(*("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"))(text)


def _metrics_token(secrets: tuple[str, ...]) -> Callable[[str], str | None]:
    def parse(text: str) -> str:
        # RFC 6750 2.1: what a bearer token may be made of.
        if not re.fullmatch(r"[A-Za-z0-9._~+/-]{16,}=*", text):
            raise ValueError(
                "needs at least 16 characters out of A-Z a-z 0-9 . _ ~ + / -;" + f" {NEW_SECRET}"
            )
        if text in secrets:
            raise ValueError(f"is a session secret; {NEW_SECRET}")
        return text

    return parse


def _cautions(
    hops: int, origins: tuple[str, ...], samesite: str, *, production: bool
) -> tuple[str, ...]:
    found = []
    if production and hops == 0:
        found.append(
            "TRUSTED_PROXY_HOPS: 0 in production redirects every request to https, for the app"
            f" has no TLS of its own; {HOPS_HINT}"
        )
    if origins and samesite != "none":
        found.append(
            f"ALLOWED_ORIGINS: with SESSION_COOKIE_SAMESITE={samesite} a login from another site"
            " will not stick; origins of this site work"
        )
    return tuple(found)


def _ignored(environ: Mapping[str, str]) -> tuple[str, ...]:
    found = list(misspelt(environ.keys(), KNOWN, prefix="WEBAPP_"))
    # Heroku sets it by itself on every dyno, and there it means nothing wrong.
    if environ.get("WEB_CONCURRENCY", "1") != "1" and "DYNO" not in environ:
        found.append(
            "WEB_CONCURRENCY: is not read, one process serves;"
            " start more processes for more, they share their sessions"
        )
    return tuple(found)


def level_number(config: Config) -> int:
    """Return the number that `logging` knows the level by."""
    return logging.getLevelNamesMapping()[config.log_level]
