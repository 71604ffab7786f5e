"""A piece of inference work: what is asked, what is owed, what was done and who vouches for it.

Everything here that carries a signature signs `DOMAIN` and the hash of its other fields (`signing`). The ids are
hashes of what is signed, so that one statement has one id.
"""

import hashlib
from enum import StrEnum
from typing import Annotated, ClassVar

from protocol.codec import encode
from protocol.fast_dataclass import fast_dataclass
from protocol.signing import compute_signing_bytes
from protocol.tensor import Tensor
from protocol.types import AtMost, ChainId, Digest, Exactly, Grains, Line, Name, PublicKey, Signature, TimeMs, Whole

VERIFIERS_MIN = 2
VERIFIERS_MAX = 16
SHOWN_BYTES_MAX = 6 * 1024  # of one attestation: those of seven verifiers and the worker's outputs fit a transaction


class Mode(StrEnum):
    """When a job is checked, and so how it is paid. A channel has one mode and settles in no other."""

    INDIVIDUAL = "individual"  # every drawn verifier attests before the client's library lets go of the result
    BATCH = "batch"  # leaves drawn after the fact are checked
    PRIVATE = "private"  # nobody checks: signed, not verified


@fast_dataclass(frozen=True)
class InferenceRequest:
    """What a client asks for. Its id covers every field.

    `inputs` are the tensors, one per model input, in the model's order; when they are too large to travel by gossip
    they are left empty and `inputs_blob` names one blob that holds them (`tensor.encode_tensors`).
    """

    chain: ChainId
    account: PublicKey  # pays
    client: PublicKey  # the node key the result goes to
    model: Digest
    inputs: Annotated[tuple[Tensor, ...], AtMost(8)]
    inputs_blob: Annotated[tuple[Digest, ...], AtMost(1)]
    proof: Name  # the proof kind asked for, "reexec" here
    verifiers: Whole  # how many must attest: each job, or in mode `batch` each that is drawn
    fee_max: Grains
    epoch: Whole  # whose working set and committee serve it
    deadline_ms: TimeMs
    nonce: Annotated[bytes, Exactly(16)]
    mode: Name = Mode.INDIVIDUAL


def compute_request_id(request: InferenceRequest) -> bytes:
    return hashlib.sha256(b"rolemesh/v1/request\0" + encode(request)).digest()


@fast_dataclass(frozen=True)
class Voucher:
    """A promise out of a channel, signed by the payer's account key.

    `seq` counts the channel's vouchers from 1; `cumulative` is the sum of `amount` up to and with this one.
    """

    DOMAIN: ClassVar[str] = "voucher"

    channel: Digest
    seq: Whole
    amount: Grains
    cumulative: Grains
    request_id: Digest
    attempt: Whole
    expiry_ms: TimeMs
    signature: Signature


@fast_dataclass(frozen=True)
class PaidRequest:
    """A request with the voucher that covers it; the voucher's channel names the worker who is asked."""

    request: InferenceRequest
    voucher: Voucher


@fast_dataclass(frozen=True)
class Claim:
    """The worker's signed, blinded commitment to its output digest. Signed by its node key."""

    DOMAIN: ClassVar[str] = "claim"

    request_id: Digest
    attempt: Whole
    channel: Digest
    seq: Whole
    worker: PublicKey  # node key
    model: Digest
    profile: Line
    input_digest: Digest
    rows: Whole
    fee: Grains
    epoch: Whole
    verifiers: Whole
    deadline_ms: TimeMs
    commitment: Digest
    signature: Signature


def compute_claim_id(claim: Claim) -> bytes:
    return hashlib.sha256(compute_signing_bytes(claim)).digest()


@fast_dataclass(frozen=True)
class ClaimedWork:
    """A claim with the request it answers, so that a verifier can re-run it."""

    claim: Claim
    request: InferenceRequest


@fast_dataclass(frozen=True)
class Receipt:
    """The worker's statement of what it ran: its signed claim, opened. Goes only to the client.

    It needs no signature of its own: the claim's covers the commitment, and nothing else opens that.
    """

    claim: Claim
    salt: Digest
    output_digest: Digest


@fast_dataclass(frozen=True)
class Attestation:
    """A verifier's blind statement about a claim: `value` commits to the digest it computed itself.

    It is said again, with the outputs of that digest as `shown` (`tensor.encode_tensors`), to who holds the worker's
    receipt of a float model: outputs that are not the same may be near enough (`proofs.bounds`).
    """

    DOMAIN: ClassVar[str] = "attestation"

    claim_id: Digest
    verifier: PublicKey  # node key
    value: Digest
    shown: Annotated[bytes, AtMost(SHOWN_BYTES_MAX)]
    signature: Signature


def compute_commitment(salt: bytes, output_digest: bytes) -> bytes:
    return hashlib.sha256(b"rolemesh/v1/commitment\0" + salt + output_digest).digest()


def compute_attestation(claim_id: bytes, verifier: bytes, output_digest: bytes) -> bytes:
    """The value a verifier signs. Its own key is inside, so another's value does not fit it."""
    return hashlib.sha256(b"rolemesh/v1/attest\0" + claim_id + verifier + output_digest).digest()
