"""What an operator can set, and how a wrong setting is reported."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from storage import generate_secret
from tests.certificates import certificate
from webapp.config.settings import PLACEHOLDERS, Config, ConfigError
from webapp.config.variables import NAME, network

# Not random: they are in the names of the tests, which must stay the same.
SECRET = "a-secret-of-these-tests-0123456789abcdef"
OLDER = "an-older-one-of-these-tests-0123456789abcdef"
PASSWORD = "the-password-of-the-database"
ENVIRON = {
    "MONGO_URI": f"mongodb://app:{PASSWORD}@db.example/shop?tls=true",
    "SESSION_SECRET": SECRET,
    "TRUSTED_PROXY_HOPS": "1",
    "ALLOWED_HOSTS": "app.example",
}


def config_of(**changes: str | None) -> Config:
    """Build the settings of a valid production environment with these changes."""
    return Config.from_environ({k: v for k, v in {**ENVIRON, **changes}.items() if v is not None})


def test_defaults_are_those_of_production() -> None:
    """With only the required settings, the safe choice is taken for all others."""
    config = config_of()

    assert config.production
    assert config.cookie_name == "__Host-session"
    assert config.mongo_database == "shop"
    assert (config.host, config.port) == ("0.0.0.0", 8080)  # noqa: S104
    assert config.trusted_proxies == tuple(
        map(
            network,
            (
                *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"),
                *("127.0.0.0/8", "::1/128", "fc00::/7"),
            ),
        )
    )
    assert config.allowed_origins == ()
    assert config.cookie_samesite == "lax"
    assert config.session_max_age == timedelta(days=14)
    assert config.session_absolute_timeout == timedelta(days=30)
    assert config.password_min_length == 15
    assert (config.log_format, config.log_level) == ("json", "INFO")
    assert config.metrics_token is None
    assert (config.throttle_per_address, config.sessions_per_account) == (100, 50)
    assert (config.drain_delay, config.keep_alive) == (timedelta(0), timedelta(seconds=95))
    assert not config.cookie_partitioned
    assert config.warnings == ()


def test_development_needs_only_a_database_and_a_secret() -> None:
    """Its defaults are for one machine without a router."""
    config = Config.from_environ(
        {"APP_ENV": "development", "MONGO_URI": "mongodb://db", "SESSION_SECRET": SECRET}
    )

    assert not config.production
    assert config.cookie_name == "session"
    assert config.trusted_proxy_hops == 0
    assert config.allowed_hosts == ("localhost", "127.0.0.1", "::1")
    assert config.mongo_database == "webapp"
    assert config.log_format == "text"
    assert config.warnings == ()


# As their consoles show them, with other names.
COSMOS = (
    "mongodb://shop:a0B1c2D3==@shop.mongo.cosmos.azure.com:10255/?ssl=true&replicaSet=globaldb"
    "&retrywrites=false&maxIdleTimeMS=120000&appName=@shop@"
)
COSMOS_VCORE = (
    "mongodb+srv://app:pw@shop.global.mongocluster.cosmos.azure.com/?tls=true"
    "&authMechanism=SCRAM-SHA-256&retrywrites=false&maxIdleTimeMS=120000"
)
DOCUMENTDB = (
    "mongodb://app:pw@shop.cluster-c1.eu-west-1.docdb.amazonaws.com:27017/?tls=true"
    "&tlsCAFile=global-bundle.pem&replicaSet=rs0&readPreference=secondaryPreferred&retryWrites=false"
)
ATLAS = (
    "mongodb://app:pw@c-00.a1b2c.mongodb.net:27017,c-01.a1b2c.mongodb.net:27017/shop?ssl=true"
    "&replicaSet=atlas-a1b2c-shard-0&authSource=admin&retryWrites=true&w=majority&appName=Cluster0"
)
ATLAS_SRV = "mongodb+srv://app:pw@c.a1b2c.mongodb.net/?retryWrites=true&w=majority&appName=Cluster0"

ACCEPTED = [
    ("MONGO_URI", "mongodb+srv://app:pw@c.example/db?retryWrites=true", "mongo_database", "db"),
    ("MONGO_URI", "mongodb+srv://cluster.example/?srvMaxHosts=2", "mongo_database", "webapp"),
    ("MONGO_URI", "mongodb://127.0.0.1,[::1]:27018/db", "mongo_database", "db"),
    ("MONGO_URI", "mongodb://localhost", "mongo_database", "webapp"),
    ("MONGO_URI", "mongodb://%2Frun%2Fmongodb.sock", "mongo_database", "webapp"),
    ("MONGO_URI", "mongodb://localhost/?uuidRepresentation=standard", "mongo_database", "webapp"),
    ("MONGO_URI", "mongodb://localhost/?timeoutMS=3000", "mongo_database", "webapp"),
    ("MONGO_DATABASE", "other_db-1", "mongo_database", "other_db-1"),
    ("SESSION_SECRET", f" {SECRET} , {OLDER} ", "session_secrets", (SECRET, OLDER)),
    ("SESSION_SECRET", "0123456789abcdef" * 2 + "fedcba9876543210" * 2, None, None),
    ("APP_ENV", "Production", "app_env", "production"),
    ("HOST", "::1", "host", "::1"),
    ("HOST", "localhost", "host", "localhost"),
    ("PORT", "65535", "port", 65535),
    ("TRUSTED_PROXY_HOPS", "9", "trusted_proxy_hops", 9),
    ("TRUSTED_PROXIES", "10.0.0.1, fd00::/8", "trusted_proxies",
     (network("10.0.0.1"), network("fd00::/8"))),
    ("ALLOWED_HOSTS", "App.Example., [::1] ,b.example", "allowed_hosts",
     ("app.example", "::1", "b.example")),
    ("ALLOWED_ORIGINS", "https://A.example:443, https://b.example:8443", "allowed_origins",
     ("https://a.example", "https://b.example:8443")),
    ("ALLOWED_ORIGINS", "https://[2001:db8::1]", "allowed_origins", ("https://[2001:db8::1]",)),
    ("ALLOWED_ORIGINS", "  ", "allowed_origins", ()),
    ("SESSION_COOKIE_SAMESITE", "Strict", "cookie_samesite", "strict"),
    ("SESSIONS_PER_ACCOUNT", "1000", "sessions_per_account", 1000),
    ("SESSION_MAX_AGE", "1", "session_max_age", timedelta(seconds=1)),
    ("SESSION_ABSOLUTE_TIMEOUT", "34560000", "session_absolute_timeout", timedelta(days=400)),
    ("PASSWORD_MIN_LENGTH", "8", "password_min_length", 8),
    ("LOG_FORMAT", "text", "log_format", "text"),
    ("LOG_LEVEL", "debug", "log_level", "DEBUG"),
    ("METRICS_TOKEN", OLDER, "metrics_token", OLDER),
    ("THROTTLE_PER_ADDRESS", "1", "throttle_per_address", 1),
    ("THROTTLE_PER_ADDRESS", "10000", "throttle_per_address", 10_000),
    ("DRAIN_DELAY", "0", "drain_delay", timedelta(0)),
    ("DRAIN_DELAY", "300", "drain_delay", timedelta(minutes=5)),
    ("KEEP_ALIVE", "620", "keep_alive", timedelta(seconds=620)),
    ("SESSION_COOKIE_PARTITIONED", "0", "cookie_partitioned", False),
    ("TRUSTED_PROXIES", "fc00::/7, 10.0.0.0/8", "trusted_proxies",
     (network("fc00::/7"), network("10.0.0.0/8"))),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "attribute", "value"), ACCEPTED)
def test_accepted_value(name: str, text: str, attribute: str | None, value: object) -> None:
    """Each accepted form of a variable, and its value."""
    config = config_of(**{name: text})

    assert attribute is None or getattr(config, attribute) == value


REFUSED = [
    ("MONGO_URI", None, "is not set", "missing"),
    ("MONGO_URI", "", "is not set", "empty"),
    ("MONGO_URI", "postgres://db", "does not start with", "another scheme"),
    ("MONGO_URI", "mongodb:///shop", "not a valid address", "no host"),
    ("MONGO_URI", "mongodb://db:port/", "not a valid address", "port is not a number"),
    ("MONGO_URI", f"mongodb://app:{PASSWORD}:x@db/?tls=true", "not a valid address", "unescaped :"),
    ("MONGO_URI", f"mongodb://app:x/{PASSWORD}@db/?tls=true", "", "unescaped /"),
    ("MONGO_URI", f"mongodb://app:x?{PASSWORD}=1@db/?tls=true", "", "unescaped ?"),
    (
        "MONGO_URI",
        "mongodb://db/?tls=true&retryWrite=true",
        "did you mean retryWrites",
        "near miss",
    ),
    ("MONGO_URI", "mongodb://db/?tls=true&colour=blue", "not known to PyMongo", "unknown option"),
    ("MONGO_URI", "mongodb://db/?tls=maybe", "tls has a value", "bad option value"),
    ("MONGO_URI", "mongodb://db/?tls=true&connectTimeoutMS=-1", "connectTimeoutMS", "bad number"),
    (
        "MONGO_URI",
        "mongodb://db/?tls=true&tlsCAFile=/no/such/file",
        "tlsCAFile names no file",
        "no such file",
    ),
    (
        "MONGO_URI",
        f"mongodb://db/?tls=true&tlsCRLFile={__file__}",
        "tlsCRLFile names no file",
        "a revocation list that is no PEM",
    ),
    (
        "MONGO_URI",
        f"mongodb://db/?tls=true&tlsCAFile={__file__}",
        "tlsCAFile names no file",
        "a file that is no PEM",
    ),
    (
        "MONGO_URI",
        "mongodb://db/?ssl=true&ssl_ca_certs=/no/such/file",
        "did you mean tlsCAFile",
        "an option of PyMongo 3",
    ),
    ("MONGO_URI", '"mongodb://db/?tls=true"', "remove the quotes", "quotes"),
    ("MONGO_URI", "mongodb://db/\udcff?tls=true", "is not UTF-8", "bytes that are no text"),
    ("SESSION_SECRET", f'"{SECRET}"', "remove the quotes", "double quotes"),
    ("SESSION_SECRET", f"'{SECRET}'", "remove the quotes", "single quotes"),
    ("SESSION_SECRET", f"{SECRET}\udcff", "is not UTF-8", "bytes that are no text"),
    ("PORT", '"8080"', "remove the quotes", "quotes"),
    ("METRICS_TOKEN", f"'{OLDER}'", "remove the quotes", "quotes"),
    ("MONGO_URI", "mongodb://db/?tls=true&compressors=zip", "compressors", "warned of by PyMongo"),
    ("MONGO_URI", "mongodb://a,b/?tls=true&directConnection=true", "not a valid", "contradiction"),
    ("MONGO_URI", "mongodb+srv://a.example,b.example", "not a valid address", "srv, two hosts"),
    ("MONGO_URI", "mongodb+srv://a.example:27017", "not a valid address", "srv with a port"),
    ("MONGO_URI", "mongodb://db/?tls=true&w=0", "w=0 loses sessions", "unacknowledged"),
    ("MONGO_URI", "mongodb://db.example", "without TLS", "plaintext to another machine"),
    ("MONGO_URI", "mongodb://10.0.0.5", "without TLS", "plaintext to a private address"),
    ("MONGO_URI", "mongodb://localhost,db.example", "without TLS", "one of two hosts elsewhere"),
    ("MONGO_URI", "mongodb+srv://db.example/?tls=false", "without TLS", "srv without TLS"),
    ("MONGO_URI", "mongodb://db/?tls=true&tlsInsecure=true", "tlsInsecure", "insecure"),
    (
        "MONGO_URI",
        "mongodb://db/?tls=true&tlsAllowInvalidCertificates=true",
        "tlsAllowInvalidCert",
        "any certificate",
    ),
    (
        "MONGO_URI",
        "mongodb://db/?tls=true&tlsAllowInvalidHostnames=true",
        "tlsAllowInvalidHost",
        "any host name",
    ),
    ("MONGO_URI", "mongodb://db/admin?tls=true", "belongs to MongoDB", "MongoDB's own database"),
    ("MONGO_ALLOW_PLAINTEXT", "perhaps", "is not one of", "neither 0 nor 1"),
    ("MONGO_DATABASE", "a.b", "is not a database name", "dot"),
    ("MONGO_DATABASE", "x" * 64, "is not a database name", "too long"),
    ("MONGO_DATABASE", "local", "belongs to MongoDB", "MongoDB's own"),
    ("SESSION_SECRET", None, "is not set", "missing"),
    ("SESSION_SECRET", "short-" + SECRET[:20], "26 bytes", "too short"),
    ("SESSION_SECRET", "a" * 64, "distinct", "one character"),
    ("SESSION_SECRET", "abcdefgh" * 8, "repeated", "a block repeated"),
    ("SESSION_SECRET", "your-secret-goes-here-0123456789-abcdefgh", "an example", "placeholder"),
    ("SESSION_SECRET", "Change_Me_" + SECRET, "an example", "placeholder with a real end"),
    ("SESSION_SECRET", f"{SECRET},{SECRET}", "listed twice", "twice"),
    ("SESSION_SECRET", f"{SECRET},,{OLDER}", "an entry is empty", "empty entry"),
    ("SESSION_SECRET", ",".join(generate_secret() for _ in range(6)), "6 secrets", "six"),
    ("APP_ENV", "staging", "is not one of", "another word"),
    ("HOST", "http://0.0.0.0", "not a host name", "URL"),
    ("PORT", "0", "not between", "zero"),
    ("PORT", "65536", "not between", "too large"),
    ("PORT", "http", "not a whole number", "word"),
    ("PORT", "٨٠٨٠", "not a whole number", "digits that are not ASCII"),
    ("TRUSTED_PROXY_HOPS", None, "is not set; use 1", "missing in production"),
    ("TRUSTED_PROXY_HOPS", "true", "'true' is not a whole number; use 1", "true"),
    ("TRUSTED_PROXY_HOPS", "*", "not a whole number", "star"),
    ("TRUSTED_PROXY_HOPS", "-1", "not a whole number", "negative"),
    ("TRUSTED_PROXY_HOPS", "10", "not between 0 and 9", "ten"),
    ("TRUSTED_PROXIES", "0.0.0.0/0", "is everybody", "the whole Internet"),
    ("TRUSTED_PROXIES", "10.0.0.0/8, ::/0", "is everybody", "the whole Internet, IPv6"),
    ("TRUSTED_PROXIES", "0.0.0.0/1, 128.0.0.0/1", "make up 0.0.0.0/0", "two halves"),
    ("TRUSTED_PROXIES", "::/1, 8000::/1", "make up ::/0", "two halves, IPv6"),
    ("TRUSTED_PROXIES", "0.0.0.0/1", "make up 0.0.0.0/1", "one half"),
    ("TRUSTED_PROXIES", "2000::/3", "make up 2000::/3", "all public addresses of IPv6"),
    (
        "TRUSTED_PROXIES",
        ",".join(f"{first}.0.0.0/8" for first in range(1, 224)),
        "a large part of the Internet",
        "each public range by itself",
    ),
    ("TRUSTED_PROXIES", "*", "not an address range", "star"),
    ("TRUSTED_PROXIES", "10.0.0.0/8, ::ffff:192.0.2.7", "is IPv4 written as IPv6", "IPv4-mapped"),
    ("TRUSTED_PROXIES", "10.0.0.1/8", "not an address range", "host bits set"),
    ("ALLOWED_HOSTS", None, "is not set", "missing in production"),
    ("ALLOWED_HOSTS", "*", "not a host name", "star"),
    ("ALLOWED_HOSTS", "*.example.com", "not a host name", "wildcard"),
    ("ALLOWED_HOSTS", "https://app.example", "not a host name", "URL"),
    ("ALLOWED_HOSTS", "app.example:443", "not a host name", "port"),
    ("ALLOWED_HOSTS", "app.example/", "not a host name", "path"),
    ("ALLOWED_HOSTS", "bücher.example", "not a host name", "not ASCII"),
    ("ALLOWED_HOSTS", "app.example,", "an entry is empty", "empty entry"),
    ("ALLOWED_ORIGINS", "*", "not an origin", "star"),
    ("ALLOWED_ORIGINS", "null", "not an origin", "null"),
    ("ALLOWED_ORIGINS", "http://app.example", "not an origin", "http"),
    ("ALLOWED_ORIGINS", "http://localhost:3000", "not an origin", "localhost in production"),
    ("ALLOWED_ORIGINS", "https://app.example/", "not an origin", "slash"),
    ("ALLOWED_ORIGINS", "https://app.example?x", "not an origin", "query"),
    ("ALLOWED_ORIGINS", "https://*.example", "not an origin", "wildcard"),
    ("ALLOWED_ORIGINS", "https://app.example:99999", "not an origin", "port too large"),
    ("ALLOWED_ORIGINS", f"https://u:{PASSWORD}@app.example", "not an origin", "user part"),
    ("SESSION_COOKIE_SAMESITE", "loose", "is not one of", "another word"),
    ("SESSION_COOKIE_SAMESITE", "none", "ALLOWED_ORIGINS", "none without other sites"),
    ("SESSIONS_PER_ACCOUNT", "0", "not between", "no session at all"),
    ("SESSIONS_PER_ACCOUNT", "1001", "not between", "more than a page can show"),
    ("SESSIONS_PER_ACCOUNT", "many", "not a whole number", "a word"),
    ("SESSION_MAX_AGE", "0", "not between", "zero"),
    ("SESSION_MAX_AGE", "-5", "not a whole number", "negative"),
    ("SESSION_MAX_AGE", "14d", "not a whole number", "with a unit"),
    ("SESSION_MAX_AGE", "34560001", "not between", "longer than browsers keep it"),
    ("SESSION_ABSOLUTE_TIMEOUT", "1e9", "not a whole number", "exponent"),
    ("PASSWORD_MIN_LENGTH", "7", "not between 8 and 64", "dangerously short"),
    ("PASSWORD_MIN_LENGTH", "65", "not between 8 and 64", "too long"),
    ("LOG_FORMAT", "xml", "is not one of", "another word"),
    ("LOG_LEVEL", "LOUD", "is not one of", "another word"),
    ("METRICS_TOKEN", "0123456789abcdef", "16 bytes", "too short"),
    ("METRICS_TOKEN", f"{OLDER} with blanks", "has characters other than", "blanks"),
    ("METRICS_TOKEN", "t" * 32, "distinct", "one character"),
    ("METRICS_TOKEN", "change-me-" + OLDER, "an example", "a placeholder"),
    ("THROTTLE_PER_ADDRESS", "0", "not between 1 and 10000", "nobody may fail"),
    ("THROTTLE_PER_ADDRESS", "10001", "not between 1 and 10000", "no limit at all"),
    ("THROTTLE_PER_ADDRESS", "lots", "not a whole number", "a word"),
    ("DRAIN_DELAY", "-1", "not a whole number", "negative"),
    ("DRAIN_DELAY", "10s", "not a whole number", "with a unit"),
    ("DRAIN_DELAY", "301", "not between 0 and 300", "longer than a platform waits"),
    ("KEEP_ALIVE", "0", "not between 1 and 3600", "no keep-alive"),
    ("KEEP_ALIVE", "1e2", "not a whole number", "exponent"),
    ("KEEP_ALIVE", "86400", "not between 1 and 3600", "a day"),
    ("SESSION_COOKIE_PARTITIONED", "1", "use it with SESSION_COOKIE_SAMESITE=none", "with lax"),
    ("SESSION_COOKIE_PARTITIONED", "true", "is not one of 0, 1", "neither 0 nor 1"),
    ("METRICS_TOKEN", SECRET, "is a session secret", "the session secret"),
]


@pytest.mark.parametrize(
    ("name", "text", "words"), [pytest.param(*row[:3], id=f"{row[0]} {row[3]}") for row in REFUSED]
)
def test_refused_value_is_reported_without_secrets(name: str, text: str | None, words: str) -> None:
    """The problem names the variable, says what is wrong, and contains no secret."""
    with pytest.raises(ConfigError) as refusal:
        config_of(**{name: text})

    problem = next(p for p in refusal.value.problems if p.startswith(f"{name}: "))
    assert words in problem
    report = str(refusal.value)
    assert not any(secret in report for secret in (SECRET, OLDER, PASSWORD))
    assert not (
        text and name in ("MONGO_URI", "SESSION_SECRET", "METRICS_TOKEN") and text in report
    )


@pytest.mark.parametrize(
    "uri",
    [
        pytest.param(COSMOS, id="Azure Cosmos DB"),
        pytest.param(COSMOS_VCORE, id="Azure Cosmos DB, vCore"),
        pytest.param(DOCUMENTDB, id="Amazon DocumentDB"),
        pytest.param(ATLAS, id="Atlas"),
        pytest.param(ATLAS_SRV, id="Atlas, srv"),
    ],
)
def test_address_that_a_vendor_hands_out_is_accepted_as_it_is(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No option has to be removed, no character escaped, and no warning is given."""
    certificate(tmp_path).rename(tmp_path / "global-bundle.pem")
    monkeypatch.chdir(tmp_path)

    config = config_of(MONGO_URI=uri)

    assert config.mongo_uri == uri
    assert config.warnings == ()


