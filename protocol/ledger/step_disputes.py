"""The first half of a dispute about a generation: the worker shows all steps, the challenger names one.

From there on it is a dispute about that step, as about any run of a model (`disputes`). What the worker shows is held
to what was asked by whole numbers alone: an answer that is too long or too short can never be shown.
"""

from dataclasses import replace
from typing import Annotated, Protocol

from protocol.codec import decode, encode
from protocol.errors import RemoteError
from protocol.fast_dataclass import fast_dataclass
from protocol.generation import StepForm, read_form
from protocol.jobs import Claim
from protocol.ledger.dispute_records import Dispute, DisputePhase
from protocol.ledger.draft import Draft
from protocol.ledger.job_errors import InvalidDispute
from protocol.ledger.model_records import ModelRecord
from protocol.ledger.transactions import transaction
from protocol.proofs.steps import Generated, Said, read_generated
from protocol.tensor import Tensor, compute_tensors_digest
from protocol.types import AtMost, Digest, Whole


@transaction(54)
@fast_dataclass(frozen=True)
class PostSteps:
    """The worker shows what it was asked and what it answered: the tokens, and the digest of every step."""

    dispute: Digest
    inputs: Annotated[tuple[Tensor, ...], AtMost(2)]
    outputs: Annotated[tuple[Tensor, ...], AtMost(2)]


@transaction(55)
@fast_dataclass(frozen=True)
class NameStep:
    """The challenger's word which step gives something else than the worker says, or makes another token."""

    dispute: Digest
    step: Whole


def get_first_phase(draft: Draft, claim: Claim) -> DisputePhase:
    """What a dispute begins with. A model that makes text is asked for nothing else (`admission`)."""
    return DisputePhase.STEPS if _find_form(draft.models, claim) is not None else DisputePhase.TRACE


def show_steps(draft: Draft, dispute: Dispute, body: PostSteps) -> Dispute:
    """The dispute once its steps are shown. InvalidDispute unless they are of the claim, and as many as was asked."""
    form = _find_form(draft.models, dispute.claim)
    generated = Generated(body.inputs, body.outputs)
    if form is None or compute_tensors_digest(body.inputs) != dispute.claim.input_digest:
        raise InvalidDispute(body.dispute, "these are not the inputs of the claim")
    if compute_tensors_digest(body.outputs) != dispute.output_digest:
        raise InvalidDispute(body.dispute, "these are not the outputs that were opened")
    try:
        read_generated(generated, form)
    except RemoteError as error:
        raise InvalidDispute(body.dispute, str(error)) from error
    return replace(dispute, generated=encode(generated))


def name_step(draft: Draft, dispute: Dispute, body: NameStep) -> Dispute:
    """The dispute once its step is named."""
    said = read_said(draft.models, dispute)
    if said is None or body.step >= len(said.steps):
        raise InvalidDispute(body.dispute, f"there is no step {body.step} in what the worker has shown")
    return replace(dispute, step=body.step)


class Models(Protocol):
    """The models of a draft or of a state, by digest."""

    def get(self, key: bytes, /) -> ModelRecord | None: ...


def read_said(models: Models, dispute: Dispute) -> Said | None:
    """What the worker has shown; None in a dispute that is about no generation."""
    form = _find_form(models, dispute.claim)
    if form is None or not dispute.generated:
        return None
    return read_generated(decode(Generated, dispute.generated), form)


def _find_form(models: Models, claim: Claim) -> StepForm | None:
    model = models.get(claim.model)
    return read_form(model.inputs, model.outputs) if model is not None else None
