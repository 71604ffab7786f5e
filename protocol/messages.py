"""Every message that travels in an envelope: what it carries and how large it may be.

A message is a frozen dataclass registered under a kind number. Kinds below 0x8000 are ours; a user's module registers
its own from 0x8000 up (`registry`). Streams answer a request with one of these too, so a refusal is a signed statement.
"""

from typing import Annotated, ClassVar

from protocol.consensus.messages import Proposal, Vote
from protocol.content import BLOB_BYTES_MAX
from protocol.fast_dataclass import fast_dataclass
from protocol.generation import PROMPT_TOKENS_MAX
from protocol.jobs import Attestation, ClaimedWork, PaidRequest, Receipt
from protocol.ledger.block import TRANSACTIONS_MAX, Block, Certificate, Header
from protocol.ledger.restart_terms import Restarts
from protocol.ledger.transactions import TRANSACTION_BYTES_MAX, SignedObservation
from protocol.proofs.trace import TRACE_BYTES_MAX, Exhibit
from protocol.registry import message
from protocol.sketch import FILTER_BYTES_MAX
from protocol.tensor import DIGEST_BYTES, TENSORS_MAX, Tensor
from protocol.types import AtMost, Digest, Exactly, Grains, Line, Name, PublicKey, Signature, TimeMs, UpTo, Whole

GOSSIP_LIST_MAX = 64
GOSSIP_BYTES_MAX = 64 * 1024
MISSED_TOPICS_MAX = 16
WANTS_MAX = 64
PROPOSED_MAX = 4
CERTIFICATES_MAX = 64
SAID_VOTES_MAX = 256
CAUSES_MAX = 16
PIECE_TOKENS_MAX = 64
PIECE_STEPS_BYTES_MAX = DIGEST_BYTES * (PROMPT_TOKENS_MAX + PIECE_TOKENS_MAX)


# On topics


@message(0x0001, "node.advert")
@fast_dataclass(frozen=True)
class Advert:
    """Who a node is and where it can be reached. The envelope's sender is the node."""

    account: PublicKey
    roles: Annotated[tuple[Name, ...], AtMost(16)]
    state: Name
    models: Annotated[tuple[Digest, ...], AtMost(64)]
    addresses: Annotated[tuple[Line, ...], AtMost(8)]
    price: Grains  # per row
    load: Whole  # jobs waiting or running
    height: Whole


@message(0x0101, "infer.requests")
@fast_dataclass(frozen=True)
class Requests:
    """Inference requests for the models of one shard."""

    items: Annotated[tuple[PaidRequest, ...], AtMost(16)]


@message(0x0102, "claims.claims")
@fast_dataclass(frozen=True)
class Claims:
    items: Annotated[tuple[ClaimedWork, ...], AtMost(GOSSIP_LIST_MAX)]


@message(0x0103, "proofs.attestations")
@fast_dataclass(frozen=True)
class Attestations:
    items: Annotated[tuple[Attestation, ...], AtMost(GOSSIP_LIST_MAX)]


@message(0x0104, "oracle.observation")
@fast_dataclass(frozen=True)
class ObservationMessage:
    observation: SignedObservation


@message(0x0105, "txs.transactions")
@fast_dataclass(frozen=True)
class Transactions:
    """Encoded transactions; each is decoded and checked on its own."""

    items: Annotated[tuple[Annotated[bytes, AtMost(TRANSACTION_BYTES_MAX)], ...], AtMost(GOSSIP_LIST_MAX)]


@message(0x0106, "heads.head")
@fast_dataclass(frozen=True)
class Head:
    header: Header
    certificate: Certificate


# On streams


@message(0x0201, "infer.result")
@fast_dataclass(frozen=True)
class Result:
    """What the client gets: the outputs and the receipt that stands for them."""

    receipt: Receipt
    outputs: Annotated[tuple[Tensor, ...], AtMost(8)]


@message(0x0202, "infer.refusal")
@fast_dataclass(frozen=True)
class Refusal:
    """A worker's signed no. `code` is one of `RefusalCode`; it can never be taken for a result."""

    DOMAIN: ClassVar[str] = "refusal"

    request_id: Digest
    attempt: Whole
    code: Name
    reason: Line
    signature: Signature


@message(0x0203, "infer.direct")
@fast_dataclass(frozen=True)
class DirectRequest:
    """One paid request straight down a stream.

    Answered by its `Result` or `Refusal`; by `Accepted` if that takes a while, which then follows as for gossip.
    """

    item: PaidRequest


@message(0x0204, "stream.accepted")
@fast_dataclass(frozen=True)
class Accepted:
    """Taken over; nothing more will come on this stream."""


