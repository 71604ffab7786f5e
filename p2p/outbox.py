"""What waits to be sent to one peer's gossip stream: bounded, most urgent first, and what is shed is counted."""

from collections import deque
from collections.abc import Callable

from p2p.gossipsub import TopicCounts
from p2p.gossipsub.wire import wrap_control
from p2p.protobuf import write_varint

MESSAGES_MAX = 4_096
BYTES_MAX = 4 * 1024 * 1024
CONTROL_BYTES_MAX = 512 * 1024
GOSSIP_BYTES_MAX = 128 * 1024  # control waiting beyond which no IHAVE is added: a promise we could not keep
WRITE_BYTES_MAX = 64 * 1024  # of messages in one packet; one larger message goes alone
CONTROL_WRITE_BYTES_MAX = 32 * 1024
PRIORITIES = 4
PLENTY_BYTES = 48 * 1024
LARGE_BYTES = 8 * 1024  # a message that costs more to copy than to handle by itself

Waiting = tuple[bytes, TopicCounts]  # a message as fields of an RPC, and whose drop it would be


class Outbox:
    """Subscriptions first, then messages by priority and age, then control; one RPC holds some of each.

    `on_stir` is called when something begins to wait, and not again before its hearer has taken `is_stirred` back.
    """

    def __init__(self, on_stir: Callable[["Outbox"], None] = lambda outbox: None) -> None:
        self._subscriptions = bytearray()
        self._queues: tuple[deque[Waiting], ...] = tuple(deque() for _ in range(PRIORITIES))
        self._control: deque[bytes] = deque()
        self._control_size = 0
        self._count = 0
        self._size = 0
        self._begun: deque[bytes | memoryview] = deque()  # parts of an RPC that has not left whole
        self._on_stir = on_stir
        self.is_stirred = False
        self.idle_beats = 0  # heartbeats since the stream last took anything, while something waits

    def push_subscriptions(self, fields: bytes) -> bool:
        """Never shed: without them the peer sends us nothing. False when this peer does not read at all."""
        if len(self._subscriptions) + len(fields) > CONTROL_BYTES_MAX:
            return False
        self._subscriptions += fields
        self._stir()
        return True

    def push_control(self, body: bytes, is_gossip: bool) -> bool:
        limit = GOSSIP_BYTES_MAX if is_gossip else CONTROL_BYTES_MAX
        if self._control_size + len(body) > limit or (is_gossip and 2 * self._size > BYTES_MAX):
            return False
        self._control.append(body)
        self._control_size += len(body)
        self._stir()
        return True

    def push(self, message: Waiting, priority: int) -> bool:
        """Queue a message. When full, the newest of the least urgent make room; else it is shed itself."""
        size = len(message[0])
        while self._count >= MESSAGES_MAX or self._size + size > BYTES_MAX:
            if not self._shed_below(priority):
                return False
        self._queues[priority].append(message)
        self._count += 1
        self._size += size
        if not self.is_stirred:
            self._stir()
        return True

    def _shed_below(self, priority: int) -> bool:
        for queue in reversed(self._queues[priority + 1 :]):
            if queue:
                packet, counts = queue.pop()
                counts.dropped += 1
                self._count -= 1
                self._size -= len(packet)
                return True
        return False

    def _stir(self) -> None:
        if not self.is_stirred:
            self.is_stirred = True
            self._on_stir(self)

    def clear(self) -> None:
        """A new stream begins: control and subscriptions for the old one mean nothing on it."""
        self._begun.clear()
        self._subscriptions.clear()
        self._control.clear()
        self._control_size = 0

    @property
    def is_waiting(self) -> bool:
        """Whether there is something to send."""
        return bool(self._count or self._begun or self._control or self._subscriptions)

    @property
    def is_plenty(self) -> bool:
        """Whether there is so much to send that waiting for more saves nothing."""
        return self._size >= PLENTY_BYTES

    def produce(self, room: int) -> bytes | memoryview:
        """At most `room` bytes of RPCs, each behind its length; none only when no more is waiting."""
        self.idle_beats = 0
        if not self._begun:
            if not self.is_waiting:
                return b""
            self._begun.extend(self._take_parts())
        part = self._begun.popleft()
        if len(part) > room:
            whole = memoryview(part)
            self._begun.appendleft(whole[room:])
            return whole[:room]
        return part

    def take_now(self) -> bytes:
        """The next RPC, for someone who knows that there is one."""
        return b"".join(self._take_parts())

    def _take_parts(self) -> list[bytes]:
        """The next RPC. Joined, unless that would copy large messages."""
        parts: list[bytes] = []
        size = 0
        if self._subscriptions:
            parts.append(bytes(self._subscriptions))
            size += len(parts[0])
            self._subscriptions.clear()
        if self._count:
            size += self._take_messages(parts)
        if self._control:
            body = self._take_control()
            parts.append(body)
            size += len(body)
        if size > LARGE_BYTES * len(parts):
            return [write_varint(size), *parts]
        return [write_varint(size) + b"".join(parts)]

    def _take_messages(self, parts: list[bytes]) -> int:
        total = count = 0
        for queue in self._queues:
            while queue:
                packet = queue[0][0]
                if total and total + len(packet) > WRITE_BYTES_MAX:
                    break
                parts.append(packet)
                total += len(packet)
                count += 1
                queue.popleft()
            if queue:
                break
        self._count -= count
        self._size -= total
        return total

    def _take_control(self) -> bytes:
        bodies = [self._control.popleft()]
        size = len(bodies[0])
        while self._control and size + len(self._control[0]) <= CONTROL_WRITE_BYTES_MAX:
            size += len(self._control[0])
            bodies.append(self._control.popleft())
        self._control_size -= size
        return wrap_control(b"".join(bodies))

    def __len__(self) -> int:
        return self._count
