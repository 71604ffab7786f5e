"""A worker's part in disputes: shows what each operator of a run gave, and what one of them took.

On the ledger when it must, on streams to whoever holds its receipt. The run is made again for it, without optimisation:
nothing of this is kept while nobody asks.
"""

from collections.abc import Callable
from typing import NamedTuple

from protocol.codec import encode
from protocol.content import compute_digest, format_cid
from protocol.errors import ProtocolError
from protocol.jobs import Claim
from protocol.ledger.dispute_records import Dispute, DisputePhase
from protocol.ledger.disputes import PostExhibit, PostTrace
from protocol.ledger.state import State
from protocol.ledger.step_disputes import PostSteps
from protocol.ledger.transactions import BODY_BYTES_MAX
from protocol.messages import GetExhibit, GetTrace, Refused, ShownExhibit, ShownTrace
from protocol.proofs.steps import AnyQuestion, Generated, TraceStep
from protocol.proofs.trace import TracedRun, TraceModel
from protocol.tensor import Tensor, decode_tensors
from roles.role import Effect, Fetch, Inspect, Record, Reply, SetTimer, Submit
from roles.workbook import Job

DEFENCE = "defend|"  # begins its tokens
SHOWING_MAX = 8  # answers on streams at a time
SHOW_MS = 4_000
AGAIN_MS = 1_000


class _Ask(NamedTuple):
    """Why a run is traced: for a word on the ledger, or for the answer to a question on a stream."""

    job: Job
    operator: int
    dispute: bytes = b""
    reply: str = ""
    step: int | None = None  # of a generation


