"""What the ledger remembers of paid work: channels, escrowed jobs, batches and how they are checked."""

from enum import IntEnum
from typing import Annotated

from protocol.fast_dataclass import fast_dataclass
from protocol.jobs import VERIFIERS_MAX, Claim, InferenceRequest, Mode, Receipt
from protocol.ledger.records import Tip
from protocol.tensor import TENSORS_MAX, Tensor
from protocol.types import BP, AtMost, Digest, Grains, Name, PublicKey, ShareBp, TimeMs, UpTo, Whole

RUNS_MAX = 64  # channels in one batch
SHARES_MAX = 1_000  # accounts paid by one settlement


@fast_dataclass(frozen=True)
class Channel:
    """Money set aside by a payer for one payee. `closing_ms` is 0 while it is open.

    `cumulative` is that of the last voucher that was settled. `mode` is the one `Mode` in which it settles.
    """

    payer: PublicKey
    payee: PublicKey
    deposit: Grains
    paid: Grains
    cumulative: Grains
    settled_seq: Whole
    closing_ms: TimeMs
    mode: Name = Mode.INDIVIDUAL


@fast_dataclass(frozen=True)
class Share:
    account: PublicKey
    amount: Grains


@fast_dataclass(frozen=True)
class Pending:
    """What one settlement has earned and its window still holds back."""

    shares: Annotated[tuple[Share, ...], AtMost(SHARES_MAX)]
    treasury: Grains
    burn: Grains


@fast_dataclass(frozen=True)
class Job:
    """Money locked for one request. Whatever ends the job takes this away."""

    payer: PublicKey
    payee: PublicKey
    amount: Grains
    request_id: Digest
    verifiers: Whole


@fast_dataclass(frozen=True)
class BatchRun:
    """What a batch has taken from one channel, and who gets it back if the batch is forfeit."""

    channel: Digest
    payer: PublicKey
    seq_first: Whole
    leaves: Whole
    amount: Grains
    returned: Grains = 0  # to the payer, of leaves whose dispute nobody decided


class BatchPhase(IntEnum):
    """What a batch waits for. Each phase but the first two ends early when there is nothing left to wait for."""

    SEED = 0
    OPENINGS = 1  # of drawn leaves, by the worker
    ATTESTATIONS = 2  # of what those leaves claim, by drawn verifiers
    DIGESTS = 3  # that open the claims, by the worker
    WINDOW = 4


@fast_dataclass(frozen=True)
class Batch:
    """A worker's leaves under one root, until they are paid out or forfeit.

    `builders` are those whose reveals count towards the sampling seed; `seed` is empty until it is there.
    """

    worker: PublicKey
    root: Digest
    total: Grains
    leaves: Whole
    runs: Annotated[tuple[BatchRun, ...], AtMost(RUNS_MAX)]
    height: Whole
    time_ms: TimeMs
    builders: Annotated[tuple[PublicKey, ...], AtMost(32)]
    seed: Tip
    opened: Annotated[tuple[Whole, ...], AtMost(64)]
    phase: Whole = BatchPhase.SEED
    sample_bp: ShareBp = BP  # of its leaves that are drawn


@fast_dataclass(frozen=True)
class Checker:
    """A verifier drawn for a leaf. `value` is its blind attestation, empty until it has spoken.

    `is_near` is 1 once it has shown outputs, other than the worker's, within the bound of a float model.
    """

    account: PublicKey
    node: PublicKey
    value: Tip
    is_near: Annotated[int, UpTo(1)] = 0


@fast_dataclass(frozen=True)
class Check:
    """A drawn leaf that earns, while verifiers look at it.

    `epoch` is the one whose candidates they are drawn from. `drawn` counts all that were, those replaced for their
    silence too. `output_digest` is empty until the worker opens it. `is_void` is 1 for a leaf nobody could check.
    `outputs` are the worker's, if some verifier of a calibrated float model has found others.
    """

    claim: Claim
    request: InferenceRequest
    epoch: Whole
    drawn: Whole
    rounds: Whole  # of replacements
    checkers: Annotated[tuple[Checker, ...], AtMost(VERIFIERS_MAX)]
    output_digest: Tip
    is_void: Annotated[int, UpTo(1)]
    outputs: Annotated[tuple[Tensor, ...], AtMost(TENSORS_MAX)] = ()


@fast_dataclass(frozen=True)
class Withheld:
    """A leaf whose payer asks for its output in public. `fee` is held until it is over.

    `answer` is the published output, encoded (`withheld.Published`); empty for a leaf that earns nothing.
    """

    batch: Digest
    index: Whole
    worker: PublicKey
    payer: PublicKey
    channel: Digest
    seq: Whole
    amount: Grains  # forfeit by silence
    fee: Grains
    deadline_ms: TimeMs  # before any grace
    is_over: Annotated[int, UpTo(1)] = 0
    is_forfeit: Annotated[int, UpTo(1)] = 0
    answer: Annotated[bytes, AtMost(64 * 1024)] = b""


@fast_dataclass(frozen=True)
class Demand:
    """A claim whose worker is to open it. `fee` is held until it is over; `receipt` is what opened it."""

    claim: Claim
    worker: PublicKey
    verifier: PublicKey
    fee: Grains
    deadline_ms: TimeMs  # before any grace
    receipt: Annotated[tuple[Receipt, ...], AtMost(1)] = ()
    is_forfeit: Annotated[int, UpTo(1)] = 0

    @property
    def is_open(self) -> bool:
        return not self.receipt and not self.is_forfeit