@pytest.mark.parametrize(
    ("missing", "there"),
    [
        ("MONGO_URI", "MONGODB_URI"),
        ("MONGO_URI", "MONGO_URL"),
        ("MONGO_URI", "mongo_uri"),
        ("SESSION_SECRET", "SECRET_KEY"),
        ("SESSION_SECRET", "SESSION_SECRETS"),
        ("ALLOWED_HOSTS", "ALLOWED_HOST"),
    ],
)
def test_missing_variable_that_is_set_under_another_name_is_reported_with_it(
    missing: str, there: str
) -> None:
    """The error names both variables, and no value."""
    with pytest.raises(ConfigError) as refusal:
        config_of(**{missing: None, there: PASSWORD})

    (problem,) = refusal.value.problems
    assert problem.startswith(f"{missing}: is not set, but {there} is, which is not read; ")
    assert PASSWORD not in problem


def test_blank_variable_of_another_name_is_not_reported() -> None:
    """It holds no value that could be copied."""
    with pytest.raises(ConfigError, match="MONGO_URI: is not set; give"):
        config_of(MONGO_URI=None, MONGO_URL=" ")


def test_samesite_none_is_refused_outside_production() -> None:
    """Browsers ignore such a cookie without Secure."""
    with pytest.raises(ConfigError, match="SESSION_COOKIE_SAMESITE: none needs a Secure cookie"):
        config_of(
            APP_ENV="development",
            SESSION_COOKIE_SAMESITE="none",
            ALLOWED_ORIGINS="https://front.example",
        )


