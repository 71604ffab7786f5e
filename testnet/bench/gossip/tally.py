"""What the messages of a benchmark look like, and who counts them: each once, whoever delivers them how often."""

import struct
import time
from collections.abc import Callable
from dataclasses import dataclass

import trio

_HEADER = struct.Struct("!IIQ")  # round, number in it, when it was due: nanoseconds of the machine's monotonic clock
HEADER_BYTES = _HEADER.size
SEEN_STEP = 65_536
ENVELOPE_TAIL = 66  # what stands behind the body in an envelope: the signature


def ignore(count: int) -> None:
    """Nobody follows the count."""


def write_payload(number: int, seq: int, due_ns: int, filler: bytes) -> bytes:
    """One message of a round."""
    return _HEADER.pack(number, seq, due_ns) + filler


@dataclass(frozen=True)
class Round:
    """What is coming: payloads of `size` bytes before a `tail`, numbered from 0, each to `listeners` of our members."""

    number: int
    size: int
    listeners: int = 1
    tail: int = 0
    is_timed: bool = False


class Tally:
    """Counts the deliveries of one round at a time, by any of `members` nodes of this process."""

    def __init__(self, members: int) -> None:
        self._members = members
        self.begin(Round(0, HEADER_BYTES))

    def begin(self, round_: Round) -> None:
        self.round = round_
        self.count = 0
        self.last_s = time.perf_counter()  # when the count last changed
        self.latencies_ms: list[float] = []
        self.on_count: Callable[[int], None] = ignore
        self._from_end = round_.size + round_.tail
        self._seen = bytearray(SEEN_STEP)
        self._wanted = 0
        self._reached = trio.Event()

    def note(self, member: int, data: bytes) -> None:
        """A member was handed a message."""
        number, seq, due_ns = _HEADER.unpack_from(data, len(data) - self._from_end)
        if number != self.round.number:
            return
        place = seq * self._members + member
        while place >= len(self._seen):
            self._seen.extend(bytes(SEEN_STEP))
        if self._seen[place]:
            return
        self._seen[place] = 1
        if self.round.is_timed:
            self.latencies_ms.append((time.monotonic_ns() - due_ns) / 1e6)
        self.set_count(self.count + 1)

    def set_count(self, count: int) -> None:
        """This many have arrived, here or at the process that tells us."""
        self.count = count
        self.last_s = time.perf_counter()
        if count >= self._wanted:
            self._reached.set()
        self.on_count(count)

    async def wait_for(self, count: int, patience_s: float) -> bool:
        """Until so many have arrived. False when none came for `patience_s`."""
        while self.count < count:
            before = self.count
            self._wanted = count
            self._reached = trio.Event()
            with trio.move_on_after(patience_s):
                await self._reached.wait()
            if self.count == before:
                return False
        return True
