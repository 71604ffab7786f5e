"""The registry of models: who may call a model what, and what its outputs are held to.

A record is a promise to everybody who serves, asks for or checks the model, so it does not change: another file is
another version, and all its owner can do is retire it. Its deposit is held until nothing can be claimed of it any more.
What the ledger cannot see, the bytes, is checked by every node before it serves them (`roles.engine.exactness`).
"""

import re
from dataclasses import replace
from typing import Annotated

from protocol.content import format_cid
from protocol.fast_dataclass import fast_dataclass
from protocol.ledger.context import TransactionContext
from protocol.ledger.draft import Draft
from protocol.ledger.errors import InvalidModel, LimitReached, NotYourModel, UnknownModel
from protocol.ledger.limits import ROWS_MAX
from protocol.ledger.model_records import (
    Calibration,
    Labels,
    MaybeCalibration,
    ModelName,
    ModelRecord,
    TensorSpec,
    TensorSpecs,
)
from protocol.ledger.records import DueItem
from protocol.ledger.transactions import transaction
from protocol.tensor import ITEM_SIZES
from protocol.types import Digest, Name, UpTo, Whole

MODEL_KIND = 20
BOUND_TIMES = 4  # the bound is so many times the farthest honest row, and the nearest cheat so many times the bound
# One processor cannot show what others do: the smallest network measured moved by 4.6e-7 between instruction sets.
HONEST_PPT_MIN = 500_000
BOUND_PPT_MAX = 10**9  # weights of half precision are rounded by 5e-4: a bound of more holds nobody to anything
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}", re.ASCII)


@transaction(50)
@fast_dataclass(frozen=True)
class RegisterModel:
    """Puts one version of a model on the ledger. The name is the account's, or becomes it; versions only go up."""

    name: Name
    version: Whole
    digest: Digest
    size_bytes: Whole
    exact: Annotated[int, UpTo(1)]
    calibration: MaybeCalibration  # exactly for models that are not exact
    inputs: TensorSpecs
    outputs: TensorSpecs
    labels: Labels
    rows_max: Whole


@transaction(51)
@fast_dataclass(frozen=True)
class RetireModel:
    """No new work for this model. Its record and deposit stay until all that was done with it is settled."""

    digest: Digest


def compute_bound_ppt(honest_ppt: int) -> int:
    """How far apart outputs of two profiles may be, from the farthest row of honest ones.

    >>> compute_bound_ppt(1_350_000), compute_bound_ppt(0)
    (5400000, 2000000)
    """
    return BOUND_TIMES * max(honest_ppt, HONEST_PPT_MIN)


def explain_calibration(calibration: Calibration) -> str:
    """Why a float model with this calibration is not taken; empty when it is."""
    bound = compute_bound_ppt(calibration.honest_ppt)
    if not calibration.rows or not calibration.versions:
        return "the calibration names no rows or no version of onnxruntime"
    if calibration.bound_ppt != bound:
        return f"the bound is {calibration.bound_ppt} ppt, {bound} follows from {calibration.honest_ppt} honest ones"
    if bound > BOUND_PPT_MAX:
        return f"honest machines are {calibration.honest_ppt} ppt apart: no bound up to {BOUND_PPT_MAX} ppt holds them"
    if calibration.fp16_ppt <= BOUND_TIMES * bound:
        return (
            f"weights of half precision would hardly show: the nearest row is {calibration.fp16_ppt} ppt off, "
            f"more than {BOUND_TIMES * bound} are asked for"
        )
    return ""


def apply_register_model(draft: Draft, context: TransactionContext, body: RegisterModel) -> None:
    reason = _find_fault(body)
    if reason:
        raise InvalidModel(reason)
    if draft.models.get(body.digest) is not None:
        raise InvalidModel(f"the ledger has model {format_cid(body.digest)} already")
    known = draft.model_names.get(body.name)
    if known is not None and known.owner != context.account:
        raise NotYourModel(body.name, context.account)
    last = known.version if known is not None else 0
    if body.version <= last:
        raise InvalidModel(f"version {body.version} of {body.name!r}: the last one was {last}, the next is higher")
    if len(draft.models) >= draft.params.models_max:
        raise LimitReached("models", len(draft.models), draft.params.models_max)
    deposit = draft.params.model_deposit
    draft.debit(context.account, deposit)
    record = ModelRecord(
        name=body.name,
        digest=body.digest,
        exact=body.exact,
        inputs=body.inputs,
        outputs=body.outputs,
        labels=body.labels,
        size_bytes=body.size_bytes,
        version=body.version,
        calibration=body.calibration,
        owner=context.account,
        deposit=deposit,
        rows_max=body.rows_max,
    )
    draft.models.put(body.digest, record)
    versions = known.versions if known is not None else 0
    draft.model_names.put(body.name, ModelName(context.account, body.version, versions + 1))


def apply_retire_model(draft: Draft, context: TransactionContext, body: RetireModel) -> None:
    model = draft.models.get(body.digest)
    if model is None or model.retired_ms:
        raise UnknownModel(body.digest)
    if model.owner != context.account:
        raise NotYourModel(model.name, context.account)
    draft.models.put(body.digest, replace(model, retired_ms=draft.time_ms))
    # As long as stake answers for work, what the work is held to must be known.
    due_ms = draft.time_ms + draft.params.unbonding_ms
    draft.plan(DueItem(due_ms, MODEL_KIND, body.digest, waking=1, graced=0))


def release_model(draft: Draft, item: DueItem) -> None:
    """Due: a retired model is forgotten and its deposit paid back; a name without versions is free again."""
    model = draft.models.get(item.id)
    known = draft.model_names.get(model.name) if model is not None else None
    if model is None or known is None:
        return
    draft.models.delete(item.id)
    draft.credit(model.owner, model.deposit)
    if known.versions > 1:
        draft.model_names.put(model.name, replace(known, versions=known.versions - 1))
    else:
        draft.model_names.delete(model.name)


def _find_fault(body: RegisterModel) -> str:
    """What of a registration contradicts itself; empty when nothing does."""
    if not _NAME.fullmatch(body.name):
        return f"a name is small letters, digits, dots, dashes and underscores, not {body.name!r}"
    if not body.version or not body.size_bytes:
        return "version and size are at least 1"
    if not 0 < body.rows_max <= ROWS_MAX:
        return f"a request has 1 to {ROWS_MAX} rows, not up to {body.rows_max}"
    if not body.inputs or not body.outputs or not all(map(_is_sound, (*body.inputs, *body.outputs))):
        return f"inputs and outputs are tensors of {', '.join(ITEM_SIZES)}"
    if len(set(body.labels)) != len(body.labels):
        return "a label is given twice"
    if body.exact == len(body.calibration):
        return "a float model comes with its calibration, an exact one has none"
    return explain_calibration(body.calibration[0]) if body.calibration else ""


def _is_sound(spec: TensorSpec) -> bool:
    return spec.dtype in ITEM_SIZES
