"""Validators agreeing in virtual time, by the thousand seeds: the consensus core alone, without ledger or network.

Signatures are names here: what is tested is the protocol. What happens is drawn per seed: loss, duplicates, reordering,
partitions, crashes right after something was put on disk; some validators cheat (`consensus_liars`). After `calm_ms`
the network heals, and everybody honest must decide.
"""

import heapq
import random
from dataclasses import dataclass, field
from hashlib import sha256

from protocol.consensus.core import Core
from protocol.consensus.events import (
    Accuse,
    Answer,
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
    SignedElsewhere,
    TimedOut,
    Woken,
)
from protocol.consensus.messages import Justification, Message, Proposal, Vote, verify_certified
from protocol.consensus.tally import Tally
from protocol.ledger.block import Ballot, Certificate, InvalidVote, Validator, VoteKind
from testnet.consensus_liars import Liar


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
    liar: Liar | None = None
    log: list[Vote | Proposal] = field(default_factory=list)
    decided: list[Certificate] = field(default_factory=list)
    is_up: bool = True
    epoch: int = 0  # counts crashes: timers of an earlier life are void


@dataclass(frozen=True)
class Weather:
    """What goes wrong until `calm_ms`. Chances are per message and way; `crash` per record, right after it was kept.

    `liars` are the kinds of those who cheat, one each; they never stop.
    """

    loss: float = 0.05
    duplicate: float = 0.05
    crash: float = 0.0
    partitions: bool = True
    calm_ms: int = 30_000
    liars: tuple[str, ...] = ()


@dataclass(frozen=True)
class FetchAgain:
    """A body that nobody reachable had: look once more."""

    block_id: bytes


