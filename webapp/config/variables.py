"""How an environment variable is declared and read, and what is said about a wrong value.

Reading goes on after a problem, so that one start reports all of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, field, fields
from datetime import timedelta
from difflib import get_close_matches
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_address, ip_network
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import SplitResult, urlsplit

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")
Network = IPv4Network | IPv6Network

LONGEST_SHOWN = 40
# fc00::/7, all private addresses of IPv6, is the widest range that a router can be in.
WIDEST_PREFIX = 7
_DECLARATION = "variable"
# Typing errors are nearer than this: MONGODB_URI to MONGO_URI is 0.9, HOSTNAME to HOST 0.67.
NEAR_MISS = 0.85
NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*")
IPV4_MAPPED = IPv6Network("::ffff:0:0/96")
DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Variable:
    """An environment variable with its rule.

    `parse` returns the value or raises `ValueError` with *what is wrong; what is needed*.
    `development` is the default there, when it is another.  `required` and
    `required_in_production` say how to get a value that must be set.  `other_names` are what
    frameworks and platforms call it; they are not read, but named when a required value is missing.
    """

    name: str
    parse: Callable[[str], object]
    default: object
    _: KW_ONLY
    other_names: tuple[str, ...] = ()
    development: object = None
    required: str | None = None
    required_in_production: str | None = None


def variable(
    name: str,
    parse: Callable[[str], object],
    default: object,
    *,
    secret: bool = False,
    **rules: Any,
) -> Any:
    """Declare a dataclass field that is read from a `Variable`; a secret is not in the `repr`."""
    declaration = Variable(name, parse, default, **rules)
    return field(repr=not secret, metadata={_DECLARATION: declaration})


def declared(settings: type[DataclassInstance]) -> dict[str, Variable]:
    """Return the declared variables of a dataclass by the names of their fields."""
    return {
        field.name: field.metadata[_DECLARATION]
        for field in fields(settings)
        if _DECLARATION in field.metadata
    }


class Variables:
    """The variables of one environment, read one by one; `problems` collects what was wrong.

    A class because reading continues after a mistake: the caller raises once, at the end.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.problems: list[str] = []

    def text(self, name: str) -> str | None:
        """Return the stripped text; None when the variable is unset or blank."""
        return self._environ.get(name, "").strip() or None

    def read(self, variable: Variable, *, production: bool) -> Any:
        """Return the parsed value; the default when it is unset, and after a problem."""
        text = self.text(variable.name)
        is_other = not production and variable.development is not None
        default = variable.development if is_other else variable.default
        if text is None:
            how = variable.required or (production and variable.required_in_production)
            if how:
                self.refuse(variable.name, f"is not set{self._set_instead(variable)}; {how}")
            return default
        try:
            return variable.parse(_checked(text))
        except ValueError as problem:
            self.refuse(variable.name, str(problem))
            return default

    def refuse(self, name: str, problem: str) -> None:
        """Note a problem with one variable."""
        self.problems.append(f"{name}: {problem}")

    def _set_instead(self, variable: Variable) -> str:
        """Return what to add to `is not set` where the value seems to be under another name."""
        names = (variable.name, *variable.other_names)
        near = [n for n in self._environ if self.text(n) and _near(n, names)]
        return f", but {printable(min(near))} is, which is not read" if near else ""


def _checked(text: str) -> str:
    """Return the text of any variable as it is. Raises `ValueError` for bytes and quotes."""
    try:
        text.encode()  # bytes that are not UTF-8 come in as surrogates, which fail here
    except UnicodeEncodeError:
        raise ValueError("is not UTF-8 text; write it again, with ASCII alone") from None
    # A shell removes quotes; `docker --env-file` and most platforms' forms do not.
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        raise ValueError("still has its quotes; remove the quotes")
    return text


def _near(name: str, known: Collection[str]) -> str | None:
    """Return the known name that this one is probably meant to be, None when there is none."""
    near = get_close_matches(name.upper(), known, n=1, cutoff=NEAR_MISS)
    return near[0] if near else None


def printable(name: str) -> str:
    """Return the name of a variable as a log can show it, whatever bytes are in it."""
    return name.encode("ascii", "backslashreplace").decode()


def shown(text: str) -> str:
    """Quote a value for a message, unless it could be or contain a secret."""
    if len(text) > LONGEST_SHOWN or "@" in text:
        return "the value"
    return repr(text)


def one_of(*choices: str) -> Callable[[str], str]:
    """Accept one of these words, in any case; returns it as listed."""
    folded = {choice.casefold(): choice for choice in choices}

    def parse(text: str) -> str:
        if text.casefold() not in folded:
            raise ValueError(f"{shown(text)} is not one of {', '.join(choices)}")
        return folded[text.casefold()]

    return parse


