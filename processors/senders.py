"""Who sends a request, by network address: read in one way wherever it is written, and counted in one way."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

_WITH_PORT = re.compile(r"(?:(?P<v4>[0-9.]+)|\[(?P<v6>[^\]]*)\])(?::[0-9]{1,5})?")
_LONGEST = 100
# IPv4 as a translator between the two writes it (RFC 6052): all of it would be one /64.
_NAT64 = IPv6Network("64:ff9b::/96")
_MAPPED = IPv6Network("::ffff:0:0/96")
_NETWORK_BITS = 64


def address_of(text: str) -> IPv4Address | IPv6Address | None:
    """Return the address that a proxy or a socket tells of; None: it is none.

    A port, brackets, quotes and the zone of IPv6 are left out; an IPv4 address within IPv6 is the IPv4 address.
    """
    text = text[: _LONGEST + 1].strip().strip('"')
    if len(text) > _LONGEST:
        return None
    if found := _WITH_PORT.fullmatch(text):
        text = found["v4"] or found["v6"]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _NAT64:
            return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def network_of(network: IPv4Network | IPv6Network) -> IPv4Network | IPv6Network:
    """Return a network as `address_of` reads its addresses: one of IPv4 within IPv6 is that of IPv4."""
    if isinstance(network, IPv6Network):
        for prefix in (_MAPPED, _NAT64):
            if network.subnet_of(prefix):
                bits = network.prefixlen - prefix.prefixlen
                return IPv4Network((int(network.network_address) & 0xFFFFFFFF, bits))
    return network


def counted_as(text: str) -> str:
    """Return what an address is counted by: itself, or the /64 that one customer has of IPv6."""
    address = address_of(text)
    if address is None:
        return text[:_LONGEST]
    if isinstance(address, IPv6Address):
        return str(ip_network((address, _NETWORK_BITS), strict=False))
    return str(address)