class Agreement:
    """`count` validators under a seed. `heights` is how many blocks are wished for."""

    def __init__(self, seed: int, count: int = 4, heights: int = 5, weather: Weather | None = None) -> None:
        self.rng = random.Random(seed)
        self.weather = weather or Weather()
        self.heights = heights
        self.now_ms = 0
        self.events = 0
        self.crashes = 0
        self.has_lying_proposer = False
        self.has_late_view_change = False
        self.accusations: list[Accuse] = []
        self.seats: list[Seat] = []
        self.validators = tuple(Validator(bytes([n + 1]) * 32, bytes([n + 1]) * 32, 1) for n in range(count))
        self._weights = {validator.vote: validator.weight for validator in self.validators}
        self._audits: dict[int, Tally] = {}
        self._holders: dict[bytes, set[int]] = {}  # of a block's body
        self._hidden: dict[bytes, set[int]] = {}  # from whom its builder keeps it
        self._heap: list[tuple[int, int, int, int, int, Event | FetchAgain | None]] = []
        self._order = 0
        self._cuts: list[tuple[int, int, frozenset[int]]] = []
        if self.weather.partitions:
            self._draw_partitions()
        kinds = dict(zip(self.rng.sample(range(count), len(self.weather.liars)), self.weather.liars, strict=True))
        for index, validator in enumerate(self.validators):
            key = validator.vote
            liar = Liar(key, kinds[index], random.Random(f"liar/{seed}/{index}")) if index in kinds else None
            self.seats.append(Seat(key, Core(key, NamedSignatures(key)), liar))
        for index, seat in enumerate(self.seats):
            self._do(index, self._begin(seat))
        for tick in range(240):  # somebody always wants a block
            self._push(tick * 500, self.rng.randrange(count), Woken())

    def run(self, until_ms: int = 120_000) -> None:
        while self._heap and self.now_ms <= until_ms and not self.is_done:
            self.now_ms, _, index, epoch, source, event = heapq.heappop(self._heap)
            seat = self.seats[index]
            if event is None and epoch == seat.epoch:
                seat.is_up = True
                self._do(index, self._begin(seat))
            elif isinstance(event, FetchAgain):
                if seat.is_up and epoch == seat.epoch:
                    self._fetch(index, event.block_id)
            elif event is not None and seat.is_up and epoch in (seat.epoch, -1):
                self.events += 1
                self._do(index, event, source)

    @property
    def honest(self) -> list[Seat]:
        return [seat for seat in self.seats if seat.liar is None]

    @property
    def has_partition(self) -> bool:
        """Whether the ways were cut at some time of this run."""
        return any(at <= self.now_ms and 0 < len(side) < len(self.seats) for at, _, side in self._cuts)

    @property
    def is_done(self) -> bool:
        return all(len(seat.decided) >= self.heights for seat in self.honest)

    def find_forks(self) -> list[int]:
        """Heights at which two honest validators have decided differently."""
        chains = [[item.ballot.block_id for item in seat.decided] for seat in self.honest]
        longest = max(map(len, chains))
        return [h for h in range(longest) if len({chain[h] for chain in chains if len(chain) > h}) > 1]

    def find_guilty(self) -> set[bytes]:
        """Whom the honest can convict of something once they put together what each of them has heard."""
        return {_get_author(accusation.first) for accusation in self.accusations}

    def _begin(self, seat: Seat) -> Began:
        height = len(seat.decided) + 1
        last = seat.decided[-1] if seat.decided else None
        log = tuple(record for record in seat.log if record.ballot.height == height)
        return Began(height, self.validators, b"seed", last, log)

    def _do(self, index: int, event: Event, source: int = -1) -> None:
        seat = self.seats[index]
        if isinstance(event, Woken) and seat.liar is not None and not seat.liar.hears_causes:
            return
        if isinstance(event, Heard) and seat.liar is None:
            self._audit(event.message)
        for effect in seat.core.handle(event, self.now_ms):
            match effect:
                case Broadcast(message):
                    self._send(index, message)
                case Answer(message):
                    self._tell(index, source, message)
                case Persist(record):
                    seat.log.append(record)
                    if self.now_ms < self.weather.calm_ms and self.rng.random() < self.weather.crash:
                        self._crash(index)
                        return
                case SetTimer():
                    self._push(self.now_ms + effect.delay_ms, index, TimedOut(effect.height, effect.view), seat.epoch)
                case Build():
                    block = sha256(b"%d/%d/%d" % (index, effect.height, effect.view)).digest()
                    self._hold(index, block)
                    self._push(self.now_ms + 1, index, Built(effect.height, effect.view, block), seat.epoch)
                case Check():
                    self._fetch(index, effect.block_id)
                case ShareCause():
                    for other in range(len(self.seats)):
                        self._carry(index, other, Woken())
                case Decide(certificate):
                    self._decide(index, certificate)
                case CatchUp():
                    self._catch_up(index)
                case Accuse():
                    if seat.liar is None:
                        self.accusations.append(effect)
                case SignedElsewhere() if seat.liar is None:
                    raise AssertionError(f"validator {index} was shown a vote that it has not cast")

    def _decide(self, index: int, certificate: Certificate) -> None:
        seat = self.seats[index]
        if certificate.ballot.height == len(seat.decided) + 1:
            seat.decided.append(certificate)
            healed = any(end <= self.now_ms for _, end, _ in self._cuts)
            self.has_late_view_change |= seat.liar is None and certificate.ballot.view > 1 and healed
        self._push(self.now_ms, index, None, seat.epoch)

    # Bodies of blocks

    def _hold(self, index: int, block_id: bytes) -> None:
        self._holders.setdefault(block_id, set()).add(index)
        liar = self.seats[index].liar
        if liar is not None and liar.withholds:
            hidden = {other for other in range(len(self.seats)) if liar.rng.random() < 0.5}
            self._hidden.setdefault(block_id, hidden - {index})

    def _fetch(self, index: int, block_id: bytes) -> None:
        """The body from anyone reachable who has it; a liar gives it to whom it likes."""
        seat = self.seats[index]
        hidden = self._hidden.get(block_id, set())
        for holder in self._holders.get(block_id, set()):
            is_kept = self.seats[holder].liar is not None and index in hidden
            if self.seats[holder].is_up and not self._is_cut(index, holder) and not is_kept:
                self._holders[block_id].add(index)
                self._push(self.now_ms + 1, index, Checked(block_id), seat.epoch)
                return
        self._push(self.now_ms + 200, index, FetchAgain(block_id), seat.epoch)

    def _catch_up(self, index: int) -> None:
        """Ask somebody reachable for decided blocks, and believe certificates only."""
        seat = self.seats[index]
        others = [o for o, other in enumerate(self.seats) if o != index and other.is_up and not self._is_cut(index, o)]
        if not others:
            return
        other = self.seats[self.rng.choice(others)]
        offered = other.decided[len(seat.decided) :]
        if other.liar is not None and other.liar.kind == "lying in sync":
            offered = [other.liar.forge(len(seat.decided) + 1, list(self._weights))]
        for item in offered:
            if item.ballot.height != len(seat.decided) + 1 or item.ballot.kind != VoteKind.FINALISE:
                break
            try:
                verify_certified(item, self._weights, NamedSignatures(seat.key))
            except InvalidVote:
                break
            seat.decided.append(item)
            self._push(self.now_ms + 5, index, None, seat.epoch)

    def _audit(self, message: Message) -> None:
        """Hold what honest validators hear against everything else they have heard, whoever it was."""
        tally = self._audits.setdefault(message.ballot.height, Tally(self._weights))
        votes = [message] if isinstance(message, Vote) else []
        if isinstance(message, Certificate):
            votes = [Vote(message.ballot, vote.vote, vote.signature) for vote in message.votes]
        for vote in votes:
            is_signed = vote.voter in self._weights and vote.signature == vote.voter * 2
            if is_signed and not tally.has(vote):
                self.accusations += tally.add(vote)

    # Ways and crashes

    def _crash(self, index: int) -> None:
        seat = self.seats[index]
        self.crashes += seat.liar is None
        seat.is_up = False
        seat.epoch += 1
        seat.core = Core(seat.key, NamedSignatures(seat.key))
        self._push(self.now_ms + self.rng.randrange(50, 3_000), index, None, seat.epoch)

    def _send(self, source: int, message: Message) -> None:
        for target in range(len(self.seats)):
            if target != source:
                self._tell(source, target, message)

    def _tell(self, source: int, target: int, message: Message) -> None:
        liar = self.seats[source].liar
        if liar is None:
            self._carry(source, target, Heard(message))
            return
        for said in liar.say(message, target):
            if isinstance(said, Proposal):
                self.has_lying_proposer = True
                self._holders.setdefault(said.ballot.block_id, set()).add(source)
            self._carry(source, target, Heard(said))

    def _carry(self, source: int, target: int, event: Event) -> None:
        if source == target or self._is_cut(source, target):
            return
        is_calm = self.now_ms >= self.weather.calm_ms
        if not is_calm and self.rng.random() < self.weather.loss:
            return
        copies = 2 if not is_calm and self.rng.random() < self.weather.duplicate else 1
        for _ in range(copies):
            delay = 5 + int(self.rng.expovariate(1 / 20))
            self._push(self.now_ms + delay, target, event, source=source)

    def _push(
        self, at_ms: int, index: int, event: Event | FetchAgain | None, epoch: int = -1, source: int = -1
    ) -> None:
        self._order += 1
        heapq.heappush(self._heap, (at_ms, self._order, index, epoch, source, event))

    def _draw_partitions(self) -> None:
        at = self.rng.randrange(500, 3_000)
        while at < self.weather.calm_ms:
            end = min(at + self.rng.randrange(1_000, 8_000), self.weather.calm_ms)
            side = frozenset(n for n in range(len(self.validators)) if self.rng.random() < 0.5)
            self._cuts.append((at, end, side))
            at = end + self.rng.randrange(500, 5_000)

    def _is_cut(self, one: int, other: int) -> bool:
        return any(at <= self.now_ms < end and (one in side) != (other in side) for at, end, side in self._cuts)


def _get_author(signed: Vote | Proposal) -> bytes:
    return signed.voter if isinstance(signed, Vote) else signed.leader
