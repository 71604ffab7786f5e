"""A verifier's part in disputes: makes sure that a worker is wrong, puts up its bond, names the operator.

Before it risks the bond it asks the worker, on a stream, for its trace and for what the first differing operator took,
and runs that one: then it knows what validators will find. A worker that does not answer is made to, on the ledger.
While another verifier disputes the same claim it waits for the end of that, but not longer than it may: the other might
do so for show. Of a float model whose outputs are shown on the ledger and far beyond the bound there is no trace to
compare: validators run the whole.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from protocol.codec import decode, encode
from protocol.errors import ProtocolError, RemoteError
from protocol.generation import read_form
from protocol.jobs import compute_claim_id
from protocol.ledger.dispute_records import DisputePhase
from protocol.ledger.disputes import NameOperator, OpenDispute
from protocol.ledger.state import State
from protocol.messages import GetExhibit, GetTrace, ShownExhibit, ShownTrace
from protocol.proofs.classes import Comparison, Computation, compare
from protocol.proofs.trace import (
    Exhibit,
    Judgement,
    OperatorRun,
    RunOperator,
    Trace,
    TracedRun,
    TraceModel,
    find_fault,
    judge,
    unpack_trace,
    verify_binding,
)
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
from roles.role import Effect, Inspect, Record, Request, SetTimer, Store, Submit
from roles.step_challenger import BUCKET as STEP_BUCKET
from roles.step_challenger import STEP_CHALLENGE, StepChallenger

BUCKET = "challenges"


class Step(StrEnum):
    """What a challenge waits for."""

    OTHERS = "others"  # who may dispute it first
    OWN = "own"  # trace
    THEIRS = "theirs"
    EXHIBIT = "exhibit"
    RUN = "run"  # of the operator, here
    OPENED = "opened"  # the dispute on its way to the ledger
    DISPUTED = "disputed"  # the worker's trace, there
    NAMED = "named"  # the end


@dataclass
class _Under:
    """A challenge under way."""

    challenge: Challenge
    step: "Step"
    begin_ms: int = 0
    is_sure: bool = False  # everything has been looked at that can be before there is a bond
    own: Trace = ()
    theirs: Trace = ()
    operator: int = 0
    exhibit: Exhibit = field(default_factory=lambda: Exhibit(()))


class Challenger:
    """The challenges of one verifier, by claim id. They are kept from the moment they begin."""

    def __init__(self, account: bytes) -> None:
        self._account = account
        self._open: dict[bytes, _Under] = {}
        self._over = Over()
        self._steps = StepChallenger(account)

    @property
    def load(self) -> int:
        return len(self._open) + self._steps.load

    def restore(self, stored: Mapping[str, Mapping[bytes, bytes]], now_ms: int) -> list[Effect]:
        """Go on with what an earlier process began: `stored` is all that the role has kept, by bucket."""
        self._steps.restore(stored.get(STEP_BUCKET, {}))
        begun = stored.get(BUCKET, {})
        kept = {claim_id: decode(Challenge, data) for claim_id, data in begun.items()}
        self._open = {key: _Under(item, Step.OTHERS, is_sure=bool(item.is_beyond)) for key, item in kept.items()}
        return [SetTimer(CHALLENGE, now_ms)] if self.load else []

    def begin(self, challenge: Challenge, state: State, now_ms: int, rank: int = 0) -> list[Effect]:
        """Take a disagreement up, once, if the class allows a proof. Those of a lower rank go first."""
        claim_id = compute_claim_id(challenge.claim)
        model = state.models.get(challenge.claim.model)
        if model is not None and read_form(model.inputs, model.outputs) is not None:
            return self._steps.begin(challenge, state, now_ms, rank)
        theirs = Computation(challenge.claim.profile, challenge.claimed)
        is_provable = (
            model is not None
            and compare(model, theirs, Computation(challenge.profile, challenge.found)) is Comparison.DISPUTABLE
        )
        is_known = claim_id in self._open or claim_id in self._over or claim_id in state.wrong
        if not (is_provable or challenge.is_beyond) or is_known or len(self._open) >= CHALLENGES_MAX:
            return []
        challenge = replace(challenge, is_beyond=int(not is_provable))
        self._open[claim_id] = _Under(challenge, Step.OTHERS, now_ms + rank * WAIT_MS, not is_provable)
        kept: list[Effect] = [
            Store(BUCKET, claim_id, encode(challenge)),
            Record("challenge.begun", {"claim_id": claim_id}),
        ]
        return [*kept, *self.on_timer(state, now_ms)]

    def look(self, state: State, now_ms: int) -> list[Effect]:
        """What the ledger says: a dispute of ours waits for a name, or it is over, ours or another's."""
        effects: list[Effect] = []
        for claim_id, under in list(self._open.items()):
            mine, dispute = find_own(state, under.challenge.claim, self._account)
            if claim_id in state.wrong or (under.step in (Step.DISPUTED, Step.NAMED) and dispute is None):
                effects += self._drop(claim_id, "it is over")
            elif dispute is not None and dispute.phase == DisputePhase.NAME and under.own:
                effects += self._name(claim_id, mine, under, unpack_trace(dispute.trace))
        return [*effects, *self.on_timer(state, now_ms)]

    def on_timer(self, state: State, now_ms: int) -> list[Effect]:
        """Begin with those that have waited, our own trace first, and go on with those that wait for another's end."""
        effects = self._steps.look(state, now_ms)
        again_ms = 0
        for claim_id, under in list(self._open.items()):
            if under.step != Step.OTHERS:
                continue
            if now_ms < under.begin_ms or is_left_to_others(under.challenge, state, now_ms, self._account):
                again_ms = now_ms + AGAIN_MS
            elif under.is_sure:
                effects += self._open_dispute(claim_id, under, state, now_ms)
            else:
                under.step = Step.OWN
                effects.append(_inspect(claim_id, under, TraceModel(under.challenge.inputs, 0), now_ms))
        return [*effects, SetTimer(CHALLENGE, again_ms)] if again_ms else effects

    def on_inspected(self, token: str, answer: object, error: str, state: State, now_ms: int) -> list[Effect]:
        if token.startswith(STEP_CHALLENGE):
            return self._steps.on_inspected(token, answer, error, state, now_ms)
        claim_id = bytes.fromhex(token.removeprefix(CHALLENGE))
        under = self._open.get(claim_id)
        if under is not None and under.step == Step.OWN:
            return self._traced(claim_id, under, answer, error, state, now_ms)
        if under is None or under.step != Step.RUN:
            return []
        if isinstance(answer, OperatorRun):
            found = judge(under.theirs, under.operator, under.exhibit, answer)
            if found is Judgement.SOUND:
                return self._drop(claim_id, f"operator {under.operator} gives what the worker says")
        return self._open_dispute(claim_id, under, state, now_ms)

    def on_answer(self, token: str, message: Any, state: State, now_ms: int) -> list[Effect]:
        """The worker's trace or exhibit. Anything else, and silence, leave it to the ledger."""
        claim_id = bytes.fromhex(token.removeprefix(CHALLENGE))
        under = self._open.get(claim_id)
        if under is None or under.step not in (Step.THEIRS, Step.EXHIBIT):
            return []
        match message:
            case ShownTrace(shown, data) if under.step == Step.THEIRS and shown == claim_id:
                return self._compare(claim_id, under, data, state, now_ms)
            case ShownExhibit(operator, exhibit) if under.step == Step.EXHIBIT and operator == under.operator:
                under.step, under.exhibit = Step.RUN, exhibit
                return [_inspect(claim_id, under, RunOperator(operator, exhibit), now_ms)]
        return self._open_dispute(claim_id, under, state, now_ms)

    def on_submitted(self, token: str, error: str, state: State, now_ms: int) -> list[Effect]:
        """What the ledger refuses is said again while there is time: another may be first, or it may have no room."""
        if token.startswith(STEP_CHALLENGE):
            return self._steps.on_submitted(token, error, state, now_ms)
        claim_id = bytes.fromhex(token.removeprefix(CHALLENGE))
        under = self._open.get(claim_id)
        if under is None:
            return []
        if not error:
            if under.step == Step.OPENED:
                under.step = Step.DISPUTED
            return self.look(state, now_ms)
        refused = Record("challenge.refused", {"claim_id": claim_id, "reason": error})
        if under.step == Step.NAMED:
            under.step = Step.DISPUTED
            return [refused, SetTimer(CHALLENGE, now_ms + AGAIN_MS)]
        if not has_time(under.challenge, state, now_ms):
            return [refused, *self._drop(claim_id, "the ledger refuses it")]
        under.step, under.begin_ms = Step.OTHERS, now_ms + AGAIN_MS
        return [refused, SetTimer(CHALLENGE, now_ms + AGAIN_MS)]

    def _traced(
        self, claim_id: bytes, under: _Under, answer: object, error: str, state: State, now_ms: int
    ) -> list[Effect]:
        if not isinstance(answer, TracedRun):
            return self._drop(claim_id, f"no trace of our own: {error}")
        under.own = unpack_trace(answer.trace)
        if under.own[-1] != under.challenge.found:
            return self._drop(claim_id, "our own trace ends with another digest than we have attested")
        if find_own(state, under.challenge.claim, self._account)[1] is not None:
            under.step = Step.DISPUTED  # by an earlier process
            return self.look(state, now_ms)
        if not under.challenge.receipt:
            return self._open_dispute(claim_id, under, state, now_ms)
        under.step = Step.THEIRS
        question = GetTrace(under.challenge.receipt[0])
        return [Request(under.challenge.claim.worker, "trace", question, CHALLENGE + claim_id.hex())]

    def _compare(self, claim_id: bytes, under: _Under, data: bytes, state: State, now_ms: int) -> list[Effect]:
        challenge = under.challenge
        try:
            under.theirs = unpack_trace(data)
            verify_binding(under.theirs, challenge.claim.input_digest, challenge.claimed)
            under.operator = find_fault(under.own, under.theirs) or 0
        except RemoteError:
            return self._open_dispute(claim_id, under, state, now_ms)  # no such trace passes on the ledger
        under.step = Step.EXHIBIT
        told = Record("operator.found", {"claim_id": claim_id, "operator": under.operator})
        question = GetExhibit(challenge.receipt, (), under.operator)
        return [told, Request(challenge.claim.worker, "trace", question, CHALLENGE + claim_id.hex())]

    def _open_dispute(self, claim_id: bytes, under: _Under, state: State, now_ms: int) -> list[Effect]:
        under.is_sure = True
        if find_own(state, under.challenge.claim, self._account)[1] is not None:  # by an earlier process
            under.step = Step.DISPUTED
            return []
        if is_left_to_others(under.challenge, state, now_ms, self._account):
            under.step = Step.OTHERS
            return [SetTimer(CHALLENGE, now_ms + AGAIN_MS)]
        under.step = Step.OPENED
        item = under.challenge
        body = OpenDispute(item.receipt, item.leaf, item.found, item.profile)
        told = Record("dispute.opened", {"claim_id": claim_id, "worker": item.claim.worker})
        return [Submit(body, CHALLENGE + claim_id.hex()), told]

    def _name(self, claim_id: bytes, key: bytes, under: _Under, theirs: Trace) -> list[Effect]:
        if under.step == Step.NAMED:
            return []
        try:
            operator = find_fault(under.own, theirs)
        except ProtocolError as error:
            return self._drop(claim_id, str(error))
        if operator is None:
            return self._drop(claim_id, "the worker's trace is ours")
        under.step = Step.NAMED
        fields = {"claim_id": claim_id, "operator": operator}
        return [Submit(NameOperator(key, operator), CHALLENGE + claim_id.hex()), Record("operator.named", fields)]

    def _drop(self, claim_id: bytes, reason: str) -> list[Effect]:
        del self._open[claim_id]
        self._over.add(claim_id)
        return [Store(BUCKET, claim_id, None), Record("challenge.over", {"claim_id": claim_id, "reason": reason})]


def _inspect(claim_id: bytes, under: _Under, question: TraceModel | RunOperator, now_ms: int) -> Effect:
    return Inspect(CHALLENGE + claim_id.hex(), under.challenge.claim.model, question, now_ms + 10_000)
