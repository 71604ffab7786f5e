"""What the gossip pump is made of: message ids, ids seen, packets waiting for a peer, packets off a stream."""

import hashlib
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import trio
from libp2p.utils.varint import encode_uvarint

RPC_BYTES_MAX = 256 * 1024
WRITE_BYTES_MAX = 64 * 1024  # packets for one peer are merged up to this into one write
WRITE_FRAMES_MAX = 64
OUT_FRAMES_MAX = 1_024  # packets waiting for one peer
OUT_BYTES_MAX = 4 * 1024 * 1024
SEEN_MAX = 65_536
SEEN_S = 120
ID_BYTES = 20
_ID_DOMAIN = b"rolemesh/v1/gossip\0"


def compute_message_id(topic: str, data: bytes) -> bytes:
    """20 bytes over everything sent, so that a forged copy has an id of its own and cannot silence the honest one."""
    return hashlib.sha256(_ID_DOMAIN + topic.encode() + b"\0" + data).digest()[:ID_BYTES]


@dataclass
class TopicCounts:
    """What went through one topic since the start. `received` counts every copy."""

    received: int = 0
    delivered: int = 0
    duplicates: int = 0
    ignored: int = 0
    rejected: int = 0
    published: int = 0
    forwarded: int = 0
    dropped: int = 0
    check_errors: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0


class Seen:
    """Ids met before, bounded by count and age. Stock's grows without bound and keeps a thread."""

    def __init__(self) -> None:
        self._until: OrderedDict[bytes, float] = OrderedDict()

    def add(self, key: bytes) -> bool:
        """Note the id; True if it is new."""
        now = trio.current_time()
        while self._until and (len(self._until) > SEEN_MAX or next(iter(self._until.values())) < now):
            self._until.popitem(last=False)
        if key in self._until:
            return False
        self._until[key] = now + SEEN_S
        return True

    def has(self, key: bytes) -> bool:
        return key in self._until


@dataclass
class Outbox:
    """Packets waiting for one peer: control first, then messages in order. A full box drops the newest and says so."""

    control: deque[bytes] = field(default_factory=deque)
    messages: deque[bytes] = field(default_factory=deque)
    size: int = 0
    wake: trio.Event = field(default_factory=trio.Event)

    def push(self, packet: bytes, is_control: bool) -> bool:
        if len(self.control) + len(self.messages) >= OUT_FRAMES_MAX or self.size + len(packet) > OUT_BYTES_MAX:
            return False
        (self.control if is_control else self.messages).append(packet)
        self.size += len(packet)
        self.wake.set()
        return True

    async def take(self) -> bytes:
        """Wait for packets; as many as fit one write, merged: protobuf messages concatenate into their union."""
        while not self.control and not self.messages:
            self.wake = trio.Event()
            await self.wake.wait()
        parts: list[bytes] = []
        total = 0
        while (queue := self.control or self.messages) and len(parts) < WRITE_FRAMES_MAX:
            if parts and total + len(queue[0]) > WRITE_BYTES_MAX:
                break
            parts.append(queue.popleft())
            total += len(parts[-1])
        self.size -= total
        return encode_uvarint(total) + b"".join(parts)


def split_packets(buffer: bytearray) -> Iterator[bytes]:
    """Take the whole packets out of buffer."""
    used = 0
    while (head := _parse_length(buffer, used)) is not None:
        start, length = head
        if length > RPC_BYTES_MAX:
            raise ValueError(f"a packet of {length} bytes, at most {RPC_BYTES_MAX}")
        if len(buffer) < start + length:
            break
        yield bytes(buffer[start : start + length])
        used = start + length
    del buffer[:used]


def _parse_length(buffer: bytearray, start: int) -> tuple[int, int] | None:
    """Where the packet begins and how long it is; None while that is incomplete. ValueError if endless."""
    value = 0
    for i in range(4):
        if start + i >= len(buffer):
            return None
        value |= (buffer[start + i] & 0x7F) << (7 * i)
        if not buffer[start + i] & 0x80:
            return start + i + 1, value
    raise ValueError("a packet length of more than four bytes")
