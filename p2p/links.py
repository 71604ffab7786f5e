"""The living connections of a host, as rules about peers see them."""

from dataclasses import dataclass
from typing import cast

from p2p.addresses import normalise_ip
from p2p.hardening import SafeConn, SafeSwarm
from p2p.muxed import Muxed
from p2p.peer_ids import to_node


@dataclass(frozen=True)
class Link:
    """One living connection. `address` is the other side's IP, `since_s` a time of trio's clock."""

    node: bytes
    address: str
    is_inbound: bool
    since_s: float


def list_links(swarm: SafeSwarm) -> tuple[Link, ...]:
    """All of them; while one of two is given up, a peer has both."""
    return tuple(
        Link(to_node(peer), _get_remote(conn), conn.initiator == peer, conn.since)
        for peer, conns in swarm.connections.items()
        for conn in cast(list[SafeConn], conns)
    )


def _get_remote(conn: SafeConn) -> str:
    endpoint = cast(Muxed, conn.muxed_conn).get_remote_address()
    return normalise_ip(endpoint[0]) if endpoint is not None else ""
