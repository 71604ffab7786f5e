"""What the ledger remembers: one frozen dataclass per table, each encoded by the codec."""

from enum import IntEnum
from functools import cached_property
from typing import Annotated

from protocol.audit import Contents
from protocol.cid import CID_SIZE
from protocol.fast_dataclass import fast_dataclass
from protocol.jobs import VERIFIERS_MAX, Claim, InferenceRequest, Mode, Receipt
from protocol.ledger.limits import CANDLES_PER_PAGE, EVIDENCE_BYTES_MAX, OBSERVERS_MAX, ROWS_MAX
from protocol.tensor import TENSORS_MAX, Tensor
from protocol.types import (
    BP,
    AtMost,
    Digest,
    Exactly,
    Grains,
    Line,
    Name,
    PublicKey,
    ShareBp,
    Signed,
    TimeMs,
    UpTo,
    Whole,
)

CANDIDATES_MAX = 1_000
RUNS_MAX = 64  # channels in one batch
SHARES_MAX = 1_000  # accounts paid by one settlement
REPLICAS_MAX = 32  # of a lease, those that are only on their way included
PASSED_MAX = 64  # nodes that are not drawn for a lease once more
SHOWN_BYTES_MAX = 128 * 1024  # what two transactions may hold: an opened request and the outputs for it

VoteKey = Annotated[bytes, AtMost(32)]  # empty for nodes that do not validate
Tip = Annotated[bytes, AtMost(32)]  # empty for none
RoleNames = Annotated[tuple[Name, ...], AtMost(8)]
ModelDigests = Annotated[tuple[Digest, ...], AtMost(64)]
MaybeKey = Annotated[bytes, AtMost(32)]  # empty for nobody's
Labels = Annotated[tuple[Name, ...], AtMost(1_000)]


@fast_dataclass(frozen=True)
class TensorSpec:
    """The type and shape of a model's input or output; 0 stands for the number of rows."""

    dtype: Name
    shape: Annotated[tuple[Whole, ...], AtMost(8)]


TensorSpecs = Annotated[tuple[TensorSpec, ...], AtMost(8)]


@fast_dataclass(frozen=True)
class Calibration:
    """How far apart honest machines were on a float model, and how near the cheapest cheat came to them.

    A distance is one row's: the largest difference, in parts per 10^12 (ppt) of the row's largest number.
    """

    bound_ppt: Whole  # outputs of two profiles agree up to here
    honest_ppt: Whole  # the farthest honest row
    fp16_ppt: Whole  # the nearest row of the same model with its weights rounded to half precision
    rows: Whole
    seed: Whole  # of rows that were drawn; 0 for rows from a file
    isa: Name
    versions: Annotated[tuple[Name, ...], AtMost(16)]  # of onnxruntime


MaybeCalibration = Annotated[tuple[Calibration, ...], AtMost(1)]


@fast_dataclass(frozen=True)
class ModelRecord:
    """One version of a model the network serves.

    `exact` is 1 when every machine computes the same bits; else it is a float model (fp32), with its calibration if
    there is one. Those of genesis have no owner. `retired_ms` is 0 while the model is served. `rows_max` is the most
    rows of one request, so that its worker can show what any operator took if it is disputed.
    """

    name: Name
    digest: Digest
    exact: Annotated[int, UpTo(1)]
    inputs: TensorSpecs
    outputs: TensorSpecs
    labels: Labels
    size_bytes: Whole = 0  # 0 where genesis does not say
    version: Whole = 1
    calibration: MaybeCalibration = ()
    owner: MaybeKey = b""
    deposit: Grains = 0
    retired_ms: TimeMs = 0
    rows_max: Whole = ROWS_MAX


@fast_dataclass(frozen=True)
class ModelName:
    """Whose a model's name is. The highest version there has been, and how many of its versions the ledger holds."""

    owner: MaybeKey
    version: Whole
    versions: Whole


@fast_dataclass(frozen=True)
class FeedRecord:
    """A feed of genesis. Its terms follow from the parameters (`feeds.build_genesis_terms`)."""

    name: Name


@fast_dataclass(frozen=True)
class FeedTerms:
    """What a feed measures and what its reports are held to: a promise to all who read it. All it can do is retire.

    Values are whole numbers of 10^-decimals, below nought too. `source` is one of `feeds.SOURCES`; `address` and `path`
    say where its observers look. A share of 0 turns its rule off. Feeds of genesis are nobody's.
    """

    name: Name
    owner: MaybeKey
    deposit: Grains
    source: Name
    address: Line
    path: Line
    decimals: Whole
    heartbeat_ms: Whole  # a report is due in every round of this length
    deviation_bp: ShareBp  # between heartbeats, a value this far from the last one may be reported
    outlier_bp: ShareBp  # an observation this far from the median counts against its observer
    jump_bp: ShareBp  # a value this far from the last one is held until the next round confirms it
    observers_min: Whole
    age_ms_max: Whole  # of an observation when it is reported, and of a value when it is used
    allowed: Annotated[tuple[PublicKey, ...], AtMost(OBSERVERS_MAX)]  # accounts that may observe; none for any oracle
    retired_ms: TimeMs = 0  # 0 while it is reported on


