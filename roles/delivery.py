"""What a worker says to the client of a job: its result, as often as it takes, or why there is none."""

from protocol.codec import encode
from protocol.jobs import PaidRequest
from protocol.ledger.transactions import ZeroReason
from protocol.messages import Attestations, Refusal, Result
from roles.admission import RefusalCode
from roles.role import Effect, Record, Send, SetTimer, Store
from roles.workbook import Job, Workbook, compute_job_key

RESULT_AGAIN_MS = 100  # doubled with every try
RESULT_AGAIN_MS_MAX = 5_000


class Delivery:
    """Answers and refusals of one worker."""

    def __init__(self, book: Workbook) -> None:
        self._book = book

    def answer(self, job: Job) -> list[Effect]:
        assert job.receipt is not None
        client = job.item.request.client
        token = f"result|{compute_job_key(*job.key).hex()}"
        effects: list[Effect] = [Send(client, "infer", Result(job.receipt, job.outputs), token)]
        if job.attestations:
            effects.append(Send(client, "infer", Attestations(tuple(job.attestations.values()))))
        return effects

    def on_undelivered(self, token: str, reason: str, now_ms: int) -> list[Effect]:
        """The client did not take its result: try again, ever more rarely, until the request is over."""
        job = self._find_answered(token)
        if job is None or now_ms >= job.item.request.deadline_ms:
            return []
        job.sends += 1
        fields = {"request_id": job.item.voucher.request_id, "tries": job.sends, "reason": reason}
        wait_ms = min(RESULT_AGAIN_MS * 2**job.sends, RESULT_AGAIN_MS_MAX)
        return [Record("result.undelivered", fields), SetTimer(token, now_ms + wait_ms)]

    def answer_late(self, token: str) -> list[Effect]:
        job = self._find_answered(token)
        return self.answer(job) if job is not None else []

    def _find_answered(self, token: str) -> Job | None:
        kind, _, key = token.partition("|")
        if kind != "result":
            return None
        job = self._book.find(bytes.fromhex(key[:64]), int(key[64:], 16))
        return job if job is not None and job.receipt is not None else None

    def refuse(self, item: PaidRequest, code: RefusalCode, reason: str) -> Effect:
        refusal = Refusal(item.voucher.request_id, item.voucher.attempt, str(code), reason[:500])
        return Send(item.request.client, "infer", refusal)

    def fail(self, job: Job, code: RefusalCode, reason: str) -> list[Effect]:
        if job.is_cancelled:
            code = RefusalCode.CANCELLED
        job.zero_reason = ZeroReason.CANCELLED if job.is_cancelled else ZeroReason.FAILED
        fields = {"request_id": job.item.voucher.request_id, "code": str(code), "reason": reason}
        return [keep_job(job), Record("request.refused", fields), self.refuse(job.item, code, reason)]


def keep_job(job: Job) -> Effect:
    """The job as it stands, into the journal: written before the client hears of it, on disk before it is claimed."""
    return Store("jobs", compute_job_key(*job.key), encode(job.to_entry()), is_synced=False)
