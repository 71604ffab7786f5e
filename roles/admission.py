"""Whether a worker takes a job, and the typed refusal when it does not.

No valid voucher, no work: payment is checked before anything is run.
"""

from collections.abc import Collection
from enum import StrEnum
from typing import NamedTuple

from protocol.check import AHEAD_MS_MAX, WINDOW_MS
from protocol.codec import encode
from protocol.errors import ProtocolError
from protocol.generation import read_form, read_inputs
from protocol.jobs import VERIFIERS_MIN, InferenceRequest, Mode, PaidRequest, Voucher, compute_request_id
from protocol.ledger.batches import compute_pending_max
from protocol.ledger.genesis import ModelRecord, TensorSpec
from protocol.ledger.job_records import Channel
from protocol.ledger.state import State
from protocol.ledger.withheld import explain_size
from protocol.proofs.kinds import REEXEC, SIGNED
from protocol.signing import verify_signed
from protocol.tensor import Tensor, verify_tensor

SETTLE_GRACE_MS = 60_000  # a voucher outlives its request's deadline by at least this
REQUEST_BYTES_MAX = 48 * 1024  # it travels by gossip once more, beside its claim
GAP_MAX = 1_024  # vouchers between one and the next that came: each needs a zero leaf
EPOCHS_MAX = 3  # the newest of those the ledger keeps


class RefusalCode(StrEnum):
    """Why a worker says no. Each is safe to show to a user."""

    UNKNOWN_MODEL = "unknown_model"
    NO_MODEL = "no_model"
    BAD_INPUT = "bad_input"
    EXPIRED = "expired"
    PRICE = "price"
    UNPAID = "unpaid"
    VOUCHER_REUSED = "voucher_reused"
    BUSY = "busy"
    BEHIND = "behind"
    POLICY = "policy"
    TOO_LARGE = "too_large"
    FAILED = "failed"
    OTHER_EPOCH = "other_epoch"
    COMMITTEE = "committee"
    CANCELLED = "cancelled"


# A client may ask another worker after these; after the others no worker could say yes.
FALLBACK_CODES = frozenset(
    {
        RefusalCode.NO_MODEL,
        RefusalCode.PRICE,
        RefusalCode.BUSY,
        RefusalCode.BEHIND,
        RefusalCode.FAILED,
        RefusalCode.VOUCHER_REUSED,
        RefusalCode.OTHER_EPOCH,
        RefusalCode.COMMITTEE,
    }
)


class Worker(NamedTuple):
    """Who is to do the work: the account that is paid, the key that signs the claim."""

    account: bytes
    node: bytes