class Defender:
    """`find_job` gives the job of a channel's voucher while its claim may be disputed."""

    def __init__(self, account: bytes, find_job: Callable[[bytes, int], Job | None]) -> None:
        self._account = account
        self._find_job = find_job
        self._asks: dict[str, _Ask] = {}  # by token
        self._said: set[tuple[bytes, int]] = set()  # dispute and phase
        self._count = 0

    @property
    def load(self) -> int:
        return len(self._asks)

    def look(self, state: State, now_ms: int) -> list[Effect]:
        """What disputes on the ledger wait for from this worker."""
        own = {key: item for key, item in state.disputes.items() if item.worker == self._account}
        self._said = {word for word in self._said if word[0] in own}
        effects: list[Effect] = []
        for key, dispute in own.items():
            is_ours = dispute.phase in (DisputePhase.STEPS, DisputePhase.TRACE, DisputePhase.EXHIBIT)
            if is_ours and (key, dispute.phase) not in self._said:
                self._said.add((key, dispute.phase))
                effects += self._defend(key, dispute, now_ms + state.params.dispute_ms)
        return effects

    def on_requested(self, message: GetTrace | GetExhibit, reply: str, state: State, now_ms: int) -> list[Effect]:
        """Somebody asks on a stream: trace first, then answer."""
        if sum(bool(ask.reply) for ask in self._asks.values()) >= SHOWING_MAX:
            return [Reply(reply, Refused(f"{SHOWING_MAX} runs are being traced"))]
        ask = self._find_asked(message, state)
        if ask is None:
            return [Reply(reply, Refused("no receipt of a job still kept, nor a dispute about this operator"))]
        return self._trace(ask._replace(reply=reply), now_ms + SHOW_MS)

    def on_fetched(self, source: str, data: bytes | None, error: str, now_ms: int) -> list[Effect]:
        """Inputs that came as a blob."""
        effects: list[Effect] = []
        for token, ask in list(self._asks.items()):
            blob = ask.job.item.request.inputs_blob
            if not blob or format_cid(blob[0]) != source:
                continue
            try:
                inputs = decode_tensors(data or b"")
            except ProtocolError:
                effects += self._fail(self._asks.pop(token), f"the inputs are gone: {error}", now_ms)
            else:
                effects.append(_inspect(token, ask, inputs, now_ms + SHOW_MS))
        return effects

    def on_inspected(self, token: str, run: object, error: str, now_ms: int) -> list[Effect]:
        ask = self._asks.pop(token, None)
        if ask is None:
            return []
        if not isinstance(run, TracedRun):
            return self._fail(ask, error, now_ms)
        if ask.reply:
            shown = ShownExhibit(ask.operator, run.exhibit) if ask.operator else ShownTrace(ask.job.claim_id, run.trace)
            return [Reply(ask.reply, shown)]
        fields = {"claim_id": ask.job.claim_id, "operator": ask.operator}
        if not ask.operator:
            return [Submit(PostTrace(ask.dispute, run.trace), token), Record("trace.posted", fields)]
        body = PostExhibit(ask.dispute, (run.exhibit,), ())
        if len(encode(body)) > BODY_BYTES_MAX:
            body = PostExhibit(ask.dispute, (), (compute_digest(encode(run.exhibit)),))
        return [Submit(body, token), Record("exhibit.posted", fields)]

    def on_submitted(self, token: str, error: str, now_ms: int) -> list[Effect]:
        """A word that was refused is said again; the ledger tells whether it is still wanted."""
        if not error:
            return []
        _, dispute, phase = token.split("|")[:3]
        self._said.discard((bytes.fromhex(dispute), int(phase)))
        return [Record("defence.refused", {"dispute": dispute, "reason": error}), SetTimer(DEFENCE, now_ms + AGAIN_MS)]

    def _defend(self, key: bytes, dispute: Dispute, deadline_ms: int) -> list[Effect]:
        job = self._find_kept(dispute.claim)
        if job is None:
            return [Record("defence.impossible", {"dispute": key, "reason": "the job is no longer kept"})]
        if dispute.phase == DisputePhase.STEPS:
            body = PostSteps(key, job.item.request.inputs, job.outputs)
            shown = Record("steps.posted", {"claim_id": job.claim_id})
            return [Submit(body, self._name(key, DisputePhase.STEPS)), shown]
        operator = dispute.operator if dispute.phase == DisputePhase.EXHIBIT else 0
        return self._trace(_Ask(job, operator, dispute=key, step=_get_step(dispute)), deadline_ms)

    def _name(self, dispute: bytes, phase: DisputePhase) -> str:
        self._count += 1
        return f"{DEFENCE}{dispute.hex()}|{int(phase)}|{self._count}"

    def _trace(self, ask: _Ask, deadline_ms: int) -> list[Effect]:
        token = self._name(ask.dispute, DisputePhase.EXHIBIT if ask.operator else DisputePhase.TRACE)
        self._asks[token] = ask
        request = ask.job.item.request
        if request.inputs_blob:
            return [Fetch(format_cid(request.inputs_blob[0]))]
        return [_inspect(token, ask, request.inputs, deadline_ms)]

    def _fail(self, ask: _Ask, error: str, now_ms: int) -> list[Effect]:
        if ask.reply:
            return [Reply(ask.reply, Refused(f"the run could not be traced: {error}"[:500]))]
        phase = DisputePhase.EXHIBIT if ask.operator else DisputePhase.TRACE
        self._said.discard((ask.dispute, phase))
        return [
            Record("defence.failed", {"dispute": ask.dispute, "reason": error}),
            SetTimer(DEFENCE, now_ms + AGAIN_MS),
        ]

    def _find_asked(self, message: GetTrace | GetExhibit, state: State) -> _Ask | None:
        operator = message.operator if isinstance(message, GetExhibit) else 0
        receipts = (message.receipt,) if isinstance(message, GetTrace) else message.receipt
        for receipt in receipts:
            job = self._find_kept(receipt.claim)
            return _Ask(job, operator) if job is not None and job.receipt == receipt else None
        for key in message.dispute if isinstance(message, GetExhibit) else ():
            dispute = state.disputes.get(key)
            if dispute is not None and dispute.operator == operator > 0:
                job = self._find_kept(dispute.claim)
                return _Ask(job, operator, step=_get_step(dispute)) if job is not None else None
        return None

    def _find_kept(self, claim: Claim) -> Job | None:
        job = self._find_job(claim.channel, claim.seq)
        return job if job is not None and job.receipt is not None and job.receipt.claim == claim else None


def _inspect(token: str, ask: _Ask, inputs: tuple[Tensor, ...], deadline_ms: int) -> Effect:
    question: AnyQuestion = TraceModel(inputs, ask.operator)
    if ask.step is not None:
        question = TraceStep(Generated(inputs, ask.job.outputs), ask.step, ask.operator)
    return Inspect(token, ask.job.item.request.model, question, deadline_ms)


def _get_step(dispute: Dispute) -> int | None:
    return dispute.step if dispute.generated else None
