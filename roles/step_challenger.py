"""A verifier's part in disputes about text: names the step, then the part of it, that its worker got wrong.

It needs nothing from the worker beforehand: two nodes of one profile that make the same text agree to the last bit, so
a verifier that found another digest knows that one of the two is wrong, and it has run the model. As with any model,
those drawn first go first, and another's dispute is waited for as long as there is time (`challenge`).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from protocol.codec import decode, encode
from protocol.errors import ProtocolError
from protocol.jobs import compute_claim_id
from protocol.ledger.dispute_records import Dispute, DisputePhase
from protocol.ledger.disputes import NameOperator, OpenDispute
from protocol.ledger.state import State
from protocol.ledger.step_disputes import NameStep, read_said
from protocol.proofs.classes import Comparison, Computation, compare
from protocol.proofs.steps import AnyQuestion, ForcedSteps, ForceSteps, Generated, TraceStep, find_step
from protocol.proofs.trace import TracedRun, find_fault, unpack_trace
from roles.challenge import (
    AGAIN_MS,
    CHALLENGE,
    CHALLENGES_MAX,
    WAIT_MS,
    Challenge,
    Over,
    find_own,
    has_time,
    is_left_to_others,
)
from roles.role import Effect, Inspect, Record, SetTimer, Store, Submit

STEP_CHALLENGE = f"{CHALLENGE}steps|"  # begins its tokens
BUCKET = "step-challenges"
INSPECT_MS = 10_000


@dataclass
class _Under:
    """A challenge under way. `answered` is the phase it has begun to answer."""

    challenge: Challenge
    begin_ms: int = 0
    is_sent: bool = False  # the opening of the dispute, on its way to the ledger
    is_on_ledger: bool = False
    answered: DisputePhase | None = None


class StepChallenger:
    """The challenges of one verifier that are about text, by claim id; kept from the moment they begin."""

    def __init__(self, account: bytes) -> None:
        self._account = account
        self._open: dict[bytes, _Under] = {}
        self._over = Over()

    @property
    def load(self) -> int:
        return len(self._open)

    def restore(self, stored: Mapping[bytes, bytes]) -> None:
        self._open = {claim_id: _Under(decode(Challenge, data)) for claim_id, data in stored.items()}

    def begin(self, challenge: Challenge, state: State, now_ms: int, rank: int) -> list[Effect]:
        """Dispute a claim, once, unless its class leaves nothing to prove. Those of a lower rank go first."""
        claim_id, model = compute_claim_id(challenge.claim), state.models.get(challenge.claim.model)
        theirs = Computation(challenge.claim.profile, challenge.claimed)
        own = Computation(challenge.profile, challenge.found)
        if model is None or compare(model, theirs, own) is not Comparison.DISPUTABLE:
            return []
        is_known = claim_id in self._open or claim_id in self._over or claim_id in state.wrong
        if is_known or len(self._open) >= CHALLENGES_MAX:
            return []
        self._open[claim_id] = _Under(challenge, now_ms + rank * WAIT_MS)
        kept = Store(BUCKET, claim_id, encode(challenge))
        return [kept, Record("challenge.begun", {"claim_id": claim_id}), *self.look(state, now_ms)]

    def look(self, state: State, now_ms: int) -> list[Effect]:
        """What the ledger says: it is our turn, a dispute of ours waits for a step or an operator, or it is over."""
        effects: list[Effect] = []
        is_waiting = False
        for claim_id, under in list(self._open.items()):
            dispute = find_own(state, under.challenge.claim, self._account)[1]
            if claim_id in state.wrong or (under.is_on_ledger and dispute is None):
                effects += self._drop(claim_id, "it is over")
            elif dispute is not None:
                under.is_on_ledger = True
                effects += self._go_on(claim_id, under, dispute, now_ms)
            elif under.is_sent:
                continue
            elif now_ms < under.begin_ms or is_left_to_others(under.challenge, state, now_ms, self._account):
                is_waiting = True
            else:
                effects += self._open_dispute(claim_id, under)
        return [*effects, SetTimer(CHALLENGE, now_ms + AGAIN_MS)] if is_waiting else effects

    def on_inspected(self, token: str, answer: object, error: str, state: State, now_ms: int) -> list[Effect]:
        claim_id = bytes.fromhex(token.removeprefix(STEP_CHALLENGE))
        under = self._open.get(claim_id)
        if under is None:
            return []
        key, dispute = find_own(state, under.challenge.claim, self._account)
        if dispute is None:
            return []
        try:
            if isinstance(answer, ForcedSteps) and dispute.phase == DisputePhase.STEP:
                return self._name_step(claim_id, key, dispute, answer, state)
            if isinstance(answer, TracedRun) and dispute.phase == DisputePhase.NAME:
                return self._name_operator(claim_id, key, dispute, answer)
        except ProtocolError as problem:
            return self._drop(claim_id, str(problem))
        under.answered = None
        failed = Record("challenge.delayed", {"claim_id": claim_id, "reason": error})
        return [failed, SetTimer(CHALLENGE, now_ms + AGAIN_MS)]

    def on_submitted(self, token: str, error: str, state: State, now_ms: int) -> list[Effect]:
        """What the ledger refuses is said again while there is time: another may be first, or it may have no room."""
        claim_id = bytes.fromhex(token.removeprefix(STEP_CHALLENGE))
        under = self._open.get(claim_id)
        if under is None:
            return []
        if not error:
            under.is_on_ledger = True
            return self.look(state, now_ms)
        refused = Record("challenge.refused", {"claim_id": claim_id, "reason": error})
        if under.is_on_ledger:
            under.answered = None
        elif has_time(under.challenge, state, now_ms):
            under.is_sent, under.begin_ms = False, now_ms + AGAIN_MS
        else:
            return [refused, *self._drop(claim_id, "the ledger refuses it")]
        return [refused, SetTimer(CHALLENGE, now_ms + AGAIN_MS)]

    def _open_dispute(self, claim_id: bytes, under: _Under) -> list[Effect]:
        under.is_sent = True
        item = under.challenge
        body = OpenDispute(item.receipt, item.leaf, item.found, item.profile)
        told = Record("dispute.opened", {"claim_id": claim_id, "worker": item.claim.worker})
        return [Submit(body, STEP_CHALLENGE + claim_id.hex()), told]

    def _go_on(self, claim_id: bytes, under: _Under, dispute: Dispute, now_ms: int) -> list[Effect]:
        phase = DisputePhase(dispute.phase)
        if phase not in (DisputePhase.STEP, DisputePhase.NAME) or under.answered is phase:
            return []
        under.answered = phase
        generated = decode(Generated, dispute.generated)
        is_first = phase is DisputePhase.STEP
        question: AnyQuestion = ForceSteps(generated) if is_first else TraceStep(generated, dispute.step, 0)
        return [Inspect(STEP_CHALLENGE + claim_id.hex(), dispute.claim.model, question, now_ms + INSPECT_MS)]

    def _name_step(
        self, claim_id: bytes, key: bytes, dispute: Dispute, forced: ForcedSteps, state: State
    ) -> list[Effect]:
        said = read_said(state.models, dispute)
        step = None if said is None else find_step(said, forced)
        if step is None:
            return self._drop(claim_id, "every step of the worker's is ours")
        named = Record("step.named", {"claim_id": claim_id, "step": step})
        return [Submit(NameStep(key, step), STEP_CHALLENGE + claim_id.hex()), named]

    def _name_operator(self, claim_id: bytes, key: bytes, dispute: Dispute, run: TracedRun) -> list[Effect]:
        operator = find_fault(unpack_trace(run.trace), unpack_trace(dispute.trace))
        if operator is None:
            return self._drop(claim_id, "the worker's trace is ours")
        named = Record("operator.named", {"claim_id": claim_id, "step": dispute.step, "operator": operator})
        return [Submit(NameOperator(key, operator), STEP_CHALLENGE + claim_id.hex()), named]

    def _drop(self, claim_id: bytes, reason: str) -> list[Effect]:
        del self._open[claim_id]
        self._over.add(claim_id)
        return [Store(BUCKET, claim_id, None), Record("challenge.over", {"claim_id": claim_id, "reason": reason})]
