"""One simulated validator: the role nodes run, a disk that loses and tears what was not synced, a clock of its own."""

import random
from dataclasses import dataclass, field, replace
from hashlib import sha256

from protocol.consensus.messages import Justification, Signatures
from protocol.ledger.apply import apply_block
from protocol.ledger.block import Ballot, Block, compute_block_id
from protocol.ledger.state import State
from protocol.messages import CertifiedBlock
from roles.core_effects import NodeKeys
from roles.drafts import Drafts
from roles.role import Context, Started, VoteHistory
from roles.validator import Validator
from roles.votelog import LogStart, encode_batch, encode_start, read_votes
from testnet.consensus.liars import Liar

_UNJUSTIFIED = sha256(b"").digest()  # a proposal of the first view needs no justification


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
        if not why.notarised and not why.nullified:
            return _UNJUSTIFIED
        parts = [b"%d" % len(why.notarised)]
        for item in (*why.notarised, *why.nullified):
            ballot = item.ballot
            parts.append(b"/%d/%d/%d/%d/" % (ballot.height, ballot.view, ballot.kind, ballot.parent))
            parts += (ballot.block_id, ballot.justification, *(vote.vote + vote.signature for vote in item.votes))
        return sha256(b"".join(parts)).digest()


class Applied:
    """What blocks make of the ledger, found out once for all validators: by whoever checks one first."""

    def __init__(self) -> None:
        self._states: dict[tuple[bytes, tuple[bytes, ...]], State] = {}

    def apply(self, state: State, block: Block) -> State:
        """As `apply_block`, which checks everything that the key does not name."""
        key = compute_block_id(block.header), block.transactions
        known = self._states.get(key)
        if known is None:
            known = self._states[key] = apply_block(state, block)
        return known


class NamingValidator(Validator):
    """Signs ballots by name, and looks up what others have applied."""

    def share(self, applied: Applied) -> None:
        self._drafts = Drafts(applied.apply)

    def _sign_on(self, chain: bytes) -> Signatures:
        return NamedSignatures(self._vote.public)


@dataclass
class Disk:
    """What a crash leaves: blocks are committed at once and whole, votes are written and then synced."""

    state: State
    start: LogStart
    blocks: list[CertifiedBlock] = field(default_factory=list)
    log: bytes = b""
    unsynced: list[bytes] = field(default_factory=list)
    is_torn: bool = False

    def write(self, record: bytes) -> None:
        self.unsynced.append(record)

    def sync(self) -> None:
        if self.unsynced:
            self.log = (self.log or encode_start(self.start)) + encode_batch(self.unsynced)
            self.unsynced.clear()

    def commit(self, item: CertifiedBlock, state: State) -> None:
        """Votes of decided heights are of no more use: the log begins anew, unless it says that it follows a loss."""
        self.sync()
        self.blocks.append(item)
        self.state = state
        if not (self.start.is_after_loss and self.read().is_lost):
            self.start = replace(self.start, is_after_loss=0)
            self.log = b""

    def tear(self, rng: random.Random) -> None:
        """The power goes: all, some or nothing of what was not synced is there."""
        if self.unsynced:
            frame = encode_batch(self.unsynced)
            kept = rng.choice((0, len(frame), rng.randrange(len(frame))))
            self.is_torn = 0 < kept < len(frame)
            self.log = (self.log or encode_start(self.start)) + frame[:kept]
            self.unsynced.clear()

    def forget(self) -> None:
        """The vote log is gone, and a new one begun."""
        self.unsynced.clear()
        self.start = replace(self.start, is_after_loss=1)
        self.log = encode_start(self.start)

    def read(self) -> VoteHistory:
        """The vote log at the start of a process; the torn end is cut off."""
        if not self.log:
            return VoteHistory()
        held = read_votes(self.log)
        if held is None:
            raise AssertionError("a torn end was taken for damage")
        self.log, self.is_torn = self.log[: held.end], False
        return held.history


@dataclass
class Seat:
    """A validator through all its lives. `life` counts crashes: timers and questions of an earlier life are void."""

    name: str
    keys: NodeKeys
    disk: Disk
    signatures: Signatures
    has_real_keys: bool
    applied: Applied
    liar: Liar | None = None
    skew_ms: int = 0
    slow_ms: int = 0
    role: Validator | None = None
    life: int = 0
    is_doomed: bool = False  # dies within what it does next
    timers: dict[str, int] = field(default_factory=dict)
    height_heard: int = 0
    clock_ms: int = 0

    @property
    def height(self) -> int:
        return self.disk.state.height

    def read_clock(self, now_ms: int) -> int:
        """Its own time, which never goes back, not even when a wrong clock is put right."""
        self.clock_ms = max(self.clock_ms, now_ms + self.skew_ms)
        return self.clock_ms

    def start(self, rng: random.Random, config: dict[str, int]) -> Started:
        """A new process: what it is told first."""
        context = Context(config, self.keys.node, self.keys.account, rng, self.keys.vote)
        if self.has_real_keys:
            self.role = Validator(context)
        else:
            self.role = naming = NamingValidator(context)
            naming.share(self.applied)
        self.height_heard = self.height
        certificate = self.disk.blocks[-1].certificate if self.disk.blocks else None
        return Started(self.disk.state, {}, self.disk.read(), certificate)

    def stop(self) -> None:
        self.role = None
        self.is_doomed = False
        self.life += 1
        self.timers.clear()