@fast_dataclass(frozen=True)
class FeedState:
    """The last report of a feed, at position (round, sequence), and the last value that was taken.

    `observers` is how many observations that value is the median of, `observed_ms` the median of their times,
    `time_ms` the header time of the block that took it. `held` is a value beyond the feed's jump that waits to be
    confirmed by another round. `reports` counts all there have been.
    """

    round: Whole
    sequence: Whole
    value: Signed
    time_ms: TimeMs
    observed_ms: TimeMs
    observers: Whole
    reports: Whole = 0
    held: Annotated[tuple[Signed, ...], AtMost(1)] = ()


@fast_dataclass(frozen=True)
class Observer:
    """An account that observes a feed, from the round after `since_ms`. `missed` counts reports without it in a row.

    `left_ms` is 0 while it observes. After that it still answers for what it has signed.
    """

    account: PublicKey
    since_ms: TimeMs
    left_ms: TimeMs = 0
    missed: Whole = 0


@fast_dataclass(frozen=True)
class Candle:
    """What a feed did in one period. `volume` counts the observations behind its reports."""

    period: Whole
    open: Signed
    high: Signed
    low: Signed
    close: Signed
    volume: Whole


@fast_dataclass(frozen=True)
class CandlePage:
    """Candles of consecutive periods, those without a report left out (`protocol.candles`)."""

    number: Whole
    candles: Annotated[tuple[Candle, ...], AtMost(CANDLES_PER_PAGE)]


@fast_dataclass(frozen=True)
class Account:
    """`nonce` is that of the next transaction."""

    balance: Grains
    nonce: Whole


@fast_dataclass(frozen=True)
class NodeRecord:
    """The node an account runs. `changed_epoch` is the epoch in which roles, models or price were set last."""

    account: PublicKey
    node: PublicKey
    vote: VoteKey
    roles: RoleNames
    models: ModelDigests
    price: Grains  # per row
    bond: Grains
    changed_epoch: Whole


@fast_dataclass(frozen=True)
class KeyOwner:
    """Whose node or vote key this is. `left_epoch` is the first epoch in which it is no more, 0 while it is."""

    account: PublicKey
    left_epoch: Whole


@fast_dataclass(frozen=True)
class Unbonding:
    """Stake on its way back to its account's balance; still slashed for what `validator`'s account has done."""

    account: PublicKey
    validator: PublicKey
    amount: Grains
    epoch: Whole  # in which it began: the last in which it may have been a vote's weight


@fast_dataclass(frozen=True)
class Delegation:
    """Stake one account puts behind another's validator."""

    validator: PublicKey
    delegator: PublicKey
    amount: Grains


@fast_dataclass(frozen=True)
class Pool:
    """The sums of a validator's delegations, and rewards not yet paid out to it and them."""

    delegated: Grains
    delegators: Whole
    rewards: Grains


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
class Vesting:
    """What is held back for an account, or the treasury: equal parts, first at the cliff, then one every `part_ms`."""

    account: MaybeKey  # empty for the treasury
    amount: Grains
    released: Grains
    cliff_ms: TimeMs
    part_ms: Whole
    parts: Whole


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
class Offer:
    """Room that an account's storage node lets. `leased_bytes` of it are taken, also by leases it has yet to accept.

    `is_silent` is 1 since it has let a deadline pass: then it is not drawn until it answers one, or offers anew.
    """

    room_bytes: Whole
    price: Grains  # per MiB and hour, at least
    leased_bytes: Whole = 0
    is_silent: Annotated[int, UpTo(1)] = 0


@fast_dataclass(frozen=True)
class Replica:
    """A node's part in a lease. Until it has accepted, `height` is 0 and `deadline_ms` the end of its time for that.

    `since_ms` is up to when it has been paid, `misses` how many audits it has not answered since it last did.
    `is_asked` is 1 while an audit waits for its answer.
    """

    account: PublicKey
    deadline_ms: TimeMs
    height: Whole = 0  # of the block in which it accepted
    since_ms: TimeMs = 0
    misses: Whole = 0
    is_asked: Annotated[int, UpTo(1)] = 0


