"""Results the verifiers disagree with: gather their openings and put the proof on the ledger."""

from protocol.jobs import compute_attestation
from protocol.ledger.state import State
from protocol.ledger.transactions import ProveWrong
from protocol.messages import GetOpening, Opening
from roles.attempts import Attempt, Job
from roles.role import Effect, Penalise, Record, Request, Submit

ASK_AGAIN_MS = 1_500
DISPUTE_MS_MAX = 120_000  # after the request's deadline


class Disputes:
    """Claims whose attestations do not fit the worker's receipt, by claim id."""

    def __init__(self) -> None:
        self._open: dict[bytes, tuple[Job, Attempt]] = {}

    def __len__(self) -> int:
        return len(self._open)

    def begin(self, job: Job, attempt: Attempt, now_ms: int) -> list[Effect]:
        """Show the verifiers the worker's signed receipt, and ask each what it found itself."""
        self._open[attempt.claim_id] = job, attempt
        fields = {"request_id": job.request_id, "claim_id": attempt.claim_id, "worker": attempt.worker}
        return [Record("result.disputed", fields), *_ask(attempt, now_ms)]

    def press(self, now_ms: int) -> list[Effect]:
        """Ask those who have not opened again; give up long after the deadline."""
        effects: list[Effect] = []
        for claim_id, (job, attempt) in list(self._open.items()):
            if now_ms > job.request.deadline_ms + DISPUTE_MS_MAX:
                del self._open[claim_id]
                effects.append(Record("dispute.void", {"claim_id": claim_id, "reason": "the verifiers did not open"}))
            elif now_ms >= attempt.pulled_ms + ASK_AGAIN_MS:
                effects += _ask(attempt, now_ms)
        return effects

    def learn(self, verifier: bytes, opening: Opening, state: State) -> list[Effect]:
        """One verifier's digest. The last one missing decides whether there is a proof."""
        found = self._open.get(opening.claim_id)
        if found is None:
            return []
        job, attempt = found
        attestation = attempt.attestations.get(verifier)
        if attestation is None:
            return []
        if attestation.value != compute_attestation(opening.claim_id, verifier, opening.output_digest):
            return [Penalise(verifier, "opened an attestation with a digest that does not fit it")]
        attempt.openings[verifier] = opening.output_digest
        if len(attempt.openings) < len(attempt.committee):
            return []
        del self._open[opening.claim_id]
        return self._prove(job, attempt, state)

    def _prove(self, job: Job, attempt: Attempt, state: State) -> list[Effect]:
        assert attempt.receipt is not None
        digests = set(attempt.openings.values())
        model = state.models.get(job.request.model)
        if len(digests) != 1 or attempt.receipt.output_digest in digests or model is None or not model.exact:
            reason = "the verifiers do not agree among themselves, or the model's class is not exact"
            return [Record("dispute.void", {"claim_id": attempt.claim_id, "reason": reason})]
        attestations = tuple(attempt.attestations[verifier] for verifier in attempt.committee)
        body = ProveWrong(attempt.receipt, attestations, digests.pop())
        return [Submit(body, f"wrong|{attempt.claim_id.hex()}|{attempt.worker.hex()}")]

    def on_submitted(self, token: str, height: int | None, error: str) -> list[Effect]:
        """What became of a proof on the ledger."""
        kind, _, rest = token.partition("|")
        if kind != "wrong":
            return []
        claim_id, worker = rest.split("|")
        fields = {"claim_id": claim_id, "worker": worker, "height": height or 0, "error": error}
        return [Record("wrong.refused" if error else "wrong.proven", fields)]


def _ask(attempt: Attempt, now_ms: int) -> list[Effect]:
    assert attempt.receipt is not None
    attempt.pulled_ms = now_ms
    question = GetOpening(attempt.receipt)
    silent = [verifier for verifier in attempt.committee if verifier not in attempt.openings]
    return [Request(verifier, "proof", question, "opening") for verifier in silent]
