"""A libp2p host that can face strangers: one Ed25519 identity, one TCP port, Noise and yamux, caps on everything.

The host knows peers by their 32-byte node keys. It accepts, dials and hands out streams; who to dial is the keeper's
business. Must be opened inside trio.
"""

import errno
import ipaddress
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.custom_types import TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.identity.identify.identify import ID as IDENTIFY
from libp2p.identity.identify_push.identify_push import ID_PUSH
from libp2p.network.config import ConnectionConfig
from libp2p.network.exceptions import SwarmException
from libp2p.network.stream.net_stream import NetStream
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from libp2p.protocol_muxer.exceptions import MultiselectClientError
from libp2p.protocol_muxer.multiselect_client import MultiselectClient
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX
from libp2p.transport.upgrader import TransportUpgrader
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from p2p.addresses import parse_ip
from p2p.doors import Doors, Held
from p2p.doors import HostLimits as HostLimits
from p2p.hardening import ED25519_PEER_HEAD, SafeConn, SafeSwarm, harden
from p2p.link_faults import LinkFaults, Passage
from p2p.muxed import Muxed
from p2p.negotiation import negotiate
from p2p.ping import PROTOCOL as PING
from p2p.ping import answer_pings
from p2p.secured import RecordNoise
from p2p.stream_limits import PER_S, StreamLimits
from protocol.errors import LocalError, MalformedMessage
from protocol.keys import PrivateKey

NEGOTIATE_S = 5
BACKLOG = 1_024  # callers the kernel keeps until we take them in: a burst of one must not delay another
ACCEPT_PAUSE_S = 0.1

StreamHandler = Callable[[NetStream], Awaitable[None]]


@dataclass(frozen=True)
class Link:
    """One living connection. `address` is the other side's IP, `since_s` a time of trio's clock."""

    node: bytes
    address: str
    is_inbound: bool
    since_s: float


class CannotListen(OSError):
    """The listen address cannot be had."""

    def __init__(self, host: str, port: int, why: str) -> None:
        super().__init__(f"cannot listen on {host} port {port}: {why}")
        self.host = host
        self.port = port