@fast_dataclass(frozen=True)
class Lease:
    """A promise to keep a blob, paid for as long as audits find it kept.

    A term has `periods` audits, of which `left` are still to come; it begins only when the balance covers all of it.
    `seed` draws the pieces of the audit under way, which began at `asked_ms`; it is empty between two audits.
    """

    payer: PublicKey
    cid: Annotated[bytes, Exactly(CID_SIZE)]
    contents: Contents
    price: Grains  # per MiB and hour, of each replica
    factor: Whole  # how many replicas there are to be
    periods: Whole
    renews: Annotated[int, UpTo(1)]
    balance: Grains
    left: Whole
    replicas: Annotated[tuple[Replica, ...], AtMost(REPLICAS_MAX)] = ()
    passed: Annotated[tuple[PublicKey, ...], AtMost(PASSED_MAX)] = ()
    draws: Whole = 0
    seed: Tip = b""
    asked_ms: TimeMs = 0


@fast_dataclass(frozen=True)
class WorkCount:
    """How a node's work ended. `earned` counts whole fees, before the split.

    `burnt` is what the fees of work it did or agreed with have burnt; `lost` what forfeited work would have burnt, and
    what it lost of its stake. `agreed` and `minority` count a verifier's words that counted, and its dissents in vain;
    `observed` and `outliers` an oracle's observations that were reported, and those far from what the others saw.
    """

    paid: Whole
    void: Whole
    wrong: Whole
    earned: Grains
    burnt: Grains = 0
    lost: Grains = 0
    agreed: Whole = 0
    minority: Whole = 0
    observed: Whole = 0
    outliers: Whole = 0


NO_WORK = WorkCount(0, 0, 0, 0)


@fast_dataclass(frozen=True)
class ProvenWrong:
    """A claim that cannot be proven wrong again, nor be paid. Forgotten with its epoch."""

    epoch: Whole
    worker: PublicKey
    slashed: Grains


@fast_dataclass(frozen=True)
class Onion:
    """The hash onion a validator reveals layer by layer, and the one that follows it at the epoch's end, if any."""

    tip: Tip
    number: Whole
    next_tip: Tip
    next_number: Whole


@fast_dataclass(frozen=True)
class Tombstone:
    """A validator convicted by its own votes: it validates no more, under whatever keys."""

    vote: PublicKey
    height: Whole
    epoch: Whole  # of the conviction
    slashed: Grains


@fast_dataclass(frozen=True)
class FormerKey:
    """The vote key an account had before a restart."""

    account: PublicKey
    vote: PublicKey


@fast_dataclass(frozen=True)
class RestartRecord:
    """A restart (`restart`) that the ledger has been through after block `height`, in `epoch`."""

    id: Digest
    height: Whole
    epoch: Whole
    former: Annotated[tuple[FormerKey, ...], AtMost(32)]


@fast_dataclass(frozen=True)
class DueItem:
    """Future work of the ledger. A waking item calls for a block when its time comes; a lazy one waits for the next.

    `graced` is 1 when the item punishes silence and has been put off already, so that an outage forfeits nobody.
    """

    time_ms: TimeMs
    kind: Whole
    id: Digest
    waking: Annotated[int, UpTo(1)]
    graced: Annotated[int, UpTo(1)]


@fast_dataclass(frozen=True)
class Candidate:
    """A node as it stood when an epoch began, in the roles its bond then reached.

    `weight` is that bond; to validate, what is delegated counts as well. To work and to verify it is drawn by
    `draw_weight`, which follows from bond and quality (`quality`).
    """

    account: PublicKey
    node: PublicKey
    vote: VoteKey
    roles: RoleNames
    models: ModelDigests
    price: Grains
    weight: Grains
    delegated: Grains
    quality: ShareBp
    draw_weight: Grains

    def serves(self, model: bytes) -> bool:
        return "inference" in self.roles and model in self.models


@fast_dataclass(frozen=True)
class EpochSnapshot:
    """Who can be drawn in an epoch, and by what seed. `height` is the first its validators decide."""

    height: Whole
    seed: Digest
    candidates: Annotated[tuple[Candidate, ...], AtMost(CANDIDATES_MAX)]

    def find_candidate(self, node: bytes) -> Candidate | None:
        return next((candidate for candidate in self.candidates if candidate.node == node), None)

    def find_account(self, account: bytes) -> Candidate | None:
        return next((candidate for candidate in self.candidates if candidate.account == account), None)

    def get_candidates(self, role: str) -> tuple[Candidate, ...]:
        return tuple(candidate for candidate in self.candidates if role in candidate.roles)

    @cached_property
    def stakes(self) -> tuple[tuple[int, Candidate], ...]:
        """What stands behind each validator, the most first; asked for several times a block, the same for an epoch."""
        stakes = [(item.weight + item.delegated, item) for item in self.get_candidates("validator")]
        return tuple(sorted(stakes, key=lambda pair: -pair[0]))
