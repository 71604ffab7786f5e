"""A client's requests that are under way, and the ways in which one ends: released, failed, called off."""

from dataclasses import replace

from protocol.ledger.state import State
from roles.attempts import Attempt, Job, Outcome, make_outcome
from roles.debts import Debts
from roles.dispatch import Dispatch, call_off
from roles.disputes import Disputes
from roles.purse import Purse
from roles.request_log import RequestLog, make_record
from roles.role import Deliver, Effect, Record, SetTimer, Store
from roles.service_log import ServiceLog

TICK_MS = 200
HEDGE = "hedge|"
REASON_LETTERS_MAX = 400


class Jobs:
    """`ledger` is the role's, who sets it. `step` is how many vouchers one worker may hold."""

    ledger: State

    def __init__(self, purse: Purse, service: ServiceLog, step: int) -> None:
        self.debts = Debts(purse)
        self.service = service
        self.dispatch = Dispatch(purse, self.debts, step, self._on_sending)
        self.disputes = Disputes()
        self.log = RequestLog()
        self.under_way: dict[bytes, Job] = {}  # by request id
        self.claims: dict[bytes, tuple[Job, Attempt]] = {}
        self.is_ticking = False

    def run(self, now_ms: int) -> list[Effect]:
        effects, left_over = self.dispatch.run(self.ledger, now_ms)
        # A worker that was given up may still answer; only a job with no hope left ends before its deadline.
        hopeless = [job for job in left_over if all(attempt.is_over for attempt in job.attempts)]
        failed = (effect for job in hopeless for effect in self.fail(job, job.last_code, job.last_reason, now_ms))
        return [*effects, *failed]

    def on_opened(self, error: str, now_ms: int) -> list[Effect]:
        stuck = self.dispatch.on_opened(error)
        reason = f"could not open a payment channel: {error}"
        failed = [effect for job in stuck for effect in self.fail(job, "unpaid", reason, now_ms)]
        return [*failed, *self.run(now_ms)]

    def release(self, job: Job, attempt: Attempt, now_ms: int) -> list[Effect]:
        outcome = make_outcome(job, attempt)
        fields = {"request_id": job.request_id, "worker": attempt.worker, "attempt": attempt.number}
        called_off = self._close(job, True, now_ms)
        return [
            Store("receipt", job.request_id, outcome.receipt_file),
            *self._keep_ended(job, now_ms, winner=attempt.number),
            Record("request.attested" if outcome.is_attested else "request.answered", fields),
            *_deliver(job, outcome),
            *called_off,
            *self.run(now_ms),
        ]

    def fall_back(self, job: Job, attempt: Attempt, code: str, reason: str, now_ms: int) -> list[Effect]:
        """Give this attempt up; the next worker in order is asked under a voucher of its own."""
        job.last_code, job.last_reason = code, reason
        attempt.is_over, attempt.note = True, f"{code}: {reason}"
        if code != "no_answer":  # a silent worker may still hold the voucher: it stays in flight
            self.dispatch.free(attempt)
        if job.order:
            self.dispatch.add(job)
            return [*self.log.keep(job.request_id, make_record(job)), *self.run(now_ms)]
        if not all(other.is_over for other in job.attempts):
            return []
        return [*self.fail(job, code, reason, now_ms), *self.run(now_ms)]

    def forget_silent(self, attempt: Attempt, now_ms: int) -> list[Effect]:
        """A worker that was out of reach has spoken, in vain: another has been asked long since."""
        attempt.is_silent = False
        self.dispatch.free(attempt)
        return self.run(now_ms)

    def fail(self, job: Job, code: str, reason: str, now_ms: int) -> list[Effect]:
        if job.request_id not in self.under_way:
            return []
        fields = {"request_id": job.request_id, "code": code, "reason": reason}
        tried = len(job.attempts)
        outcome = Outcome("", False, job.request_id, attempts=tried, code=code, reason=reason, good=job.good)
        called_off = self._close(job, False, now_ms)
        ended = self._keep_ended(job, now_ms, code=code, reason=reason[:REASON_LETTERS_MAX])
        return [*ended, Record("request.failed", fields), *_deliver(job, outcome), *called_off]

    def _keep_ended(self, job: Job, now_ms: int, winner: int = 0, code: str = "", reason: str = "") -> list[Effect]:
        """How a request ended, beside what was said about it. One that was never sent has left no trace anywhere."""
        if not job.attempts:
            return []
        record = replace(make_record(job), ended_ms=now_ms, winner=winner, code=code, reason=reason)
        return [*self.log.keep(job.request_id, record), *self.service.note(record, self.ledger.epoch, now_ms)]

    def _close(self, job: Job, is_answered: bool, now_ms: int) -> list[Effect]:
        """The job is over; workers that may still be at it are told to leave it."""
        del self.under_way[job.request_id]
        effects: list[Effect] = []
        for attempt in job.attempts:
            self.claims.pop(attempt.claim_id, None)
            if attempt.receipt is not None or (attempt.is_over and not attempt.is_silent):
                continue
            if now_ms < job.request.deadline_ms:
                attempt.is_called_off, attempt.sent_ms = True, now_ms
                fields = {"request_id": job.request_id, "worker": attempt.worker, "attempt": attempt.number}
                effects += [Record("request.called_off", fields), call_off(attempt)]
            self.debts.begin(attempt)
        self.dispatch.remove(job, is_answered, now_ms)
        return [*effects, *self.keep_ticking(now_ms)]

    def keep_ticking(self, now_ms: int) -> list[Effect]:
        if self.is_ticking or not (self.under_way or self.disputes):
            return []
        self.is_ticking = True
        return [SetTimer("tick", now_ms + TICK_MS)]

    def _on_sending(self, job: Job, now_ms: int) -> list[Effect]:
        """What goes before an attempt's request leaves: a client killed after it must know of it."""
        kept = self.log.keep(job.request_id, make_record(job))
        if not job.ask.hedge_ms or len(job.attempts) > 1:
            return kept
        return [*kept, SetTimer(HEDGE + job.request_id.hex(), now_ms + job.ask.hedge_ms)]


def _deliver(job: Job, outcome: Outcome) -> list[Effect]:
    return [Deliver(replace(outcome, token=token)) for token in job.tokens]
