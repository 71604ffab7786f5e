"""What one peer's gossip stream brings: packets that wait for their turn. The peer sends on as they are worked off."""

from collections import deque
from collections.abc import Callable

import trio

from p2p.gossipsub.wire import Framer
from p2p.muxed_stream import MuxedStream
from p2p.protobuf import MalformedPacket

PLENTY_BYTES = 48 * 1024
WIDER_BYTES = 256 * 1024  # than a stream's first window, or a sender of large messages waits for us and we for it
AHEAD_BYTES = 512 * 1024  # of packets that wait here, before the peer has to wait too
PACKET_BEATS_MAX = 30  # heartbeats a packet may take to arrive whole


class Inbound:
    """No task reads: what arrives is pushed here, and `on_ready` hears of it. Over once `ended` is set.

    A peer may have AHEAD_BYTES waiting here, a window of yamux and WIDER_BYTES under way, and one packet that is not
    yet whole: beyond that bytes are credited only as packets are worked off. With less it would stand still while we
    work.
    """

    def __init__(self, node: bytes, stream: MuxedStream, on_ready: Callable[["Inbound"], None]) -> None:
        self.node = node
        self.packets: deque[bytes] = deque()
        self.is_cut = False  # the router has begun a packet and wants to go on with it
        self.is_ready = False  # it waits for its turn
        self.fault = ""  # what ended it, if that was the peer's fault
        self.ended = trio.Event()
        self._stream = stream
        self._on_ready = on_ready
        self._framer = Framer()
        self._held = 0  # bytes of packets that wait
        self._owed = 0  # bytes received and not credited
        self._has_finished = False

    def begin(self) -> None:
        self._stream.push_to(self._take, self._take_end, gives_credit=False)
        self._stream.widen(WIDER_BYTES)

    def end(self, fault: str = "") -> None:
        """Take nothing more in."""
        if not self.ended.is_set():
            self.fault = fault
            self.packets.clear()
            self._held = 0
            self.is_cut = False
            self.ended.set()

    @property
    def is_plenty(self) -> bool:
        """Whether the peer will soon have to wait for us."""
        return self._held >= PLENTY_BYTES

    @property
    def has_work(self) -> bool:
        return self.is_cut or bool(self.packets)

    def take_packet(self) -> bytes:
        """The next packet; there must be one."""
        packet = self.packets.popleft()
        self._held -= len(packet)
        return packet

    def settle(self) -> None:
        """Let the peer send as much as there is room for; to be called when some packets have been worked off."""
        kept = max(0, self._held - AHEAD_BYTES)
        if self._owed > kept:
            self._stream.give_credit(self._owed - kept)
            self._owed = kept
        if self._has_finished and not self.has_work:
            self.end()

    def note_beat(self) -> None:
        """A heartbeat has passed. A packet that trickles in holds memory for as long as its sender likes."""
        if not self.has_work:  # else it is we who keep the peer waiting
            self._framer.beats += bool(len(self._framer))
        if self._framer.beats > PACKET_BEATS_MAX:
            self.end(f"a packet took more than {PACKET_BEATS_MAX} heartbeats")

    def _take(self, data: bytes | memoryview) -> None:
        self._owed += len(data)
        if self.ended.is_set():
            return
        try:
            packets = self._framer.feed(data)
        except MalformedPacket as error:
            self.end(str(error))
            return
        self.packets += packets
        self._held += sum(map(len, packets))
        self.settle()
        if self.packets:
            self._on_ready(self)

    def _take_end(self, reason: str | None) -> None:
        self._has_finished = True
        if not self.has_work:
            self.end()
