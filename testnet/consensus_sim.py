"""Validators agreeing in virtual time, by the thousand seeds: the consensus core alone, without ledger or network.

Signatures are names here: what is tested is the protocol. All validators are honest, and what happens to them is drawn
per seed: loss, duplicates, reordering, partitions, and crashes right after something was put on disk. After `calm_ms`
the network heals and everybody must decide.
"""

import heapq
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256

from protocol.consensus.core import Core
from protocol.consensus.events import (
    Accuse,
    Began,
    Broadcast,
    Build,
    Built,
    CatchUp,
    Check,
    Checked,
    Decide,
    Event,
    Heard,
    Persist,
    SetTimer,
    ShareCause,
    TimedOut,
    Woken,
)
from protocol.consensus.messages import Ballot, Certified, Justification, Message, Proposal, Vote
from protocol.ledger.block import Validator


class NamedSignatures:
    """A signature is the signer's key twice: cheap, and nobody in a simulation writes another's."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def sign_vote(self, ballot: Ballot) -> bytes:
        return self._key * 2

    def sign_proposal(self, ballot: Ballot) -> bytes:
        return self._key * 2

    def is_vote(self, voter: bytes, ballot: Ballot, signature: bytes) -> bool:
        return signature == voter * 2

    def is_proposal(self, leader: bytes, ballot: Ballot, signature: bytes) -> bool:
        return signature == leader * 2

    def digest(self, why: Justification) -> bytes:
        return sha256(repr(why).encode()).digest()


@dataclass
class Seat:
    """One validator: its core, what its disk holds, what it has decided."""

    key: bytes
    core: Core
    log: list[Vote | Proposal] = field(default_factory=list)
    decided: list[Certified] = field(default_factory=list)
    is_up: bool = True
    epoch: int = 0  # counts crashes: timers of an earlier life are void


@dataclass(frozen=True)
class Weather:
    """What goes wrong until `calm_ms`. Chances are per message and way; `crash` per record, right after it was kept."""

    loss: float = 0.05
    duplicate: float = 0.05
    crash: float = 0.0
    partitions: bool = True
    calm_ms: int = 30_000


def draw_weather(seed: int) -> tuple[int, Weather]:
    """How many validators, and what goes wrong, for a seed: not everything in every run."""
    rng = random.Random(f"weather/{seed}")
    weather = Weather(
        loss=rng.choice((0.0, 0.05, 0.2, 0.3)),
        duplicate=rng.choice((0.0, 0.05, 0.2)),
        crash=rng.choice((0.0, 0.0, 0.02, 0.05, 0.15)),
        partitions=rng.random() < 0.6,
    )
    return rng.choice((4, 4, 7)), weather


@dataclass(frozen=True)
class Failed(Exception):
    """A run that broke a promise."""

    seed: int
    what: str
    weather: Weather


@dataclass
class Sweep:
    """What many runs had in them, and that none of them failed."""

    seeds: int = 0
    heights: int = 0
    events: int = 0
    with_partition: int = 0
    with_crash: int = 0
    with_view_change: int = 0


def sweep(seeds: Iterable[int], heights: int = 5) -> Sweep:
    """Run these seeds. Failed for the first that forks, stands still after the calm, or blames an honest validator."""
    found = Sweep()
    for seed in seeds:
        count, weather = draw_weather(seed)
        run = Agreement(seed, count, heights, weather)
        run.run()
        what = "a fork" if run.find_forks() else "" if run.is_done else "a stall"
        if what or run.accusations:
            raise Failed(seed, what or f"an honest validator is accused: {run.accusations[0].kind}", weather)
        found.seeds += 1
        found.heights += max(len(seat.decided) for seat in run.seats)
        found.events += run.events
        found.with_partition += run.has_partition
        found.with_crash += run.crashes > 0
        found.with_view_change += any(item.ballot.view > 1 for seat in run.seats for item in seat.decided)
    return found


class Agreement:
    """`count` validators under a seed. `heights` is how many blocks are wished for."""

    def __init__(self, seed: int, count: int = 4, heights: int = 5, weather: Weather | None = None) -> None:
        self.rng = random.Random(seed)
        self.weather = weather or Weather()
        self.heights = heights
        self.now_ms = 0
        self.events = 0
        self.crashes = 0
        self.accusations: list[Accuse] = []
        self.seats = []
        self.validators = tuple(Validator(bytes([n + 1]) * 32, bytes([n + 1]) * 32, 1) for n in range(count))
        self._heap: list[tuple[int, int, int, int, Event | None]] = []
        self._order = 0
        self._cuts: list[tuple[int, int, frozenset[int]]] = []
        if self.weather.partitions:
            self._draw_partitions()
        for index, validator in enumerate(self.validators):
            seat = Seat(validator.vote, Core(validator.vote, NamedSignatures(validator.vote)))
            self.seats.append(seat)
            self._do(index, self._begin(seat))
        for tick in range(240):  # somebody always wants a block
            self._push(tick * 500, self.rng.randrange(count), Woken())

    def run(self, until_ms: int = 120_000) -> None:
        while self._heap and self.now_ms <= until_ms and not self.is_done:
            self.now_ms, _, index, epoch, event = heapq.heappop(self._heap)
            seat = self.seats[index]
            if event is None and epoch == seat.epoch:
                seat.is_up = True
                self._do(index, self._begin(seat))
            elif event is not None and seat.is_up and epoch in (seat.epoch, -1):
                self.events += 1
                self._do(index, event)

    @property
    def has_partition(self) -> bool:
        """Whether the ways were cut at some time of this run."""
        return any(at <= self.now_ms and 0 < len(side) < len(self.seats) for at, _, side in self._cuts)

    @property
    def is_done(self) -> bool:
        return all(len(seat.decided) >= self.heights for seat in self.seats)

    def find_forks(self) -> list[int]:
        """Heights at which two validators have decided differently."""
        chains = [[item.ballot.block_id for item in seat.decided] for seat in self.seats]
        longest = max(map(len, chains))
        return [h for h in range(longest) if len({chain[h] for chain in chains if len(chain) > h}) > 1]

    def _begin(self, seat: Seat) -> Began:
        height = len(seat.decided) + 1
        last = seat.decided[-1] if seat.decided else None
        log = tuple(record for record in seat.log if record.ballot.height == height)
        return Began(height, self.validators, b"seed", last, log)

    def _do(self, index: int, event: Event) -> None:
        seat = self.seats[index]
        for effect in seat.core.handle(event, self.now_ms):
            match effect:
                case Broadcast(message):
                    self._send(index, message)
                case Persist(record):
                    seat.log.append(record)
                    if self.now_ms < self.weather.calm_ms and self.rng.random() < self.weather.crash:
                        self._crash(index)
                        return
                case SetTimer():
                    self._push(self.now_ms + effect.delay_ms, index, TimedOut(effect.height, effect.view), seat.epoch)
                case Build():
                    block = sha256(b"%d/%d/%d" % (index, effect.height, effect.view)).digest()
                    self._push(self.now_ms + 1, index, Built(effect.height, effect.view, block), seat.epoch)
                case Check():
                    self._push(self.now_ms + 1, index, Checked(effect.block_id), seat.epoch)
                case ShareCause():
                    for other in range(len(self.seats)):
                        self._carry(index, other, Woken())
                case Decide(certificate):
                    if certificate.ballot.height == len(seat.decided) + 1:
                        seat.decided.append(certificate)
                    self._push(self.now_ms, index, None, seat.epoch)
                case CatchUp():
                    self._catch_up(index)
                case Accuse():
                    self.accusations.append(effect)

    def _catch_up(self, index: int) -> None:
        """Fetch decided blocks from whoever has most and can be reached."""
        seat = self.seats[index]
        others = [o for o, other in enumerate(self.seats) if other.is_up and not self._is_cut(index, o)]
        best = max(others, key=lambda o: len(self.seats[o].decided))
        if len(self.seats[best].decided) > len(seat.decided):
            seat.decided.extend(self.seats[best].decided[len(seat.decided) :])
            self._push(self.now_ms + 5, index, None, seat.epoch)

    def _crash(self, index: int) -> None:
        seat = self.seats[index]
        self.crashes += 1
        seat.is_up = False
        seat.epoch += 1
        seat.core = Core(seat.key, NamedSignatures(seat.key))
        self._push(self.now_ms + self.rng.randrange(50, 3_000), index, None, seat.epoch)

    def _send(self, source: int, message: Message) -> None:
        for target in range(len(self.seats)):
            if target != source:
                self._carry(source, target, Heard(message))

    def _carry(self, source: int, target: int, event: Event) -> None:
        if source == target or self._is_cut(source, target):
            return
        is_calm = self.now_ms >= self.weather.calm_ms
        if not is_calm and self.rng.random() < self.weather.loss:
            return
        copies = 2 if not is_calm and self.rng.random() < self.weather.duplicate else 1
        for _ in range(copies):
            delay = 5 + int(self.rng.expovariate(1 / 20))
            self._push(self.now_ms + delay, target, event)

    def _push(self, at_ms: int, index: int, event: Event | None, epoch: int = -1) -> None:
        self._order += 1
        heapq.heappush(self._heap, (at_ms, self._order, index, epoch, event))

    def _draw_partitions(self) -> None:
        at = self.rng.randrange(500, 3_000)
        while at < self.weather.calm_ms:
            end = min(at + self.rng.randrange(1_000, 8_000), self.weather.calm_ms)
            side = frozenset(n for n in range(len(self.validators)) if self.rng.random() < 0.5)
            self._cuts.append((at, end, side))
            at = end + self.rng.randrange(500, 5_000)

    def _is_cut(self, one: int, other: int) -> bool:
        return any(at <= self.now_ms < end and (one in side) != (other in side) for at, end, side in self._cuts)
