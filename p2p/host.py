"""A libp2p host that can face strangers: one Ed25519 identity, one TCP port, Noise and yamux, caps on everything.

The host knows peers by their 32-byte node keys. It accepts, dials and hands out streams; who to dial is the keeper's
business. Must be opened inside trio.
"""

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, cast

import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.custom_types import TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.identity.identify_push.identify_push import ID_PUSH
from libp2p.network.config import ConnectionConfig
from libp2p.network.exceptions import SwarmException
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX
from libp2p.transport.upgrader import TransportUpgrader
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from p2p.addresses import parse_address
from p2p.doors import Doors, HostLimits
from p2p.entrance import Entrance
from p2p.hardening import SafeSwarm, harden
from p2p.host_streams import NEGOTIATE_S, HostStreams, StreamHandler
from p2p.link_faults import LinkFaults, Passage
from p2p.links import Link, list_links
from p2p.listening import listen
from p2p.muxed import Muxed
from p2p.peer_ids import to_node, to_peer
from p2p.secured import RecordNoise
from protocol.errors import LocalError
from protocol.keys import PrivateKey


class Host:
    """Open with `open_host`."""

    def __init__(self, swarm: SafeSwarm, listener: trio.SocketListener, limits: HostLimits, faults: LinkFaults) -> None:
        self.swarm = swarm
        self.limits = limits
        self.node = to_node(swarm.self_id)
        self._basic = BasicHost(swarm, disable_identify_address_discovery=True, negotiate_timeout=NEGOTIATE_S)
        # Identify pushes write whatever a peer says into a store that is never emptied; we have adverts.
        self._basic.remove_stream_handler(ID_PUSH)
        self._streams = HostStreams(swarm, cast(dict[str, StreamHandler], self._basic.multiselect.handlers))
        self.serve = self._streams.serve
        self.open_stream = self._streams.open_stream
        swarm.set_stream_handler(self._streams.take)  # type: ignore[arg-type]
        self._bound_host, self.port = listener.socket.getsockname()[:2]
        family = "ip6" if ":" in self._bound_host else "ip4"
        self.addresses = (f"/{family}/{self._bound_host}/tcp/{self.port}",)
        self.doors = Doors(limits)
        self.faults = faults
        self._entrance = Entrance(listener, swarm, self.doors, faults, limits)
        self.guard = self._entrance.guard
        self.accept_forever = self._entrance.accept_forever
        self._dialling: dict[bytes, trio.Event] = {}

    def announce(self, addresses: tuple[str, ...]) -> None:
        """Where peers that identify us, and whom they tell of us, should dial us."""
        known = [Multiaddr(text) for text in addresses]
        self._basic._addrs_factory = lambda found: known

    def links(self) -> tuple[Link, ...]:
        """Every living connection; while one of two is given up, a peer has both."""
        return list_links(self.swarm)

    def get_sizes(self) -> dict[str, int]:
        """How much is remembered, by name; `stock` is all that py-libp2p's own objects hold beneath us."""
        muxed = [cast(Muxed, conn.muxed_conn) for conns in self.swarm.connections.values() for conn in conns]
        return {
            "connections": len(muxed),
            "muxed_streams": sum(conn.count_streams() for conn in muxed),
            "half_open": self.doors.half_open.total(),
            "dialling": len(self._dialling),
            "stock": sum(map(_count_held, (self.swarm, self._basic, self.swarm.peerstore))),
            **self._streams.get_sizes(),
        }

    def peers(self) -> tuple[bytes, ...]:
        """Node keys of peers with a living connection, sorted."""
        return tuple(sorted(to_node(peer) for peer in self.swarm.connections))

    def is_connected(self, node: bytes) -> bool:
        return to_peer(node) in self.swarm.connections

    async def dial(self, node: bytes, addresses: Iterable[str]) -> bool:
        """Connect to a peer at one of its addresses. True once there is a living connection, whoever made it."""
        while node in self._dialling:
            await self._dialling[node].wait()
        if self.is_connected(node):
            return True
        if len(self.links()) >= self.limits.connections_max:
            return False
        done = self._dialling[node] = trio.Event()
        try:
            for text in addresses:
                if (address := parse_address(text)) is not None:
                    with trio.move_on_after(self.limits.dial_s):
                        await self._dial_one(to_peer(node), *address)
                if self.is_connected(node):
                    return True
            return False
        finally:
            del self._dialling[node]
            done.set()

    async def _dial_one(self, peer: ID, host: str, port: int) -> None:
        try:
            passage = Passage(host, to_node(peer))
            await self.faults.pass_dial(host, passage.node)
            stream = await trio.open_tcp_stream(host, port, local_address=self.choose_source(host))
            await self.swarm.upgrade(stream, peer, passage, partial(self._entrance.admit, host, False))
        except (OSError, SwarmException):
            return

    def choose_source(self, host: str) -> str | None:
        """Our address to dial a host from. Of several local nodes each speaks from its own, for rules per address."""
        return self._bound_host if self._bound_host.startswith("127.") and host.startswith("127.") else None

    async def hang_up(self, node: bytes) -> None:
        """Close all connections to a peer."""
        for conn in list(self.swarm.connections.get(to_peer(node), ())):
            await conn.close()

    async def close(self) -> None:
        """Close every connection, all at once, politely but briefly."""
        async with trio.open_nursery() as nursery:
            for conns in list(self.swarm.connections.values()):
                for conn in list(conns):
                    nursery.start_soon(conn.close)