class NotAdmitted(Exception):
    """The worker will not run this job; `code` says which rule, the text carries the numbers."""

    def __init__(self, code: RefusalCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code


def admit(item: PaidRequest, state: State, worker: Worker, price: int, models: Collection[bytes], now_ms: int) -> int:
    """The number of rows to run. NotAdmitted says which rule the job breaks; cheap rules come first."""
    request = item.request
    _check_policy(request, state)
    size_bytes = len(encode(request))
    if size_bytes > REQUEST_BYTES_MAX:
        raise NotAdmitted(RefusalCode.TOO_LARGE, f"the request is {size_bytes} bytes, at most {REQUEST_BYTES_MAX} fit")
    if now_ms >= request.deadline_ms:
        raise NotAdmitted(RefusalCode.EXPIRED, f"the deadline passed {now_ms - request.deadline_ms} ms ago")
    # Verifiers drop a claim that lies further ahead; its leaf would hold up its channel until then.
    if request.deadline_ms > now_ms + AHEAD_MS_MAX + WINDOW_MS:
        ahead_ms = request.deadline_ms - now_ms
        raise NotAdmitted(RefusalCode.POLICY, f"the deadline is {ahead_ms} ms ahead, at most {AHEAD_MS_MAX} allowed")
    if request.epoch > state.epoch:
        reason = f"epoch {request.epoch} has not begun here, the ledger is in {state.epoch}"
        raise NotAdmitted(RefusalCode.OTHER_EPOCH, reason)
    # Epochs in which no block fell do not count: a request made before a quiet hour ended is still good.
    if request.epoch not in sorted(state.epochs)[-EPOCHS_MAX:]:
        raise NotAdmitted(RefusalCode.EXPIRED, f"epoch {request.epoch} is over, the ledger is in {state.epoch}")
    _check_payment(item, state, worker.account)
    model = state.models.get(request.model)
    if model is None or model.retired_ms:
        raise NotAdmitted(RefusalCode.UNKNOWN_MODEL, f"the ledger has no model {request.model.hex()}, or it is retired")
    # Such a claim could never be settled, and would hold up all that come after it in its channel.
    candidate = state.epochs[request.epoch].find_candidate(worker.node)
    if candidate is None or not candidate.serves(request.model):
        raise NotAdmitted(RefusalCode.OTHER_EPOCH, f"this node key does not serve the model in epoch {request.epoch}")
    if request.model not in models:
        raise NotAdmitted(RefusalCode.NO_MODEL, f"model {request.model.hex()} is not here yet")
    if request.inputs_blob:
        return _check_price(item, price, voucher_rows=None)
    rows = check_inputs(request.inputs, model)
    check_outputs(model, rows, request.mode)
    return _check_price(item, price, voucher_rows=rows)


def check_order(voucher: Voucher, channel: Channel, before: Voucher | None, is_given_up: bool) -> None:
    """NotAdmitted for a voucher that comes too late or is too far ahead, or that pays with what others have promised.

    `before` is the one before it that is not settled, `is_given_up` whether its own leaf earns nothing already. The
    ledger would not pay such a voucher, or not those behind it.
    """
    known = before.seq if before is not None else channel.settled_seq
    if is_given_up:
        reason = f"voucher {voucher.seq} comes too late: it was given up, as later ones have run out"
        raise NotAdmitted(RefusalCode.VOUCHER_REUSED, reason)
    if voucher.seq > known + GAP_MAX:
        reason = f"voucher {voucher.seq} is more than {GAP_MAX} ahead of {known}, the last one that came"
        raise NotAdmitted(RefusalCode.UNPAID, reason)
    promised = max(channel.cumulative, before.cumulative if before is not None else 0)
    if voucher.cumulative < promised + voucher.amount:
        reason = f"cumulative {voucher.cumulative} does not cover {promised} promised before and {voucher.amount} more"
        raise NotAdmitted(RefusalCode.UNPAID, reason)


def is_promised(item: PaidRequest, channel: Channel) -> bool:
    """Whether this voucher is the payer's, for this very request: nobody else can have sent it first."""
    try:
        verify_signed(item.voucher, channel.payer)
    except ProtocolError:
        return False
    return item.voucher.request_id == compute_request_id(item.request)


def _check_policy(request: InferenceRequest, state: State) -> None:
    most = state.params.verifiers_max
    asked = f"proof {request.proof!r} by {request.verifiers} verifiers in mode {request.mode!r}"
    if request.mode == Mode.PRIVATE:
        if request.proof != SIGNED.name or request.verifiers:
            raise NotAdmitted(RefusalCode.POLICY, f"{asked}; offered: 'signed' by none")
    elif request.mode not in (Mode.INDIVIDUAL, Mode.BATCH):
        raise NotAdmitted(RefusalCode.POLICY, f"{asked}; the modes are: {', '.join(Mode)}")
    elif request.proof != REEXEC.name or not VERIFIERS_MIN <= request.verifiers <= most:
        raise NotAdmitted(RefusalCode.POLICY, f"{asked}; offered: 'reexec' by {VERIFIERS_MIN} to {most}")
    if request.mode == Mode.BATCH and request.inputs_blob:
        raise NotAdmitted(RefusalCode.POLICY, "in mode 'batch' the request holds its input: it may be opened")


def _check_payment(item: PaidRequest, state: State, account: bytes) -> None:
    request, voucher = item.request, item.voucher
    channel = state.channels.get(voucher.channel)
    if channel is None or channel.payee != account:
        raise NotAdmitted(RefusalCode.UNPAID, f"channel {voucher.channel.hex()} does not pay this worker")
    if channel.payer != request.account:
        raise NotAdmitted(RefusalCode.UNPAID, "the channel belongs to another account than the request")
    if channel.closing_ms:
        raise NotAdmitted(RefusalCode.UNPAID, "the channel is closing")
    if channel.mode != request.mode:
        reason = f"the channel settles in mode {channel.mode!r}, the request is for {request.mode!r}"
        raise NotAdmitted(RefusalCode.UNPAID, reason)
    if voucher.request_id != compute_request_id(request):
        raise NotAdmitted(RefusalCode.UNPAID, "the voucher is for another request")
    if voucher.seq <= channel.settled_seq:
        raise NotAdmitted(
            RefusalCode.VOUCHER_REUSED, f"voucher {voucher.seq} is behind the settled {channel.settled_seq}"
        )
    node = state.nodes.get(account)
    if request.mode == Mode.BATCH and node is not None:
        limit = compute_pending_max(node.bond, state.params.sample_floor_bp, state.params)
        if voucher.amount > limit:
            reason = f"a voucher of {voucher.amount} grains, this worker's bond covers {limit} in a batch"
            raise NotAdmitted(RefusalCode.PRICE, reason)
    if voucher.amount > request.fee_max:
        raise NotAdmitted(RefusalCode.PRICE, f"the voucher is over the request's limit of {request.fee_max} grains")
    if not channel.paid + voucher.amount <= voucher.cumulative <= channel.deposit:
        raise NotAdmitted(
            RefusalCode.UNPAID, f"cumulative {voucher.cumulative} does not fit the deposit of {channel.deposit} grains"
        )
    if voucher.expiry_ms < request.deadline_ms + SETTLE_GRACE_MS:
        raise NotAdmitted(RefusalCode.UNPAID, f"the voucher must outlive the deadline by {SETTLE_GRACE_MS} ms")
    try:
        verify_signed(voucher, channel.payer)
    except ProtocolError as error:
        raise NotAdmitted(RefusalCode.UNPAID, str(error)) from error


def _check_price(item: PaidRequest, price: int, voucher_rows: int | None) -> int:
    # Rows of inputs that come as a blob are known once it is here; until then one row must be covered.
    rows = voucher_rows or 1
    if item.voucher.amount < price * rows:
        raise NotAdmitted(
            RefusalCode.PRICE, f"{rows} rows or tokens cost {price * rows} grains, paid {item.voucher.amount}"
        )
    return rows


def check_inputs(inputs: tuple[Tensor, ...], model: ModelRecord) -> int:
    """What inputs that fit the model are metered in: rows, or the tokens of a generation (`protocol.generation`).

    NotAdmitted says what was expected and what came.
    """
    form = read_form(model.inputs, model.outputs)
    if form is not None:
        # It is asked for text and nothing else: what is metered and digested of it are the steps of one.
        try:
            return read_inputs(inputs, form).units
        except ProtocolError as error:
            raise NotAdmitted(RefusalCode.BAD_INPUT, f"{model.name}: {error}") from error
    if len(inputs) != len(model.inputs):
        raise NotAdmitted(RefusalCode.BAD_INPUT, f"{model.name} takes {len(model.inputs)} inputs, got {len(inputs)}")
    for tensor, spec in zip(inputs, model.inputs, strict=True):
        try:
            verify_tensor(tensor)
        except ProtocolError as error:
            raise NotAdmitted(RefusalCode.BAD_INPUT, str(error)) from error
        if tensor.dtype != spec.dtype or not _fits(tensor.shape, spec):
            raise NotAdmitted(
                RefusalCode.BAD_INPUT,
                f"{model.name} takes {spec.dtype} of shape {_format_shape(spec.shape)}, got {tensor.dtype} of shape"
                f" {_format_shape(tensor.shape)}",
            )
    rows = inputs[0].shape[0] if inputs[0].shape else 1
    if rows < 1 or any((tensor.shape[0] if tensor.shape else 1) != rows for tensor in inputs):
        raise NotAdmitted(RefusalCode.BAD_INPUT, "inputs need one and the same number of rows, at least 1")
    if rows > model.rows_max and any(spec.shape[:1] == (0,) for spec in model.inputs):
        reason = f"{model.name} takes at most {model.rows_max} rows in one request, got {rows}: send several requests"
        raise NotAdmitted(RefusalCode.TOO_LARGE, reason)
    return rows


def check_outputs(model: ModelRecord, rows: int, mode: str) -> None:
    """NotAdmitted for work in mode `batch` whose output is too large to be published if its client loses it."""
    reason = explain_size(model, rows) if mode == Mode.BATCH else ""
    if reason:
        raise NotAdmitted(RefusalCode.TOO_LARGE, reason)


def _fits(shape: tuple[int, ...], spec: TensorSpec) -> bool:
    return len(shape) == len(spec.shape) and all(
        wanted in (0, size) for wanted, size in zip(spec.shape, shape, strict=True)
    )


def _format_shape(shape: tuple[int, ...]) -> str:
    return "(" + ", ".join("rows" if size == 0 else str(size) for size in shape) + ")"