def test_development_may_serve_a_front_end_on_localhost() -> None:
    """`http://localhost:PORT` is an origin there, and nothing else over http is."""
    config = config_of(APP_ENV="development", ALLOWED_ORIGINS="http://localhost:3000")

    assert config.allowed_origins == ("http://localhost:3000",)
    with pytest.raises(ConfigError):
        config_of(APP_ENV="development", ALLOWED_ORIGINS="http://front.example")


def test_plaintext_to_a_private_database_can_be_allowed() -> None:
    """MONGO_ALLOW_PLAINTEXT=1 is for networks that are private."""
    config = config_of(MONGO_URI="mongodb://10.0.0.5", MONGO_ALLOW_PLAINTEXT="1")

    assert config.mongo_uri == "mongodb://10.0.0.5"


def test_all_problems_are_reported_at_once() -> None:
    """One start reports every wrong variable."""
    wrong = {
        "MONGO_URI": "x",
        "SESSION_SECRET": "x",
        "PORT": "x",
        "TRUSTED_PROXY_HOPS": "x",
        "LOG_LEVEL": "x",
    }

    with pytest.raises(ConfigError) as refusal:
        config_of(**wrong)

    assert sorted(p.partition(":")[0] for p in refusal.value.problems) == sorted(wrong)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param({"TRUSTED_PROXY_HOPS": "0"}, "TRUSTED_PROXY_HOPS: 0 in production", id="hops"),
        pytest.param(
            {"ALLOWED_ORIGINS": "https://f.example"}, "a login from another site", id="samesite"
        ),
        pytest.param(
            {"ALLOWED_ORIGINS": "https://f.example", "SESSION_COOKIE_SAMESITE": "none"},
            "SESSION_COOKIE_SAMESITE: browsers that block third-party cookies",
            id="not partitioned",
        ),
        pytest.param({"MONGODB_URI": "x"}, "did you mean MONGO_URI", id="near miss"),
        pytest.param({"session_secret": "x"}, "did you mean SESSION_SECRET", id="another case"),
        pytest.param({"WEBAPP_COLOUR": "x"}, "WEBAPP_COLOUR: is not read", id="unknown WEBAPP_"),
        pytest.param({"WEBAPP_\udcff": "x"}, r"WEBAPP_\udcff: is not read", id="bytes in a name"),
        pytest.param({"WEB_CONCURRENCY": "4"}, "WEB_CONCURRENCY: is not read", id="workers"),
    ],
)
def test_probable_mistake_is_warned_of(changes: dict[str, str], words: str) -> None:
    """The app starts, and a warning names the variable without its value."""
    warnings = config_of(**changes).warnings

    assert len(warnings) == 1
    assert words in warnings[0]


