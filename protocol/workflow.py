"""Scheduled work, as far as it is arithmetic: a query's numbers as a model's input, a model's output as a feed's value.

Whole numbers go into whole-number models as they are, in units of 10^-decimals of their feed; a float model gets the
nearest float. All of it comes out the same on every machine: division of whole numbers is rounded once, and what is
read back is taken as the exact fraction that the float stands for.
"""

import math
import struct
from collections.abc import Sequence
from enum import StrEnum

from protocol.errors import ProtocolError
from protocol.ledger.feed_records import Candle
from protocol.ledger.model_records import TensorSpec
from protocol.queries import COLUMNS, InputQuery
from protocol.tensor import ITEM_SIZES, Tensor
from protocol.types import INT_MAX

VALUES_MAX = 1_024  # of all inputs of a workflow together
_WHOLE = {
    "int64": "q",
    "int32": "i",
    "int16": "h",
    "int8": "b",
    "uint64": "Q",
    "uint32": "I",
    "uint16": "H",
    "uint8": "B",
}
_FLOATS = {"float32": "f", "float64": "d"}
DTYPES = (*_WHOLE, *_FLOATS)


class DoesNotFit(ProtocolError):
    """Numbers that a model does not take, or a result that no feed holds, and why."""


class Outcome(StrEnum):
    """What became of a tick. All but the first four mean that it was missed: nothing was asked of anybody."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"  # the worker drawn did not answer, or with what no feed holds
    LATE = "late"  # done and paid, when the feed had a later tick's value already
    ASLEEP = "asleep"  # the ledger had no block in all of its time
    STALE = "stale"  # an input's last value was too old
    NO_HISTORY = "no history"  # an input's candles are not there, or not any more
    NO_FIT = "no fit"  # they are there, and the model does not take such numbers
    NO_MODEL = "no model"  # it is retired
    NO_WORKER = "no worker"  # nobody serves the model for the fee
    NO_VERIFIERS = "no verifiers"  # fewer than the workflow asks for
    NO_ROOM = "no room"  # the ledger has as many jobs, or open runs of this workflow, as it takes
    NO_BUDGET = "no budget"


def is_missed(outcome: str) -> bool:
    return outcome not in (Outcome.RUNNING, Outcome.DONE, Outcome.FAILED, Outcome.LATE)


def count_values(query: InputQuery) -> int:
    return sum(series.candles.count * len(series.columns) for series in query.series)


def find_fault(queries: Sequence[InputQuery], inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> str:
    """Why these queries cannot be a model's inputs; empty when they can."""
    if len(queries) != len(inputs):
        return f"the model takes {len(inputs)} inputs, {len(queries)} are asked for"
    if sum(map(count_values, queries)) > VALUES_MAX:
        return f"{sum(map(count_values, queries))} numbers, at most {VALUES_MAX} are asked for at a tick"
    for number, (query, spec) in enumerate(zip(queries, inputs, strict=True)):
        columns = [name for series in query.series for name in series.columns]
        if not columns or not set(columns) <= set(COLUMNS):
            return f"input {number} wants columns of {', '.join(COLUMNS)}"
        row = math.prod(spec.shape[1:])
        if spec.dtype not in DTYPES or spec.shape[:1] != (0,) or row != count_values(query):
            return f"input {number} takes rows of {row} {spec.dtype}, the query gives {count_values(query)} numbers"
    if not outputs or outputs[0].dtype not in DTYPES or math.prod(outputs[0].shape[1:]) != 1:
        return "the model's first output is not one number a row"
    return ""


def list_values(candles: Sequence[Candle], columns: Sequence[str]) -> list[int]:
    """The numbers of some columns, one column after the other."""
    return [int(getattr(candle, column)) for column in columns for candle in candles]


def make_input(spec: TensorSpec, values: Sequence[tuple[int, int]]) -> Tensor:
    """One row for a model's input, of values with their decimals. DoesNotFit for one beyond the type's range.

    >>> make_input(TensorSpec("float32", (0, 2)), [(150, 2), (3, 0)]).data.hex()
    '0000c03f00004040'
    """
    whole, shape = _WHOLE.get(spec.dtype), (1, *spec.shape[1:])
    numbers = [value for value, _ in values] if whole else [value / 10**decimals for value, decimals in values]
    try:
        data = struct.pack(f"<{len(numbers)}{whole or _FLOATS[spec.dtype]}", *numbers)
    except (struct.error, OverflowError) as error:
        raise DoesNotFit(f"a number does not fit {spec.dtype}: {error}") from error
    return Tensor(spec.dtype, shape, data)


def read_result(outputs: Sequence[Tensor], decimals: int) -> int:
    """The first number of the first output as a whole number of 10^-decimals; a whole number is one already.

    DoesNotFit for more than a feed holds, on either side of nought.
    """
    tensor = outputs[0]
    whole = _WHOLE.get(tensor.dtype)
    if tensor.dtype not in DTYPES or len(tensor.data) < ITEM_SIZES[tensor.dtype]:
        raise DoesNotFit(f"the result is {tensor.dtype} of {len(tensor.data)} bytes")
    (number,) = struct.unpack_from(f"<{whole or _FLOATS[tensor.dtype]}", tensor.data)
    if not whole and not math.isfinite(number):
        raise DoesNotFit(f"the result is {number}")
    value = number if whole else _round(number, 10**decimals)
    if abs(value) > INT_MAX:
        raise DoesNotFit(f"the result is {value}, a feed holds -{INT_MAX} to {INT_MAX}")
    return int(value)


def _round(number: float, times: int) -> int:
    """A float times a whole number, as the nearest whole number, half to even. The float is an exact fraction."""
    over, under = number.as_integer_ratio()
    value, rest = divmod(over * times, under)
    return value + (2 * rest > under or (2 * rest == under and value % 2))
