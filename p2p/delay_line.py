"""A delay line: what one way, from one node to another, does to a stream of bytes while something is wrong with it.

Pure: times in seconds and dice are handed in. A TCP stream is never reordered nor thinned, so a lost segment is the
pause until it is sent again. What is pushed in comes out in order, each segment at
`release = max(last release, sent + delay + jitter)`, where `sent` follows from the bandwidth.
"""

import random
from collections import deque
from dataclasses import dataclass
from enum import IntEnum

QUEUE_BYTES_MAX = 1024 * 1024  # on one way, as much as a kernel keeps for a socket; then its writer has to wait
SEGMENT_BYTES = 1_448  # what one packet of TCP carries
BURST_BYTES = 64 * 1024  # handed out at once at most
RTO_S = 0.2  # Linux waits at least so long before it sends a segment again, and twice as long each further time
RTO_S_MAX = 3.2
SHARE_WHOLE = 10_000  # loss is in basis points
DELAY_MS_MAX = 60_000
RULES_MAX = 512  # of one host


class Silence(IntEnum):
    """Why nothing comes through. Of two the larger one holds."""

    NONE = 0
    STALL = 1  # what is sent waits, and comes through afterwards; dials wait too
    BLACKHOLE = 2  # what is sent is taken and lost, and nobody is told; dials wait too
    REFUSE = 3  # connections break at once, dials are refused


@dataclass(frozen=True)
class Conditions:
    """What is wrong with one way. `bytes_per_s` 0 is no limit; `loss_bp` is per segment of SEGMENT_BYTES."""

    delay_ms: int = 0
    jitter_ms: int = 0
    bytes_per_s: int = 0
    loss_bp: int = 0
    silence: Silence = Silence.NONE

    def __or__(self, other: "Conditions") -> "Conditions":
        """Both at once: delays add up, the narrower bandwidth and the worse loss and silence hold.

        >>> Conditions(delay_ms=5, bytes_per_s=9) | Conditions(delay_ms=2)
        Conditions(delay_ms=7, jitter_ms=0, bytes_per_s=9, loss_bp=0, silence=<Silence.NONE: 0>)
        """
        return Conditions(
            min(DELAY_MS_MAX, self.delay_ms + other.delay_ms),
            min(DELAY_MS_MAX, self.jitter_ms + other.jitter_ms),
            min(filter(None, (self.bytes_per_s, other.bytes_per_s)), default=0),
            max(self.loss_bp, other.loss_bp),
            max(self.silence, other.silence),
        )


CLEAR = Conditions()


@dataclass(frozen=True)
class Rule:
    """Conditions of our ways to the peers with these node keys or IP addresses; with `is_all_but`, to all others.

    Addresses count only until a peer has proved its key.
    """

    id: str
    conditions: Conditions
    nodes: frozenset[bytes] = frozenset()
    addresses: frozenset[str] = frozenset()
    is_all_but: bool = False

    def covers(self, address: str, node: bytes | None) -> bool:
        return (address in self.addresses if node is None else node in self.nodes) is not self.is_all_but


class DelayLine:
    """One way of one connection. Holds at most `bytes_max`."""

    def __init__(self, dice: random.Random, bytes_max: int = QUEUE_BYTES_MAX) -> None:
        self.conditions = CLEAR
        self.size = 0  # bytes held
        self.lost_bytes = 0  # taken by a blackhole: the stream cannot go on after it
        self._dice = dice
        self._bytes_max = bytes_max
        self._segments: deque[tuple[float, bytes]] = deque()  # release, data
        self._sent_s = self._release_s = float("-inf")
        self._end_s: float | None = None

    @property
    def room(self) -> int:
        """How many bytes `push` would take now."""
        return self._bytes_max if self.conditions.silence >= Silence.BLACKHOLE else self._bytes_max - self.size

    @property
    def is_idle(self) -> bool:
        """Nothing is held and nothing is wrong: the way does not need this line any more."""
        return self.conditions == CLEAR and not self.size and self._end_s is None

    def change(self, conditions: Conditions, now_s: float) -> None:
        """From now on the way is like this. Bytes under way keep their times, unless they were stalled or get lost."""
        was, self.conditions = self.conditions.silence, conditions
        if conditions.silence >= Silence.BLACKHOLE:
            self.lost_bytes += self.size
            self.size = 0
            self._segments.clear()
        elif was is not Silence.NONE and conditions.silence is Silence.NONE:
            self._send_again(now_s)

    def push(self, data: bytes | bytearray | memoryview, now_s: float) -> int:
        """Send data; how much of it was taken. A blackhole takes all."""
        taken = min(len(data), self.room)
        if self.conditions.silence >= Silence.BLACKHOLE:
            self.lost_bytes += taken
            return taken
        for at in range(0, taken, SEGMENT_BYTES):
            segment = bytes(data[at : min(at + SEGMENT_BYTES, taken)])
            self._segments.append((self._schedule(len(segment), now_s), segment))
        self.size += taken
        return taken

    def finish(self, now_s: float) -> None:
        """The writer hangs up: that news travels behind the last byte."""
        if self._end_s is None:
            self._end_s = self._schedule(0, now_s)

    def get_due_s(self) -> float:
        """When the next segment, or the end, comes out; infinite when nothing does as things are."""
        if self.conditions.silence is not Silence.NONE:
            return float("inf")
        if self._segments:
            return self._segments[0][0]
        return float("inf") if self._end_s is None else self._end_s

    def is_over(self, now_s: float) -> bool:
        """Whether the other side has had every byte and learns of the end now."""
        return self._end_s is not None and not self._segments and self.get_due_s() <= now_s

    def peek(self, now_s: float) -> bytes:
        """What is due, at most BURST_BYTES of it. It stays until `consume`."""
        if self.conditions.silence is not Silence.NONE:
            return b""
        due: list[bytes] = []
        size = 0
        for release_s, data in self._segments:
            if release_s > now_s or size + len(data) > BURST_BYTES:
                break
            due.append(data)
            size += len(data)
        return b"".join(due)

    def consume(self, size: int) -> None:
        """So many of the bytes that were due have come out."""
        self.size -= size
        while size:
            release_s, data = self._segments.popleft()
            if len(data) > size:
                self._segments.appendleft((release_s, data[size:]))
                return
            size -= len(data)

    def _schedule(self, size: int, now_s: float) -> float:
        """When a segment that is sent now comes out at the other end."""
        conditions = self.conditions
        self._sent_s = max(self._sent_s, now_s)
        if conditions.bytes_per_s:
            self._sent_s += size / conditions.bytes_per_s
        late_s = conditions.delay_ms / 1_000
        if conditions.jitter_ms:
            late_s += self._dice.random() * conditions.jitter_ms / 1_000
        self._release_s = max(self._release_s, self._sent_s + late_s + self._draw_resend_s())
        return self._release_s

    def _draw_resend_s(self) -> float:
        """How long a segment that is lost, perhaps again and again, is late for that."""
        late_s, pause_s = 0.0, RTO_S
        loss_bp = min(self.conditions.loss_bp, SHARE_WHOLE)
        while loss_bp and late_s < RTO_S_MAX and self._dice.randrange(SHARE_WHOLE) < loss_bp:
            late_s += pause_s
            pause_s *= 2
        return late_s

    def _send_again(self, now_s: float) -> None:
        """After a stall everything it held is sent anew: within the bandwidth, and late by the delay."""
        held, self._segments = self._segments, deque()
        self._sent_s = self._release_s = now_s
        self._segments.extend((self._schedule(len(data), now_s), data) for _, data in held)
        if self._end_s is not None:
            self._end_s = self._schedule(0, now_s)
