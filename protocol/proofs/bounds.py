"""Float outputs beside the bound their model was calibrated to: near enough to be paid, or too far to be honest.

Honest machines are at most a quarter of the bound apart, and weights of half precision show at more than four times of
it (`ledger.models`). Between bound and guilt there is room for a machine nobody calibrated on: up to the bound results
agree, and only beyond `GUILTY_HALVES` a validator that has run the model itself says that they are wrong. A verifier
disputes from `DISPUTED_HALVES` on: no validator that an honest machine is near to then finds the worker within the
bound, so that it does not lose its own bond. Halves are of the bound.

A client can ask for what no bound was made for: rows that cancel out, overflow or give NaN, where honest machines are
far apart. So a validator looks how far its own outputs move when every number of the inputs moves by its last bit, and
says nothing where that is more than half the bound.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from struct import iter_unpack, pack
from typing import Annotated

from protocol.errors import MalformedMessage
from protocol.fast_dataclass import fast_dataclass
from protocol.generation import read_form
from protocol.jobs import SHOWN_BYTES_MAX, Attestation, compute_attestation
from protocol.ledger.model_records import ModelRecord
from protocol.proofs.classes import is_within
from protocol.proofs.trace import Judgement
from protocol.tensor import TENSORS_MAX, Tensor, compute_tensors_digest, decode_tensors, encode_tensors
from protocol.types import AtMost

DISPUTED_HALVES = 3
GUILTY_HALVES = 4
NUDGES = 2  # runs on inputs moved by their last bit
_MANTISSA_MAX = 0x7F7F_FFFF  # of the largest float32 that is finite


@fast_dataclass(frozen=True)
class WholeRun:
    """What a worker took and says it gave: all that a validator needs to judge it by running the model."""

    inputs: Annotated[tuple[Tensor, ...], AtMost(TENSORS_MAX)]
    outputs: Annotated[tuple[Tensor, ...], AtMost(TENSORS_MAX)]


def get_bound_ppt(model: ModelRecord | None) -> int:
    """How far apart outputs of a model may be and count as the same; 0 where only equal digests do.

    Of a model that makes text it is 0: its outputs are tokens, and digests of steps.
    """
    if model is None or model.exact or not model.calibration:
        return 0
    is_text = read_form(model.inputs, model.outputs) is not None
    return 0 if is_text else model.calibration[0].bound_ppt


def is_near(model: ModelRecord | None, one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    """Whether two outputs of the model count as the same."""
    bound_ppt = get_bound_ppt(model)
    return bool(bound_ppt) and is_within(one, other, bound_ppt)


def is_disputed(model: ModelRecord | None, theirs: Sequence[Tensor], own: Sequence[Tensor]) -> bool:
    """Whether a verifier that found `own` stands up against a worker."""
    bound_ppt = get_bound_ppt(model)
    return bool(bound_ppt) and not is_within(theirs, own, bound_ppt * DISPUTED_HALVES // 2)


def may_be_shown(model: ModelRecord | None, outputs: tuple[Tensor, ...]) -> bool:
    """Whether a verifier shows these beside its attestation: a settlement holds those of all verifiers of a leaf."""
    return bool(get_bound_ppt(model)) and len(encode_tensors(outputs)) <= SHOWN_BYTES_MAX


def read_shown(item: Attestation) -> tuple[Tensor, ...] | None:
    """The outputs an attestation shows; None unless they are those it was made of."""
    try:
        shown = decode_tensors(item.shown)
    except MalformedMessage:
        return None
    value = compute_attestation(item.claim_id, item.verifier, compute_tensors_digest(shown))
    return shown if item.value == value else None


def is_agreed(model: ModelRecord | None, item: Attestation, digest: bytes, outputs: Sequence[Tensor]) -> bool:
    """Whether an attestation stands for outputs with this digest: bit for bit, or by others it shows that are near."""
    if item.value == compute_attestation(item.claim_id, item.verifier, digest):
        return True
    shown = read_shown(item)
    return shown is not None and is_near(model, outputs, shown)


def judge_outputs(
    bound_ppt: int, shown: Sequence[Tensor], own: Sequence[Tensor], nudged: Sequence[Sequence[Tensor]]
) -> Judgement | None:
    """What a validator says of a worker's outputs; None where it cannot know.

    `own` are those of its own run, `nudged` those of runs on `nudge`d inputs.
    """
    if is_within(shown, own, bound_ppt):
        return Judgement.SOUND
    # Outputs that are not finite are near to nothing, themselves neither.
    is_firm = all(is_within(own, other, bound_ppt // 2) for other in nudged)
    is_far = not is_within(shown, own, bound_ppt * GUILTY_HALVES // 2)
    return Judgement.WRONG if is_firm and is_far else None


def nudge(inputs: Sequence[Tensor], number: int) -> tuple[Tensor, ...]:
    """The inputs with every float32 moved to a neighbour of it, up or down as the number decides. Others stay."""
    return tuple(_nudge(tensor, number) if tensor.dtype == "float32" else tensor for tensor in inputs)


def _nudge(tensor: Tensor, number: int) -> Tensor:
    count = math.prod(tensor.shape)
    bits = int.from_bytes(hashlib.shake_128(number.to_bytes(4, "big")).digest(count // 8 + 1), "big")
    words = [_step(word, bits >> at & 1) for at, (word,) in enumerate(iter_unpack("<I", tensor.data))]
    return replace(tensor, data=pack(f"<{count}I", *words))


def _step(word: int, away: int) -> int:
    """The neighbour, away from zero or towards it, of a float32 by its bits. Zero and what is not finite stay."""
    size = word & 0x7FFF_FFFF
    return word if not 0 < size < _MANTISSA_MAX else word + (1 if away else -1)
