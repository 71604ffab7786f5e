"""From what a user wants to a request that workers can take, or to why there is none."""

from dataclasses import replace

from protocol.check import AHEAD_MS_MAX
from protocol.codec import encode
from protocol.content import format_cid
from protocol.generation import read_form, read_inputs
from protocol.jobs import InferenceRequest, Mode, compute_request_id
from protocol.ledger.state import State
from protocol.proofs.kinds import REEXEC, SIGNED
from roles.admission import REQUEST_BYTES_MAX, NotAdmitted, check_inputs, check_outputs
from roles.attempts import Ask, Job
from roles.dispatch import Dispatch, order_workers
from roles.role import Context

NONCE_BYTES = 16
REDRAWS_MAX = 16  # one of two needs the one silent verifier of four


class NotAsked(Exception):
    """Nothing was sent and nothing is owed; `code` says why, the text carries the numbers."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


def make_job(ask: Ask, context: Context, state: State, dispatch: Dispatch, now_ms: int) -> Job:
    """A job with its request and the workers drawn for it. NotAsked when it is plain that no worker would take it.

    The request is drawn again while nothing is to be expected from its first worker, or from a verifier of that one's
    claim.
    """
    model = state.models.get(ask.model)
    if model is None:
        names = ", ".join(sorted(record.name for record in state.models.values())) or "none"
        raise NotAsked("unknown_model", f"the ledger has no model {format_cid(ask.model)}; it has: {names}")
    try:
        rows = check_inputs(ask.inputs, model)
        check_outputs(model, rows, ask.mode)
    except NotAdmitted as error:
        raise NotAsked(str(error.code), str(error)) from error
    if ask.timeout_ms <= 0:
        raise NotAsked("expired", "the deadline has already passed")
    if ask.timeout_ms > AHEAD_MS_MAX:
        raise NotAsked("policy", f"a deadline is at most {AHEAD_MS_MAX} ms ahead, {ask.timeout_ms} ms were asked for")
    request = _make_request(ask, context, state, now_ms)
    size_bytes = len(encode(request))
    if size_bytes > REQUEST_BYTES_MAX:
        reason = f"the request is {size_bytes} bytes, gossip carries {REQUEST_BYTES_MAX}: send fewer rows at a time"
        raise NotAsked("too_large", reason)
    epoch = state.get_epoch(request.epoch)
    job = Job(ask, request, compute_request_id(request), rows, made_ms=now_ms, seed=epoch.seed if epoch else bytes(32))
    form = read_form(model.inputs, model.outputs)
    if form is not None:
        job.generation = read_inputs(ask.inputs, form), form
    elif ask.streams:
        raise NotAsked("bad_input", f"{model.name} makes no text from these inputs: nothing of it can be streamed")
    job.order = job.drawn = order_workers(job, state)
    if not job.order:
        raise NotAsked("no_worker", f"no bonded inference node serves {model.name} in this epoch")
    for _ in range(REDRAWS_MAX):
        if dispatch.choose(job, job.order[:1], state, now_ms):
            break
        # The one thing in it that may differ by so little. Whoever chose its nonce looks for it by that.
        job.request = replace(job.request, deadline_ms=job.request.deadline_ms - 1)
        job.request_id = compute_request_id(job.request)
        job.order = job.drawn = order_workers(job, state)
    return job


def _make_request(ask: Ask, context: Context, state: State, now_ms: int) -> InferenceRequest:
    is_private = ask.mode == Mode.PRIVATE
    return InferenceRequest(
        chain=state.chain,
        account=context.account.public,
        client=context.signer.public,
        model=ask.model,
        inputs=ask.inputs,
        inputs_blob=(),
        proof=SIGNED.name if is_private else REEXEC.name,
        verifiers=0 if is_private else ask.verifiers,
        fee_max=ask.fee_max,
        epoch=state.epoch,
        deadline_ms=now_ms + ask.timeout_ms,
        nonce=ask.nonce or context.random.randbytes(NONCE_BYTES),
        mode=ask.mode,
    )
