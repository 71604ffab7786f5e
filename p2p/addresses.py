"""Internet addresses as rules about peers see them: one address, the block around it, and networks that are trusted."""

import ipaddress
from collections.abc import Iterable
from functools import lru_cache

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

ADDRESSES_REMEMBERED = 1_024  # those of a node's connections are read several times a second


@lru_cache(ADDRESSES_REMEMBERED)
def parse_ip(text: str) -> Address | None:
    """An IP address, None for any other text. IPv4 inside IPv6 is IPv4: one caller must not count as two.

    >>> str(parse_ip("::ffff:192.0.2.7")), parse_ip("example.org")
    ('192.0.2.7', None)
    """
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return address if mapped is None else mapped


def normalise_ip(text: str) -> str:
    """One spelling for each address, empty for what is none.

    >>> normalise_ip("::ffff:192.0.2.7"), normalise_ip("example.org")
    ('192.0.2.7', '')
    """
    return str(address) if (address := parse_ip(text)) is not None else ""


def compute_block(text: str) -> str:
    """The /24 of an IPv4 address, the /64 of an IPv6 one: what one tenant can have whole for little money.

    >>> compute_block("192.0.2.7"), compute_block("2001:db8:1:2:3::4"), compute_block("")
    ('192.0.2.0/24', '2001:db8:1:2::/64', '')
    """
    return _widen(text, 24, 64)


def compute_place(text: str) -> str:
    """Where a caller lives: its IPv4 address, or the whole /64 of an IPv6 one, since it can take any address in that.

    >>> compute_place("192.0.2.7"), compute_place("2001:db8:1:2:3::4")
    ('192.0.2.7/32', '2001:db8:1:2::/64')
    """
    return _widen(text, 32, 64)


def parse_network(text: str) -> Network:
    """A network or a single address. Raises ValueError.

    >>> str(parse_network("192.0.2.7")), str(parse_network("127.0.9.0/24"))
    ('192.0.2.7/32', '127.0.9.0/24')
    """
    return ipaddress.ip_network(text, strict=False)


class Trusted:
    """Networks whose addresses no rule per address counts for. Raises ValueError for what is no network."""

    def __init__(self, networks: Iterable[str] = ()) -> None:
        self._networks = tuple(parse_network(text) for text in networks)

    def covers(self, text: str) -> bool:
        address = parse_ip(text)
        return address is not None and any(address in network for network in self._networks)


def is_wildcard(multiaddr: str) -> bool:
    """Whether a multiaddr means every address of the machine, so that nobody could dial it.

    >>> is_wildcard("/ip4/0.0.0.0/tcp/4001"), is_wildcard("/ip4/127.0.0.1/tcp/4001")
    (True, False)
    """
    address = _read_ip(multiaddr)
    return address is not None and address.is_unspecified


def is_loopback(multiaddr: str) -> bool:
    """Whether a multiaddr can be dialled on this machine alone.

    >>> is_loopback("/ip4/127.0.0.1/tcp/4001"), is_loopback("/ip4/192.0.2.7/tcp/4001")
    (True, False)
    """
    address = _read_ip(multiaddr)
    return address is not None and address.is_loopback


def parse_address(text: str) -> tuple[str, int] | None:
    """Host and port of an `/ip4/…/tcp/…` or `/ip6/…/tcp/…` multiaddr, None for any other text.

    >>> parse_address("/ip4/127.0.0.1/tcp/4001"), parse_address("/dns/x/udp/1")
    (('127.0.0.1', 4001), None)
    """
    parts = text.split("/")
    if len(parts) < 5 or parts[0] or parts[1] not in ("ip4", "ip6") or parts[3] != "tcp" or len(text) > 128:
        return None
    if len(parts) > 5 and parts[5] != "p2p":
        return None
    try:
        host = ipaddress.ip_address(parts[2])
        port = int(parts[4])
    except ValueError:
        return None
    return (str(host), port) if 0 < port < 65_536 else None


def _read_ip(multiaddr: str) -> Address | None:
    parts = multiaddr.split("/")
    return parse_ip(parts[2]) if len(parts) > 2 else None


def _widen(text: str, bits4: int, bits6: int) -> str:
    address = parse_ip(text)
    if address is None:
        return ""
    return str(parse_network(f"{address}/{bits4 if address.version == 4 else bits6}"))
