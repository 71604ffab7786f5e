"""Gossipsub's packets as bytes: frames off a stream, the RPC read in bounded slices, and the RPC written.

Whatever a peer sends ends in values or in `MalformedPacket`; nothing is read beyond what it declares, and nothing is
kept that a rule does not need. Source: pubsub specification, The RPC and The Message; gossipsub v1.0 and v1.1,
Protobuf; v1.2, Protobuf Extension.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, Protocol, TypeVar

from p2p.protobuf import BYTES, Looks, MalformedPacket, read_field, read_varint, write_bytes, write_varint

RPC_BYTES_MAX = 1024 * 1024  # what other implementations send at most
ID_BYTES_MAX = 128
HINT_BYTES_MIN = 512
MESSAGE_FIELDS_MAX = 32  # fields in one message; the specification has six
CONTROL_FIELDS_MAX = 1_024  # entries of one control message looked at; the rest is passed over
IDS_MAX = 5_000  # ids of one IHAVE, IWANT or IDONTWANT looked at; the rest is passed over
LOOKS_MAX = 2 * IDS_MAX + 64  # fields inside one control message looked at, and about so many in one slice
STRAYS_MAX = 64  # fields of one IHAVE, IWANT or IDONTWANT that hold no id
PX_PEERS_MAX = 16
CHOKE, UNCHOKE = 0x215A01, 0x215A02  # fields of a control message: experimental ones take numbers above 0x200000
PX_RECORD_BYTES_MAX = 4_096


class Message(NamedTuple):
    """One published message as it came. None where a field is absent; `topic` is None unless there is exactly one."""

    topic: bytes | None
    data: bytes | None
    from_id: bytes | None = None
    seqno: bytes | None = None
    signature: bytes | None = None
    key: bytes | None = None


class Prune(NamedTuple):
    """`backoff_s` is 0 when none was given; `peers` are (peer id, signed record) pairs, at most PX_PEERS_MAX."""

    topic: bytes
    backoff_s: int = 0
    peers: tuple[tuple[bytes, bytes], ...] = ()


@dataclass
class Control:
    """The entries of one control message, in the order they came.

    `excess`: how many times IDS_MAX its lists go on beyond that, which no implementation's do; `looks`: what it cost.
    """

    ihave: list[tuple[bytes, list[bytes]]] = field(default_factory=list)
    iwant: list[list[bytes]] = field(default_factory=list)
    graft: list[bytes] = field(default_factory=list)
    prune: list[Prune] = field(default_factory=list)
    idontwant: list[list[bytes]] = field(default_factory=list)
    choke: list[tuple[bytes, bool]] = field(default_factory=list)  # topic, and whether it is choked or unchoked
    excess: int = 0
    looks: int = 0


class Came(Protocol):
    """What is known of a message that has come, with the field of an RPC that it came as."""

    @property
    def field(self) -> bytes: ...


Known = TypeVar("Known", bound=Came)


class Slice(NamedTuple, Generic[Known]):
    """A part of an RPC. `next_at` is where the next part begins, None at the end.

    `messages` come with the fields they were read from; those whose very bytes are known come as what is known of them.
    """

    subscriptions: list[tuple[bool, bytes]]
    messages: list[tuple[Message, bytes]]
    copies: list[Known]
    controls: list[Control]
    next_at: int | None


class Framer:
    """Cuts a stream into length-prefixed packets. `beats` is for the owner to count while no packet becomes whole."""

    def __init__(self, bytes_max: int = RPC_BYTES_MAX) -> None:
        self._parts: list[bytes | memoryview] = []  # of a packet that is not whole yet, or of its length
        self._size = 0
        self._wanted = 0  # how many bytes that packet has; 0 while unknown
        self._bytes_max = bytes_max
        self.beats = 0

    def feed(self, data: bytes | memoryview) -> list[bytes]:
        """The packets that are now whole. MalformedPacket for a length that is endless or too large."""
        if not self._size:
            self.beats = 0
        packets: list[bytes] = []
        if self._wanted:
            missing = self._wanted - self._size
            self._parts.append(data[:missing])
            self._size += min(len(data), missing)
            if self._size < self._wanted:
                return packets
            packets.append(b"".join(self._parts))  # copied once, however many pieces it came in
            data = data[missing:]
        elif self._parts:
            data = b"".join((*self._parts, data))
        at = self._wanted = 0
        while (head := _read_length(data, at)) is not None:
            at, length = head
            if length > self._bytes_max:
                raise MalformedPacket(f"a packet of {length} bytes, at most {self._bytes_max}")
            if len(data) < at + length:
                self._wanted = length
                break
            packets.append(bytes(data[at : at + length]))
            at += length
        if packets:
            self.beats = 0
        self._parts, self._size = [data[at:]] if at < len(data) else [], len(data) - at
        return packets

    def __len__(self) -> int:
        return self._size


def _read_length(buffer: bytes | memoryview, at: int) -> tuple[int, int] | None:
    """Where a packet begins and how long it is; None while that is incomplete."""
    value = shift = 0
    for i in range(at, min(at + 4, len(buffer))):
        byte = buffer[i]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return i + 1, value
        shift += 7
    if len(buffer) - at >= 4:
        raise MalformedPacket("a packet length of more than four bytes")
    return None


def get_hint(field: bytes) -> bytes:
    """By what a message that has come is looked up: itself, or the ends of a large one, which is cheaper to hash."""
    return field if len(field) <= HINT_BYTES_MIN else field[: HINT_BYTES_MIN // 2] + field[-HINT_BYTES_MIN // 2 :]


def read_slice(packet: bytes, at: int, fields: int, size: int, known: Mapping[bytes, Known]) -> Slice[Known]:
    """Read an RPC from `at`, no more than `fields` of its fields or about `size` bytes. MalformedPacket.

    Most messages are copies of one that has just come: they are recognised by their bytes, before they are read.
    """
    subscriptions: list[tuple[bool, bytes]] = []
    messages: list[tuple[Message, bytes]] = []
    copies: list[Known] = []
    controls: list[Control] = []
    end = len(packet)
    stop_at = at + size
    looks_left = LOOKS_MAX
    try:
        while at < end:
            if not fields or at >= stop_at:
                return Slice(subscriptions, messages, copies, controls, at)
            fields -= 1
            tag, begins_at = packet[at], at
            if tag == 0x12 or tag == 0x0A or tag == 0x1A:
                length = packet[at + 1]
                at += 2
                if length >= 0x80:
                    length, at = read_varint(packet, at - 1)
                stop = at + length
                if stop > end:
                    raise MalformedPacket("a field that ends after its packet")
                if tag == 0x12:
                    field = packet[begins_at:stop]
                    copy = known.get(field if len(field) <= HINT_BYTES_MIN else get_hint(field))
                    if copy is None or copy.field != field:
                        messages.append((_read_message(field, at - begins_at), field))
                    else:
                        copies.append(copy)
                elif tag == 0x0A:
                    subscriptions.append(_read_subscription(packet, at, stop))
                else:
                    control = _read_control(packet, at, stop)
                    controls.append(control)
                    looks_left -= control.looks
                    if looks_left <= 0:
                        stop_at = at
                at = stop
            else:
                _, _, _, at = read_field(packet, at, end)
    except IndexError:
        raise MalformedPacket("a packet that is cut off") from None
    return Slice(subscriptions, messages, copies, controls, None)


def _read_message(packet: bytes, at: int) -> Message:
    """The message from `at` on. IndexError when it is cut off."""
    stop = len(packet)
    data: bytes | None = None
    topic: bytes | None = None
    others: list[bytes | None] | None = None
    count = topics = 0
    while at < stop:
        count += 1
        if count > MESSAGE_FIELDS_MAX:
            raise MalformedPacket(f"a message of more than {MESSAGE_FIELDS_MAX} fields")
        tag = packet[at]
        if tag & 7 != BYTES or not 0x0A <= tag <= 0x32:
            _, _, _, at = read_field(packet, at, stop)
            continue
        length = packet[at + 1]
        at += 2
        if length >= 0x80:
            length, at = read_varint(packet, at - 1)
        end = at + length
        if end > stop:
            raise MalformedPacket("a field that ends after its message")
        if tag == 0x12:
            data = packet[at:end]
        elif tag == 0x22:
            topic = packet[at:end]
            topics += 1
        else:
            others = others or [None] * 7
            others[tag >> 3] = packet[at:end]
        at = end
    if topics != 1:
        topic = None
    if others is None:
        return Message(topic, data)
    return Message(topic, data, others[1], others[3], others[5], others[6])


def _read_subscription(packet: bytes, at: int, stop: int) -> tuple[bool, bytes]:
    joins, topic = False, b""
    for number, value, data in Looks(MESSAGE_FIELDS_MAX).fields(packet, at, stop, MESSAGE_FIELDS_MAX):
        if number == 1:
            joins = bool(value)
        elif number == 2:
            topic = data
    return joins, topic


def _read_control(packet: bytes, at: int, stop: int) -> Control:
    control = Control()
    looks = Looks(LOOKS_MAX)
    for number, _, body in looks.fields(packet, at, stop, CONTROL_FIELDS_MAX):
        if number in (1, 2, 5):
            topic, ids, excess = _read_ids(body, 2 if number == 1 else 1, looks)
            control.excess += excess
            if number == 1:
                control.ihave.append((topic, ids))
            else:
                (control.iwant if number == 2 else control.idontwant).append(ids)
        elif number == 3:
            control.graft.append(_read_topic(body, looks))
        elif number == 4:
            control.prune.append(_read_prune(body, looks))
        elif number in (CHOKE, UNCHOKE):
            control.choke.append((_read_topic(body, looks), number == CHOKE))
    control.looks = LOOKS_MAX - looks.left
    return control


def _read_ids(body: bytes, id_field: int, looks: Looks) -> tuple[bytes, list[bytes], int]:
    """A topic, ids, and how many times as much as was looked at comes after IDS_MAX of them."""
    topic = b""
    ids: list[bytes] = []
    at, end = 0, len(body)
    tag = id_field << 3 | BYTES
    strays = 0
    limit = max(min(looks.left, IDS_MAX), 0)
    while at < end and len(ids) < limit and strays <= STRAYS_MAX:
        if body[at] == tag and (length := body[at + 1]) < 0x80:
            at += 2 + length
            if at > end:
                raise MalformedPacket("an id that ends after what it is in")
            ids.append(body[at - length : at])
            continue
        strays += 1
        number, _, data, at = read_field(body, at, end)
        if number == id_field:
            if len(data) <= ID_BYTES_MAX:
                ids.append(data)
                strays -= 1
        elif number == 1:
            topic = data
    looks.left -= len(ids) + strays
    is_over = len(ids) == IDS_MAX or strays > STRAYS_MAX
    return topic, ids, -(-(end - at) // at) if is_over and at < end else 0


def _read_topic(body: bytes, looks: Looks) -> bytes:
    topic = b""
    for number, _, data in looks.fields(body, 0, len(body), MESSAGE_FIELDS_MAX):
        if number == 1:
            topic = data
    return topic


def _read_prune(body: bytes, looks: Looks) -> Prune:
    topic, backoff_s = b"", 0
    peers: list[tuple[bytes, bytes]] = []
    for number, value, data in looks.fields(body, 0, len(body), 4 * PX_PEERS_MAX):
        if number == 1:
            topic = data
        elif number == 2 and len(peers) < PX_PEERS_MAX:
            peers.append(_read_peer_info(data, looks))
        elif number == 3:
            backoff_s = value
    return Prune(topic, backoff_s, tuple(peers))


def _read_peer_info(body: bytes, looks: Looks) -> tuple[bytes, bytes]:
    peer_id, record = b"", b""
    for number, _, data in looks.fields(body, 0, len(body), MESSAGE_FIELDS_MAX):
        if number == 1:
            peer_id = data[: ID_BYTES_MAX + 1]
        elif number == 2 and len(data) <= PX_RECORD_BYTES_MAX:
            record = data
    return peer_id, record


# Writing


def write_message(message: Message) -> bytes:
    """The `publish` field of an RPC with one message in it. Absent fields stay absent."""
    return write_bytes(2, write_signed_part(message) + _write_optional(((5, message.signature), (6, message.key))))


def write_signed_part(message: Message) -> bytes:
    """The message without signature and key: what StrictSign signs. Source: pubsub specification, Message Signing."""
    return _write_optional(((1, message.from_id), (2, message.data), (3, message.seqno), (4, message.topic)))


def _write_optional(fields: Iterable[tuple[int, bytes | None]]) -> bytes:
    return b"".join(write_bytes(number, data) for number, data in fields if data is not None)


def write_plain(data: bytes, topic_field: bytes) -> bytes:
    """As `write_message` for an unsigned message whose topic field is already written: the common case, quickly."""
    size = len(data)
    inner = size + len(topic_field) + 3
    if size >= 0x80 and inner < 0x4000:  # two lengths of two bytes each: the common case
        low, high = inner & 0x7F | 0x80, inner >> 7
        return bytes((0x12, low, high, 0x12, size & 0x7F | 0x80, size >> 7)) + data + topic_field
    head = write_varint(size)
    return b"".join((b"\x12", write_varint(1 + len(head) + size + len(topic_field)), b"\x12", head, data, topic_field))


def count_plain(data: bytes, topic_field: bytes) -> int:
    """How many bytes `write_plain` writes."""
    size = len(data)
    if size >= 0x80 and size + len(topic_field) < 0x4000 - 3:
        return size + len(topic_field) + 6  # two tags, two lengths of two bytes each: the common case
    inner = 1 + _count_varint(size) + size + len(topic_field)
    return 1 + _count_varint(inner) + inner


def _count_varint(value: int) -> int:
    return 1 if value < 0x80 else 2 if value < 0x4000 else (value.bit_length() + 6) // 7


def write_subscription(joins: bool, topic: bytes) -> bytes:
    """The `subscriptions` field of an RPC."""
    return write_bytes(1, bytes((0x08, joins)) + write_bytes(2, topic))


# Control messages are written as bodies, which concatenate; `wrap_control` makes one field of them.


def write_ihave(topic: bytes, ids: Iterable[bytes]) -> bytes:
    return write_bytes(1, write_bytes(1, topic) + b"".join([write_bytes(2, key) for key in ids]))


def write_iwant(ids: Iterable[bytes]) -> bytes:
    return write_bytes(2, b"".join([write_bytes(1, key) for key in ids]))


def write_graft(topic: bytes) -> bytes:
    return write_bytes(3, write_bytes(1, topic))


def write_prune(prune: Prune) -> bytes:
    body = write_bytes(1, prune.topic)
    for peer_id, record in prune.peers:
        body += write_bytes(2, write_bytes(1, peer_id) + (write_bytes(2, record) if record else b""))
    return write_bytes(4, body + (b"\x18" + write_varint(prune.backoff_s) if prune.backoff_s else b""))


def write_idontwant(ids: Iterable[bytes]) -> bytes:
    return write_bytes(5, b"".join([write_bytes(1, key) for key in ids]))


def write_choke(topic: bytes) -> bytes:
    return write_bytes(CHOKE, write_bytes(1, topic))


def write_unchoke(topic: bytes) -> bytes:
    return write_bytes(UNCHOKE, write_bytes(1, topic))


def wrap_control(body: bytes) -> bytes:
    """The `control` field of an RPC. One per packet: some implementations keep only the last."""
    return write_bytes(3, body)
