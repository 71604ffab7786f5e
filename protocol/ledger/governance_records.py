"""What the ledger remembers of proposals and votes."""

from enum import IntEnum, StrEnum
from typing import Annotated

from protocol.fast_dataclass import fast_dataclass
from protocol.ledger.feed_records import FeedTerms
from protocol.types import AtMost, Digest, Exactly, Grains, Line, Name, PublicKey, TimeMs, UpTo, Whole

Pcr = Annotated[bytes, Exactly(48)]  # SHA-384


class Choice(IntEnum):
    YES = 1
    NO = 2
    ABSTAIN = 3  # counts for the quorum alone
    VETO = 4  # a no that can cost the proposer its deposit


class ProposalPhase(StrEnum):
    VOTING = "voting"
    PASSED = "passed"  # and not yet in force
    IN_FORCE = "in force"
    REJECTED = "rejected"
    NO_QUORUM = "no quorum"
    VETOED = "vetoed"
    FAILED = "failed"  # passed, but when its time came it could not be carried out


OPEN_PHASES = (ProposalPhase.VOTING, ProposalPhase.PASSED)


@fast_dataclass(frozen=True)
class ParameterChange:
    """One of `governance_params.RANGES` gets another value."""

    name: Name
    value: Whole


@fast_dataclass(frozen=True)
class TreasuryGrant:
    """So much of the treasury, in equal parts: the first at once, then one every `part_ms`."""

    to: PublicKey
    amount: Grains
    parts: Whole = 1
    part_ms: Whole = 0


@fast_dataclass(frozen=True)
class Enclave:
    """An enclave by its measurement: PCR 0 (image), 1 (kernel and boot), 2 (application)."""

    pcr0: Pcr
    pcr1: Pcr
    pcr2: Pcr


@fast_dataclass(frozen=True)
class EnclaveListing:
    """An enclave is put on the list of those that the network trusts to run a model faithfully, or taken off it."""

    enclave: Enclave
    is_trusted: Annotated[int, UpTo(1)]


@fast_dataclass(frozen=True)
class Motion:
    """What a proposal would do: exactly one of these. A feed that is voted in is nobody's and has no deposit."""

    parameter: Annotated[tuple[ParameterChange, ...], AtMost(1)] = ()
    grant: Annotated[tuple[TreasuryGrant, ...], AtMost(1)] = ()
    enclave: Annotated[tuple[EnclaveListing, ...], AtMost(1)] = ()
    feed: Annotated[tuple[FeedTerms, ...], AtMost(1)] = ()
    feed_end: Annotated[tuple[Name, ...], AtMost(1)] = ()


@fast_dataclass(frozen=True)
class Tally:
    """Stake by choice, in grains."""

    yes: Grains = 0
    no: Grains = 0
    abstain: Grains = 0
    veto: Grains = 0

    @property
    def total(self) -> int:
        return self.yes + self.no + self.abstain + self.veto


@fast_dataclass(frozen=True)
class Proposal:
    """`root` is the state root after block `height`, the last before it: what stake is proven against, `stake` in all.

    `due_ms` is the end of the vote, before any grace; of one that has passed, when it comes into force; then, when it
    ended. `reason` says why it failed.
    """

    proposer: PublicKey
    title: Line
    motion: Motion
    deposit: Grains  # held while it is voted on
    height: Whole
    root: Digest
    stake: Grains
    due_ms: TimeMs
    phase: Name = ProposalPhase.VOTING
    tally: Tally = Tally()
    reason: Line = ""

    @property
    def is_open(self) -> bool:
        return self.phase in OPEN_PHASES


@fast_dataclass(frozen=True)
class Ballot:
    """How the stake in one record of the snapshot votes; `choice` is 0 while only `overridden` counts.

    Of what a validator inherits, `overridden` is voted by its delegators themselves.
    """

    choice: Annotated[int, UpTo(4)]
    stake: Grains
    overridden: Grains = 0
