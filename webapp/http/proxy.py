"""Which forwarded headers are believed: the one trust rule of the app.

A router in front of the app writes the client's address and scheme into `X-Forwarded-For` and
`X-Forwarded-Proto`; so can anybody else.  Ready-made middlewares answer 500 to malformed headers
or believe the left end of the list, which the client wrote.  This one believes exactly as many
entries from the right as there are trusted hops, and refuses what it cannot read.  `Forwarded`,
`X-Real-IP`, `X-Forwarded-Host`, `X-Forwarded-Port` and vendors' headers are never read: nothing
guarantees that the router overwrote them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Protocol

from multidict import CIMultiDict

from webapp.config.variables import Network

Address = IPv4Address | IPv6Address
BLANKS = " \t"
# 0 to 65535
PORT = r"(?::(?:[0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]))?"
# An address with or without a port: 192.0.2.1, 192.0.2.1:80, 2001:db8::1, [2001:db8::1]:80.
ENTRY = re.compile(
    rf"(?P<v4>[0-9.]+){PORT}|\[(?P<bracketed>[0-9A-Fa-f.]*:[0-9A-Fa-f:.]+)\]{PORT}|(?P<v6>[0-9A-Fa-f:.]+)"
)
HOST = re.compile(rf"(?:(?P<name>[^\s\[\]:@/?#]+)|\[(?P<v6>[0-9A-Fa-f:.]+)\])(?P<port>{PORT})")


class BadForwarded(Exception):
    """A trusted peer sent a header that cannot be believed; the text never repeats it."""


class Headers(Protocol):
    """The part of a multidict that is used: all values of one name."""

    def getall(self, key: str, default: list[str]) -> Sequence[str]:
        """Return the value of every line with this name."""


@dataclass(frozen=True, slots=True)
class Client:
    """Who sent a request, as far as that can be trusted.

    `address` is the client's IP address, `scheme` http or https, `host` the `Host` header as the
    client sent it (`middlewares.allowed_host` checks it), empty when there is none.
    """

    address: str
    scheme: str
    host: str


class ForwardedPolicy:
    """The trust rule of one deployment: how many hops, and which peers' headers count.

    A class because it is built and checked once, and used for every request.
    """

    def __init__(self, hops: int, proxies: Collection[Network]) -> None:
        self._hops = hops
        self._proxies = tuple(proxies)

    def trusts(self, peer: str) -> bool:
        """Tell whether headers of this directly connected peer count."""
        address = peer_address(peer)
        return (
            self._hops > 0
            and address is not None
            and any(address in network for network in self._proxies)
        )

    def resolve(self, peer: str, headers: Headers) -> tuple[str, str]:
        """Return the client's address and scheme for a request that `peer` delivered over http.

        Raises `BadForwarded` when a trusted peer's headers are missing, doubled or unreadable:
        a guess would let one client act as another.
        """
        if not self.trusts(peer):
            address = peer_address(peer)
            return (str(address) if address else peer), "http"
        chain = _single(headers, "X-Forwarded-For").split(",")
        if len(chain) < self._hops:
            raise BadForwarded("X-Forwarded-For has fewer entries than there are trusted hops")
        trusted = [_address(entry.strip(BLANKS)) for entry in chain[-self._hops :]]
        return str(trusted[0]), self._scheme(_single(headers, "X-Forwarded-Proto"))

    def _scheme(self, line: str) -> str:
        """Return the scheme of the outermost trusted hop; a single one is that of all hops.

        A CDN that terminates TLS and a balancer behind it that appends write `https, http`: the
        scheme of the balancer would redirect every request to https, for ever.
        """
        schemes = [entry.strip(BLANKS).casefold() for entry in line.split(",")]
        if 1 < len(schemes) < self._hops:
            raise BadForwarded("X-Forwarded-Proto has fewer entries than there are trusted hops")
        trusted = schemes[-self._hops :]
        if not all(scheme in ("http", "https") for scheme in trusted):
            raise BadForwarded("X-Forwarded-Proto is neither http nor https")
        return trusted[0]

    def check_itself(self) -> None:
        """Run known cases; raises `AssertionError` when one does not come out as configured.

        A start-up hook: a deployment that believes a forged address looks healthy otherwise.
        """
        peer = str(self._proxies[0][0]) if self._proxies else "192.0.2.1"
        forged, real = "198.51.100.66", "203.0.113.7"
        later = ["10.0.0.1"] * (self._hops - 1)
        headers = {
            "X-Forwarded-For": ", ".join([forged, real, *later]),
            "X-Forwarded-Proto": "https",
        }
        expected = (real, "https") if self.trusts(peer) else (peer, "http")
        if self.resolve(peer, CIMultiDict(headers)) != expected:
            raise AssertionError("the forwarded-header policy believes the wrong entry")
        if self.trusts(peer) and not _refuses(self, peer, {"X-Forwarded-For": real}):
            raise AssertionError("the forwarded-header policy accepts a missing scheme")


def peer_address(peer: str) -> Address | None:
    """Parse the address of a directly connected peer; IPv4-mapped ones are unwrapped."""
    try:
        address = ip_address(peer.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def host_name_of(host: str) -> str | None:
    """Return the name in a `Host` header, folded, without port and final dot; None if malformed."""
    match = HOST.fullmatch(host)
    if match is None:
        return None
    if match["v6"]:
        address = peer_address(match["v6"])
        return str(address) if address else None
    return match["name"].casefold().removesuffix(".")


def port_of(host: str) -> int | None:
    """Return the port in a `Host` header that `host_name_of` accepts, None when there is none."""
    match = HOST.fullmatch(host)
    return int(match["port"][1:]) if match and match["port"] else None


def _single(headers: Headers, name: str) -> str:
    lines = headers.getall(name, [])
    if len(lines) != 1:
        raise BadForwarded(f"{name} is there {len(lines)} times instead of once")
    return lines[0]


def _address(entry: str) -> Address:
    match = ENTRY.fullmatch(entry)
    # peer_address refuses leading zeros, which some parsers read as octal; ENTRY refuses zones.
    address = peer_address(match["v4"] or match["v6"] or match["bracketed"]) if match else None
    if address is None:
        raise BadForwarded("an entry of X-Forwarded-For is not an address")
    return address


def _refuses(policy: ForwardedPolicy, peer: str, headers: Mapping[str, str]) -> bool:
    try:
        policy.resolve(peer, CIMultiDict(headers))
    except BadForwarded:
        return True
    return False
