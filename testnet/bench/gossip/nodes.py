"""Nodes of each stack behind the same few calls: ours through the seam nodes use, stock py-libp2p, raw trio TCP."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

import trio

from p2p.doors import HostLimits
from p2p.gossipsub import Signature, TopicParams
from p2p.libp2p_net import Libp2pNet, NetOptions, open_libp2p_net
from p2p.net import Check, Delivered, NetEvent, PeerConnected
from p2p.stock_gossip import StockGossip, open_stock_gossip
from protocol.envelope import compute_signed_part, decode_envelope
from protocol.errors import RemoteError
from protocol.types import Unproven, Verdict

TOPIC = "/rolemesh/00/claims/1"
CHAIN = bytes(8)
WIRE_BYTES_MAX = 128 * 1024
POLL_S = 0.002
_LENGTH_BYTES = 4

OnMessage = Callable[[bytes], None]


class Node(Protocol):
    """A node on the one topic."""

    @property
    def name(self) -> str:
        """How another node of its stack is told whom to dial."""

    @property
    def address(self) -> str: ...

    async def connect(self, name: str, address: str) -> None:
        """Returns with a secured connection."""

    async def publish(self, data: bytes) -> None: ...

    def count_subscribers(self) -> int: ...


class OurNode:
    def __init__(self, net: Libp2pNet, connected: set[bytes]) -> None:
        self._net = net
        self._connected = connected
        self._woken = trio.Event()
        self.name = net.node.hex()
        self.address = net.addresses[0]

    def wake(self) -> None:
        self._woken.set()

    async def connect(self, name: str, address: str) -> None:
        peer = bytes.fromhex(name)
        self._net.learn(peer, (address,))
        while peer not in self._connected:
            self._woken = trio.Event()
            await self._woken.wait()

    async def publish(self, data: bytes) -> None:
        self._net.publish(TOPIC, data, "")

    def count_subscribers(self) -> int:
        return len(self._net.subscribers(TOPIC))


def accept(topic: str, data: bytes, forwarder: bytes) -> Verdict:
    return Verdict.ACCEPT


def check_envelope(topic: str, data: bytes, forwarder: bytes) -> Verdict | Unproven:
    """As a node does it: a sealed message is decoded here, and its signature verified once, before delivery."""
    try:
        envelope = decode_envelope(data, CHAIN, WIRE_BYTES_MAX)
    except RemoteError:
        return Verdict.REJECT
    return Unproven(envelope.sender, compute_signed_part(envelope, data), envelope.signature, conclude)


def conclude(is_good: bool) -> Verdict:
    return Verdict.ACCEPT if is_good else Verdict.REJECT


CHECKS: dict[str, Check] = {"nosign": accept, "sign": accept, "envelope": check_envelope}


@asynccontextmanager
async def open_ours(seed: bytes, host: str, policy: str, on_message: OnMessage) -> AsyncIterator[Node]:
    connected: set[bytes] = set()
    nodes: list[OurNode] = []

    def hear(event: NetEvent) -> None:
        if type(event) is Delivered:
            on_message(event.data)
        elif type(event) is PeerConnected:
            connected.add(event.peer)
            nodes[0].wake()

    signature = Signature.STRICT_SIGN if policy == "sign" else Signature.STRICT_NO_SIGN
    options = NetOptions(limits=HostLimits(trusted=("127.0.0.0/8",)), topics={TOPIC: TopicParams(signature)})
    async with open_libp2p_net(seed, host, 0, hear, options) as net:
        nodes.append(OurNode(net, connected))
        net.subscribe(TOPIC, CHECKS[policy])
        yield nodes[0]


class StockNode:
    def __init__(self, gossip: StockGossip) -> None:
        self._gossip = gossip
        self.name = gossip.host.node.hex()
        self.address = gossip.host.addresses[0].split("/p2p/")[0]
        self.publish = gossip.publish
        self.count_subscribers = gossip.count_subscribers

    async def connect(self, name: str, address: str) -> None:
        await self._gossip.host.dial(bytes.fromhex(name), (address,))


@asynccontextmanager
async def open_stock(seed: bytes, host: str, policy: str, on_message: OnMessage) -> AsyncIterator[Node]:
    async with open_stock_gossip(seed, host, TOPIC, on_message, policy == "sign") as gossip:
        yield StockNode(gossip)


class RawNode:
    """The ceiling of trio's sockets: a length and the message, one write each; no crypto, no names, no dedupe."""

    name = "raw"

    def __init__(self, host: str, port: int, on_message: OnMessage, tasks: trio.Nursery) -> None:
        self.address = f"/ip4/{host}/tcp/{port}"
        self._on_message = on_message
        self._tasks = tasks
        self._peers: list[trio.SocketStream] = []

    async def connect(self, name: str, address: str) -> None:
        _, _, host, _, port = address.split("/")
        stream = await trio.open_tcp_stream(host, int(port))
        self._tasks.start_soon(self.take, stream)

    async def take(self, stream: trio.SocketStream) -> None:
        self._peers.append(stream)
        buffer = bytearray()
        async for data in stream:
            buffer += data
            at = 0
            while len(buffer) - at >= _LENGTH_BYTES:
                end = at + _LENGTH_BYTES + int.from_bytes(buffer[at : at + _LENGTH_BYTES])
                if len(buffer) < end:
                    break
                self._on_message(bytes(buffer[at + _LENGTH_BYTES : end]))
                at = end
            del buffer[:at]

    async def publish(self, data: bytes) -> None:
        packet = len(data).to_bytes(_LENGTH_BYTES) + data
        for stream in self._peers:
            await stream.send_all(packet)

    def count_subscribers(self) -> int:
        return len(self._peers)


@asynccontextmanager
async def open_raw(seed: bytes, host: str, policy: str, on_message: OnMessage) -> AsyncIterator[Node]:
    (listener,) = await trio.open_tcp_listeners(0, host=host)
    port = listener.socket.getsockname()[1]
    async with listener, trio.open_nursery() as tasks:
        node = RawNode(host, port, on_message, tasks)
        tasks.start_soon(trio.serve_listeners, node.take, [listener])
        yield node
        tasks.cancel_scope.cancel()


OpenNode = Callable[[bytes, str, str, OnMessage], AbstractAsyncContextManager[Node]]
STACKS: dict[str, OpenNode] = {"ours": open_ours, "stock": open_stock, "raw": open_raw}
