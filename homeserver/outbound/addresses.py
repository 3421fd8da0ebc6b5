"""Which addresses another server may lead us to.

Names are chosen by others, and so is what they lead to: judged is the address that is connected to, in every form in
which an address of the inside can be written.
"""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address

_CLOSED_V4 = [
    (IPv4Network(network), what)
    for network, what in (
        ("0.0.0.0/8", "means this machine"),
        ("10.0.0.0/8", "is private"),
        ("100.64.0.0/10", "is shared by customers of a provider"),
        ("127.0.0.0/8", "is this machine"),
        ("169.254.0.0/16", "is of the local link"),
        ("172.16.0.0/12", "is private"),
        ("192.0.0.0/24", "is reserved for protocols"),
        ("192.0.2.0/24", "is for documentation"),
        ("192.31.196.0/24", "is reserved for protocols"),
        ("192.52.193.0/24", "is reserved for protocols"),
        ("192.88.99.0/24", "is reserved for protocols"),
        ("192.168.0.0/16", "is private"),
        ("192.175.48.0/24", "is reserved for protocols"),
        ("198.18.0.0/15", "is for benchmarks"),
        ("198.51.100.0/24", "is for documentation"),
        ("203.0.113.0/24", "is for documentation"),
        ("224.0.0.0/4", "is for multicast"),
        ("240.0.0.0/4", "is reserved"),
    )
]
_CLOSED_V6 = [
    (IPv6Network(network), what)
    for network, what in (
        ("::1/128", "is this machine"),
        ("::/96", "is of a form that is not in use any more"),
        ("fc00::/7", "is private"),
        ("fe80::/10", "is of the local link"),
        ("fec0::/10", "is private"),
        ("ff00::/8", "is for multicast"),
        ("2001::/32", "is of a tunnel (Teredo)"),
        ("2001::/23", "is reserved for protocols"),
        ("2001:db8::/32", "is for documentation"),
        ("2620:4f:8000::/48", "is reserved for protocols"),
        ("3fff::/20", "is for documentation"),
    )
]
_PUBLIC_V6 = IPv6Network("2000::/3")
_MAPPED = IPv6Network("::ffff:0:0/96")
_TRANSLATED = IPv6Network("64:ff9b::/96")
_6TO4 = IPv6Network("2002::/16")


class AddressGuard:
    """Says which addresses are not to be connected to; `allowed` are ranges that are, wherever they are."""

    def __init__(self, allowed: Sequence[str] = ()) -> None:
        self._allowed = [ip_network(one) for one in allowed]

    def refusal(self, address: Address) -> str | None:
        """Why there must be no connection to the address, as the end of a sentence; None if there may."""
        inner = _inner(address)
        if any(one in network for one in (address, inner) for network in self._allowed):
            return None
        if isinstance(inner, IPv4Address):
            return next((what for network, what in _CLOSED_V4 if inner in network), None)
        closed = next((what for network, what in _CLOSED_V6 if inner in network), None)
        return closed or (None if inner in _PUBLIC_V6 else "is not public")


def find_literal(host: str) -> Address | None:
    """The address that the text is, as a server name writes it: IPv6 in brackets. None if it is no address."""
    is_v6 = host.startswith("[") and host.endswith("]")
    try:
        address = ip_address(host[1:-1] if is_v6 else host)
    except ValueError:
        return None
    return address if isinstance(address, IPv6Address) == is_v6 else None


def _inner(address: Address) -> Address:
    """The IPv4 address to which connecting to the address leads, if it is a way to write one; else the address."""
    if isinstance(address, IPv4Address):
        return address
    if address in _MAPPED or address in _TRANSLATED:
        return IPv4Address(address.packed[12:])
    if address in _6TO4:
        return IPv4Address(address.packed[2:6])
    return address
