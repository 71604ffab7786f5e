"""A client's job and its tries with workers: one attempt, one worker, one voucher."""

from dataclasses import dataclass, field

from protocol.codec import encode
from protocol.errors import RemoteError
from protocol.generation import Generation, StepForm, read_form, read_inputs, read_outputs
from protocol.jobs import (
    Attestation,
    InferenceRequest,
    Mode,
    PaidRequest,
    Receipt,
    compute_commitment,
)
from protocol.ledger.model_records import ModelRecord
from protocol.messages import Refusal, Requests, Result
from protocol.proofs.bounds import is_agreed
from protocol.proofs.receipt_file import VERSION, ReceiptFile
from protocol.signing import verify_signed
from protocol.tensor import Tensor, compute_tensors_digest, verify_tensor
from roles.packing import pack
from roles.role import Effect, Publish
from roles.streams_in import StreamIn

REQUESTS_MAX = 16
RETRY_MS = 2_000
GOSSIP_TRIES = 3  # the first and two more; then the client goes direct
REFUSALS_MAX = 4  # kept of one attempt


@dataclass(frozen=True)
class Ask:
    """One inference wanted. `fee_max` in grains; `timeout_ms` from now; `is_direct` skips gossip.

    Without an answer after `hedge_ms` the next worker is asked too, under a voucher of its own; 0 for never. All of its
    vouchers that no worker has refused are worth at most `spend_max` grains together; 0 for no such limit. `nonce` is
    that of its request, by which `Recall` finds it; empty for one that is drawn.

    With `streams`, tokens of a generation are delivered as `Tokens` while they are made, straight from one worker: it
    is not hedged. A stream that is cut ends the request if `ends_when_cut`, or the next worker makes the same tokens.
    """

    token: str
    model: bytes
    inputs: tuple[Tensor, ...]
    fee_max: int
    timeout_ms: int = 30_000
    verifiers: int = 2
    is_direct: bool = False
    mode: Mode = Mode.INDIVIDUAL
    hedge_ms: int = 0
    streams: bool = False
    ends_when_cut: bool = False
    spend_max: int = 0
    nonce: bytes = b""


@dataclass(frozen=True)
class AskAgain:
    """An earlier request once more, by its id: what becomes of it, or became of it, is delivered under this token."""

    token: str
    request_id: bytes


@dataclass(frozen=True)
class Recall:
    """What the request with this nonce costs, is delivered under this token as `Recalled`."""

    token: str
    nonce: bytes


@dataclass(frozen=True)
class Recalled:
    """What a request costs at most: `owed` grains, of vouchers that were given and not refused.

    It may still become less while it `is_open`. Of an unknown one nothing has ever left.
    """

    token: str
    owed: int = 0
    is_open: bool = False
    is_known: bool = False


@dataclass(frozen=True)
class GetModel:
    """The bytes of a model, from disk or storage nodes, are delivered under this token as `ModelBytes`."""

    token: str
    digest: bytes


@dataclass(frozen=True)
class ModelBytes:
    """A model's bytes, which its digest was checked against; `error` says why there are none."""

    token: str
    data: bytes
    error: str = ""


@dataclass(frozen=True)
class CallOff:
    """Whoever waits under this token does so no more. Workers that have not begun are told to leave it."""

    token: str


@dataclass(frozen=True)
class Outcome:
    """How an `Ask` ended: answered, with outputs and the receipt file's bytes, or failed with a code and a reason.

    Attested before it was released is what was asked for in mode `individual`; in the other modes nobody has checked an
    answer yet.
    """

    token: str
    is_attested: bool
    request_id: bytes
    outputs: tuple[Tensor, ...] = ()
    worker: bytes = b""
    verifiers: tuple[bytes, ...] = ()
    fee: int = 0
    attempts: int = 0
    was_direct: bool = False
    receipt_file: bytes = b""
    code: str = ""
    reason: str = ""
    good: int = 0  # tokens delivered that are still good, of a stream that was cut

    @property
    def is_answered(self) -> bool:
        return not self.code


@dataclass(frozen=True)
class Tokens:
    """More of a streamed answer, from its token number `start` on. A worker's word alone, until the `Outcome` comes."""

    token: str
    request_id: bytes
    start: int
    tokens: tuple[int, ...]


