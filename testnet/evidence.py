"""The evidence against a worker that gave a wrong output, as a file anyone can check.

It is the body of the transaction that had the worker slashed: its signed receipt, and attestations of the drawn
verifiers that all open to another output.
"""

from protocol.codec import decode
from protocol.committee import compute_committee
from protocol.jobs import compute_attestation, compute_claim_id
from protocol.keys import format_account, format_node
from protocol.ledger.state import State
from protocol.ledger.transactions import ProveWrong
from protocol.proofs.kinds import InvalidProof, verify_receipt
from protocol.proofs.receipt_file import Finding
from protocol.signing import verify_signed

SUFFIX = ".evidence"
EVIDENCE_BYTES_MAX = 64 * 1024


def decode_evidence(data: bytes) -> ProveWrong:
    """Read a file. MalformedMessage for anything but the canonical bytes of one."""
    return decode(ProveWrong, data, EVIDENCE_BYTES_MAX)


def verify_evidence(evidence: ProveWrong, state: State | None = None) -> tuple[Finding, ...]:
    """What the evidence shows, level by level. RemoteError, with the reason, when anything in it does not fit."""
    claim = evidence.receipt.claim
    claim_id = compute_claim_id(claim)
    verify_receipt(evidence.receipt)
    verifiers = {item.verifier for item in evidence.attestations}
    if len(verifiers) != len(evidence.attestations) or len(verifiers) != claim.verifiers or claim.worker in verifiers:
        raise InvalidProof(f"{len(verifiers)} different verifiers, the claim names {claim.verifiers} others")
    if evidence.output_digest == evidence.receipt.output_digest:
        raise InvalidProof("the verifiers found what the worker says: nothing is wrong")
    for item in evidence.attestations:
        value = compute_attestation(claim_id, item.verifier, evidence.output_digest)
        if item.claim_id != claim_id or item.value != value:
            raise InvalidProof(f"the attestation of {format_node(item.verifier)} is not of this claim and output")
        verify_signed(item, item.verifier)
    names = " and ".join(format_node(verifier) for verifier in sorted(verifiers))
    said, found = evidence.receipt.output_digest.hex()[:16], evidence.output_digest.hex()[:16]
    return (
        Finding("signed", True, f"node {format_node(claim.worker)} signed output {said}… for its claim"),
        Finding("dissent", True, f"{names} both computed {found}… for the same claim"),
        _find_drawn(evidence, state),
        _find_slashed(claim_id, state),
    )


def _find_drawn(evidence: ProveWrong, state: State | None) -> Finding:
    claim = evidence.receipt.claim
    if state is None:
        return Finding("drawn", False, "that the ledger drew these verifiers: no ledger was given")
    epoch = state.get_epoch(claim.epoch)
    if epoch is None:
        return Finding(
            "drawn", False, f"that these verifiers were drawn: the ledger no longer keeps epoch {claim.epoch}"
        )
    drawn = compute_committee(epoch.seed, claim.request_id, claim.worker, epoch.candidates, claim.verifiers)
    if set(drawn) != {item.verifier for item in evidence.attestations}:
        raise InvalidProof(f"in epoch {claim.epoch} the ledger drew other verifiers for this request")
    return Finding("drawn", True, f"the ledger drew exactly these verifiers in epoch {claim.epoch}")


def _find_slashed(claim_id: bytes, state: State | None) -> Finding:
    wrong = None if state is None else state.wrong.get(claim_id)
    if wrong is None:
        return Finding("slashed", False, "that the worker lost stake: no ledger that says so was given")
    return Finding(
        "slashed", True, f"account {format_account(wrong.worker)} lost {wrong.slashed} grains for this claim"
    )
