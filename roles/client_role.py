"""The role: asks for inference, pays with vouchers, releases a result only when all drawn verifiers have attested it.

In the modes `batch` and `private` it releases what the worker has signed at once: there is a channel for each mode.
A result whose attestations all open to another digest becomes evidence: the client asks the verifiers to open and puts
the proof on the ledger. Whoever runs the node commands `Ask`, `AskAgain` or `CallOff` and is handed an `Outcome`;
`roles.client` does so for programs.
"""

from dataclasses import replace

from protocol.committee import compute_committee
from protocol.errors import ProtocolError, RemoteError
from protocol.jobs import Attestation, Mode, Receipt, compute_claim_id
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
from protocol.signing import verify_signed
from roles.admission import FALLBACK_CODES
from roles.asking import NotAsked, make_job
from roles.attempts import (
    GOSSIP_TRIES,
    RETRY_MS,
    Ask,
    AskAgain,
    Attempt,
    CallOff,
    Job,
    Outcome,
    make_outcome,
    verify_result,
)
from roles.debts import Debts
from roles.dispatch import Dispatch, call_off, go_direct
from roles.disputes import Disagreement, Disputes
from roles.purse import Purse
from roles.request_log import RequestLog, RequestRecord, make_record, restore_job
from roles.role import (
    Commanded,
    Context,
    Deliver,
    Effect,
    Event,
    LedgerAdvanced,
    PeerUp,
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
PULL_MS = 1_500
CHANNEL_DEPOSIT = 1_000_000_000  # grains per worker
VOUCHER_STEP = 1  # vouchers in flight with one worker
HEDGE = "hedge|"
REASON_LETTERS_MAX = 400


class ClientRole(Role):
    name = "client"
    protocols = ("infer",)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        config = context.config
        self._purse = Purse(context.account, int(config.get("channel_deposit", CHANNEL_DEPOSIT)))
        self._debts = Debts(self._purse)
        step = int(config.get("voucher_step", VOUCHER_STEP))
        self._dispatch = Dispatch(self._purse, self._debts, step, self._on_sending)
        self._hedge_ms = int(config.get("hedge_ms", 0))  # for asks that do not say
        self._jobs: dict[bytes, Job] = {}  # request id -> job
        self._claims: dict[bytes, tuple[Job, Attempt]] = {}
        self._disputes = Disputes()
        self._log = RequestLog()
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
                unfinished = self._log.restore(stored.get("requests", {}))
                resumed = [effect for record in unfinished for effect in self._resume(record, now_ms)]
                return [*resumed, *self._keep_ticking(now_ms)]
            case Commanded(Ask() as ask):
                return self._ask(ask, now_ms)
            case Commanded(AskAgain() as again):
                return self._ask_again(again)
            case Commanded(CallOff(token)):
                return self._call_off(token, now_ms)
            case LedgerAdvanced(state):
                self._state = state
                return self._run(now_ms)
            case Submitted("open", _, error):
                return self._opened(error, now_ms)
            case Submitted(token, height, error):
                return self._disputes.on_submitted(token, height, error)
            case Requested():
                return self._told(event, now_ms)
            case Received(sender, Attestations(items)):
                return self._attested(items, now_ms)
            case Received(sender, Opening() as opening, _, _):
                return self._disputes.learn(sender, opening, self._ledger)
            case Received(sender, Refused(reason), _, token) | RequestFailed(sender, token, reason):
                return self._unanswered(token, reason, now_ms)
            case PeerUp(peer):
                return self._reach(peer)
            case TimerFired("tick"):
                return self._tick(now_ms)
            case TimerFired(name) if name.startswith(HEDGE):
                return self._hedge(bytes.fromhex(name.removeprefix(HEDGE)), now_ms)
            case _:
                return []

    # From ask to request

    def _ask(self, ask: Ask, now_ms: int) -> list[Effect]:
        if len(self._jobs) >= ASKS_MAX:
            return [_say_no(ask.token, "busy", f"{ASKS_MAX} requests are under way")]
        if ask.hedge_ms == 0 and self._hedge_ms:
            ask = replace(ask, hedge_ms=self._hedge_ms)
        try:
            job = make_job(ask, self.context, self._ledger, now_ms)
        except NotAsked as error:
            return [_say_no(ask.token, error.code, str(error))]
        job.tokens.append(ask.token)
        self._jobs[job.request_id] = job
        self._dispatch.add(job)
        return [*self._run(now_ms), *self._keep_ticking(now_ms)]

    def _ask_again(self, again: AskAgain) -> list[Effect]:
        """Whoever asks by an id gets what the request came to: it is under way already, or it has ended."""
        job = self._jobs.get(again.request_id)
        if job is not None:
            job.tokens.append(again.token)
            return []
        record = self._log.find(again.request_id)
        if record is None:
            reason = f"this client has made no request {again.request_id.hex()}, or has forgotten it"
            return [_say_no(again.token, "unknown_request", reason)]
        if record.winner:
            reason = "it was answered; the receipt it was kept in is no longer there"
            return [_say_no(again.token, "no_receipt", reason, again.request_id)]
        return [_say_no(again.token, record.code, record.reason, again.request_id)]

    def _call_off(self, token: str, now_ms: int) -> list[Effect]:
        job = next((job for job in self._jobs.values() if token in job.tokens), None)
        if job is None:
            return []
        job.tokens.remove(token)
        if job.tokens:
            return []
        return [*self._fail(job, "cancelled", "called off by whoever asked", now_ms), *self._run(now_ms)]

    def _resume(self, record: RequestRecord, now_ms: int) -> list[Effect]:
        """Go on with what an earlier process began: its vouchers may be out there, and pay for one answer each."""
        job = restore_job(record, now_ms)
        if now_ms >= job.request.deadline_ms:
            reason = "this client was not running when its deadline passed"
            return self._log.keep(replace(record, ended_ms=now_ms, code="expired", reason=reason))
        self._jobs[job.request_id] = job
        for attempt in job.attempts:
            if not attempt.is_over:
                self._dispatch.restore(attempt)
        if all(attempt.is_over for attempt in job.attempts):
            self._dispatch.add(job)
        return [Record("request.resumed", {"request_id": job.request_id, "attempts": len(job.attempts)})]

    def _reach(self, peer: bytes) -> list[Effect]:
        """A worker that could not be asked, or not since this process began, is asked at the next tick."""
        for job in self._jobs.values():
            for attempt in job.attempts:
                if attempt.worker == peer and (attempt.is_silent or attempt.is_resumed):
                    attempt.sent_ms = 0
        return []

    def _on_sending(self, job: Job, now_ms: int) -> list[Effect]:
        """What goes before an attempt's request leaves: a client killed after it must know of it."""
        kept = self._log.keep(make_record(job))
        if not job.ask.hedge_ms or len(job.attempts) > 1:
            return kept
        return [*kept, SetTimer(HEDGE + job.request_id.hex(), now_ms + job.ask.hedge_ms)]

    def _hedge(self, request_id: bytes, now_ms: int) -> list[Effect]:
        """No answer yet: the next worker is asked too. The first whose answer can be released wins."""
        job = self._jobs.get(request_id)
        if job is None or not job.order or len(job.attempts) != 1 or job.attempts[0].is_over:
            return []
        job.is_hedged = True
        self._dispatch.add(job)
        fields = {"request_id": request_id, "worker": job.attempts[0].worker, "after_ms": job.ask.hedge_ms}
        return [Record("request.hedged", fields), *self._run(now_ms)]

    def _run(self, now_ms: int) -> list[Effect]:
        effects, left_over = self._dispatch.run(self._ledger, now_ms)
        # A worker that was given up may still answer; only a job with no hope left ends before its deadline.
        hopeless = [job for job in left_over if all(attempt.is_over for attempt in job.attempts)]
        failed = (effect for job in hopeless for effect in self._fail(job, job.last_code, job.last_reason, now_ms))
        return [*effects, *failed]

    def _opened(self, error: str, now_ms: int) -> list[Effect]:
        stuck = self._dispatch.on_opened(error)
        reason = f"could not open a payment channel: {error}"
        failed = [effect for job in stuck for effect in self._fail(job, "unpaid", reason, now_ms)]
        return [*failed, *self._run(now_ms)]

    # What workers and verifiers say

    def _told(self, event: Requested, now_ms: int) -> list[Effect]:
        accepted = Reply(event.token, Accepted())
        match event.message:
            case Result() as result:
                return [accepted, *self._result(event.sender, result, now_ms)]
            case Attestations(items):
                return [accepted, *self._attested(items, now_ms)]
            case Refusal() as refusal:
                return [accepted, *self._refused(event.sender, refusal, event.sealed, now_ms)]
        return [Reply(event.token, Refused("a client takes results, attestations and refusals"))]

    def _find(self, sender: bytes, request_id: bytes, number: int) -> tuple[Job, Attempt] | None:
        job = self._jobs.get(request_id)
        if job is None or not 1 <= number <= len(job.attempts) or job.attempts[number - 1].worker != sender:
            return None
        return job, job.attempts[number - 1]

    def _result(self, sender: bytes, result: Result, now_ms: int) -> list[Effect]:
        claim = result.receipt.claim
        owed = self._debts.find(sender, claim.request_id, claim.attempt)
        if owed is not None:
            return self._settle_debt(owed, result, now_ms)
        found = self._find(sender, claim.request_id, claim.attempt)
        if found is None or found[1].receipt is not None:
            return []
        job, attempt = found
        try:
            verify_result(attempt, result, self._ledger.models[job.request.model])
            if job.request.mode == Mode.INDIVIDUAL:
                attempt.committee = self._draw(result.receipt)
        except ProtocolError as error:
            if attempt.is_over:
                return _blame(sender, error)
            # It may claim its pay all the same: no other voucher for it, as if it had not answered.
            attempt.is_silent = True
            reason = f"the worker's result does not fit its request: {error}"
            return [*_blame(sender, error), *self._fall_back(job, attempt, "no_answer", reason, now_ms)]
        attempt.receipt, attempt.outputs, attempt.pulled_ms = result.receipt, result.outputs, now_ms
        self._purse.note_answered(attempt.item.voucher)
        attempt.claim_id = compute_claim_id(claim)
        self._claims[attempt.claim_id] = job, attempt
        fields = {"request_id": job.request_id, "worker": sender, "attempt": claim.attempt}
        received = Record("result.received", fields)
        if job.request.mode == Mode.INDIVIDUAL:
            return [received]
        return [received, *self._release(job, attempt, now_ms)]

    def _settle_debt(self, owed: Attempt, result: Result, now_ms: int) -> list[Effect]:
        """An answer to a request that is over: too late to be used, but the worker has done what it was paid for."""
        try:
            verify_result(owed, result, self._ledger.models[owed.item.request.model])
        except ProtocolError as error:
            return _blame(owed.worker, error)
        self._purse.note_answered(owed.item.voucher)
        self._debts.end(owed)
        request_id = owed.item.voucher.request_id
        kept = self._log.add_late(request_id, owed.number, (result.receipt,), b"")
        fields = {"request_id": request_id, "worker": owed.worker, "attempt": owed.number}
        return [*kept, Record("result.late", fields), *self._run(now_ms)]

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
        outcome = make_outcome(job, attempt)
        fields = {"request_id": job.request_id, "worker": attempt.worker, "attempt": attempt.number}
        called_off = self._close(job, now_ms)
        return [
            Store("receipt", job.request_id, outcome.receipt_file),
            *self._keep_ended(job, now_ms, winner=attempt.number),
            Record("request.attested" if outcome.is_attested else "request.answered", fields),
            *_deliver(job, outcome),
            *called_off,
            *self._run(now_ms),
        ]

    def _refused(self, sender: bytes, refusal: Refusal, sealed: bytes, now_ms: int) -> list[Effect]:
        owed = self._debts.find(sender, refusal.request_id, refusal.attempt)
        if owed is not None:
            self._debts.end(owed)
            kept = self._log.add_late(refusal.request_id, refusal.attempt, (), sealed)
            fields = {"request_id": refusal.request_id, "worker": sender, "code": refusal.code}
            return [*kept, Record("request.left", fields), *self._run(now_ms)]
        found = self._find(sender, refusal.request_id, refusal.attempt)
        if found is None or found[1].receipt is not None:
            return []
        job, attempt = found
        attempt.note_refusal(sealed)
        fields = {"request_id": job.request_id, "worker": sender, "code": refusal.code, "reason": refusal.reason}
        record = Record("request.refused", fields)
        if attempt.is_silent:
            return [record, *self._forget_silent(attempt, now_ms)]
        if refusal.code in FALLBACK_CODES:
            return [record, *self._fall_back(job, attempt, refusal.code, refusal.reason, now_ms)]
        attempt.is_over = True
        return [record, *self._fail(job, refusal.code, refusal.reason, now_ms)]

    def _fall_back(self, job: Job, attempt: Attempt, code: str, reason: str, now_ms: int) -> list[Effect]:
        """Give this attempt up; the next worker in order is asked under a voucher of its own."""
        job.last_code, job.last_reason = code, reason
        attempt.is_over, attempt.note = True, f"{code}: {reason}"
        if code != "no_answer":  # a silent worker may still hold the voucher: it stays in flight
            self._dispatch.free(attempt)
        if job.order:
            self._dispatch.add(job)
            return [*self._log.keep(make_record(job)), *self._run(now_ms)]
        return self._fail(job, code, reason, now_ms) if all(other.is_over for other in job.attempts) else []

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
                effects += self._fail(job, job.last_code, f"not attested by the deadline: {job.last_reason}", now_ms)
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
        by_gossip = f"no answer to {attempt.tries} messages by gossip"
        fields["reason"] = "asked again after a restart" if attempt.is_resumed else by_gossip
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

    def _fail(self, job: Job, code: str, reason: str, now_ms: int) -> list[Effect]:
        if job.request_id not in self._jobs:
            return []
        fields = {"request_id": job.request_id, "code": code, "reason": reason}
        outcome = Outcome("", False, job.request_id, attempts=len(job.attempts), code=code, reason=reason)
        called_off = self._close(job, now_ms)
        ended = self._keep_ended(job, now_ms, code=code, reason=reason[:REASON_LETTERS_MAX])
        return [*ended, Record("request.failed", fields), *_deliver(job, outcome), *called_off]

    def _keep_ended(self, job: Job, now_ms: int, winner: int = 0, code: str = "", reason: str = "") -> list[Effect]:
        """How a request ended, beside what was said about it. One that was never sent has left no trace anywhere."""
        if not job.attempts:
            return []
        record = make_record(job)
        return self._log.keep(replace(record, ended_ms=now_ms, winner=winner, code=code, reason=reason))

    def _close(self, job: Job, now_ms: int) -> list[Effect]:
        """The job is over; workers that may still be at it are told to leave it."""
        del self._jobs[job.request_id]
        effects: list[Effect] = []
        for attempt in job.attempts:
            self._claims.pop(attempt.claim_id, None)
            if attempt.receipt is not None or (attempt.is_over and not attempt.is_silent):
                continue
            self._debts.begin(attempt)
            if now_ms < job.request.deadline_ms:
                attempt.is_called_off, attempt.sent_ms = True, now_ms
                fields = {"request_id": job.request_id, "worker": attempt.worker, "attempt": attempt.number}
                effects += [Record("request.called_off", fields), call_off(attempt)]
        self._dispatch.remove(job)
        return [*effects, *self._keep_ticking(now_ms)]

    def _keep_ticking(self, now_ms: int) -> list[Effect]:
        if self._is_ticking or not (self._jobs or self._disputes):
            return []
        self._is_ticking = True
        return [SetTimer("tick", now_ms + TICK_MS)]


def _blame(sender: bytes, error: ProtocolError) -> list[Effect]:
    reason = f"a result that does not fit its request: {error}"
    return [Penalise(sender, reason), Record("result.malformed", {"worker": sender, "reason": reason})]


def _say_no(token: str, code: str, reason: str, request_id: bytes = b"") -> Effect:
    return Deliver(Outcome(token, False, request_id, code=code, reason=reason))


def _deliver(job: Job, outcome: Outcome) -> list[Effect]:
    return [Deliver(replace(outcome, token=token)) for token in job.tokens]
