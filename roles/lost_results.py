"""A client's part in challenges `withheld`: asks in public for what it was charged for and never got.

It looks at batches whose window is open: until then the worker has been asked again and again on a stream. Whatever is
published is taken as if the worker had sent it.
"""

from collections.abc import Iterator

from protocol.codec import decode
from protocol.jobs import Mode
from protocol.ledger.job_records import BatchPhase, BatchRun
from protocol.ledger.state import State
from protocol.ledger.withheld import ChallengeWithheld, Published, compute_challenge_key
from protocol.messages import Result
from roles.attempts import Attempt
from roles.client_answers import Answers
from roles.client_jobs import Jobs
from roles.purse import Purse
from roles.role import Effect, Record, Submit

LOST = "withheld|"  # begins its tokens


class LostResults:
    """The challenges of one client, by their keys on the ledger."""

    def __init__(self, jobs: Jobs, answers: Answers, purse: Purse, account: bytes) -> None:
        self._jobs = jobs
        self._answers = answers
        self._purse = purse
        self._account = account
        self._asked: dict[bytes, Attempt] = {}

    def look(self, state: State, now_ms: int) -> list[Effect]:
        """Take what has been published, and ask for what is missing."""
        effects: list[Effect] = []
        for key, attempt in list(self._asked.items()):
            challenge = state.withheld.get(key)
            if challenge is not None and challenge.is_over:
                del self._asked[key]
                effects += self._conclude(attempt, challenge.answer, bool(challenge.is_forfeit), now_ms)
        lost = [attempt for attempt in self._list_unanswered() if attempt not in self._asked.values()]
        if not lost:
            return effects
        for batch_id, batch in state.batches.items():
            if batch.phase != BatchPhase.WINDOW:
                continue
            index = 0
            for run in batch.runs:
                for attempt in lost:
                    if run.payer == self._account and self._is_charged(attempt, run, state):
                        leaf = index + attempt.item.voucher.seq - run.seq_first
                        effects += self._ask(attempt, batch_id, leaf)
                index += run.leaves
        return effects

    def on_submitted(self, token: str, error: str) -> list[Effect]:
        if not error:
            return []
        self._asked.pop(bytes.fromhex(token.removeprefix(LOST)), None)
        return [Record("withheld.refused", {"reason": error})]

    def _ask(self, attempt: Attempt, batch: bytes, index: int) -> list[Effect]:
        voucher = attempt.item.voucher
        key = compute_challenge_key(batch, index)
        self._asked[key] = attempt
        body = ChallengeWithheld(batch, index, voucher.amount)
        return [Submit(body, LOST + key.hex()), Record("result.withheld", _describe(attempt))]

    def _conclude(self, attempt: Attempt, answer: bytes, is_forfeit: bool, now_ms: int) -> list[Effect]:
        fields = _describe(attempt)
        if answer:
            published = decode(Published, answer)
            result = Result(published.receipt, published.outputs)
            taken = self._answers.on_answer(attempt.worker, result, now_ms)
            return [Record("withheld.published", fields), *taken]
        how = "withheld.refunded" if is_forfeit else "withheld.unpaid"
        job = self._jobs.under_way.get(attempt.item.voucher.request_id)
        reason = (
            "the worker kept the output, and its pay is forfeit" if is_forfeit else "the worker earns nothing by it"
        )
        left: list[Effect] = []
        if job is not None and not attempt.is_over:
            left = self._jobs.fall_back(job, attempt, "failed", reason, now_ms)
        self._jobs.debts.end(attempt)
        return [Record(how, fields), *left]

    def _is_charged(self, attempt: Attempt, run: BatchRun, state: State) -> bool:
        """Whether the run pays more than what its answered vouchers come to, and holds this one."""
        voucher = attempt.item.voucher
        channel = state.channels.get(run.channel)
        is_held = run.channel == voucher.channel and 0 <= voucher.seq - run.seq_first < run.leaves
        return is_held and channel is not None and self._purse.is_overpaid(run.channel, channel)

    def _list_unanswered(self) -> Iterator[Attempt]:
        for job in self._jobs.under_way.values():
            yield from (item for item in job.attempts if item.receipt is None and job.request.mode == Mode.BATCH)
        for attempt in self._jobs.debts.list_all():
            if attempt.item.request.mode == Mode.BATCH:
                yield attempt


def _describe(attempt: Attempt) -> dict[str, bytes | int]:
    voucher = attempt.item.voucher
    return {"request_id": voucher.request_id, "worker": attempt.worker, "attempt": voucher.attempt}