class PortInUse(CannotListen):
    """Another process listens there already."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port, "another process has it")


class StreamsTooFast(Exception):
    """A peer opens stream after stream."""


class Refused(SwarmException):
    """The doors do not let a peer stay that has proved its key. `why` is a word."""

    def __init__(self, why: str) -> None:
        super().__init__(f"refused: {why}")
        self.why = why


class StreamRefused(Exception):
    """No stream to that peer: not connected, gone meanwhile, or it does not speak the protocol."""


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


def to_peer(node: bytes) -> ID:
    """The libp2p peer id of a node key."""
    return ID(ED25519_PEER_HEAD + node)


def to_node(peer: ID) -> bytes:
    """The node key of an Ed25519 peer id; the host has no others."""
    return peer.to_bytes()[len(ED25519_PEER_HEAD) :]


class Host:
    """Open with `open_host`."""

    def __init__(self, swarm: SafeSwarm, listener: trio.SocketListener, limits: HostLimits, faults: LinkFaults) -> None:
        self.swarm = swarm
        self.limits = limits
        self.node = to_node(swarm.self_id)
        self._basic = BasicHost(swarm, disable_identify_address_discovery=True, negotiate_timeout=NEGOTIATE_S)
        # Identify pushes write whatever a peer says into a store that is never emptied; we have adverts.
        self._basic.remove_stream_handler(ID_PUSH)
        self._protocols = cast(dict[str, StreamHandler], self._basic.multiselect.handlers)
        swarm.set_stream_handler(self._take_stream)  # type: ignore[arg-type]
        self._listener = listener
        self._bound_host, self.port = listener.socket.getsockname()[:2]
        family = "ip6" if ":" in self._bound_host else "ip4"
        self.addresses = (f"/{family}/{self._bound_host}/tcp/{self.port}",)
        self.doors = Doors(limits)
        self.faults = faults
        self._streams = StreamLimits()
        self.serve(IDENTIFY, partial(_identify, self._protocols[IDENTIFY]))
        self.serve(PING, answer_pings)
        self._dialling: dict[bytes, trio.Event] = {}
        self._check_address: Callable[[str], str] = lambda address: ""
        self._check_peer: Callable[[bytes, str], str] = lambda node, address: ""
        self._is_known: Callable[[bytes], bool] = lambda node: False
        self._on_botched: Callable[[str], None] = lambda address: None

    def guard(
        self,
        check_address: Callable[[str], str],
        check_peer: Callable[[bytes, str], str],
        is_known: Callable[[bytes], bool],
        on_botched: Callable[[str], None],
    ) -> None:
        """Have the doors guarded: a reason, one word, refuses an IP address or a peer calling from one.

        For peers that are known, room is kept that strangers do not get. `on_botched` hears from which IP address a
        handshake came to nothing.
        """
        self._check_address, self._check_peer, self._is_known = check_address, check_peer, is_known
        self._on_botched = on_botched

    def announce(self, addresses: tuple[str, ...]) -> None:
        """Where peers that identify us, and whom they tell of us, should dial us."""
        known = [Multiaddr(text) for text in addresses]
        self._basic._addrs_factory = lambda found: known

    def links(self) -> tuple[Link, ...]:
        """Every living connection; while one of two is given up, a peer has both."""
        return tuple(
            Link(to_node(peer), _get_remote(conn), conn.initiator == peer, conn.since)
            for peer, conns in self.swarm.connections.items()
            for conn in cast(list[SafeConn], conns)
        )

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

    def serve(self, protocol: str, handler: StreamHandler) -> None:
        """Call handler for each inbound stream of protocol; what it raises resets that stream.

        A peer with more of them open than `stream_limits` allows has the next one reset; opening them too fast is a
        fault of its own.
        """

        async def serve_within_limits(stream: NetStream) -> None:
            node = to_node(stream.muxed_conn.peer_id)
            if not self._streams.begin(node, protocol):
                await stream.reset()
                return
            try:
                await handler(stream)
            finally:
                self._streams.end(node, protocol)

        self._protocols[protocol] = serve_within_limits

    async def _take_stream(self, stream: NetStream) -> None:
        """Let a peer's stream choose its protocol, and serve it. What this raises is a fault, but for IOException."""
        if self._streams.is_too_fast(to_node(stream.muxed_conn.peer_id), trio.current_time()):
            raise StreamsTooFast(f"streams are opened faster than {PER_S:.0f} a second")
        try:
            _, handler = await negotiate(stream, self._protocols)
        except trio.TooSlowError:  # as happens to whoever is slow, or to whom we are
            await stream.reset()
            return
        await handler(stream)

    async def open_stream(self, node: bytes, protocol: str) -> NetStream:
        """A new stream on an existing connection. Raises StreamRefused."""
        connections = self.swarm.connections.get(to_peer(node))
        if not connections:
            raise StreamRefused("not connected")
        try:
            stream = await connections[0].new_stream()
        except Exception as error:  # stock raises a different class for each way a connection can be gone
            raise StreamRefused("the connection went away") from error
        try:
            await MultiselectClient().select_one_of([TProtocol(protocol)], MultiselectCommunicator(stream), NEGOTIATE_S)
        except MultiselectClientError as error:
            with trio.CancelScope(shield=True):
                await stream.reset()
            raise StreamRefused(f"the peer does not serve {protocol}") from error
        except BaseException as error:
            with trio.CancelScope(shield=True):
                await stream.reset()
            if isinstance(error, Exception):
                raise StreamRefused(f"the stream broke: {error!r}") from error
            raise
        return stream  # type: ignore[return-value]

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
            await self.swarm.upgrade(stream, peer, passage, partial(self._admit, host, False))
        except (OSError, SwarmException):
            return

    def choose_source(self, host: str) -> str | None:
        """Our address to dial a host from. Of several local nodes each speaks from its own, for rules per address."""
        return self._bound_host if self._bound_host.startswith("127.") and host.startswith("127.") else None

    async def hang_up(self, node: bytes) -> None:
        """Close all connections to a peer."""
        for conn in list(self.swarm.connections.get(to_peer(node), ())):
            await conn.close()

    async def accept_forever(self) -> None:
        """Take connections in until cancelled."""
        # trio.serve_listeners closes a socket when its handler returns; ours lives on in the swarm.
        async with trio.open_nursery() as nursery:
            while True:
                try:
                    stream = await self._listener.accept()
                except OSError:  # out of descriptors: connections already here must not suffer for it
                    await trio.sleep(ACCEPT_PAUSE_S)
                else:
                    nursery.start_soon(self._accept, stream)

    async def _accept(self, stream: trio.SocketStream) -> None:
        remote = _get_peer_ip(stream)
        why = "gone" if remote == "" else self._check_address(remote) or self.doors.check_knock(remote, self._held())
        if why:
            self.doors.refused[why] += 1
            await trio.aclose_forcefully(stream)
            return
        self.doors.begin(remote)
        is_blameless = False
        try:
            with trio.move_on_after(self.limits.handshake_s):
                try:
                    await self.faults.pass_dial(remote)
                except OSError:
                    is_blameless = True
                    await trio.aclose_forcefully(stream)
                    return
                await self.swarm.upgrade(stream, None, Passage(remote), partial(self._admit, remote, True))
                is_blameless = True
        except SwarmException as error:
            # Whom we have no room for has done nothing wrong; who is banned should have stayed away.
            is_blameless = isinstance(error, Refused) and error.why == "strangers"
        finally:
            self.doors.end(remote)
        if not is_blameless:
            self._on_botched(remote)

    def _admit(self, remote: str, is_inbound: bool, peer: ID) -> None:
        """The doors' word on a peer that has proved its key, before it counts as connected. Raises SwarmException."""
        node = to_node(peer)
        why = self._check_peer(node, remote)
        if not why and is_inbound and not self._is_known(node) and not self.is_connected(node):
            why = self.doors.check_stranger(self._held())
        if why:
            self.doors.refused[why] += 1
            raise Refused(why)

    def _held(self) -> list[Held]:
        return [Held(link.address, link.is_inbound, self._is_known(link.node)) for link in self.links()]

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
    listener = await _bind(host, port)
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


