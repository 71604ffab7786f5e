"""What a client keeps of each request so that it can go on with it after a crash, and explain it to anyone later.

Signed statements, as they came: the request as the account ordered it, the vouchers, the workers' refusals,
receipt and attestations. Outputs are in the receipt file alone.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated

from protocol.codec import decode, encode
from protocol.jobs import Attestation, InferenceRequest, Mode, PaidRequest, Receipt, Voucher, compute_request_id
from protocol.ledger.model_records import ModelRecord
from protocol.messages import Refusal
from protocol.types import AtMost, Digest, Line, Name, PublicKey, TimeMs, UpTo, Whole
from roles.admission import check_inputs
from roles.attempts import GOSSIP_TRIES, REFUSALS_MAX, RETRY_MS, Ask, Attempt, Job
from roles.role import Effect, Store

BUCKET = "requests"
VERSION = 2
RECORDS_MAX = 4_096
BYTES_MAX = 16 * 1024 * 1024
RESUME_MS = 3_000  # a worker that has not come up by then is asked all the same
NOTE_LETTERS_MAX = 400


@dataclass(frozen=True)
class AttemptRecord:
    """One try with one worker. `note` is the client's own word on why it gave up."""

    voucher: Voucher
    worker: PublicKey
    sent_ms: TimeMs
    receipts: Annotated[tuple[Receipt, ...], AtMost(1)] = ()
    attestations: Annotated[tuple[Attestation, ...], AtMost(16)] = ()
    refusals: Annotated[tuple[Refusal, ...], AtMost(REFUSALS_MAX)] = ()
    note: Line = ""
    is_over: Annotated[int, UpTo(1)] = 0
    is_called_off: Annotated[int, UpTo(1)] = 0


@dataclass(frozen=True)
class RequestRecord:
    """One request. `seed` is its epoch's, `order` the working set in the order of its id.

    `winner` is the attempt whose result was released, 0 for none; `code` and `reason` say why there is none.
    """

    version: Whole
    request: InferenceRequest
    made_ms: TimeMs
    seed: Digest
    order: Annotated[tuple[PublicKey, ...], AtMost(64)]
    is_direct: Annotated[int, UpTo(1)]
    hedge_ms: Whole
    spend_max: Whole  # grains that all vouchers may be worth together, 0 for no such limit
    attempts: Annotated[tuple[AttemptRecord, ...], AtMost(64)]
    ended_ms: TimeMs = 0  # 0 while it is under way
    winner: Whole = 0
    code: Name = ""
    reason: Line = ""


class RequestLog:
    """The newest RECORDS_MAX requests, at most BYTES_MAX in all; those under way are forgotten last."""

    def __init__(self) -> None:
        self._kept: OrderedDict[bytes, bytes] = OrderedDict()
        self._open: set[bytes] = set()
        self._nonces: dict[bytes, bytes] = {}  # by request id
        self._by_nonce: dict[bytes, bytes] = {}  # request ids
        self._size_bytes = 0

    def restore(self, stored: Mapping[bytes, bytes]) -> list[RequestRecord]:
        """Take over what an earlier process kept, and return what was under way when it ended."""
        records = {request_id: decode(RequestRecord, data) for request_id, data in stored.items()}
        for request_id, record in sorted(records.items(), key=lambda item: item[1].made_ms):
            self._put(request_id, record)
        return [records[request_id] for request_id in self._kept if request_id in self._open]

    def find(self, request_id: bytes) -> RequestRecord | None:
        data = self._kept.get(request_id)
        return None if data is None else decode(RequestRecord, data)

    def find_by_nonce(self, nonce: bytes) -> RequestRecord | None:
        return self.find(self._by_nonce.get(nonce, b""))

    def keep(self, request_id: bytes, record: RequestRecord) -> list[Effect]:
        """Written before any later effect; the oldest make room. The id is that of the record's request."""
        effects: list[Effect] = [Store(BUCKET, request_id, self._put(request_id, record))]
        while len(self._kept) > RECORDS_MAX or self._size_bytes > BYTES_MAX:
            oldest = next((key for key in self._kept if key not in self._open), None)
            if oldest is None or oldest == request_id:
                break
            gone = self._kept.pop(oldest)
            self._size_bytes -= len(gone)
            nonce = self._nonces.pop(oldest)
            if self._by_nonce.get(nonce) == oldest:  # it may have been asked again under another id
                del self._by_nonce[nonce]
            effects.append(Store(BUCKET, oldest, None))
        return effects

    def add_late(
        self, request_id: bytes, number: int, receipts: tuple[Receipt, ...], refusals: tuple[Refusal, ...]
    ) -> list[Effect]:
        """What a worker has said about an attempt of a request that had ended."""
        record = self.find(request_id)
        if record is None:
            return []
        attempt = record.attempts[number - 1]
        said = (*attempt.refusals, *refusals)[:REFUSALS_MAX]
        new = replace(attempt, receipts=receipts or attempt.receipts, refusals=said, is_over=1)
        attempts = (*record.attempts[: number - 1], new, *record.attempts[number:])
        return self.keep(request_id, replace(record, attempts=attempts))

    def _put(self, request_id: bytes, record: RequestRecord) -> bytes:
        data = encode(record)
        self._size_bytes += len(data) - len(self._kept.get(request_id, b""))
        self._kept[request_id] = data
        self._nonces[request_id] = record.request.nonce
        self._by_nonce[record.request.nonce] = request_id
        (self._open.discard if record.ended_ms else self._open.add)(request_id)
        return data


