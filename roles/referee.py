"""A validator's part in disputes: runs the one operator that is in dispute and puts on the ledger what it found.

Of a float model it runs the whole, once on the inputs and twice on others next to them (`proofs.bounds`). Whatever
cannot be found out here, for want of the model or of an engine that runs it, is left unsaid: a validator that guesses
may slash an honest worker.
"""

from dataclasses import dataclass, field

from protocol.codec import decode, encode
from protocol.content import compute_digest, format_cid
from protocol.errors import MalformedMessage
from protocol.ledger.dispute_records import Dispute, DisputePhase
from protocol.ledger.disputes import JudgeOperator, get_judges
from protocol.ledger.state import State
from protocol.ledger.step_disputes import read_said
from protocol.messages import GetExhibit, ShownExhibit
from protocol.proofs.bounds import NUDGES, WholeRun, get_bound_ppt, judge_outputs, nudge
from protocol.proofs.profiles import list_differences, parse_profile
from protocol.proofs.steps import AnyQuestion, Generated, RunPart, find_step_misfit
from protocol.proofs.trace import Exhibit, Judgement, OperatorRun, RunOperator, judge, judge_fit, unpack_trace
from protocol.tensor import Tensor
from roles.role import Compute, Computed, Effect, Fetch, Inspect, Record, Request, SetTimer, Submit

REFEREE = "referee|"  # begins its tokens
AGAIN_MS = 2_000
EXHIBIT_TRIES = 4  # of asking the worker for an exhibit that is not on the ledger


@dataclass
class _Case:
    """A dispute this validator has still to judge."""

    dispute: Dispute
    exhibit: Exhibit | None = None
    tries: int = 0
    is_under_way: bool = False  # running, or its judgement on its way to the ledger
    ran: dict[int, tuple[Tensor, ...]] = field(default_factory=dict)  # outputs of the whole model, by number of nudges


