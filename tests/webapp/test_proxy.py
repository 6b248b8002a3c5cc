"""Which forwarded headers are believed."""

from __future__ import annotations

import pytest
from multidict import CIMultiDict

from tests.webapp.forwarded_cases import CASES, REAL, Case
from webapp.config.settings import PRIVATE_RANGES
from webapp.config.variables import network
from webapp.http.proxy import BadForwarded, ForwardedPolicy, host_name_of, peer_address, port_of

ROUTER = "10.1.2.3"


def headers_of(case: Case) -> CIMultiDict[str]:
    """Return the header lines of a case."""
    return CIMultiDict(
        [("X-Forwarded-For", line) for line in case.forwarded_for]
        + [("X-Forwarded-Proto", line) for line in case.proto]
    )


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES])
def test_headers_of_a_trusted_peer_are_resolved_or_refused(case: Case) -> None:
    """The n-th entry from the right is the client; malformed headers are refused."""
    policy = ForwardedPolicy(case.hops, PRIVATE_RANGES)

    if case.client is None:
        with pytest.raises(BadForwarded) as refusal:
            policy.resolve(ROUTER, headers_of(case))
        assert not any(line and line in str(refusal.value) for line in case.forwarded_for)
    else:
        assert policy.resolve(ROUTER, headers_of(case)) == (case.client, case.scheme)


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES])
def test_without_trusted_hops_every_header_is_ignored(case: Case) -> None:
    """Hops 0: the peer is the client, over plain http."""
    policy = ForwardedPolicy(0, PRIVATE_RANGES)

    assert policy.resolve(ROUTER, headers_of(case)) == (ROUTER, "http")


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES])
def test_headers_of_an_untrusted_peer_are_ignored(case: Case) -> None:
    """A peer outside TRUSTED_PROXIES cannot choose its address or scheme."""
    policy = ForwardedPolicy(case.hops, PRIVATE_RANGES)

    assert policy.resolve("198.51.100.66", headers_of(case)) == ("198.51.100.66", "http")


@pytest.mark.parametrize(
    "name",
    [
        *("Forwarded", "X-Real-IP", "X-Forwarded-Host", "X-Forwarded-Port", "X-Client-IP"),
        *("True-Client-IP", "CF-Connecting-IP", "Via", "X-Forwarded-Scheme"),
    ],
)
def test_other_headers_are_never_read(name: str) -> None:
    """No router is known to overwrite them, so any client may have written them."""
    policy = ForwardedPolicy(1, PRIVATE_RANGES)
    headers = CIMultiDict({"X-Forwarded-For": REAL, "X-Forwarded-Proto": "http", name: "6.6.6.6"})

    assert policy.resolve(ROUTER, headers) == (REAL, "http")


@pytest.mark.parametrize(
    ("peer", "trusted"),
    [
        pytest.param("10.255.0.1", True, id="private"),
        pytest.param("::ffff:10.0.0.1", True, id="private, mapped into IPv6"),
        pytest.param("fd00::1", True, id="unique local"),
        pytest.param("::1", True, id="loopback"),
        pytest.param("100.64.0.9", True, id="carrier range"),
        pytest.param("203.0.113.7", False, id="public"),
        pytest.param("::ffff:203.0.113.7", False, id="public, mapped into IPv6"),
        pytest.param("fe80::1%eth0", False, id="link local with a zone"),
        pytest.param("unknown", False, id="not an address"),
    ],
)
def test_only_peers_in_the_trusted_ranges_count(peer: str, trusted: bool) -> None:  # noqa: FBT001
    """The default ranges are those of private networks and carriers."""
    assert ForwardedPolicy(1, PRIVATE_RANGES).trusts(peer) is trusted


@pytest.mark.parametrize("hops", range(10))
def test_policy_passes_its_own_check(hops: int) -> None:
    """The start-up hook accepts every allowed number of hops, and a list of one range."""
    ForwardedPolicy(hops, PRIVATE_RANGES).check_itself()
    ForwardedPolicy(hops, [network("fd00::/8")]).check_itself()


def test_check_finds_a_policy_that_believes_the_wrong_entry() -> None:
    """A policy that takes the left-most entry does not pass, nor one that guesses a scheme."""

    class LeftMost(ForwardedPolicy):
        def resolve(self, peer: str, headers: CIMultiDict[str]) -> tuple[str, str]:  # type: ignore[override]
            return headers.getall("X-Forwarded-For", [""])[0].split(",")[0], "https"

    class Guessing(ForwardedPolicy):
        def resolve(self, peer: str, headers: CIMultiDict[str]) -> tuple[str, str]:  # type: ignore[override]
            return headers.getall("X-Forwarded-For", [""])[0].rpartition(",")[2].strip(), "https"

    with pytest.raises(AssertionError, match="wrong entry"):
        LeftMost(1, PRIVATE_RANGES).check_itself()
    with pytest.raises(AssertionError, match="missing scheme"):
        Guessing(1, PRIVATE_RANGES).check_itself()


@pytest.mark.parametrize(
    ("host", "name", "port"),
    [
        pytest.param("app.example", "app.example", None, id="name"),
        pytest.param("APP.Example.:8443", "app.example", 8443, id="capitals, dot and port"),
        pytest.param("127.0.0.1:80", "127.0.0.1", 80, id="IPv4"),
        pytest.param("[::1]:8080", "::1", 8080, id="IPv6"),
        pytest.param("[0:0:0:0:0:0:0:1]", "::1", None, id="IPv6, uncompressed"),
        pytest.param("", None, None, id="empty"),
        pytest.param("a b", None, None, id="blank inside"),
        pytest.param("user@app.example", None, None, id="user"),
        pytest.param("app.example:80:90", None, None, id="two ports"),
        pytest.param("app.example:99999", None, None, id="port too large"),
        pytest.param("[::1", None, None, id="open bracket"),
        pytest.param("[:::]", None, None, id="not an address"),
        pytest.param("app.example/x", None, None, id="path"),
    ],
)
def test_host_header_is_split_into_name_and_port(
    host: str, name: str | None, port: int | None
) -> None:
    """Case and a trailing dot do not matter; anything malformed is no host."""
    assert host_name_of(host) == name
    assert port_of(host) == port


def test_peer_without_an_address_is_none() -> None:
    """A Unix socket's peer has no address."""
    assert peer_address("") is None