def make_record(job: Job) -> RequestRecord:
    """A job as it stands."""
    return RequestRecord(
        version=VERSION,
        request=job.request,
        made_ms=job.made_ms,
        seed=job.seed,
        order=job.drawn,
        is_direct=int(job.ask.is_direct),
        hedge_ms=job.ask.hedge_ms,
        spend_max=job.ask.spend_max,
        attempts=tuple(_make_attempt_record(attempt) for attempt in job.attempts),
    )


def compute_owed(record: RequestRecord) -> int:
    """Grains that workers can claim of a request, as far as its client knows."""
    return sum(item.voucher.amount for item in record.attempts if item.receipts or not item.refusals)


def is_open(record: RequestRecord, now_ms: int) -> bool:
    """Whether what is owed may still become less: the request is under way, or a worker of it may yet refuse."""
    if not record.ended_ms:
        return True
    waits = any(not (item.receipts or item.refusals) for item in record.attempts)
    return waits and now_ms < record.request.deadline_ms


def restore_job(record: RequestRecord, models: Mapping[bytes, ModelRecord], now_ms: int) -> Job:
    """A job that an earlier process began: its workers are asked again, under the vouchers they may have already."""
    request = record.request
    ask = Ask(
        token="",
        model=request.model,
        inputs=request.inputs,
        fee_max=request.fee_max,
        timeout_ms=max(0, request.deadline_ms - record.made_ms),
        verifiers=request.verifiers,
        is_direct=bool(record.is_direct),
        mode=Mode(request.mode),
        hedge_ms=record.hedge_ms,
        spend_max=record.spend_max,
    )
    model = models.get(request.model)
    rows = check_inputs(request.inputs, model) if model is not None else 1
    job = Job(ask, request, compute_request_id(request), rows, record.made_ms, record.seed)
    job.drawn = record.order
    job.attempts = [_restore_attempt(request, item, now_ms) for item in record.attempts]
    asked = {attempt.worker for attempt in job.attempts}
    job.order = tuple(worker for worker in record.order if worker not in asked)
    return job


def _make_attempt_record(attempt: Attempt) -> AttemptRecord:
    return AttemptRecord(
        voucher=attempt.item.voucher,
        worker=attempt.worker,
        sent_ms=attempt.began_ms,
        receipts=_list_some(attempt.receipt),
        attestations=tuple(attempt.attestations.values()),
        refusals=tuple(attempt.refusals),
        note=attempt.note[:NOTE_LETTERS_MAX],
        is_over=int(attempt.is_over and not attempt.is_silent),
        is_called_off=int(attempt.is_called_off),
    )


def _restore_attempt(request: InferenceRequest, record: AttemptRecord, now_ms: int) -> Attempt:
    # Straight to the worker, as soon as it is up: whether gossip brought the request before the crash is not known.
    return Attempt(
        PaidRequest(request, record.voucher),
        record.worker,
        sent_ms=now_ms + RESUME_MS - RETRY_MS,
        tries=GOSSIP_TRIES,
        is_direct=True,
        is_over=bool(record.is_over),
        is_called_off=bool(record.is_called_off),
        began_ms=record.sent_ms,
        refusals=list(record.refusals),
        note=record.note,
        is_resumed=True,
    )


def _list_some(receipt: Receipt | None) -> tuple[Receipt, ...]:
    return () if receipt is None else (receipt,)