class Referee:
    """The disputes one validator judges, by their keys."""

    def __init__(self, account: bytes) -> None:
        self._account = account
        self._cases: dict[bytes, _Case] = {}
        self._held: set[bytes] = set()  # models on our disk
        self._fetching: set[bytes] = set()

    @property
    def load(self) -> int:
        return len(self._cases)

    def look(self, state: State, now_ms: int) -> list[Effect]:
        """Take up new disputes, go on with those that wait, drop those that are over."""
        asked = {key: item for key, item in state.disputes.items() if self._is_asked(state, item)}
        self._cases = {key: self._cases.get(key) or _Case(item) for key, item in asked.items()}
        return [effect for key, case in self._cases.items() for effect in self._go_on(key, case, state, now_ms)]

    def on_fetched(self, source: str, data: bytes | None, error: str, now_ms: int) -> list[Effect]:
        """A model has come, or not."""
        model = next((digest for digest in self._fetching if format_cid(digest) == source), None)
        if model is None:
            return []
        self._fetching.discard(model)
        if data is None:
            return [Record("judgement.delayed", {"model": model, "reason": error}), _again(now_ms)]
        self._held.add(model)
        return [SetTimer(REFEREE, now_ms)]

    def on_exhibit(self, token: str, message: object, state: State, now_ms: int) -> list[Effect]:
        """The worker's answer; anything but the exhibit of the digest on the ledger is none."""
        key = bytes.fromhex(token.removeprefix(REFEREE))
        case = self._cases.get(key)
        if case is None or case.is_under_way or case.exhibit is not None:
            return []
        if isinstance(message, ShownExhibit) and compute_digest(encode(message.exhibit)) == case.dispute.blob[0]:
            case.exhibit = message.exhibit
            return self._go_on(key, case, state, now_ms)
        if case.tries < EXHIBIT_TRIES:
            return [_again(now_ms)]
        return self._say(key, case, Judgement.MISSING, "the worker does not show the exhibit")

    def on_inspected(self, token: str, run: object, error: str, state: State, now_ms: int) -> list[Effect]:
        key = bytes.fromhex(token.removeprefix(REFEREE))
        case = self._cases.get(key)
        if case is None or case.exhibit is None:
            return []
        if not isinstance(run, OperatorRun):
            case.is_under_way = False
            return [Record("judgement.delayed", {"dispute": key, "reason": error}), _again(now_ms)]
        if not _may_judge(state, case.dispute, run):
            return [Record("judgement.withheld", {"dispute": key, "reason": f"this node's profile is {run.profile}"})]
        found = _judge(state, case.dispute, case.exhibit, run)
        return self._say(key, case, found, run.reason)

    def on_computed(self, event: Computed, state: State, now_ms: int) -> list[Effect]:
        """Outputs of the whole model, on the inputs in dispute or on some next to them."""
        name, _, number = event.token.removeprefix(REFEREE).partition("|")
        key = bytes.fromhex(name)
        case = self._cases.get(key)
        if case is None:
            return []
        if event.outputs is None:
            case.is_under_way = False
            return [Record("judgement.delayed", {"dispute": key, "reason": event.error}), _again(now_ms)]
        case.ran[int(number)] = event.outputs
        if len(case.ran) <= NUDGES:
            return []
        bound_ppt = get_bound_ppt(state.models.get(case.dispute.claim.model))
        shown = decode(WholeRun, case.dispute.exhibit).outputs
        found = judge_outputs(bound_ppt, shown, case.ran[0], [case.ran[at] for at in range(1, NUDGES + 1)])
        if found is None:
            reason = "near the bound, or of inputs that are hard to compute with"
            return [Record("judgement.withheld", {"dispute": key, "reason": reason})]
        return self._say(key, case, found, "")

    def on_submitted(self, token: str, error: str, now_ms: int) -> list[Effect]:
        case = self._cases.get(bytes.fromhex(token.removeprefix(REFEREE)))
        if not error or case is None:
            return []
        case.is_under_way = False
        return [Record("judgement.refused", {"reason": error}), _again(now_ms)]

    def _is_asked(self, state: State, dispute: Dispute) -> bool:
        if dispute.phase != DisputePhase.VERDICT or any(vote.account == self._account for vote in dispute.votes):
            return False
        return self._account in get_judges(state.get_epoch(dispute.epoch), dispute)

    def _go_on(self, key: bytes, case: _Case, state: State, now_ms: int) -> list[Effect]:
        if case.is_under_way:
            return []
        dispute = case.dispute
        model, token = dispute.claim.model, REFEREE + key.hex()
        if model not in self._held:
            is_new = model not in self._fetching
            self._fetching.add(model)
            return [Fetch(format_cid(model))] if is_new else []
        if not dispute.operator:
            case.is_under_way, case.ran = True, {}
            inputs = decode(WholeRun, dispute.exhibit).inputs
            runs = [inputs, *(nudge(inputs, number) for number in range(1, NUDGES + 1))]
            deadline_ms = now_ms + state.params.dispute_ms
            return [Compute(f"{token}|{number}", model, run, deadline_ms) for number, run in enumerate(runs)]
        if case.exhibit is None and dispute.blob:
            case.tries += 1
            return [Request(dispute.claim.worker, "trace", GetExhibit((), (key,), dispute.operator), token)]
        if case.exhibit is None:
            case.exhibit = decode(Exhibit, dispute.exhibit)
        case.is_under_way = True
        question: AnyQuestion = RunOperator(dispute.operator, case.exhibit)
        if dispute.generated:
            generated = decode(Generated, dispute.generated)
            question = RunPart(generated, dispute.step, dispute.operator, case.exhibit)
        return [Inspect(token, model, question, now_ms + state.params.dispute_ms)]

    def _say(self, key: bytes, case: _Case, judgement: Judgement, reason: str) -> list[Effect]:
        case.is_under_way = True
        fields = {"dispute": key, "operator": case.dispute.operator, "judgement": judgement.name, "reason": reason}
        return [Submit(JudgeOperator(key, judgement), REFEREE + key.hex()), Record("operator.judged", fields)]


def _judge(state: State, dispute: Dispute, exhibit: Exhibit, run: OperatorRun) -> Judgement:
    trace, said = unpack_trace(dispute.trace), read_said(state.models, dispute)
    if said is None:
        return judge(trace, dispute.operator, exhibit, run)
    return judge_fit(
        trace, dispute.operator, find_step_misfit(said, dispute.step, trace, dispute.operator, exhibit), run
    )


def _may_judge(state: State, dispute: Dispute, run: OperatorRun) -> bool:
    """Operators of exact models say the same everywhere; others only under the profile in dispute."""
    model = state.models.get(dispute.claim.model)
    if model is not None and model.exact:
        return True
    try:
        claimed, own = parse_profile(dispute.claim.profile), parse_profile(run.profile)
    except MalformedMessage:
        return False
    return set(list_differences(claimed, own)) <= {"batch"}


def _again(now_ms: int) -> SetTimer:
    return SetTimer(REFEREE, now_ms + AGAIN_MS)
