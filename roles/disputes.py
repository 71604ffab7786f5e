"""Results the verifiers disagree with: gather their openings and put the proof on the ledger.

A dispute is on disk from the moment it begins: a restarted client still proves what it has seen.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from protocol.codec import decode, encode
from protocol.jobs import Attestation, Receipt, compute_attestation, compute_claim_id
from protocol.ledger.state import State
from protocol.ledger.transactions import ProveWrong
from protocol.messages import GetOpening, Opening
from protocol.types import AtMost
from roles.role import Effect, Penalise, Record, Request, Store, Submit

ASK_AGAIN_MS = 1_500
DISPUTE_MS_MAX = 120_000  # after the request's deadline
BUCKET = "disputes"


@dataclass(frozen=True)
class Disagreement:
    """A worker's receipt, and the drawn verifiers' attestations that do not fit it, in the order drawn."""

    receipt: Receipt
    attestations: Annotated[tuple[Attestation, ...], AtMost(16)]


@dataclass
class _Dispute:
    disagreement: Disagreement
    asked_ms: int = 0
    openings: dict[bytes, bytes] = field(default_factory=dict)  # verifier -> digest
    is_submitted: bool = False

    @property
    def verifiers(self) -> tuple[bytes, ...]:
        return tuple(item.verifier for item in self.disagreement.attestations)


class Disputes:
    """Disagreements that are being proven, by claim id."""

    def __init__(self) -> None:
        self._open: dict[bytes, _Dispute] = {}

    def __len__(self) -> int:
        return len(self._open)

    def restore(self, stored: Mapping[bytes, bytes]) -> None:
        """Disputes an earlier process has begun; `press` goes on with them."""
        self._open = {claim_id: _Dispute(decode(Disagreement, data)) for claim_id, data in stored.items()}

    def begin(self, disagreement: Disagreement, now_ms: int) -> list[Effect]:
        """Show the verifiers the worker's signed receipt, and ask each what it found itself."""
        claim = disagreement.receipt.claim
        claim_id = compute_claim_id(claim)
        dispute = self._open[claim_id] = _Dispute(disagreement)
        fields = {"request_id": claim.request_id, "claim_id": claim_id, "worker": claim.worker}
        kept = Store(BUCKET, claim_id, encode(disagreement))
        return [kept, Record("result.disputed", fields), *_ask(dispute, now_ms)]

    def press(self, now_ms: int) -> list[Effect]:
        """Ask those who have not opened again; give up long after the deadline."""
        effects: list[Effect] = []
        for claim_id, dispute in list(self._open.items()):
            if now_ms > dispute.disagreement.receipt.claim.deadline_ms + DISPUTE_MS_MAX:
                effects += self._drop(claim_id, "the verifiers did not open")
            elif not dispute.is_submitted and now_ms >= dispute.asked_ms + ASK_AGAIN_MS:
                effects += _ask(dispute, now_ms)
        return effects

    def learn(self, verifier: bytes, opening: Opening, state: State) -> list[Effect]:
        """One verifier's digest. The last one missing decides whether there is a proof."""
        dispute = self._open.get(opening.claim_id)
        if dispute is None or dispute.is_submitted:
            return []
        attestation = next((item for item in dispute.disagreement.attestations if item.verifier == verifier), None)
        if attestation is None:
            return []
        if attestation.value != compute_attestation(opening.claim_id, verifier, opening.output_digest):
            return [Penalise(verifier, "opened an attestation with a digest that does not fit it")]
        dispute.openings[verifier] = opening.output_digest
        return self._prove(opening.claim_id, dispute, state) if len(dispute.openings) == len(dispute.verifiers) else []

    def on_submitted(self, token: str, height: int | None, error: str) -> list[Effect]:
        """What became of a proof on the ledger."""
        kind, _, rest = token.partition("|")
        if kind != "wrong":
            return []
        claim_id, worker = map(bytes.fromhex, rest.split("|"))
        self._open.pop(claim_id, None)
        fields = {"claim_id": claim_id, "worker": worker, "height": height or 0, "error": error}
        return [Store(BUCKET, claim_id, None), Record("wrong.refused" if error else "wrong.proven", fields)]

    def _prove(self, claim_id: bytes, dispute: _Dispute, state: State) -> list[Effect]:
        receipt, digests = dispute.disagreement.receipt, set(dispute.openings.values())
        model = state.models.get(receipt.claim.model)
        if len(digests) != 1 or receipt.output_digest in digests or model is None or not model.exact:
            return self._drop(claim_id, "the verifiers do not agree among themselves, or the class is not exact")
        dispute.is_submitted = True
        body = ProveWrong(receipt, dispute.disagreement.attestations, digests.pop())
        return [Submit(body, f"wrong|{claim_id.hex()}|{receipt.claim.worker.hex()}")]

    def _drop(self, claim_id: bytes, reason: str) -> list[Effect]:
        del self._open[claim_id]
        return [Store(BUCKET, claim_id, None), Record("dispute.void", {"claim_id": claim_id, "reason": reason})]


def _ask(dispute: _Dispute, now_ms: int) -> list[Effect]:
    dispute.asked_ms = now_ms
    question = GetOpening(dispute.disagreement.receipt)
    silent = [verifier for verifier in dispute.verifiers if verifier not in dispute.openings]
    return [Request(verifier, "proof", question, "opening") for verifier in silent]