@pytest.mark.parametrize(
    "harmless",
    [
        {"HOSTNAME": "web-1", "HOME": "/root", "PATH": "/bin", "PORTAGE": "x"},
        {"WEB_CONCURRENCY": "2", "DYNO": "web.1"},
        {"WEB_CONCURRENCY": "1"},
    ],
)
def test_variable_of_a_platform_is_not_warned_of(harmless: dict[str, str]) -> None:
    """Variables that platforms set by themselves are no typing errors."""
    assert config_of(**harmless).warnings == ()


def test_repr_shows_no_secret() -> None:
    """A configuration can be logged or printed."""
    config = config_of(METRICS_TOKEN=OLDER)

    assert not any(text in repr(config) for text in (SECRET, PASSWORD, OLDER))
    assert "app.example" in repr(config)


def test_cookie_of_a_front_end_on_another_site_gives_no_warning_when_partitioned() -> None:
    """SameSite=None with an origin and `Partitioned` allows a login from another site."""
    config = config_of(
        SESSION_COOKIE_SAMESITE="none",
        SESSION_COOKIE_PARTITIONED="1",
        ALLOWED_ORIGINS="https://f.example",
    )

    assert (config.cookie_samesite, config.cookie_partitioned) == ("none", True)
    assert config.warnings == ()


@pytest.mark.parametrize("text", ["a" * 64 + ".example", "-a.example", "a-.example", "a..b", ""])
def test_impossible_host_name_is_refused(text: str) -> None:
    """RFC 1123: labels of 1 to 63 characters that do not begin or end with a hyphen."""
    assert NAME.fullmatch(text) is None


def test_placeholders_are_too_long_to_occur_in_random_secrets() -> None:
    """With seven letters, one random secret in a hundred million contains one."""
    assert min(len(word) for word in PLACEHOLDERS.pattern.split("|")) >= 7
