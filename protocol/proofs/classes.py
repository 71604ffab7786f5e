"""What two computations of one request say about each other: PROTOCOL's one table, by class, profiles and outputs.

Every node must come to the same word, so the numbers are compared in IEEE doubles, operation by operation in one order,
and the bound is a whole number from the ledger. A row is one example: all of an output's numbers for it.
"""

import math
from collections.abc import Sequence
from enum import StrEnum
from operator import sub
from struct import unpack

from protocol.errors import InvalidProof, MalformedMessage
from protocol.fast_dataclass import fast_dataclass
from protocol.ledger.model_records import ModelRecord
from protocol.proofs.profiles import parse_profile
from protocol.tensor import Tensor, compute_tensors_digest, verify_tensor

PPT = 10**12  # parts in a whole
# Rows near zero differ by more than any share of themselves, by no fault of anybody's.
DIFFERENCE_FLOOR = 1e-7
_FLOATS = {"float16": "e", "float32": "f", "float64": "d"}


class Comparison(StrEnum):
    """What follows from two computations."""

    AGREE = "agree"  # bit for bit: pay
    WITHIN = "within"  # no farther apart than honest machines are: pay
    REFUND = "refund"  # too far apart, and yet no proof: refund and count, nobody is slashed
    DISPUTABLE = "disputable"  # one of them is wrong: a dispute finds out which, and slashes
    OPEN = "open"  # the digests differ and the class does not say: both outputs are needed


@fast_dataclass(frozen=True)
class Computation:
    """What one node says it has computed. `outputs` only where they are known."""

    profile: str
    digest: bytes
    outputs: tuple[Tensor, ...] | None = None


def compare(model: ModelRecord, one: Computation, other: Computation) -> Comparison:
    """The word for two computations of the same request. InvalidProof when outputs do not have their digest.

    A profile that cannot be read is like no other. Source: PROTOCOL, "Checking".
    """
    for item in (one, other):
        if item.outputs is not None and compute_tensors_digest(item.outputs) != item.digest:
            raise InvalidProof("the outputs do not have the digest")
    if one.digest == other.digest:
        return Comparison.AGREE
    if model.exact:
        return Comparison.DISPUTABLE
    is_optimised = _is_optimised(one.profile, other.profile)
    if is_optimised is not None:
        return Comparison.REFUND if is_optimised else Comparison.DISPUTABLE
    if not model.calibration:
        return Comparison.REFUND
    if one.outputs is None or other.outputs is None:
        return Comparison.OPEN
    is_near = is_within(one.outputs, other.outputs, model.calibration[0].bound_ppt)
    return Comparison.WITHIN if is_near else Comparison.REFUND


def is_within(one: Sequence[Tensor], other: Sequence[Tensor], bound_ppt: int) -> bool:
    """Whether every row of floats is at most the bound away, and everything else the same.

    Not when types or shapes differ or a number is NaN or infinite. `bound_ppt` is a share of a row's largest number.
    """
    return len(one) == len(other) and all(
        _is_near(first, second, bound_ppt) for first, second in zip(one, other, strict=True)
    )


def _is_optimised(one: str, other: str) -> bool | None:
    """Whether equal profiles are of an optimised graph; None when the profiles are not equal."""
    try:
        profile = parse_profile(one)
    except MalformedMessage:
        return None
    return profile.is_optimised if one == other else None


def _is_near(one: Tensor, other: Tensor, bound_ppt: int) -> bool:
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    try:
        verify_tensor(one)
        verify_tensor(other)
    except MalformedMessage:
        return False
    if one.data == other.data:
        return True
    if one.dtype not in _FLOATS:
        return False
    layout = f"<{math.prod(one.shape)}{_FLOATS[one.dtype]}"
    first, second = unpack(layout, one.data), unpack(layout, other.data)
    size = math.prod(one.shape[1:])
    return all(
        _is_row_near(first[at : at + size], second[at : at + size], bound_ppt) for at in range(0, len(first), size)
    )


def _is_row_near(one: Sequence[float], other: Sequence[float], bound_ppt: int) -> bool:
    difference = max(map(abs, map(sub, one, other)))
    largest = max(*map(abs, one), *map(abs, other))
    # Of two doubles of opposite sign the difference may be infinite, and so may the bound: then nothing is near.
    return math.isfinite(difference) and difference - DIFFERENCE_FLOOR <= largest / PPT * bound_ppt
