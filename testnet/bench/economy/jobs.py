"""Jobs as the ledger sees them: requests, vouchers and claims that nobody has signed, over digests nobody has computed.

What a model gives for its inputs is stood for by a hash of them: honest runs find it, and only they do.
"""

import hashlib
from dataclasses import dataclass, replace

from protocol.jobs import (
    Attestation,
    Claim,
    InferenceRequest,
    Receipt,
    Voucher,
    compute_attestation,
    compute_claim_id,
    compute_commitment,
    compute_request_id,
)
from protocol.ledger.model_records import ModelRecord
from protocol.proofs.profiles import Profile
from protocol.tensor import ITEM_SIZES, Tensor, compute_tensors_digest

PROFILE = str(Profile("1.26.0", "cpu", "avx2", 1, "disable", 1))
DEADLINE_MS = 10_000
EXPIRY_MS = 70_000  # of a voucher, from when it is given
NOT_SIGNED = bytes(64)


@dataclass(frozen=True)
class Job:
    """One voucher's work: what its worker claims, and `digest`, by which it stands."""

    request: InferenceRequest
    voucher: Voucher
    claim: Claim
    claim_id: bytes
    salt: bytes
    digest: bytes
    attestations: tuple[Attestation, ...] = ()
    reason: int = 0  # why it earns nothing

    @property
    def is_true(self) -> bool:
        return self.digest == compute_truth(self.claim.input_digest)

    def make_receipt(self) -> Receipt:
        return Receipt(self.claim, self.salt, self.digest)


def make_inputs(model: ModelRecord, rows: int) -> tuple[Tensor, ...]:
    """So many rows of zeros, as large as real ones."""
    tensors = []
    for spec in model.inputs:
        shape = tuple(size or rows for size in spec.shape)
        size_bytes = ITEM_SIZES[spec.dtype]
        for size in shape:
            size_bytes *= size
        tensors.append(Tensor(spec.dtype, shape, bytes(size_bytes)))
    return tuple(tensors)


def make_outputs(input_digest: bytes) -> tuple[Tensor, ...]:
    """Stand for what the model gives."""
    return (Tensor("uint8", (32,), hashlib.sha256(b"true" + input_digest).digest()),)


def compute_truth(input_digest: bytes) -> bytes:
    """The digest that honest runs find."""
    return compute_tensors_digest(make_outputs(input_digest))


def make_lie(job: bytes) -> bytes:
    """The digest of something else."""
    return hashlib.sha256(b"lie" + job).digest()


def make_voucher(
    channel: bytes, seq: int, request: InferenceRequest, attempt: int, promised: int, now_ms: int
) -> Voucher:
    """The next promise out of a channel, over all that the request may cost."""
    amount = request.fee_max
    request_id = compute_request_id(request)
    return Voucher(channel, seq, amount, promised + amount, request_id, attempt, now_ms + EXPIRY_MS, NOT_SIGNED)


def make_job(request: InferenceRequest, voucher: Voucher, worker: bytes, digest: bytes) -> Job:
    """What a worker's node signs when it is done."""
    salt = hashlib.sha256(b"salt" + voucher.channel + voucher.seq.to_bytes(8, "big")).digest()
    claim = Claim(
        request_id=voucher.request_id,
        attempt=voucher.attempt,
        channel=voucher.channel,
        seq=voucher.seq,
        worker=worker,
        model=request.model,
        profile=PROFILE,
        input_digest=compute_tensors_digest(request.inputs),
        rows=request.inputs[0].shape[0],
        fee=voucher.amount,
        epoch=request.epoch,
        verifiers=request.verifiers,
        deadline_ms=request.deadline_ms,
        commitment=compute_commitment(salt, digest),
        signature=NOT_SIGNED,
    )
    return Job(request, voucher, claim, compute_claim_id(claim), salt, digest)


def attest(job: Job, verifier: bytes, digest: bytes) -> Attestation:
    """What a verifier's node says that has found this digest."""
    return Attestation(job.claim_id, verifier, compute_attestation(job.claim_id, verifier, digest), b"", NOT_SIGNED)


def end_job(job: Job, attestations: tuple[Attestation, ...], reason: int = 0) -> Job:
    """A job in mode `individual` once it is known whether it earns."""
    return replace(job, attestations=attestations, reason=reason)
