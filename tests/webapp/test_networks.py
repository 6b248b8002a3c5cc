"""What is counted as one client address."""

from __future__ import annotations

import pytest

from webapp.accounts.networks import networks_of


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        pytest.param("2001:db8::1", "2001:db8::ffff:2", 3, id="one /64"),
        pytest.param("2001:db8::1", "2001:db8:0:1::1", 2, id="one /56"),
        pytest.param("2001:db8::1", "2001:db8:0:ff00::1", 1, id="one /48"),
        pytest.param("2001:db8::1", "2001:db8:1::1", 0, id="two /48"),
        pytest.param("198.51.100.1", "198.51.100.2", 0, id="two IPv4 addresses"),
        pytest.param("198.51.100.1", "::ffff:198.51.100.1", 1, id="one, mapped and not"),
        pytest.param("::ffff:198.51.100.1", "::ffff:198.51.100.2", 0, id="two mapped ones"),
        pytest.param("fe80::1%eth0", "fe80::2%eth0", 3, id="zones"),
        pytest.param("unknown", "unknown", 1, id="peers without an address"),
    ],
)
def test_addresses_share_the_networks_that_both_are_in(one: str, other: str, shared: int) -> None:
    """IPv6 has three networks, from the smallest to the largest; IPv4 is one address."""
    assert len(set(networks_of(one)) & set(networks_of(other))) == shared


def test_largest_network_is_the_last_one() -> None:
    """The caller that asks for the last one gets the /48, which two /56 share."""
    assert networks_of("2001:db8::1")[-1] == networks_of("2001:db8:0:ff00::1")[-1]
    assert networks_of("2001:db8::1")[0] != networks_of("2001:db8:0:ff00::1")[0]
