"""A client's job and its tries with workers: one attempt, one worker, one voucher."""

from dataclasses import dataclass, field

from protocol.errors import RemoteError
from protocol.jobs import (
    Attestation,
    InferenceRequest,
    Mode,
    PaidRequest,
    Receipt,
    compute_attestation,
    compute_commitment,
)
from protocol.messages import Requests, Result
from protocol.signing import verify_signed
from protocol.tensor import Tensor, compute_tensors_digest, verify_tensor
from roles.packing import pack
from roles.role import Effect, Publish

REQUESTS_MAX = 16


@dataclass(frozen=True)
class Ask:
    """One inference wanted. `fee_max` in grains; `timeout_ms` from now; `is_direct` skips gossip."""

    token: str
    model: bytes
    inputs: tuple[Tensor, ...]
    fee_max: int
    timeout_ms: int = 30_000
    verifiers: int = 2
    is_direct: bool = False
    mode: Mode = Mode.INDIVIDUAL


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

    @property
    def is_answered(self) -> bool:
        return not self.code


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
    is_over: bool = False  # refused, disputed or out of reach
    is_silent: bool = False  # over because it was out of reach: it is asked on, and may still answer
    is_asking: bool = False  # a direct question is on its way
    pulled_ms: int = 0

    @property
    def number(self) -> int:
        return self.item.voucher.attempt

    @property
    def is_attested(self) -> bool:
        return self.receipt is not None and len(self.attestations) == len(self.committee)

    def is_agreed(self) -> bool:
        """Every attestation commits to the digest of the worker's receipt."""
        assert self.receipt is not None
        digest = self.receipt.output_digest
        return all(
            item.value == compute_attestation(self.claim_id, verifier, digest)
            for verifier, item in self.attestations.items()
        )


@dataclass
class Job:
    """One `Ask` on its way. `order` holds the workers left to try, first first."""

    ask: Ask
    request: InferenceRequest
    request_id: bytes
    rows: int
    order: tuple[bytes, ...] = ()
    attempts: list[Attempt] = field(default_factory=list)
    last_reason: str = "no worker took the request"
    last_code: str = "no_answer"


def verify_result(attempt: Attempt, result: Result) -> None:
    """RemoteError unless the receipt answers this attempt and stands for these outputs."""
    request, voucher = attempt.item.request, attempt.item.voucher
    receipt, claim = result.receipt, result.receipt.claim
    expected = (attempt.worker, voucher.channel, voucher.seq, voucher.amount, request.model, request.epoch)
    stated = (claim.worker, claim.channel, claim.seq, claim.fee, claim.model, claim.epoch)
    if stated != expected or claim.verifiers != request.verifiers or claim.deadline_ms != request.deadline_ms:
        raise RemoteError("the claim is about another job")
    if claim.input_digest != compute_tensors_digest(request.inputs):
        raise RemoteError("the claim names other inputs")
    verify_signed(claim, attempt.worker)
    verify_signed(receipt, attempt.worker)
    if claim.commitment != compute_commitment(receipt.salt, receipt.output_digest):
        raise RemoteError("the receipt does not open the claim")
    for tensor in result.outputs:
        verify_tensor(tensor)
    if receipt.output_digest != compute_tensors_digest(result.outputs):
        raise RemoteError("the outputs are not those of the receipt")


def publish_requests(items: list[PaidRequest]) -> list[Effect]:
    """Requests in as few gossip messages as their size allows."""
    return [Publish("infer/0", Requests(part)) for part in pack(items, REQUESTS_MAX)]