@asynccontextmanager
async def open_host(
    seed: bytes,
    host: str,
    port: int,
    limits: HostLimits,
    on_up: Callable[[bytes], None],
    on_down: Callable[[bytes], None],
    on_fault: Callable[[bytes, str, bool], None],
) -> AsyncIterator[Host]:
    """A host, to be run with `accept_forever`; on leaving, every connection, task and descriptor is gone.

    seed is the 32-byte Ed25519 seed of the node key, port 0 takes any free one. `on_up`, `on_down` and `on_fault` are
    called from the loop with a node key, the last with a reason and whether that is what no implementation does.
    Raises PortInUse or CannotListen before anything starts.
    """
    harden()
    listener = await listen(host, port)
    try:
        async with trio.open_nursery() as tasks:
            faults = LinkFaults(PrivateKey(seed).public, tasks)
            swarm = _build_swarm(
                seed,
                tasks=tasks,
                faults=faults,
                on_up=lambda peer: on_up(to_node(peer)),
                on_down=lambda peer: on_down(to_node(peer)),
                on_fault=lambda peer, why, *, is_violation: on_fault(to_node(peer), why, is_violation),
            )
            running = Host(swarm, listener, limits, faults)
            try:
                yield running
            finally:
                with trio.CancelScope(shield=True):
                    await listener.aclose()
                    await running.close()
                tasks.cancel_scope.cancel()
    finally:
        listener.socket.close()


def _build_swarm(seed: bytes, **parts: Any) -> SafeSwarm:
    if type(seed) is not bytes or len(seed) != 32:
        raise LocalError("a seed is 32 bytes")
    keys = create_new_key_pair(seed)
    peer = ID.from_pubkey(keys.public_key)
    store = PeerStore()
    store.add_key_pair(peer, keys)
    noise = RecordNoise(keys, noise_privkey=create_noise_key_pair().private_key)
    upgrader = TransportUpgrader({NOISE: noise}, {TProtocol(YAMUX): Muxed}, NEGOTIATE_S)
    return SafeSwarm(peer, store, upgrader, [], connection_config=ConnectionConfig(), **parts)


def _count_held(owner: object) -> int:
    # Whatever it is called: py-libp2p has several maps by peer that it never clears, and more with each release.
    return sum(len(held) for held in vars(owner).values() if isinstance(held, dict | set | list))
