"""A worker's signed statement of what it ran."""

from protocol.jobs import Claim, Receipt, compute_commitment
from protocol.keys import Signer
from protocol.signing import sign
from protocol.tensor import compute_tensors_digest
from roles.role import Computed
from roles.workbook import Job


def make_receipt(job: Job, computed: Computed, salt: bytes, signer: Signer) -> Receipt:
    """The receipt of a job's outputs, with the claim that commits to them. `salt` is 32 bytes nobody can guess."""
    assert computed.outputs is not None
    request, voucher = job.item.request, job.item.voucher
    output_digest = compute_tensors_digest(computed.outputs)
    claim = Claim(
        request_id=voucher.request_id,
        attempt=voucher.attempt,
        channel=voucher.channel,
        seq=voucher.seq,
        worker=signer.public,
        model=request.model,
        profile=computed.profile,
        input_digest=job.input_digest or compute_tensors_digest(request.inputs),
        rows=job.rows,
        fee=voucher.amount,
        epoch=request.epoch,
        verifiers=request.verifiers,
        deadline_ms=request.deadline_ms,
        commitment=compute_commitment(salt, output_digest),
        signature=bytes(64),
    )
    return Receipt(sign(claim, signer), salt, output_digest)
