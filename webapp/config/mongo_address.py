"""Which MongoDB addresses are accepted, and what is wrong with the others.

PyMongo's own messages can contain a part of a password with an unescaped character, so none of
them is shown: of the address only the names of options that PyMongo knows are repeated.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from difflib import get_close_matches
from ipaddress import ip_address
from typing import Any
from urllib.parse import unquote_plus

from pymongo import MongoClient
from pymongo.errors import InvalidURI, PyMongoError
from pymongo.uri_parser import parse_uri
from pymongo.uri_parser_shared import URI_OPTIONS

PLAIN, SRV = "mongodb://", "mongodb+srv://"
# PyMongo takes the last three in an address as well, and lists them elsewhere.
KNOWN_OPTIONS = {*URI_OPTIONS, "timeoutMS", "tlsCRLFile", "uuidRepresentation"}
# Amazon's older pages still have the names of PyMongo 3.
RENAMED = {"ssl_ca_certs": "tlsCAFile", "ssl_certfile": "tlsCertificateKeyFile"}
# Only those that need no other option, a passphrase for instance, to be read.
CERTIFICATES = ("tlscafile", "tlscrlfile")
SRV_ONLY = {"srvservicename", "srvmaxhosts", "srvallowedhostssuffix"}
UNCHECKED_TLS = ("tlsInsecure", "tlsAllowInvalidCertificates", "tlsAllowInvalidHostnames")
HOW = f"use {PLAIN}user:password@host/database or {SRV}user:password@host/database"
BAD_DATABASE = re.compile(r'[/\\. "$*<>:|?@\x00]')  # @: a piece of an unescaped password
LONGEST_DATABASE_BYTES = 63
MONGODB_OWN = ("admin", "config", "local")


def address(uri: str) -> str:
    """Accept an address that PyMongo takes without error or warning, and that acknowledges writes.

    Those that Amazon DocumentDB, Azure Cosmos DB and Atlas give their customers are among them.
    No name is looked up and nothing is connected.  Raises `ValueError`, never with text of the
    address other than the names of known options.
    """
    if not uri.startswith((PLAIN, SRV)):
        raise ValueError(f"does not start with {PLAIN} or {SRV}; {HOW}")
    for name, problem in _wrong_options(uri):
        raise ValueError(f"{name} {problem}")
    if not _is_accepted(_without_lookup(uri)) or not _is_srv_shape(uri):
        raise ValueError(
            f"is not a valid address; {HOW}, and escape the characters : / ? # [ ] @ % of user"
            " and password as %XX"
        )
    if _options(uri).get("w") == 0:
        raise ValueError("w=0 loses sessions silently; leave w out, or use w=majority")
    return uri


def database(text: str) -> str:
    """Accept a database name that MongoDB allows and that it does not use itself."""
    if len(text.encode()) > LONGEST_DATABASE_BYTES or BAD_DATABASE.search(text):
        raise ValueError(
            f"is not a database name; use up to {LONGEST_DATABASE_BYTES} letters, digits, - and _"
        )
    if text in MONGODB_OWN:
        raise ValueError(f"{text!r} belongs to MongoDB itself; use a database of the app's own")
    return text


def database_of(uri: str) -> str | None:
    """Return the database that an accepted address names, None when it names none."""
    name: str | None = parse_uri(_without_lookup(uri))["database"]
    return name


def has_option(uri: str, *names: str) -> bool:
    """Tell whether an accepted address sets one of these options itself."""
    return any(name.casefold() in {n.casefold() for n, _ in _pairs(uri)} for name in names)


def dangers(uri: str, *, plaintext_allowed: bool) -> Iterator[str]:
    """Yield why an accepted address is not safe in production."""
    options = _options(uri)
    for name in UNCHECKED_TLS:
        if has_option(uri, name) and options.get(name):
            yield f"{name} lets an attacker pose as the database; remove it in production"
    encrypted = options.get("tls", uri.startswith(SRV))
    if not (encrypted or plaintext_allowed or all(map(_is_loopback, _hosts(uri)))):
        yield (
            "reaches another machine without TLS; add tls=true, or set MONGO_ALLOW_PLAINTEXT=1"
            " where the network is private"
        )


def _wrong_options(uri: str) -> Iterator[tuple[str, str]]:
    known = {option.casefold(): option for option in KNOWN_OPTIONS}
    for name, value in _pairs(uri):
        option = known.get(name.casefold())
        if option is None:
            renamed = RENAMED.get(name.casefold())
            near = [renamed] if renamed else get_close_matches(name, KNOWN_OPTIONS, n=1)
            meant = f"; did you mean {near[0]}?" if near else "; see PyMongo's list of URI options"
            yield "an option", f"is not known to PyMongo{meant}"
        elif name.casefold() in CERTIFICATES and not _is_accepted(
            f"{PLAIN}host/?tls=true&{name}={value}"
        ):
            yield option, "names no file of certificates in PEM that this process can read"
        elif name.casefold() not in SRV_ONLY and not _is_accepted(
            f"{PLAIN}host/?{name}={value}", alone=True
        ):
            yield option, "has a value that PyMongo refuses"


def _is_accepted(uri: str, *, alone: bool = False) -> bool:
    """Ask PyMongo; an option that is checked `alone` may lack others that it needs."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            # About DocumentDB and Cosmos DB: it names MongoDB's support, and no mistake.
            warnings.filterwarnings("ignore", message="You appear to be connected to a")
            if alone:
                parse_uri(uri)
            else:
                MongoClient[dict[str, Any]](uri, connect=False).close()
    except InvalidURI:
        return alone
    except (PyMongoError, ValueError, TypeError, OSError, Warning):
        return False
    return True


def _is_srv_shape(uri: str) -> bool:
    hosts = uri.removeprefix(SRV).partition("?")[0].partition("/")[0].rpartition("@")[2]
    return not uri.startswith(SRV) or not re.search(r"[,:]", hosts)


def _without_lookup(uri: str) -> str:
    # parse_uri asks the DNS about mongodb+srv names; a wrong variable must be reported at once.
    if not uri.startswith(SRV):
        return uri
    front = uri.removeprefix(SRV).partition("?")[0]
    kept = "&".join(f"{n}={v}" for n, v in _pairs(uri) if n.casefold() not in SRV_ONLY)
    return f"{PLAIN}{front}{'' if '/' in front else '/'}?{kept}"


def _pairs(uri: str) -> list[tuple[str, str]]:
    texts = re.split("[&;]", uri.partition("?")[2])
    return [(name, value) for name, _, value in (text.partition("=") for text in texts) if name]


def _options(uri: str) -> dict[str, Any]:
    options: dict[str, Any] = parse_uri(_without_lookup(uri))["options"]
    return options


def _hosts(uri: str) -> list[str]:
    return [host for host, _ in parse_uri(_without_lookup(uri))["nodelist"]]


def _is_loopback(host: str) -> bool:
    name = unquote_plus(host)
    if name.startswith("/") or name.casefold() == "localhost":
        return True  # a Unix socket stays on this machine too
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False
