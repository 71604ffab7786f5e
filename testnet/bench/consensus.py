"""How many events one core of a machine takes through the consensus core, for `rolemesh bench ledger`.

Validators agree once, through some loss, and what happens to each is written down. Then fresh cores go through the same
events, and only that is measured. Signatures are names: what they cost is measured elsewhere.
"""

import heapq
import random
from dataclasses import dataclass
from hashlib import sha256

from protocol.consensus import events as ev
from protocol.consensus.core import Core
from protocol.ledger.block import Certificate, Validator
from testnet.consensus.seat import NamedSignatures

# As in the prototype that the figure to reach was set by. Source: facts on consensus, section 9.
VALIDATORS = 4
LOSS, DUPLICATES = 0.05, 0.05
DELAY_MS, DELAY_MS_MEAN = 10, 50  # at least, and on average on top of that
TIMER_MS = 1_000


@dataclass(frozen=True)
class Part:
    """What happened to one validator, and when."""

    key: bytes
    events: tuple[tuple[ev.Event, int], ...]


def play(parts: tuple[Part, ...]) -> None:
    """Take fresh cores through everything again."""
    for part in parts:
        handle = Core(part.key, NamedSignatures(part.key), TIMER_MS).handle
        for event, now_ms in part.events:
            handle(event, now_ms)


def record(heights: int, seed: int = 1) -> tuple[Part, ...]:
    """Have validators decide so many heights."""
    return _Play(heights, seed).run()


class _Play:
    def __init__(self, heights: int, seed: int) -> None:
        self._rng = random.Random(seed)
        self._heights = heights
        keys = [bytes([number + 1]) * 32 for number in range(VALIDATORS)]
        self._validators = tuple(Validator(key, key, 1) for key in keys)
        self._cores = [Core(key, NamedSignatures(key), TIMER_MS) for key in keys]
        self._decided: list[list[Certificate]] = [[] for _ in keys]
        self._told: list[list[tuple[ev.Event, int]]] = [[] for _ in keys]
        self._heap: list[tuple[int, int, int, ev.Event]] = []
        self._order = 0

    def run(self) -> tuple[Part, ...]:
        for index in range(VALIDATORS):
            self._push(0, index, ev.Began(1, self._validators, b"seed"))
            self._push(1, index, ev.Woken())
        while min(map(len, self._decided)) < self._heights:
            now_ms, _, index, event = heapq.heappop(self._heap)
            self._told[index].append((event, now_ms))
            for effect in self._cores[index].handle(event, now_ms):
                self._carry_out(index, effect, now_ms)
        told = zip(self._validators, self._told, strict=True)
        return tuple(Part(validator.vote, tuple(events)) for validator, events in told)

    def _carry_out(self, index: int, effect: ev.Effect, now_ms: int) -> None:
        match effect:
            case ev.Broadcast(message, known_to):
                for other, validator in enumerate(self._validators):
                    is_told = other != index and validator.vote not in known_to
                    for _ in range(self._count_copies() if is_told else 0):
                        delay_ms = DELAY_MS + round(self._rng.expovariate(1 / DELAY_MS_MEAN))
                        self._push(now_ms + delay_ms, other, ev.Heard(message))
            case ev.SetTimer(height, view, delay_ms):
                self._push(now_ms + delay_ms, index, ev.TimedOut(height, view))
            case ev.Build(height, view):
                block_id = sha256(b"%d/%d/%d" % (index, height, view)).digest()
                self._push(now_ms + 1, index, ev.Built(height, view, block_id))
            case ev.Check(_, block_id, _):
                self._push(now_ms + 1, index, ev.Checked(block_id))
            case ev.Decide(certificate):
                self._begin(index, certificate, now_ms)
            case ev.CatchUp():
                source = max(range(VALIDATORS), key=lambda other: len(self._decided[other]))
                self._begin(index, self._decided[source][len(self._decided[index])], now_ms)

    def _count_copies(self) -> int:
        if self._rng.random() < LOSS:
            return 0
        return 2 if self._rng.random() < DUPLICATES else 1

    def _begin(self, index: int, certificate: Certificate, now_ms: int) -> None:
        self._decided[index].append(certificate)
        height = len(self._decided[index]) + 1
        self._push(now_ms + 1, index, ev.Began(height, self._validators, b"seed", certificate))
        self._push(now_ms + 2, index, ev.Woken())

    def _push(self, at_ms: int, index: int, event: ev.Event) -> None:
        self._order += 1
        heapq.heappush(self._heap, (at_ms, self._order, index, event))
