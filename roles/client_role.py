"""Asks for inference, pays with vouchers, and releases a result only when the drawn verifiers have attested it.

In the modes `batch` and `private` it releases what the worker has signed at once: there is a channel for each mode.
A result whose attestations all open to another digest becomes evidence: the client asks the verifiers to open and puts
the proof on the ledger. Whoever runs the node commands `Ask` and is handed an `Outcome`.
"""

from typing import Any

from protocol.check import AHEAD_MS_MAX
from protocol.codec import encode
from protocol.committee import compute_committee
from protocol.errors import ProtocolError, RemoteError
from protocol.jobs import (
    Attestation,
    InferenceRequest,
    Mode,
    Receipt,
    compute_claim_id,
    compute_request_id,
)
from protocol.messages import (
    Accepted,
    Attestations,
    GetAttestations,
    Opening,
    Refusal,
    Refused,
    Requests,
    Result,
)
from protocol.proofs.kinds import REEXEC, SIGNED
from protocol.proofs.receipt_file import VERSION, ReceiptFile
from protocol.signing import verify_signed
from roles.admission import FALLBACK_CODES, REQUEST_BYTES_MAX, NotAdmitted, check_inputs
from roles.attempts import Ask, Attempt, Job, Outcome, verify_result
from roles.debts import Debts
from roles.dispatch import Dispatch, go_direct, order_workers
from roles.disputes import Disagreement, Disputes
from roles.purse import Purse
from roles.role import (
    Commanded,
    Context,
    Deliver,
    Effect,
    Event,
    LedgerAdvanced,
    Penalise,
    Publish,
    Received,
    Record,
    Reply,
    Request,
    Requested,
    RequestFailed,
    Role,
    SetTimer,
    Started,
    Store,
    Submitted,
    TimerFired,
)

ASKS_MAX = 4_096
TICK_MS = 200
RETRY_MS = 2_000
GOSSIP_TRIES = 3  # the first and two more; then the client goes direct
PULL_MS = 1_500
CHANNEL_DEPOSIT = 1_000_000_000  # grains per worker
VOUCHER_STEP = 1  # vouchers in flight with one worker


