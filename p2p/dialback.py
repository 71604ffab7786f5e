"""Dialling back, on streams: a peer asks, we dial it where it says it listens, and tell it what happened.

Nobody can be made to dial others with it: only addresses with the IP the asker calls from are dialled, few at a time,
and rarely for one place. A frame is `length (2) ‖ body`, big endian. Source: libp2p AutoNAT v1, its dial-back rules.
"""

import struct
from collections.abc import Callable

import trio
from libp2p.io.exceptions import IOException
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.stream.net_stream import NetStream

from p2p.addresses import compute_place, parse_address
from p2p.host import Host
from p2p.host_streams import StreamRefused
from p2p.peer_ids import to_node, to_peer
from p2p.reach import Dialled, DialMe, Reach, Reachability
from p2p.wire import BufferedTCP
from protocol.codec import decode, encode
from protocol.errors import MalformedMessage, RemoteError

PROTOCOL = "/rolemesh/dialback/1"
FRAME_BYTES_MAX = 4_096
ANSWER_S = 20.0  # for one peer to dial all our addresses
READ_S = 5.0
AT_ONCE_MAX = 4
PER_PLACE_S = 2.0  # between two requests of one place
PLACES_MAX = 1_024
_LENGTH = struct.Struct("!H")


class DialBack:
    """Both sides of dialling back. `on_change` hears of each new state of our own reachability."""

    def __init__(self, host: Host, addresses: tuple[str, ...], on_change: Callable[[], None]) -> None:
        self.reach = Reachability(addresses)
        self._host = host
        self._on_change = on_change
        self._busy = 0
        self._served: dict[str, float] = {}  # places and when they were last dialled for, oldest first
        self._wake = trio.Event()

    def look(self) -> None:
        """A peer has come: it could be asked."""
        self._wake.set()

    async def run(self) -> None:
        """Find out, and keep making sure, until cancelled."""
        while True:
            self._wake = trio.Event()
            before = self.reach.state
            peer, again_s = self.reach.choose(self._host.peers(), trio.current_time())
            if peer is not None:
                self.reach.note(peer, await self._ask(peer), trio.current_time())
            if self.reach.state is not before:
                self._on_change()
            if peer is None:
                with trio.move_on_at(again_s):
                    await (self._wake.wait() if self.reach.state is Reach.UNKNOWN else trio.sleep_forever())

    async def _ask(self, peer: bytes) -> Dialled | None:
        try:
            stream = await self._host.open_stream(peer, PROTOCOL)
        except StreamRefused:
            return None
        answer = None
        with trio.move_on_after(ANSWER_S):
            try:
                await _write(stream, encode(DialMe(self.reach.addresses)))
                answer = decode(Dialled, await _read(stream))
            except (IOException, RemoteError):
                answer = None
        with trio.CancelScope(shield=True):
            await stream.reset()
        return answer

    async def take_stream(self, stream: NetStream) -> None:
        """Serve one request."""
        node = to_node(stream.muxed_conn.peer_id)
        with trio.fail_after(READ_S):
            asked = decode(DialMe, await _read(stream))
        observed = next((link.address for link in self._host.links() if link.node == node), "")
        tried: tuple[str, ...] = ()
        if observed and self._may_serve(compute_place(observed)):
            self._busy += 1
            try:
                tried = tuple([await self._try(node, text, observed) for text in asked.addresses])
            finally:
                self._busy -= 1
        await _write(stream, encode(Dialled(observed, tried)))
        await stream.close()

    def _may_serve(self, place: str) -> bool:
        now_s = trio.current_time()
        if self._busy >= AT_ONCE_MAX or now_s - self._served.get(place, float("-inf")) < PER_PLACE_S:
            return False
        self._served.pop(place, None)
        if len(self._served) >= PLACES_MAX:
            del self._served[next(iter(self._served))]
        self._served[place] = now_s
        return True

    async def _try(self, node: bytes, text: str, observed: str) -> str:
        """Why the node is not found at an address; empty when it is."""
        address = parse_address(text)
        if address is None:
            return "not an address that can be dialled"
        if address[0] != observed:
            return f"not dialled: you call from {observed}"
        return await probe(self._host, node, *address)


async def probe(host: Host, node: bytes, ip: str, port: int) -> str:
    """Dial an address and see whether a node proves its key there, keeping no connection. The reason if it does not."""
    why = f"no answer within {host.limits.dial_s} s"
    with trio.move_on_after(host.limits.dial_s):
        try:
            await host.faults.pass_dial(ip, node)
            stream = await trio.open_tcp_stream(ip, port, local_address=host.choose_source(ip))
        except OSError as error:
            return f"cannot be connected to: {error.strerror or error}"[:200]
        try:
            raw = RawConnection(BufferedTCP(stream), True)
            secured = await host.swarm.upgrader.upgrade_security(raw, True, to_peer(node))
            why = "" if secured.get_remote_peer() == to_peer(node) else "another node is there"
        except Exception as error:  # stock raises whatever the other side's junk brings about
            why = f"no handshake: {type(error).__name__}"
        finally:
            await trio.aclose_forcefully(stream)
    return why


async def _write(stream: NetStream, body: bytes) -> None:
    await stream.write(_LENGTH.pack(len(body)) + body)


async def _read(stream: NetStream) -> bytes:
    (length,) = _LENGTH.unpack(await _read_exactly(stream, _LENGTH.size))
    if length > FRAME_BYTES_MAX:
        raise MalformedMessage(f"a frame of {length} bytes, at most {FRAME_BYTES_MAX}")
    return await _read_exactly(stream, length)


async def _read_exactly(stream: NetStream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = await stream.read(size - len(data))
        if not more:
            raise IOException("the stream ended")
        data += more
    return data
