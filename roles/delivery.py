"""What a worker says to the client of a job: its result, as often as it takes, or why there is none."""

from dataclasses import dataclass

from protocol.codec import encode
from protocol.jobs import PaidRequest
from protocol.keys import Signer
from protocol.ledger.transactions import ZeroReason
from protocol.messages import Accepted, Attestations, Refusal, Result
from protocol.signing import sign
from roles.admission import RefusalCode
from roles.role import Effect, Record, Reply, Send, SetTimer, Store
from roles.workbook import Job, Workbook, compute_job_key

RESULT_AGAIN_MS = 100  # doubled with every try
RESULT_AGAIN_MS_MAX = 5_000
HOLD_MS = 300  # a question waits so long for its result, and then hears that it was accepted


@dataclass(frozen=True)
class Asked:
    """A client's question on a stream that has no answer yet."""

    token: str
    since_ms: int


class Delivery:
    """Answers and refusals of one worker, which signs them.

    A client that asked on a stream hears there what became of its job, if that is soon.
    """

    def __init__(self, book: Workbook, signer: Signer) -> None:
        self._book = book
        self._signer = signer
        self._asked: dict[tuple[bytes, bytes, int], Asked] = {}  # by client, request id and attempt

    def expect(self, client: bytes, item: PaidRequest, token: str, now_ms: int) -> list[Effect]:
        """The client has asked under this token. Whoever asks twice waits where it asked last."""
        key = client, item.voucher.request_id, item.voucher.attempt
        before = self._asked.pop(key, None)
        self._asked[key] = Asked(token, now_ms)
        return [] if before is None else [Reply(before.token, Accepted())]

    def accept_slow(self, now_ms: int) -> list[Effect]:
        """What has waited for HOLD_MS hears that the job was accepted; its result follows."""
        slow = [key for key, asked in self._asked.items() if now_ms >= asked.since_ms + HOLD_MS]
        return [Reply(self._asked.pop(key).token, Accepted()) for key in slow]

    def answer(self, job: Job) -> list[Effect]:
        assert job.receipt is not None
        client = job.item.request.client
        token = f"result|{compute_job_key(*job.key).hex()}"
        voucher = job.item.voucher
        effects = self._tell(client, voucher.request_id, voucher.attempt, Result(job.receipt, job.outputs), token)
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

    def refuse(self, item: PaidRequest, code: RefusalCode, reason: str) -> list[Effect]:
        return self.say_no(item.request.client, item.voucher.request_id, item.voucher.attempt, code, reason)

    def say_no(self, client: bytes, request_id: bytes, attempt: int, code: RefusalCode, reason: str) -> list[Effect]:
        """Refuse what the client asks for, by its own names for it."""
        unsigned = Refusal(request_id, attempt, str(code), reason[:500], bytes(64))
        return self._tell(client, request_id, attempt, sign(unsigned, self._signer))

    def _tell(
        self, client: bytes, request_id: bytes, attempt: int, message: Result | Refusal, token: str = ""
    ) -> list[Effect]:
        """In answer to the client's question, if it has one open; else by a question of our own, under `token`."""
        asked = self._asked.pop((client, request_id, attempt), None)
        return [Send(client, "infer", message, token) if asked is None else Reply(asked.token, message)]

    def fail(self, job: Job, code: RefusalCode, reason: str) -> list[Effect]:
        if job.is_cancelled:
            code = RefusalCode.CANCELLED
        job.zero_reason = ZeroReason.CANCELLED if job.is_cancelled else ZeroReason.FAILED
        fields = {"request_id": job.item.voucher.request_id, "code": str(code), "reason": reason}
        return [keep_job(job), Record("request.refused", fields), *self.refuse(job.item, code, reason)]


def keep_job(job: Job) -> Effect:
    """The job as it stands, into the journal: written before the client hears of it, on disk before it is claimed."""
    return Store("jobs", compute_job_key(*job.key), encode(job.to_entry()))
