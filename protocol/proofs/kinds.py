"""The proof kinds `signed` and `reexec`, and the checks behind them."""

from collections.abc import Sequence

from protocol.errors import RemoteError
from protocol.fast_dataclass import fast_dataclass
from protocol.jobs import (
    VERIFIERS_MIN,
    Attestation,
    Receipt,
    compute_attestation,
    compute_claim_id,
    compute_commitment,
)
from protocol.registry import ProofDescription
from protocol.signing import verify_signed


class InvalidProof(RemoteError):
    """The evidence does not show what it is said to show."""


@fast_dataclass(frozen=True)
class Signed:
    """Evidence: the receipt alone."""

    name: str = "signed"

    def describe(self) -> ProofDescription:
        return ProofDescription(
            shows="one node answers for this output with its signature, and cannot change its word",
            does_not_show="that the output is right: nobody else has run the model",
        )

    def verify(self, receipt: Receipt, attestations: Sequence[Attestation]) -> None:
        """InvalidProof or BadSignature unless the receipt opens its claim and the worker has signed both."""
        claim = receipt.claim
        if compute_commitment(receipt.salt, receipt.output_digest) != claim.commitment:
            raise InvalidProof("the receipt's salt and output digest do not open its claim")
        verify_signed(claim, claim.worker)
        verify_signed(receipt, claim.worker)


@fast_dataclass(frozen=True)
class Reexec:
    """Evidence: the receipt and the attestations of the verifiers who ran the model again."""

    name: str = "reexec"

    def describe(self) -> ProofDescription:
        return ProofDescription(
            shows="every attesting node has computed the same output, bit for bit, from the same input and model",
            does_not_show="who drew those nodes (the ledger does), nor that they are independent of the worker",
        )

    def verify(self, receipt: Receipt, attestations: Sequence[Attestation]) -> None:
        """InvalidProof or BadSignature unless as many others as the claim names have attested the receipt's digest."""
        SIGNED.verify(receipt, ())
        claim, claim_id = receipt.claim, compute_claim_id(receipt.claim)
        verifiers = {item.verifier for item in attestations}
        if len(attestations) != claim.verifiers or claim.verifiers < VERIFIERS_MIN:
            raise InvalidProof(f"{len(attestations)} attestations, the claim names {claim.verifiers} verifiers")
        if len(verifiers) != len(attestations) or claim.worker in verifiers:
            raise InvalidProof("a verifier attests twice, or the worker attests itself")
        for item in attestations:
            value = compute_attestation(claim_id, item.verifier, receipt.output_digest)
            if item.claim_id != claim_id or item.value != value:
                raise InvalidProof(f"the attestation of {item.verifier.hex()} is not of this claim and output")
            verify_signed(item, item.verifier)


SIGNED = Signed()
REEXEC = Reexec()
