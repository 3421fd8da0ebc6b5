"""Addresses of the inside, in every form in which they can be written."""

from ipaddress import ip_address

import pytest

from homeserver.outbound.addresses import AddressGuard, find_literal


@pytest.mark.parametrize(
    "address",
    [
        *("0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "127.0.0.1", "127.255.255.254"),
        *("169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.2.1", "192.88.99.1", "192.168.1.1"),
        *("198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1"),
        *("255.255.255.255", "::", "::1", "fe80::1", "febf::1", "fec0::1", "fc00::1", "fdff::1", "ff02::1"),
        *("2001:db8::1", "3fff::1", "100::1", "64:ff9b:1::1", "5f00::1", "4000::1", "2001:2::1", "2001:20::1"),
        # Mapped, translated, compatible, NAT64, 6to4, Teredo.
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::ffff:0:10.0.0.1", "::127.0.0.1"),
        *("::10.0.0.1", "::8.8.8.8", "64:ff9b::10.0.0.1", "64:ff9b::7f00:1", "2002:0a00:0001::1", "2002:7f00:1::"),
        *("2002:a9fe:a9fe::1", "2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2"),
    ],
)
@pytest.mark.behaviours("SS-DISC-05")
def test_addresses_of_the_inside_are_refused(address: str) -> None:
    assert AddressGuard().refusal(ip_address(address)) is not None


@pytest.mark.parametrize(
    "address",
    [
        *("1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255"),
        *("128.0.0.1", "169.253.0.1", "172.15.255.255", "172.32.0.0", "192.169.0.1", "198.17.0.1", "198.20.0.1"),
        *("223.255.255.255", "2606:4700::1111", "2a00:1450::1", "2001:4860:4860::8888", "::ffff:8.8.8.8"),
        *("64:ff9b::8.8.8.8", "2002:808:808::1"),
    ],
)
def test_public_addresses_are_not_refused(address: str) -> None:
    assert AddressGuard().refusal(ip_address(address)) is None


@pytest.mark.parametrize("address", ["10.1.2.3", "::ffff:10.1.2.3", "fd00::1"])
def test_allowed_ranges_are_not_refused_and_others_still_are(address: str) -> None:
    guard = AddressGuard(["10.1.0.0/16", "fd00::/8"])
    assert guard.refusal(ip_address(address)) is None
    assert guard.refusal(ip_address("10.2.0.1")) == "is private"
    assert guard.refusal(ip_address("fc00::1")) == "is private"


@pytest.mark.parametrize(
    "text", ["127.1", "0x7f.0.0.1", "2130706433", "010.0.0.1", "127.0.0.1.", "::1", "[1.2.3.4]", ""]
)
def test_what_only_some_programs_take_for_an_address_is_none(text: str) -> None:
    assert find_literal(text) is None