@dataclass
class Attempt:
    """One try with one worker, under one voucher."""

    item: PaidRequest
    worker: bytes
    sent_ms: int
    tries: int = 1
    is_direct: bool = False
    receipt: Receipt | None = None
    outputs: tuple[Tensor, ...] = ()
    claim_id: bytes = b""
    committee: tuple[bytes, ...] = ()
    attestations: dict[bytes, Attestation] = field(default_factory=dict)
    unlike: set[bytes] = field(default_factory=set)  # verifiers that found another digest and have shown nothing near
    is_over: bool = False  # refused, disputed or out of reach
    is_silent: bool = False  # over because it was out of reach: it is asked on, and may still answer
    is_asking: bool = False  # a direct question is on its way
    is_late: bool = False  # its worker has not answered in time, or its verifiers have not spoken
    is_disputed: bool = False  # a drawn verifier has found another output
    is_called_off: bool = False
    answered_ms: int = 0  # when its receipt came
    pulled_ms: int = 0  # when its verifiers were asked last, or its receipt came
    is_pulled: bool = False
    began_ms: int = 0
    refusals: list[Refusal] = field(default_factory=list)
    note: str = ""  # why we gave it up
    is_resumed: bool = False  # begun by an earlier process
    stream: StreamIn | None = None

    @property
    def number(self) -> int:
        return self.item.voucher.attempt

    @property
    def owed(self) -> int:
        """Grains that its worker can claim, as far as we know."""
        return 0 if self.refusals and self.receipt is None else self.item.voucher.amount

    @property
    def is_attested(self) -> bool:
        return self.receipt is not None and len(self.attestations) == len(self.committee) and not self.unlike

    @property
    def unheard(self) -> list[bytes]:
        """Verifiers drawn for its claim that have said nothing."""
        return [verifier for verifier in self.committee if verifier not in self.attestations]

    def note_refusal(self, refusal: Refusal) -> None:
        """Keep what the worker signed; one that repeats itself adds nothing after a few."""
        if len(self.refusals) < REFUSALS_MAX:
            self.refusals.append(refusal)

    def hear(self, item: Attestation, model: ModelRecord) -> bool:
        """Keep what a drawn verifier says; whether it found what the worker's receipt says, or near it."""
        assert self.receipt is not None
        self.attestations[item.verifier] = item
        self.unlike.discard(item.verifier)
        if not is_agreed(model, item, self.receipt.output_digest, self.outputs):
            self.unlike.add(item.verifier)
        return item.verifier not in self.unlike


@dataclass
class Job:
    """One `Ask` on its way. `order` holds the workers left to try, first first; `drawn` all of them.

    `tokens` are those its outcome is delivered under: none for a job that an earlier process began.
    """

    ask: Ask
    request: InferenceRequest
    request_id: bytes
    rows: int
    made_ms: int = 0
    seed: bytes = bytes(32)  # of its epoch
    order: tuple[bytes, ...] = ()
    drawn: tuple[bytes, ...] = ()
    tokens: list[str] = field(default_factory=list)
    draws: int = 1  # of the ask, with this one
    is_hedged: bool = False
    generation: tuple[Generation, StepForm] | None = None  # what is asked for, if it is one
    good: int = 0  # tokens of those that count, if its stream was cut
    told: list[int] = field(default_factory=list)  # tokens delivered already
    attempts: list[Attempt] = field(default_factory=list)
    last_reason: str = "no worker took the request"
    last_code: str = "no_answer"


def make_outcome(job: Job, attempt: Attempt) -> Outcome:
    """What is released: the attempt's outputs, with the receipt file that stands for them."""
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
    return Outcome(
        token="",
        is_attested=bool(attestations),
        request_id=job.request_id,
        outputs=attempt.outputs,
        worker=attempt.worker,
        verifiers=attempt.committee,
        fee=attempt.item.voucher.amount,
        attempts=len(job.attempts),
        was_direct=attempt.is_direct,
        receipt_file=encode(file),
    )


def verify_result(attempt: Attempt, result: Result, model: ModelRecord) -> None:
    """RemoteError unless the receipt answers this attempt and stands for these outputs, which are of this model."""
    request, voucher = attempt.item.request, attempt.item.voucher
    receipt, claim = result.receipt, result.receipt.claim
    expected = (attempt.worker, voucher.channel, voucher.seq, voucher.amount, request.model, request.epoch)
    stated = (claim.worker, claim.channel, claim.seq, claim.fee, claim.model, claim.epoch)
    if stated != expected or claim.verifiers != request.verifiers or claim.deadline_ms != request.deadline_ms:
        raise RemoteError("the claim is about another job")
    if claim.input_digest != compute_tensors_digest(request.inputs):
        raise RemoteError("the claim names other inputs")
    if claim.commitment != compute_commitment(receipt.salt, receipt.output_digest):
        raise RemoteError("the receipt does not open the claim")
    verify_signed(claim, attempt.worker)
    verify_outputs(result.outputs, model, request)
    if receipt.output_digest != compute_tensors_digest(result.outputs):
        raise RemoteError("the outputs are not those of the receipt")


def verify_outputs(outputs: tuple[Tensor, ...], model: ModelRecord, request: InferenceRequest) -> None:
    """RemoteError unless these are what the model gives for the request: an empty answer is signed as easily."""
    form = read_form(model.inputs, model.outputs)
    if form is not None:
        read_outputs(outputs, read_inputs(request.inputs, form), form)
        return
    if len(outputs) != len(model.outputs):
        raise RemoteError(f"{model.name} gives {len(model.outputs)} outputs, got {len(outputs)}")
    rows = request.inputs[0].shape[0] if request.inputs and request.inputs[0].shape else 1
    for tensor, spec in zip(outputs, model.outputs, strict=True):
        verify_tensor(tensor)
        wanted = tuple(size or rows for size in spec.shape)
        if tensor.dtype != spec.dtype or tensor.shape != wanted:
            got = f"{tensor.dtype} of shape {tensor.shape}"
            raise RemoteError(f"{model.name} gives {spec.dtype} of shape {wanted}, got {got}")


def publish_requests(items: list[PaidRequest]) -> list[Effect]:
    """Requests in as few gossip messages as their size allows."""
    return [Publish("infer/0", Requests(part)) for part in pack(items, REQUESTS_MAX)]
