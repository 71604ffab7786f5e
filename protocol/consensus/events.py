"""What happens to the consensus core and what it wants done. Effects are carried out in order.

`Persist` comes before whatever rests on it leaves: the shell syncs it to disk before it carries out the next effect.
"""

from protocol.consensus.messages import Message, Proposal, Vote
from protocol.fast_dataclass import fast_dataclass
from protocol.ledger.block import Ballot, Certificate, Validator


@fast_dataclass(frozen=True)
class Began:
    """The ledger stands at `height` - 1: these validators decide the next height, their leaders drawn by `seed`.

    `decided` is the certificate of the height before, for whoever asks; `log` what was persisted for this height.
    `may_vote` is False after a vote log was lost, until the next height.
    """

    height: int
    validators: tuple[Validator, ...]
    seed: bytes
    decided: Certificate | None = None
    log: tuple[Vote | Proposal | Certificate, ...] = ()
    may_vote: bool = True


@fast_dataclass(frozen=True)
class Woken:
    """There is a reason for a block: a valid transaction, or a due item that wakes."""


@fast_dataclass(frozen=True)
class Heard:
    """A message of a peer, decoded and bounded; nothing else of it has been checked."""

    message: Message


@fast_dataclass(frozen=True)
class Built:
    """Answers `Build`: our block for a view. Ignored when the view has passed."""

    height: int
    view: int
    block_id: bytes


@fast_dataclass(frozen=True)
class Checked:
    """Answers `Check`: the block is held and may follow the chain. `wakes` if it holds a reason for a block."""

    block_id: bytes
    wakes: bool = True


@fast_dataclass(frozen=True)
class TimedOut:
    height: int
    view: int


Event = Began | Woken | Heard | Built | Checked | TimedOut


@fast_dataclass(frozen=True)
class Broadcast:
    """Send to all other validators but those it is no news for, by vote key."""

    message: Message
    known_to: frozenset[bytes] = frozenset()


@fast_dataclass(frozen=True)
class Answer:
    """Send to whoever has just been heard: it is behind."""

    message: Certificate


@fast_dataclass(frozen=True)
class Persist:
    """Keep, durably, before anything after this leaves."""

    record: Vote | Proposal | Certificate


@fast_dataclass(frozen=True)
class SetTimer:
    height: int
    view: int
    delay_ms: int


@fast_dataclass(frozen=True)
class Build:
    """Build a block on the chain as it stands, an empty one if there is nothing to put into it."""

    height: int
    view: int


@fast_dataclass(frozen=True)
class Check:
    """Fetch a block's body if it is missing, and check that it may be voted for. Silence is a no.

    A `is_repeated` block was notarised before: its header time is not checked again.
    """

    height: int
    block_id: bytes
    is_repeated: bool


@fast_dataclass(frozen=True)
class ShareCause:
    """Send what this node was woken by to the leader, who may sleep; to all validators when it is none."""

    leader: bytes | None = None


@fast_dataclass(frozen=True)
class Decide:
    """This height is decided: apply the block, keep it with its certificate in one commit, then say `Began`."""

    certificate: Certificate


@fast_dataclass(frozen=True)
class CatchUp:
    """Others are at a later height: fetch decided blocks."""

    height: int


@fast_dataclass(frozen=True)
class Accuse:
    """Two things that the same validator signed and no honest one signs both, or one that it never signs."""

    kind: str
    first: Vote | Proposal
    second: Vote | Proposal


@fast_dataclass(frozen=True)
class SignedElsewhere:
    """Our vote key has signed what we have not: another process has it. We vote no more."""

    ballot: Ballot


Effect = (
    Broadcast | Answer | Persist | SetTimer | Build | Check | ShareCause | Decide | CatchUp | Accuse | SignedElsewhere
)

__all__ = [
    "Accuse",
    "Answer",
    "Ballot",
    "Began",
    "Broadcast",
    "Build",
    "Built",
    "CatchUp",
    "Check",
    "Checked",
    "Decide",
    "Effect",
    "Event",
    "Heard",
    "Persist",
    "SetTimer",
    "ShareCause",
    "SignedElsewhere",
    "TimedOut",
    "Woken",
]
