"""Which addresses are of the public internet, and so not of somebody's own network.

Sources: IANA's registries of special-purpose IPv4 and IPv6 addresses. `ipaddress` knows most of
them; what some of its versions, or its definition, call global stands here.
"""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_NOT_PUBLIC_IPV4: Final = (
    IPv4Network("192.0.0.0/24"),  # protocol assignments; Oracle's cloud has its metadata there
    IPv4Network("192.88.99.0/24"),  # relays from 6to4
    IPv4Network("224.0.0.0/4"),  # multicast
    IPv4Network("168.63.129.16/32"),  # Azure's own services, as each of its machines sees them
)

_UNICAST_IPV6: Final = IPv6Network("2000::/3")
"""All that is routed. Outside are loopback, IPv4-mapped, NAT64, local and multicast addresses."""

_NOT_PUBLIC_IPV6: Final = (
    IPv6Network("2001::/23"),  # protocol assignments, Teredo among them
    IPv6Network("2001:db8::/32"),  # documentation
    IPv6Network("2002::/16"),  # 6to4: any IPv4 address
    IPv6Network("3fff::/20"),  # documentation
)


def is_public(address: Address) -> bool:
    """Tell whether an address is of the public internet.

    An address that has another one within itself, such as ::ffff:127.0.0.1 or one of NAT64, is
    not: whoever routes it decides where it leads.
    """
    if isinstance(address, IPv4Address):
        return address.is_global and not any(address in network for network in _NOT_PUBLIC_IPV4)
    return address in _UNICAST_IPV6 and not any(address in network for network in _NOT_PUBLIC_IPV6)
