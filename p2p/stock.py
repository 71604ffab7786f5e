"""A stock py-libp2p host, Noise and yamux as they come: what ours is measured against and must speak with."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.custom_types import TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.io.exceptions import IOException
from libp2p.network import swarm
from libp2p.network.stream.net_stream import NetStream
from libp2p.peer.peerinfo import PeerInfo
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as Noise
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX
from libp2p.stream_muxer.yamux.yamux import Yamux
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from p2p.hardening import harden
from p2p.host_streams import StreamHandler
from p2p.peer_ids import to_node, to_peer


class StockHost:
    """The calls of `p2p.host.Host` that talking over a stream needs. Open with `open_stock_host`."""

    def __init__(self, basic: BasicHost) -> None:
        self.basic = basic
        self.node = to_node(basic.get_id())
        self.addresses = tuple(str(address) for address in basic.get_addrs())

    def serve(self, protocol: str, handler: StreamHandler) -> None:
        """Call handler for each inbound stream; that it breaks ends the stream, where stock would end the host."""

        async def guarded(stream: NetStream) -> None:
            try:
                await handler(stream)
            except IOException:
                await stream.reset()

        self.basic.set_stream_handler(TProtocol(protocol), cast(Any, guarded))

    async def dial(self, node: bytes, addresses: tuple[str, ...]) -> bool:
        """Connect. Whatever is wrong raises what stock raises."""
        await self.basic.connect(PeerInfo(to_peer(node), [Multiaddr(address) for address in addresses]))
        return self.is_connected(node)

    def is_connected(self, node: bytes) -> bool:
        return to_peer(node) in self.basic.get_connected_peers()

    async def open_stream(self, node: bytes, protocol: str) -> NetStream:
        return cast(NetStream, await self.basic.new_stream(to_peer(node), [TProtocol(protocol)]))


@asynccontextmanager
async def open_stock_host(seed: bytes, host: str) -> AsyncIterator[StockHost]:
    """A running stock host on a free port of an IPv4 address, quiet, and without its wait of 250 ms before a dial."""
    harden()
    swarm._HAPPY_EYEBALLS_DELAY = 0.005
    keys = create_new_key_pair(seed)
    noise = Noise(keys, noise_privkey=create_noise_key_pair().private_key)
    basic = new_host(key_pair=keys, sec_opt={NOISE: noise}, muxer_opt=cast(Any, {YAMUX: Yamux}))
    async with basic.run([Multiaddr(f"/ip4/{host}/tcp/0")]):
        yield StockHost(cast(BasicHost, basic))
