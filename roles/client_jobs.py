"""A client's requests that are under way, and the ways in which one ends: released, failed, called off."""

from dataclasses import replace

from protocol.ledger.state import State
from roles.admission import RefusalCode
from roles.asking import NotAsked, make_job
from roles.attempts import Ask, Attempt, Job, Outcome, make_outcome
from roles.attestations import ask_for
from roles.attesters import Attesters
from roles.debts import Debts
from roles.dispatch import Dispatch, call_off
from roles.disputes import Disputes
from roles.promptness import Promptness
from roles.purse import Purse
from roles.request_log import RequestLog, make_record
from roles.role import Context, Deliver, Effect, Record, SetTimer, Store
from roles.service_log import ServiceLog

TICK_MS = 200
PULL_MS = 1_500  # from one question for attestations to the next
REPLY_MS = 400  # from the first of them until it was in vain
DRAWS_MAX = 8  # of one request: of three workers, one in eight draws the silent verifier of four for all of them
HEDGE = "hedge|"
REASON_LETTERS_MAX = 400


class Jobs:
    """`ledger` is the role's, who sets it. `step` is how many vouchers one worker may hold."""

    ledger: State

    def __init__(self, context: Context, purse: Purse, service: ServiceLog, step: int) -> None:
        self._context = context
        self.debts = Debts(purse)
        self.service = service
        self.attesters = Attesters()
        self.promptness = Promptness()
        self.dispatch = Dispatch(purse, self.debts, self.attesters, step, self._on_sending)
        self.disputes = Disputes()
        self.log = RequestLog()
        self.under_way: dict[bytes, Job] = {}  # by request id
        self.claims: dict[bytes, tuple[Job, Attempt]] = {}
        self.is_ticking = False

    def begin(self, ask: Ask, now_ms: int) -> list[Effect]:
        """Take up what is asked. NotAsked when it is plain that no worker would take it."""
        job = make_job(ask, self._context, self.ledger, self.dispatch, now_ms)
        job.tokens.append(ask.token)
        self._add(job)
        return [*self.run(now_ms), *self.keep_ticking(now_ms)]

    def _add(self, job: Job) -> None:
        self.under_way[job.request_id] = job
        self.dispatch.add(job)

    def run(self, now_ms: int) -> list[Effect]:
        effects, left_over = self.dispatch.run(self.ledger, now_ms)
        # A worker that was given up may still answer; only a job with no hope left ends before its deadline.
        hopeless = [job for job in left_over if all(attempt.is_over for attempt in job.attempts)]
        failed = (effect for job in hopeless for effect in self._give_up(job, job.last_code, job.last_reason, now_ms))
        return [*effects, *failed]

    def on_opened(self, error: str, now_ms: int) -> list[Effect]:
        stuck = self.dispatch.on_opened(error, now_ms)
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
        if code == RefusalCode.COMMITTEE and not self.dispatch.choose(job, job.order, self.ledger, now_ms):
            again = self._draw_again(job, code, reason, now_ms)
            if again is not None:
                return again
        if job.order:
            self.dispatch.add(job)
            return [*self.log.keep(job.request_id, make_record(job)), *self.run(now_ms)]
        if not all(other.is_over for other in job.attempts):
            return []
        return [*self.fail(job, code, reason, now_ms), *self.run(now_ms)]

    def chase(self, job: Job, attempt: Attempt, now_ms: int) -> list[Effect]:
        """Have verifiers asked for what gossip has not brought of this attempt, and if that brings nothing, another
        worker for an answer that others may attest.

        The first has given what it was asked for, and is paid only if that is attested: it may hold another voucher.
        """
        if attempt.is_pulled and not attempt.is_late and now_ms >= attempt.pulled_ms + REPLY_MS:
            attempt.is_late = True
            self.attesters.blame(attempt, now_ms)
            self.dispatch.free(attempt)
            if self.dispatch.choose(job, job.order, self.ledger, now_ms):
                return self.hedge(job, attempt, now_ms - attempt.began_ms, now_ms)
            reason = "none of the verifiers drawn for the workers left is heard"
            return [*(self._draw_again(job, "unattested", reason, now_ms) or []), *self.run(now_ms)]
        wait_ms = PULL_MS if attempt.is_pulled else self.attesters.compute_wait(job.ask.timeout_ms)
        if now_ms < attempt.pulled_ms + wait_ms:
            return []
        attempt.is_pulled, attempt.pulled_ms = True, now_ms
        job.last_code, job.last_reason = "unattested", "a worker answered, the drawn verifiers did not"
        return [ask_for(verifier, (attempt.claim_id,)) for verifier in attempt.unheard]

    def hedge_unanswered(self, job: Job, attempt: Attempt, now_ms: int) -> list[Effect]:
        """Have the next worker asked beside one that has not answered for longer than is usual."""
        if attempt.is_late or attempt.is_over or attempt.is_resumed or job.generation is not None:
            return []  # how long a text takes is told by its length
        if now_ms < attempt.began_ms + self.promptness.compute_wait(job.request.model, job.ask.timeout_ms):
            return []
        attempt.is_late = True
        self.promptness.note_late(job.request.model, now_ms)
        return self.hedge(job, attempt, now_ms - attempt.began_ms, now_ms)

    def hedge(self, job: Job, attempt: Attempt, after_ms: int, now_ms: int) -> list[Effect]:
        """The next worker is asked beside this one, if there is one: the first whose answer can be released wins."""
        if not job.order or job.ask.streams:
            return self.run(now_ms)
        job.is_hedged = True
        self.dispatch.add(job)
        fields = {"request_id": job.request_id, "worker": attempt.worker, "after_ms": after_ms}
        return [Record("request.hedged", fields), *self.run(now_ms)]

    def forget_silent(self, attempt: Attempt, now_ms: int) -> list[Effect]:
        """A worker that was out of reach has spoken, in vain: another has been asked long since."""
        attempt.is_silent = False
        self.dispatch.free(attempt)
        return self.run(now_ms)

    def _give_up(self, job: Job, code: str, reason: str, now_ms: int) -> list[Effect]:
        """No worker is left."""
        if code == RefusalCode.COMMITTEE:
            again = self._draw_again(job, code, reason, now_ms)
            if again is not None:
                return again
        return self.fail(job, code, reason, now_ms)

    def _draw_again(self, job: Job, code: str, reason: str, now_ms: int) -> list[Effect] | None:
        """Ask the same under another id, for which other verifiers are drawn; None if that is not to be."""
        ask, left_ms = job.ask, job.request.deadline_ms - now_ms
        # Of a limit, and of what is looked for by its nonce, there is one request that may cost something.
        is_bound = bool(ask.nonce or ask.spend_max) and any(attempt.owed for attempt in job.attempts)
        if job.request_id not in self.under_way or not job.tokens or ask.streams or is_bound:
            return None
        is_hopeful = any(not (attempt.is_over or attempt.is_late) for attempt in job.attempts)
        if is_hopeful or job.draws >= DRAWS_MAX or left_ms < TICK_MS:
            return None
        try:
            again = make_job(replace(ask, timeout_ms=left_ms), self._context, self.ledger, self.dispatch, now_ms)
        except NotAsked:
            return None
        again.tokens, again.draws = job.tokens, job.draws + 1
        reason = f"{reason}; asked again as request {again.request_id.hex()}"[:REASON_LETTERS_MAX]
        called_off = self._close(job, False, now_ms)
        self._add(again)
        fields = {"request_id": job.request_id, "code": code, "reason": reason}
        ended = self._keep_ended(job, now_ms, code=code, reason=reason)
        return [*ended, Record("request.drawn_again", fields), *called_off, *self.run(now_ms)]

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
