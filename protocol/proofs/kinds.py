"""The proof kinds `signed`, `reexec` and `trace`, and the checks behind them."""

from collections.abc import Sequence
from typing import Annotated

from protocol.codec import decode
from protocol.errors import InvalidProof
from protocol.fast_dataclass import fast_dataclass
from protocol.jobs import (
    VERIFIERS_MIN,
    Attestation,
    Receipt,
    compute_attestation,
    compute_claim_id,
    compute_commitment,
)
from protocol.keys import format_node
from protocol.ledger.transactions import ATTESTATIONS_MAX
from protocol.proofs.context import EVIDENCE_BYTES_MAX, ProofContext
from protocol.proofs.trace import TRACE_BYTES_MAX, unpack_trace, verify_binding
from protocol.registry import ProofDescription
from protocol.signing import verify_signed
from protocol.tensor import compute_tensors_digest, decode_tensors
from protocol.types import AtMost


@fast_dataclass(frozen=True)
class Attestations:
    """The evidence of `reexec`."""

    items: Annotated[tuple[Attestation, ...], AtMost(ATTESTATIONS_MAX)]


@fast_dataclass(frozen=True)
class Signed:
    """Evidence: the receipt alone."""

    name: str = "signed"
    evidence_bytes_max: int = 0

    def describe(self) -> ProofDescription:
        return ProofDescription(
            shows="one node answers for this output with its signature, and cannot change its word",
            does_not_show="that the output is right: nobody else has run the model",
        )

    def verify(self, context: ProofContext, evidence: bytes) -> str:
        """What the receipt shows. InvalidProof or BadSignature when it does not, or when there is evidence besides."""
        if evidence:
            raise InvalidProof(f"{len(evidence)} bytes of evidence: the receipt alone is all there is")
        verify_receipt(context.receipt)
        return f"node {format_node(context.receipt.claim.worker)} signed this output for this input and model"


@fast_dataclass(frozen=True)
class Reexec:
    """Evidence: the receipt and the attestations of the verifiers who ran the model again."""

    name: str = "reexec"
    evidence_bytes_max: int = EVIDENCE_BYTES_MAX

    def describe(self) -> ProofDescription:
        return ProofDescription(
            shows="every attesting node has computed the same output, bit for bit, from the same input and model",
            does_not_show="who drew those nodes (the ledger does), nor that they are independent of the worker",
        )

    def verify(self, context: ProofContext, evidence: bytes) -> str:
        """Who has attested. InvalidProof, MalformedMessage or BadSignature unless the evidence is `Attestations`."""
        attestations = decode(Attestations, evidence, EVIDENCE_BYTES_MAX).items
        if any(item.shown for item in attestations):
            raise InvalidProof("an attestation shows other outputs: near is not the same, bit for bit")
        verify_attestations(context.receipt, attestations)
        names = " and ".join(format_node(item.verifier) for item in attestations)
        return f"{names} signed that they computed the same output, bit for bit"


@fast_dataclass(frozen=True)
class Traced:
    """Evidence: the digests of all operators, from the claimed inputs to the receipt's output."""

    name: str = "trace"
    evidence_bytes_max: int = TRACE_BYTES_MAX

    def describe(self) -> ProofDescription:
        return ProofDescription(
            shows="what the worker says each operator of the model gave, so which one it got wrong if the output is",
            does_not_show="that any of it is right, unless somebody runs the operators again",
        )

    def verify(self, context: ProofContext, evidence: bytes) -> str:
        """What it covers. InvalidProof or BadSignature unless it joins the receipt's inputs and output."""
        receipt, trace = context.receipt, unpack_trace(evidence)
        verify_receipt(receipt)
        verify_binding(trace, receipt.claim.input_digest, receipt.output_digest)
        return f"the worker says what each of {len(trace) - 2} operators gave, from this input to this output"


def verify_receipt(receipt: Receipt) -> None:
    """InvalidProof or BadSignature unless the receipt opens its claim, which the worker has signed."""
    claim = receipt.claim
    if compute_commitment(receipt.salt, receipt.output_digest) != claim.commitment:
        raise InvalidProof("the receipt's salt and output digest do not open its claim")
    verify_signed(claim, claim.worker)


def verify_attestations(receipt: Receipt, attestations: Sequence[Attestation]) -> None:
    """InvalidProof or BadSignature unless as many others as the claim names have attested the receipt's digest.

    Or the digest of outputs that they show: how near these are is for who knows the model.
    """
    verify_receipt(receipt)
    claim, claim_id = receipt.claim, compute_claim_id(receipt.claim)
    verifiers = {item.verifier for item in attestations}
    if len(attestations) != claim.verifiers or claim.verifiers < VERIFIERS_MIN:
        raise InvalidProof(f"{len(attestations)} attestations, the claim names {claim.verifiers} verifiers")
    if len(verifiers) != len(attestations) or claim.worker in verifiers:
        raise InvalidProof("a verifier attests twice, or the worker attests itself")
    for item in attestations:
        digest = compute_tensors_digest(decode_tensors(item.shown)) if item.shown else receipt.output_digest
        if item.claim_id != claim_id or item.value != compute_attestation(claim_id, item.verifier, digest):
            raise InvalidProof(f"the attestation of {format_node(item.verifier)} is not of this claim and output")
        verify_signed(item, item.verifier)


SIGNED = Signed()
REEXEC = Reexec()
TRACE = Traced()