@message(0x0205, "stream.refused")
@fast_dataclass(frozen=True)
class Refused:
    """The request cannot be answered, and why."""

    reason: Line


@message(0x0206, "infer.cancel")
@fast_dataclass(frozen=True)
class Cancel:
    """The client no longer wants what it asked for with this voucher.

    Answered by a refusal when the job had not begun: it earns nothing. What is computed, or being computed, counts, and
    its result follows.
    """

    request_id: Digest
    attempt: Whole
    channel: Digest
    seq: Whole


@message(0x0240, "infer.piece")
@fast_dataclass(frozen=True)
class Piece:
    """The next tokens of a streamed answer, with the digests of the steps that made them (`protocol.generation`).

    `chain` is the running hash over all tokens and steps so far: the result that follows must end with it. Answered by
    `Accepted`, or by `Refused` from who wants no more of it.
    """

    request_id: Digest
    attempt: Whole
    index: Whole  # of the piece, from 0
    tokens: Annotated[tuple[Whole, ...], AtMost(PIECE_TOKENS_MAX)]
    steps: Annotated[bytes, AtMost(PIECE_STEPS_BYTES_MAX)]
    chain: Digest


@message(0x0243, "infer.stream")
@fast_dataclass(frozen=True)
class StreamRequest:
    """As `DirectRequest`, of a generation; pieces of the answer come while it is being made, before the result."""

    item: PaidRequest


@message(0x0211, "blob.get")
@fast_dataclass(frozen=True)
class GetBlob:
    digest: Digest


@message(0x0212, "blob.blob")
@fast_dataclass(frozen=True)
class Blob:
    data: Annotated[bytes, AtMost(BLOB_BYTES_MAX)]


@message(0x0248, "blob.want")
@fast_dataclass(frozen=True)
class WantBlocks:
    """Blocks by digest, the most wanted first."""

    digests: Annotated[tuple[Digest, ...], AtMost(WANTS_MAX)]


@message(0x0249, "blob.wanted")
@fast_dataclass(frozen=True)
class WantedBlocks:
    """Wanted blocks in the order they were asked for, one after the other in `data`, `sizes` of them in bytes.

    Those in `missing` are not here. What is in neither did not fit and may be asked for again.
    """

    sizes: Annotated[tuple[Annotated[int, UpTo(BLOB_BYTES_MAX)], ...], AtMost(WANTS_MAX)]
    data: Annotated[bytes, AtMost(BLOB_BYTES_MAX)]
    missing: Annotated[tuple[Digest, ...], AtMost(WANTS_MAX)]


@message(0x0221, "sync.get_blocks")
@fast_dataclass(frozen=True)
class GetBlocks:
    """Blocks from `height` up, as many as fit one answer."""

    height: Whole


@fast_dataclass(frozen=True)
class CertifiedBlock:
    """A decided block and the restarts between it and the one before it, of which there are hardly ever any."""

    block: Block
    certificate: Certificate
    restarts: Restarts = ()


@message(0x0222, "sync.blocks")
@fast_dataclass(frozen=True)
class Blocks:
    tip: Whole
    items: Annotated[tuple[CertifiedBlock, ...], AtMost(256)]


@message(0x0223, "sync.get_claims")
@fast_dataclass(frozen=True)
class GetClaims:
    claim_ids: Annotated[tuple[Digest, ...], AtMost(GOSSIP_LIST_MAX)]


@message(0x0224, "sync.get_attestations")
@fast_dataclass(frozen=True)
class GetAttestations:
    """Answered by `Attestations`: whatever the asked node holds for these claims."""

    claim_ids: Annotated[tuple[Digest, ...], AtMost(GOSSIP_LIST_MAX)]


@message(0x0225, "sync.get_transactions")
@fast_dataclass(frozen=True)
class GetTransactions:
    transaction_ids: Annotated[tuple[Digest, ...], AtMost(GOSSIP_LIST_MAX)]


@message(0x0226, "sync.get_missed")
@fast_dataclass(frozen=True)
class GetMissed:
    """Asks for gossip of these topics, sent since `since_ms`, that the filter does not hold (`protocol.sketch`)."""

    topics: Annotated[tuple[Name, ...], AtMost(MISSED_TOPICS_MAX)]  # short names
    since_ms: TimeMs  # by the envelopes' own times
    salt: Annotated[bytes, Exactly(16)]
    filter: Annotated[bytes, AtMost(FILTER_BYTES_MAX)]  # of what the asker has; empty when that is nothing


