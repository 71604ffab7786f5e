"""Streams to and from a host's peers: the protocol chosen in good time, and no more of them than one peer may have."""

from collections.abc import Awaitable, Callable
from functools import partial

import trio
from libp2p.custom_types import TProtocol
from libp2p.identity.identify.identify import ID as IDENTIFY
from libp2p.network.stream.net_stream import NetStream
from libp2p.protocol_muxer.exceptions import MultiselectClientError
from libp2p.protocol_muxer.multiselect_client import MultiselectClient
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator

from p2p.hardening import SafeSwarm
from p2p.negotiation import negotiate
from p2p.peer_ids import to_node, to_peer
from p2p.ping import PROTOCOL as PING
from p2p.ping import answer_pings
from p2p.stream_limits import PER_S, StreamLimits
from protocol.errors import MalformedMessage

NEGOTIATE_S = 5

StreamHandler = Callable[[NetStream], Awaitable[None]]


class StreamsTooFast(Exception):
    """A peer opens stream after stream."""


class StreamRefused(Exception):
    """No stream to that peer: not connected, gone meanwhile, or it does not speak the protocol."""


class HostStreams:
    """`protocols` are those that are served, of which stock's answer to identify is one already."""

    def __init__(self, swarm: SafeSwarm, protocols: dict[str, StreamHandler]) -> None:
        self._swarm = swarm
        self._protocols = protocols
        self._limits = StreamLimits()
        self.get_sizes = self._limits.get_sizes
        self.serve(IDENTIFY, partial(_identify, protocols[IDENTIFY]))
        self.serve(PING, answer_pings)

    def serve(self, protocol: str, handler: StreamHandler) -> None:
        """Call handler for each inbound stream of protocol; what it raises resets that stream.

        A peer with more of them open than `stream_limits` allows has the next one reset; opening them too fast is a
        fault of its own.
        """

        async def serve_within_limits(stream: NetStream) -> None:
            node = to_node(stream.muxed_conn.peer_id)
            if not self._limits.begin(node, protocol):
                await stream.reset()
                return
            try:
                await handler(stream)
            finally:
                self._limits.end(node, protocol)

        self._protocols[protocol] = serve_within_limits

    async def take(self, stream: NetStream) -> None:
        """Let a peer's stream choose its protocol, and serve it. What this raises is a fault, but for IOException."""
        if self._limits.is_too_fast(to_node(stream.muxed_conn.peer_id), trio.current_time()):
            raise StreamsTooFast(f"streams are opened faster than {PER_S:.0f} a second")
        try:
            _, handler = await negotiate(stream, self._protocols)
        except trio.TooSlowError:  # as happens to whoever is slow, or to whom we are
            await stream.reset()
            return
        await handler(stream)

    async def open_stream(self, node: bytes, protocol: str) -> NetStream:
        """A new stream on an existing connection. Raises StreamRefused."""
        connections = self._swarm.connections.get(to_peer(node))
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


async def _identify(tell: StreamHandler, stream: NetStream) -> None:
    """Say who we are. Who asks has nothing to say here itself. Source: libp2p identify, "identify"."""
    await tell(stream)
    with trio.move_on_after(NEGOTIATE_S):
        if await stream.read(1):
            raise MalformedMessage("identify is asked by opening a stream, with not a byte more")