def whole_number(low: int, high: int, hint: str = "") -> Callable[[str], int]:
    """Accept decimal digits between `low` and `high`, nothing else."""

    def parse(text: str) -> int:
        advice = hint or f"use {low} to {high}"
        if not re.fullmatch(r"[0-9]{1,12}", text):
            raise ValueError(f"{shown(text)} is not a whole number; {advice}")
        if not low <= int(text) <= high:
            raise ValueError(f"{int(text)} is not between {low} and {high}; {advice}")
        return int(text)

    return parse


def seconds(low: int, high: int) -> Callable[[str], timedelta]:
    """Accept a whole number of seconds between `low` and `high`."""
    parse_number = whole_number(low, high, f"use seconds, {low} to {high}")

    def parse(text: str) -> timedelta:
        return timedelta(seconds=parse_number(text))

    return parse


def flag(text: str) -> bool:
    """Accept 1 or 0."""
    return one_of("0", "1")(text) == "1"


def listed(parse: Callable[[str], T]) -> Callable[[str], tuple[T, ...]]:
    """Accept a comma-separated list, blanks allowed around each entry."""

    def parse_list(text: str) -> tuple[T, ...]:
        entries = [entry.strip() for entry in text.split(",")]
        if not all(entries):
            raise ValueError("an entry is empty; put one comma between two entries")
        return tuple(parse(entry) for entry in entries)

    return parse_list


def host_name(text: str) -> str:
    """Accept a host name or an IP address, without scheme, port, path or `*`; lower case."""
    bare = text.casefold().removesuffix(".")
    try:
        return str(ip_address(bare.removeprefix("[").removesuffix("]")))
    except ValueError:
        if not bare.isascii() or not NAME.fullmatch(bare):
            raise ValueError(
                f"{shown(text)} is not a host name; use names alone, such as app.example.com,"
                " without https://, port, path or *"
            ) from None
        return bare


def networks(text: str) -> tuple[Network, ...]:
    """Accept a list of addresses and CIDR ranges that together are not a large part of everybody.

    0.0.0.0/1 and 128.0.0.0/1 are the whole Internet in two parts, 2000::/3 is that of IPv6.
    """
    parsed = listed(network)(text)
    for merged in _merged(parsed):
        if merged.prefixlen < WIDEST_PREFIX:
            raise ValueError(
                f"its ranges make up {merged}, a large part of the Internet: clients there could"
                " choose their own address; list your router's ranges"
            )
    return parsed


def _merged(ranges: Collection[Network]) -> Iterator[Network]:
    yield from collapse_addresses([each for each in ranges if isinstance(each, IPv4Network)])
    yield from collapse_addresses([each for each in ranges if isinstance(each, IPv6Network)])


def network(text: str) -> Network:
    """Accept one address or a CIDR range; never the whole Internet."""
    try:
        parsed = ip_network(text)
    except ValueError:
        raise ValueError(
            f"{shown(text)} is not an address range; use CIDR such as 10.0.0.0/8"
        ) from None
    if parsed.prefixlen == 0:
        raise ValueError(
            f"{text!r} is everybody: any client could then choose its own address;"
            " list your router's ranges"
        )
    if isinstance(parsed, IPv6Network) and parsed.subnet_of(IPV4_MAPPED):
        # A router that connects with such an address is compared as IPv4.
        raise ValueError(f"{shown(text)} is IPv4 written as IPv6; write it like 10.0.0.0/8")
    return parsed


def origin(text: str) -> str:
    """Accept an exact https origin, or `http://localhost:PORT`; returns it as a browser writes it.

    The second is for development: `Config` refuses it in production.
    """
    problem = (
        f"{shown(text)} is not an origin; use https://name, in development also"
        " http://localhost:PORT, without a path, a user or a *"
    )
    try:
        parts = urlsplit(text)
        host, port = host_name(parts.hostname or ""), parts.port
    except ValueError:
        raise ValueError(problem) from None
    allowed = parts.scheme == "https" or (parts.scheme, host) == ("http", "localhost")
    if not allowed or "@" in parts.netloc or _beyond_the_host(parts, text):
        raise ValueError(problem)
    host = f"[{host}]" if ":" in host else host
    is_default = port in (None, DEFAULT_PORTS[parts.scheme])
    return f"{parts.scheme}://{host}" + ("" if is_default else f":{port}")


def _beyond_the_host(parts: SplitResult, text: str) -> bool:
    return text.count("/") > 2 or bool(parts.query or parts.fragment) or text[-1] in "?#:"


def misspelt(environ: Collection[str], known: Collection[str], prefix: str) -> Iterator[str]:
    """Yield a sentence for each variable that looks like a typing error of a known one."""
    for name in sorted(set(environ) - set(known)):
        if near := _near(name, known):
            yield f"{printable(name)}: is not read; did you mean {near}?"
        elif name.upper().startswith(prefix):
            yield f"{printable(name)}: is not read; no variable starts with {prefix}"