async def _identify(tell: StreamHandler, stream: NetStream) -> None:
    """Say who we are. Who asks has nothing to say here itself. Source: libp2p identify, "identify"."""
    await tell(stream)
    with trio.move_on_after(NEGOTIATE_S):
        if await stream.read(1):
            raise MalformedMessage("identify is asked by opening a stream, with not a byte more")


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


def _get_remote(conn: SafeConn) -> str:
    endpoint = cast(Muxed, conn.muxed_conn).get_remote_address()
    return _normalise(endpoint[0]) if endpoint is not None else ""


def _get_peer_ip(stream: trio.SocketStream) -> str:
    try:
        return _normalise(stream.socket.getpeername()[0])
    except OSError:  # it has left already
        return ""


def _normalise(text: str) -> str:
    return str(address) if (address := parse_ip(text)) is not None else ""


async def _bind(host: str, port: int) -> trio.SocketListener:
    # Without SO_REUSEPORT, which stock sets: with it two nodes share a port in silence and each hears half its callers.
    family = trio.socket.AF_INET6 if ":" in host else trio.socket.AF_INET
    sock = trio.socket.socket(family, trio.socket.SOCK_STREAM)
    try:
        sock.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_REUSEADDR, 1)
        await sock.bind((host, port))
        sock.listen(BACKLOG)
        return trio.SocketListener(sock)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(host, port) from error
        raise CannotListen(host, port, error.strerror or str(error)) from error
