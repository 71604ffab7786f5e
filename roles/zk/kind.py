"""The proof kind `zk`. Importing this registers it."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from protocol.codec import decode
from protocol.errors import InvalidProof
from protocol.proofs.context import ProofContext
from protocol.proofs.zk import EVIDENCE_BYTES_MAX, ZkEvidence, verify_numbers
from protocol.registry import ProofDescription, register_proof_kind
from roles.zk.circuit import Circuit, load_iris
from roles.zk.process import HOW_TO_INSTALL, has_ezkl
from roles.zk.prove import verify_proof


@dataclass(frozen=True)
class Zk:
    """Evidence: `ZkEvidence` for a circuit that both sides hold."""

    name: str = "zk"
    evidence_bytes_max: int = EVIDENCE_BYTES_MAX
    load: Callable[[], Circuit] = load_iris

    def describe(self) -> ProofDescription:
        return ProofDescription(
            shows="whoever made the proof has run this very model on this input, computing with rounded numbers, and "
            "the output is within a stated bound of what came out",
            does_not_show="anything, to whoever does not trust the making of the circuit's reference string: a test "
            "network's is known to its maker; nor that ezkl is free of faults",
            missing="" if has_ezkl() else HOW_TO_INSTALL,
        )

    def verify(self, context: ProofContext, evidence: bytes) -> str:
        """Which model was proven, how exactly. InvalidProof or MalformedMessage otherwise; blocks for about 0.3 s.

        CannotCheck without ezkl, but what can be refused without it is refused.
        """
        found, circuit = decode(ZkEvidence, evidence, EVIDENCE_BYTES_MAX), self.load()
        if context.receipt.claim.model != circuit.model_digest:
            raise InvalidProof(f"model {context.receipt.claim.model.hex()} has no circuit here")
        if found.circuit != circuit.id:
            raise InvalidProof(f"circuit {found.circuit.hex()} is not known here")
        setup = hashlib.sha256(circuit.setup).digest()
        if setup not in context.trust.setups and not context.trust.is_test_network:
            raise InvalidProof(
                f"the proof rests on reference string {setup.hex()[:16]}…, whose maker can prove anything: "
                "it counts on test networks only, and none is named here"
            )
        verify_numbers(circuit.terms, context.request.inputs, context.outputs, found.numbers)
        verify_proof(circuit, found)
        bound = circuit.terms.slack / 2**circuit.terms.output_scale
        return f"a zero-knowledge proof of model {circuit.name} gives this output for this input, to within {bound:.4f}"


ZK = Zk()
register_proof_kind(ZK)