@fast_dataclass(frozen=True)
class MissedItem:
    """One gossip message as its author sealed it: it is checked as if it had come by gossip."""

    topic: Name  # short name
    envelope: Annotated[bytes, AtMost(GOSSIP_BYTES_MAX)]


@message(0x0227, "sync.missed")
@fast_dataclass(frozen=True)
class Missed:
    """What the asker may have missed, the oldest first. `tip` says whether it has missed blocks too."""

    tip: Whole
    left: Whole  # how many more did not fit this answer
    items: Annotated[tuple[MissedItem, ...], AtMost(GOSSIP_LIST_MAX)]


@message(0x0231, "proof.get_opening")
@fast_dataclass(frozen=True)
class GetOpening:
    """Shows a verifier the worker's signed receipt, so that it may open its own attestation of the same claim.

    And the inputs, unless they are in a blob: a verifier that does not hold them any more could not dispute the claim.
    """

    receipt: Receipt
    inputs: Annotated[tuple[Tensor, ...], AtMost(TENSORS_MAX)]


@message(0x0232, "proof.opening")
@fast_dataclass(frozen=True)
class Opening:
    """The digest a verifier computed itself for a claim; of a float model its attestation too, with its outputs."""

    claim_id: Digest
    output_digest: Digest
    attestation: Annotated[tuple[Attestation, ...], AtMost(1)] = ()


@message(0x0233, "trace.get_trace")
@fast_dataclass(frozen=True)
class GetTrace:
    """Asks a worker for the trace of a job, by its signed receipt: whoever holds that knows the digest it ends with."""

    receipt: Receipt


@message(0x0234, "trace.trace")
@fast_dataclass(frozen=True)
class ShownTrace:
    claim_id: Digest
    trace: Annotated[bytes, AtMost(TRACE_BYTES_MAX)]


@message(0x0235, "trace.get_exhibit")
@fast_dataclass(frozen=True)
class GetExhibit:
    """Asks a worker what an operator took: by its receipt, or by a dispute on the ledger, for the operator in it."""

    receipt: Annotated[tuple[Receipt, ...], AtMost(1)]
    dispute: Annotated[tuple[Digest, ...], AtMost(1)]
    operator: Whole


@message(0x0236, "trace.exhibit")
@fast_dataclass(frozen=True)
class ShownExhibit:
    operator: Whole
    exhibit: Exhibit


@message(0x0241, "status.get")
@fast_dataclass(frozen=True)
class GetStatus:
    pass


@message(0x0242, "status.status")
@fast_dataclass(frozen=True)
class Status:
    roles: Annotated[tuple[Name, ...], AtMost(16)]
    state: Name
    height: Whole
    state_root: Digest
    peers: Whole


# Among validators, bare: what they say is signed by vote keys, and the stream is the peer's own


@fast_dataclass(frozen=True)
class Outline:
    """A proposed block without its transactions, which most have already: the sha256 of each encoded one instead."""

    header: Header
    digests: Annotated[tuple[Digest, ...], AtMost(TRANSACTIONS_MAX)]


@fast_dataclass(frozen=True)
class Proposed:
    """A proposal, with the outline of its block if the leader has it."""

    proposal: Proposal
    outlines: Annotated[tuple[Outline, ...], AtMost(1)]


@message(0x0301, "consensus.said")
@fast_dataclass(frozen=True)
class Said:
    """What one validator says to another. `causes` are encoded transactions: why the sender wants a block."""

    proposed: Annotated[tuple[Proposed, ...], AtMost(PROPOSED_MAX)]
    certificates: Annotated[tuple[Certificate, ...], AtMost(CERTIFICATES_MAX)]
    votes: Annotated[tuple[Vote, ...], AtMost(SAID_VOTES_MAX)]
    causes: Annotated[tuple[Annotated[bytes, AtMost(TRANSACTION_BYTES_MAX)], ...], AtMost(CAUSES_MAX)]


@message(0x0302, "consensus.get_draft")
@fast_dataclass(frozen=True)
class GetDraft:
    """Asks for what is missing of a proposed block: its outline, or these transactions by their digests."""

    block_id: Digest
    digests: Annotated[tuple[Digest, ...], AtMost(TRANSACTIONS_MAX)]


@message(0x0303, "consensus.draft")
@fast_dataclass(frozen=True)
class DraftParts:
    """What the asked validator has of it, as much as fits one answer."""

    outlines: Annotated[tuple[Outline, ...], AtMost(1)]
    bodies: Annotated[tuple[Annotated[bytes, AtMost(TRANSACTION_BYTES_MAX)], ...], AtMost(TRANSACTIONS_MAX)]
