"""The cases of the trust rule, with names: run on the policy, over HTTP, and through a real nginx.

Each has the values of `X-Forwarded-For` and `X-Forwarded-Proto`, and the client that follows from
them; None means that the request is refused.
"""

from __future__ import annotations

from typing import NamedTuple

REAL = "203.0.113.7"


class Case(NamedTuple):
    """Lines of the two headers as a trusted peer sends them, and the client that follows."""

    name: str
    forwarded_for: list[str]
    proto: list[str]
    client: str | None
    hops: int = 1
    scheme: str = "https"


CASES = [
    Case("one address", [REAL], ["https"], REAL),
    Case("plain http", [REAL], ["http"], REAL, scheme="http"),
    Case("a forged address to the left", [f"198.51.100.66, {REAL}"], ["https"], REAL),
    Case("forged junk to the left", [f'"unknown, <script>, {REAL}'], ["https"], REAL),
    Case("five hundred forged addresses", ["10.0.0.1," * 500 + REAL], ["https"], REAL),
    Case("blanks and a tab around it", [f"10.0.0.1,\t {REAL} "], ["https"], REAL),
    Case("with a port", [f"{REAL}:54321"], ["https"], REAL),
    Case("IPv6", ["2001:db8::7"], ["https"], "2001:db8::7"),
    Case("IPv6 in capitals, uncompressed", ["2001:DB8:0:0:0:0:0:7"], ["https"], "2001:db8::7"),
    Case("IPv6 in brackets", ["[2001:db8::7]"], ["https"], "2001:db8::7"),
    Case("IPv6 in brackets with a port", ["[2001:db8::7]:443"], ["https"], "2001:db8::7"),
    Case("IPv4 mapped into IPv6", [f"::ffff:{REAL}"], ["https"], REAL),
    Case("IPv4 mapped, in brackets with a port", [f"[::ffff:{REAL}]:80"], ["https"], REAL),
    Case("two hops take the second from the right", [f"{REAL}, 10.0.0.1"], ["https"], REAL, 2),
    Case("two hops, forged to the left", [f"1.1.1.1, {REAL}, 10.0.0.1"], ["https"], REAL, 2),
    Case("scheme in capitals", [REAL], ["HTTPS"], REAL),
    Case("scheme: the right-most of a list", [REAL], ["http, https"], REAL),
    Case("scheme: forged https to the left", [REAL], ["https, http"], REAL, scheme="http"),
    Case("two hops, scheme of the outer one", [f"{REAL}, 10.0.0.1"], ["https, http"], REAL, 2),
    Case("two hops, http at the outer one", [f"{REAL}, 10.0.0.1"], ["http,https"], REAL, 2, "http"),
    Case(
        "two hops, forged scheme to the left",
        [f"{REAL}, 10.0.0.1"],
        ["https, http, http"],
        REAL,
        2,
        "http",
    ),
    Case("two hops, junk left of the schemes", [f"{REAL}, 10.0.0.1"], ["ws, https, http"], REAL, 2),
    Case(
        "two hops, junk in the scheme of the inner one",
        [f"{REAL}, 1.1.1.1"],
        ["https, ws"],
        None,
        2,
    ),
    Case("three hops, two schemes", [f"{REAL}, 10.0.0.1, 10.0.0.2"], ["https, http"], None, 3),
    Case("three hops, one scheme", [f"{REAL}, 10.0.0.1, 10.0.0.2"], ["https"], REAL, 3),
    Case(
        "three hops, forged to the left",
        [f"1.1.1.1,{REAL}, 172.70.247.28, 10.0.0.1"],
        ["https"],
        REAL,
        3,
    ),
    Case("no address line", [], ["https"], None),
    Case("two address lines", [REAL, REAL], ["https"], None),
    Case("no scheme line", [REAL], [], None),
    Case("two scheme lines", [REAL], ["https", "https"], None),
    Case("an empty address", [""], ["https"], None),
    Case("an empty last entry", [f"{REAL},"], ["https"], None),
    Case("fewer entries than hops", [REAL], ["https"], None, 2),
    Case("two hops, junk within them", [f"{REAL}, junk"], ["https"], None, 2),
    Case("a name", ["localhost"], ["https"], None),
    Case("unknown", ["unknown"], ["https"], None),
    Case("an obfuscated identifier", ["_hidden"], ["https"], None),
    Case("quotes", [f'"{REAL}"'], ["https"], None),
    Case("leading zeros", ["203.0.113.007"], ["https"], None),
    Case("three octets", ["203.0.113"], ["https"], None),
    Case("octet too large", ["203.0.113.256"], ["https"], None),
    Case("hexadecimal", ["0xCB007107"], ["https"], None),
    Case("one number", ["3405803783"], ["https"], None),
    Case("an IPv6 zone", ["fe80::1%eth0"], ["https"], None),
    Case("an IPv6 zone in brackets", ["[fe80::1%eth0]"], ["https"], None),
    Case("IPv4 in brackets", [f"[{REAL}]"], ["https"], None),
    Case("an open bracket", ["[2001:db8::7"], ["https"], None),
    Case("a port too large", [f"{REAL}:65536"], ["https"], None),
    Case("a port that is not a number", [f"{REAL}:http"], ["https"], None),
    Case("an empty port", [f"{REAL}:"], ["https"], None),
    Case("a network", ["203.0.113.0/24"], ["https"], None),
    Case("digits that are not ASCII", ["٢٠٣.0.113.7"], ["https"], None),
    Case("a semicolon list", [f"{REAL}; 10.0.0.1"], ["https"], None),
    Case("scheme ws", [REAL], ["ws"], None),
    Case("scheme empty", [REAL], [""], None),
    Case("scheme with junk", [REAL], ["https://"], None),
    Case("scheme list that ends empty", [REAL], ["https,"], None),
]