class ClientRole(Role):
    name = "client"
    protocols = ("infer",)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        config = context.config
        self._purse = Purse(context.account, int(config.get("channel_deposit", CHANNEL_DEPOSIT)))
        self._debts = Debts(self._purse)
        self._dispatch = Dispatch(self._purse, self._debts, int(config.get("voucher_step", VOUCHER_STEP)))
        self._jobs: dict[bytes, Job] = {}  # request id -> job
        self._claims: dict[bytes, tuple[Job, Attempt]] = {}
        self._disputes = Disputes()
        self._is_ticking = False

    @property
    def load(self) -> int:
        return len(self._jobs)

    def handle(self, event: Event, now_ms: int) -> list[Effect]:
        match event:
            case Started(state, stored):
                self._state = state
                self._purse.restore(stored.get("vouchers", {}))
                self._disputes.restore(stored.get("disputes", {}))
                return self._keep_ticking(now_ms)
            case Commanded(Ask() as ask):
                return self._ask(ask, now_ms)
            case LedgerAdvanced(state):
                self._state = state
                return self._run(now_ms)
            case Submitted("open", _, error):
                return self._opened(error, now_ms)
            case Submitted(token, height, error):
                return self._disputes.on_submitted(token, height, error)
            case Requested(sender, message, _, token):
                return self._told(sender, message, token, now_ms)
            case Received(sender, Attestations(items)):
                return self._attested(items, now_ms)
            case Received(sender, Opening() as opening, _, _):
                return self._disputes.learn(sender, opening, self._ledger)
            case Received(sender, Refused(reason), _, token) | RequestFailed(sender, token, reason):
                return self._unanswered(token, reason, now_ms)
            case TimerFired("tick"):
                return self._tick(now_ms)
            case _:
                return []

    # From ask to request

    def _ask(self, ask: Ask, now_ms: int) -> list[Effect]:
        state = self._ledger
        model = state.models.get(ask.model)
        if model is None:
            names = ", ".join(sorted(record.name for record in state.models.values())) or "none"
            return self._refuse(ask, "unknown_model", f"the ledger has no model {ask.model.hex()}; it has: {names}")
        if len(self._jobs) >= ASKS_MAX:
            return self._refuse(ask, "busy", f"{ASKS_MAX} requests are under way")
        try:
            rows = check_inputs(ask.inputs, model)
        except NotAdmitted as error:
            return self._refuse(ask, str(error.code), str(error))
        if ask.timeout_ms <= 0:
            return self._refuse(ask, "expired", "the deadline has already passed")
        if ask.timeout_ms > AHEAD_MS_MAX:
            reason = f"a deadline is at most {AHEAD_MS_MAX} ms ahead, {ask.timeout_ms} ms were asked for"
            return self._refuse(ask, "policy", reason)
        request = InferenceRequest(
            chain=state.chain,
            account=self.context.account.public,
            client=self.context.signer.public,
            model=ask.model,
            inputs=ask.inputs,
            inputs_blob=(),
            proof=SIGNED.name if ask.mode == Mode.PRIVATE else REEXEC.name,
            verifiers=0 if ask.mode == Mode.PRIVATE else ask.verifiers,
            fee_max=ask.fee_max,
            epoch=state.epoch,
            deadline_ms=now_ms + ask.timeout_ms,
            nonce=self.context.random.randbytes(16),
            mode=ask.mode,
        )
        size_bytes = len(encode(request))
        if size_bytes > REQUEST_BYTES_MAX:
            reason = f"the request is {size_bytes} bytes, gossip carries {REQUEST_BYTES_MAX}: send fewer rows at a time"
            return self._refuse(ask, "too_large", reason)
        job = Job(ask, request, compute_request_id(request), rows)
        job.order = order_workers(job, state)
        if not job.order:
            return self._refuse(ask, "no_worker", f"no bonded inference node serves {model.name} in this epoch")
        self._jobs[job.request_id] = job
        self._dispatch.add(job)
        return [*self._run(now_ms), *self._keep_ticking(now_ms)]

    def _run(self, now_ms: int) -> list[Effect]:
        effects, left_over = self._dispatch.run(self._ledger, now_ms)
        # A worker that was given up may still answer; only a job with no hope left ends before its deadline.
        hopeless = [job for job in left_over if all(attempt.is_over for attempt in job.attempts)]
        return [*effects, *(effect for job in hopeless for effect in self._fail(job, job.last_code, job.last_reason))]

    def _opened(self, error: str, now_ms: int) -> list[Effect]:
        stuck = self._dispatch.on_opened(error)
        reason = f"could not open a payment channel: {error}"
        failed = [effect for job in stuck for effect in self._fail(job, "unpaid", reason)]
        return [*failed, *self._run(now_ms)]

    # What workers and verifiers say

    def _told(self, sender: bytes, message: Any, token: str, now_ms: int) -> list[Effect]:
        accepted = Reply(token, Accepted())
        match message:
            case Result():
                return [accepted, *self._result(sender, message, now_ms)]
            case Attestations(items):
                return [accepted, *self._attested(items, now_ms)]
            case Refusal():
                return [accepted, *self._refused(sender, message, now_ms)]
        return [Reply(token, Refused("a client takes results, attestations and refusals"))]

    def _find(self, sender: bytes, request_id: bytes, number: int) -> tuple[Job, Attempt] | None:
        job = self._jobs.get(request_id)
        if job is None or not 1 <= number <= len(job.attempts) or job.attempts[number - 1].worker != sender:
            return None
        return job, job.attempts[number - 1]

    def _result(self, sender: bytes, result: Result, now_ms: int) -> list[Effect]:
        claim = result.receipt.claim
        owed = self._debts.find(sender, claim.request_id, claim.attempt)
        if owed is not None:
            return self._settle_debt(owed, result)
        found = self._find(sender, claim.request_id, claim.attempt)
        if found is None or found[1].receipt is not None:
            return []
        job, attempt = found
        try:
            verify_result(attempt, result)
            if job.request.mode == Mode.INDIVIDUAL:
                attempt.committee = self._draw(result.receipt)
        except ProtocolError as error:
            return _blame(sender, error)
        attempt.receipt, attempt.outputs, attempt.pulled_ms = result.receipt, result.outputs, now_ms
        self._purse.note_answered(attempt.item.voucher)
        attempt.claim_id = compute_claim_id(claim)
        self._claims[attempt.claim_id] = job, attempt
        fields = {"request_id": job.request_id, "worker": sender, "attempt": claim.attempt}
        received = Record("result.received", fields)
        if job.request.mode == Mode.INDIVIDUAL:
            return [received]
        return [received, *self._release(job, attempt, now_ms)]

    def _settle_debt(self, owed: Attempt, result: Result) -> list[Effect]:
        """An answer to a request that is over: too late to be used, but the worker has done what it was paid for."""
        try:
            verify_result(owed, result)
        except ProtocolError as error:
            reason = f"a result that does not fit its request: {error}"
            return [
                Penalise(owed.worker, reason),
                Record("result.malformed", {"worker": owed.worker, "reason": reason}),
            ]
        self._purse.note_answered(owed.item.voucher)
        self._debts.end(owed)
        return [Record("result.late", {"request_id": owed.item.voucher.request_id, "worker": owed.worker})]

    def _draw(self, receipt: Receipt) -> tuple[bytes, ...]:
        claim = receipt.claim
        epoch = self._ledger.get_epoch(claim.epoch)
        if epoch is None:
            raise RemoteError(f"epoch {claim.epoch} is no longer known")
        return compute_committee(epoch.seed, claim.request_id, claim.worker, epoch.candidates, claim.verifiers)

    def _attested(self, items: tuple[Attestation, ...], now_ms: int) -> list[Effect]:
        effects: list[Effect] = []
        for item in items:
            found = self._claims.get(item.claim_id)
            if found is None:
                continue
            job, attempt = found
            if item.verifier not in attempt.committee or item.verifier in attempt.attestations:
                continue
            try:
                verify_signed(item, item.verifier)
            except ProtocolError:
                continue  # not the verifier's word; whoever passed it on may be no more than careless
            attempt.attestations[item.verifier] = item
            if attempt.is_attested:
                effects += self._conclude(job, attempt, now_ms)
        return effects

    def _conclude(self, job: Job, attempt: Attempt, now_ms: int) -> list[Effect]:
        """All drawn verifiers have spoken: release the result, or start proving it wrong and ask another worker."""
        if attempt.is_over and not attempt.is_silent:
            return []
        if attempt.is_agreed():
            return self._release(job, attempt, now_ms)
        assert attempt.receipt is not None
        attestations = tuple(attempt.attestations[verifier] for verifier in attempt.committee)
        dispute = self._disputes.begin(Disagreement(attempt.receipt, attestations), now_ms)
        if attempt.is_silent:
            return [*dispute, *self._forget_silent(attempt, now_ms)]
        reason = "the verifiers found another output"
        return [*dispute, *self._fall_back(job, attempt, "dissent", reason, now_ms)]

    def _release(self, job: Job, attempt: Attempt, now_ms: int) -> list[Effect]:
        assert attempt.receipt is not None
        attestations = tuple(attempt.attestations[verifier] for verifier in attempt.committee)
        file = ReceiptFile(
            version=VERSION,
            request=job.request,
            voucher=attempt.item.voucher,
            receipt=attempt.receipt,
            outputs=attempt.outputs,
            attestations=attestations,
        )
        data = encode(file)
        outcome = Outcome(
            token=job.ask.token,
            is_attested=bool(attestations),
            request_id=job.request_id,
            outputs=attempt.outputs,
            worker=attempt.worker,
            verifiers=attempt.committee,
            fee=attempt.item.voucher.amount,
            attempts=len(job.attempts),
            was_direct=attempt.is_direct,
            receipt_file=data,
        )
        fields = {"request_id": job.request_id, "worker": attempt.worker, "attempt": attempt.item.voucher.attempt}
        return [
            Store("receipt", job.request_id, data),
            Record("request.attested" if attestations else "request.answered", fields),
            Deliver(outcome),
            *self._close(job, now_ms),
        ]

    def _refused(self, sender: bytes, refusal: Refusal, now_ms: int) -> list[Effect]:
        owed = self._debts.find(sender, refusal.request_id, refusal.attempt)
        if owed is not None:
            self._debts.end(owed)
            return []
        found = self._find(sender, refusal.request_id, refusal.attempt)
        if found is None or found[1].receipt is not None:
            return []
        job, attempt = found
        fields = {"request_id": job.request_id, "worker": sender, "code": refusal.code, "reason": refusal.reason}
        record = Record("request.refused", fields)
        if attempt.is_silent:
            return [record, *self._forget_silent(attempt, now_ms)]
        if refusal.code in FALLBACK_CODES:
            return [record, *self._fall_back(job, attempt, refusal.code, refusal.reason, now_ms)]
        return [record, *self._fail(job, refusal.code, refusal.reason)]

    def _fall_back(self, job: Job, attempt: Attempt, code: str, reason: str, now_ms: int) -> list[Effect]:
        """Give this attempt up; the next worker in order is asked under a voucher of its own."""
        job.last_code, job.last_reason = code, reason
        attempt.is_over = True
        if code != "no_answer":  # a silent worker may still hold the voucher: it stays in flight
            self._dispatch.free(attempt)
        if job.order:
            self._dispatch.add(job)
            return self._run(now_ms)
        return self._fail(job, code, reason) if all(other.is_over for other in job.attempts) else []

    def _forget_silent(self, attempt: Attempt, now_ms: int) -> list[Effect]:
        """A worker that was out of reach has spoken, in vain: another has been asked long since."""
        attempt.is_silent = False
        self._dispatch.free(attempt)
        return self._run(now_ms)

    # Time

    def _tick(self, now_ms: int) -> list[Effect]:
        self._is_ticking = False
        effects: list[Effect] = []
        for job in list(self._jobs.values()):
            if now_ms >= job.request.deadline_ms:
                effects += self._fail(job, job.last_code, f"not attested by the deadline: {job.last_reason}")
                continue
            for attempt in list(job.attempts):
                effects += self._nudge(job, attempt, now_ms)
        effects += self._disputes.press(now_ms)
        return [*effects, *self._run(now_ms), *self._keep_ticking(now_ms)]

    def _nudge(self, job: Job, attempt: Attempt, now_ms: int) -> list[Effect]:
        if attempt.is_over and not attempt.is_silent:
            return []
        if attempt.receipt is not None:
            if now_ms < attempt.pulled_ms + PULL_MS:
                return []
            attempt.pulled_ms = now_ms
            job.last_code, job.last_reason = "unattested", "a worker answered, the drawn verifiers did not"
            question = GetAttestations((attempt.claim_id,))
            silent = [verifier for verifier in attempt.committee if verifier not in attempt.attestations]
            return [Request(verifier, "sync", question, "pull") for verifier in silent]
        if attempt.is_asking or now_ms < attempt.sent_ms + RETRY_MS:
            return []
        attempt.sent_ms = now_ms
        if attempt.is_silent:
            return [go_direct(attempt)]
        fields = {"request_id": job.request_id, "attempt": attempt.item.voucher.attempt, "tries": attempt.tries}
        if attempt.tries < GOSSIP_TRIES:
            attempt.tries += 1
            # The same request and voucher in a new envelope: whoever has it already answers once more.
            return [Publish("infer/0", Requests((attempt.item,))), Record("request.retried", fields)]
        attempt.is_direct = True
        fields["reason"] = f"no answer to {attempt.tries} messages by gossip"
        return [Record("request.direct", fields), go_direct(attempt)]

    def _unanswered(self, token: str, reason: str, now_ms: int) -> list[Effect]:
        kind, _, rest = token.partition("|")
        if kind != "direct":
            return []
        request_id, number = rest.split("|")
        job = self._jobs.get(bytes.fromhex(request_id))
        if job is None:
            return []
        attempt = job.attempts[int(number) - 1]
        attempt.is_asking, attempt.sent_ms = False, now_ms
        if attempt.receipt is not None or attempt.is_over:
            return []
        # It holds a voucher, and may be back in a moment: until then it blocks what else it could be asked.
        attempt.is_silent = True
        return self._fall_back(job, attempt, "no_answer", f"the worker cannot be reached: {reason}", now_ms)

    # Ends

    def _refuse(self, ask: Ask, code: str, reason: str) -> list[Effect]:
        return [Deliver(Outcome(ask.token, False, b"", code=code, reason=reason))]

    def _fail(self, job: Job, code: str, reason: str) -> list[Effect]:
        if job.request_id not in self._jobs:
            return []
        fields = {"request_id": job.request_id, "code": code, "reason": reason}
        attempts = len(job.attempts)
        outcome = Outcome(job.ask.token, False, job.request_id, attempts=attempts, code=code, reason=reason)
        return [Record("request.failed", fields), Deliver(outcome), *self._close(job, None)]

    def _close(self, job: Job, now_ms: int | None) -> list[Effect]:
        del self._jobs[job.request_id]
        self._dispatch.remove(job)
        for attempt in job.attempts:
            self._claims.pop(attempt.claim_id, None)
            if attempt.receipt is None and (attempt.is_silent or not attempt.is_over):
                self._debts.begin(attempt)
        return [] if now_ms is None else self._run(now_ms)

    def _keep_ticking(self, now_ms: int) -> list[Effect]:
        if self._is_ticking or not (self._jobs or self._disputes):
            return []
        self._is_ticking = True
        return [SetTimer("tick", now_ms + TICK_MS)]


def _blame(worker: bytes, error: ProtocolError) -> list[Effect]:
    reason = f"a result that does not fit its request: {error}"
    return [Penalise(worker, reason), Record("result.malformed", {"worker": worker, "reason": reason})]
