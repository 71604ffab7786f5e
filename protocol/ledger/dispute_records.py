"""What the ledger remembers of disputes, and of work that was proven wrong."""

from enum import IntEnum
from typing import Annotated

from protocol.fast_dataclass import fast_dataclass
from protocol.jobs import Claim
from protocol.ledger.limits import EVIDENCE_BYTES_MAX
from protocol.types import AtMost, Digest, Grains, PublicKey, TimeMs, Whole

SHOWN_BYTES_MAX = 128 * 1024  # what two transactions may hold: an opened request and the outputs for it


class DisputePhase(IntEnum):
    """What a dispute waits for."""

    TRACE = 0  # by the worker: what each operator gave
    NAME = 1  # by the challenger: which one is wrong
    EXHIBIT = 2  # by the worker: what that one took
    VERDICT = 3  # by validators
    STEPS = 4  # of a generation, first: by the worker, what each step gave
    STEP = 5  # then by the challenger: which one is wrong


@fast_dataclass(frozen=True)
class Vote:
    """What one validator found (`proofs.trace.Judgement`)."""

    account: PublicKey
    judgement: Whole


@fast_dataclass(frozen=True)
class Dispute:
    """A claim in dispute. Both parties by their accounts; what has not been said yet is empty, or 0.

    In a verdict about a whole run of a float model (`proofs.bounds`) the operator is 0 and the exhibit a `WholeRun`.
    """

    claim: Claim
    worker: PublicKey
    challenger: PublicKey
    output_digest: Digest  # the worker's, opened
    bond: Grains  # the challenger's
    phase: Whole
    deadline_ms: TimeMs  # of the phase, before any grace
    trace: Annotated[bytes, AtMost(EVIDENCE_BYTES_MAX)]  # packed
    operator: Whole
    exhibit: Annotated[bytes, AtMost(SHOWN_BYTES_MAX)]  # encoded
    blob: Annotated[tuple[Digest, ...], AtMost(1)]  # instead of the exhibit
    epoch: Whole  # whose validators judge
    votes: Annotated[tuple[Vote, ...], AtMost(32)]
    generated: Annotated[bytes, AtMost(EVIDENCE_BYTES_MAX)] = b""  # encoded; empty unless it is about a generation
    step: Whole = 0  # of the generation, once it is named


@fast_dataclass(frozen=True)
class ProvenWrong:
    """A claim that cannot be proven wrong again, nor be paid. Forgotten with its epoch."""

    epoch: Whole
    worker: PublicKey
    slashed: Grains
