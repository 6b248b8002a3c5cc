"""What is counted as one client address."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from webapp.http.proxy import peer_address

PREFIXES = (64, 56, 48)
"""Of IPv6: the least that a customer is given, what homes are given, what sites are given."""


def networks_of(address: str) -> tuple[str, ...]:
    """Return the networks that an address is counted by, the smallest first.

    An IPv4 address is one; a client that has one IPv6 address has its whole /64, often its /56, and
    sometimes its /48 (RFC 6177).
    """
    parsed = peer_address(address)
    if parsed is None:
        return (address,)  # no IP address, as behind a Unix socket: all such peers are one
    if isinstance(parsed, IPv4Address):
        return (str(parsed),)
    return tuple(_network(parsed, prefix) for prefix in PREFIXES)


def _network(address: IPv6Address, prefix: int) -> str:
    number = int(address) >> (128 - prefix)
    # A /64 without its length: that is how it was counted before there were others.
    return str(number) if prefix == PREFIXES[0] else f"{number}/{prefix}"
