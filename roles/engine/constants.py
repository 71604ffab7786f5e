"""The contents of small tensors that are the same for every input: what shapes are computed from.

Exporters compute the shapes of Reshape, Expand, Slice and Range in the graph itself, from Shape and a few whole
numbers. Only operators that such chains are made of are evaluated; of the rest nobody needs to know the contents.
"""

import math
from collections.abc import Callable

import numpy as np

from roles.engine.layouts import get_shape_part, get_slices
from roles.engine.onnx_file import FileTensor
from roles.engine.shapes import Array, Call, Kind, Unfit

NUMBERS_MAX = 4_096  # of one tensor

Arrays = list[Array]


def read_numbers(tensor: FileTensor) -> Array | None:
    """The contents of a constant in the file, unless it is long, or of a type that shapes are not computed from."""
    count = math.prod(tensor.shape)
    if count > NUMBERS_MAX:
        return None
    if len(tensor.raw):
        return np.frombuffer(tensor.raw, np.dtype(tensor.dtype).newbyteorder("<")).reshape(tensor.shape)
    if len(tensor.values) != count or tensor.dtype == "float16":
        return None
    return np.array(tensor.values).astype(tensor.dtype).reshape(tensor.shape)


def evaluate(call: Call, kind: Kind) -> Array | None:
    """The contents of the one output, of this shape and type, if they can be told and are few."""
    shape, dtype = kind
    operator = call.node.operator
    if math.prod(shape) > NUMBERS_MAX or len(call.node.outputs) != 1:
        return None
    if operator == "Shape":
        return np.array(get_shape_part(call), np.int64)
    if operator == "Constant":
        return _get_attribute(call)
    arrays = [value.numbers for value in call.inputs if value is not None]
    if operator not in _WAYS or any(array is None for array in arrays):
        return None
    try:
        with np.errstate(all="ignore"):
            result = _WAYS[operator](call, [array for array in arrays if array is not None])
            return np.asarray(result).astype(dtype).reshape(shape)
    except (ValueError, IndexError, OverflowError) as error:
        raise Unfit(f"it fails on what it is given: {error}") from error


def _get_attribute(call: Call) -> Array | None:
    ((name, value),) = call.node.attributes.items()
    if value.tensor is not None:
        return read_numbers(value.tensor)
    if name == "value_int":
        return np.array(value.i, np.int64)
    return np.array(value.ints, np.int64) if name == "value_ints" and len(value.ints) == value.count else None


def _divide(call: Call, arrays: Arrays) -> Array:
    first, second = arrays
    if first.dtype.kind not in "iu":
        return np.asarray(first / second)
    if not second.all():
        raise Unfit("it divides by zero")
    # As C does it: towards zero.
    return np.asarray(np.sign(first) * np.sign(second) * (np.abs(first) // np.abs(second)))


def _fill(call: Call, arrays: Arrays) -> Array:
    value = call.node.attributes.get("value")
    inner = read_numbers(value.tensor) if value is not None and value.tensor is not None else np.zeros(1)
    if inner is None or inner.size != 1:
        raise Unfit("it fills with more than one number")
    return np.full([int(size) for size in arrays[0].reshape(-1)], inner.reshape(-1)[0])


def _gather(call: Call, arrays: Arrays) -> Array:
    return np.asarray(np.take(arrays[0], arrays[1], axis=call.get_int("axis")))


def _expand(call: Call, arrays: Arrays) -> Array:
    first, sizes = arrays
    return np.asarray(first * np.ones([int(size) for size in sizes], first.dtype))


def _range(call: Call, arrays: Arrays) -> Array:
    start, limit, step = (array.reshape(-1)[0] for array in arrays)
    return np.arange(start, limit, step)


def _pass(call: Call, arrays: Arrays) -> Array:
    return arrays[0]


# The result takes on the output's shape: what only lays numbers out anew passes them on.
_WAYS: dict[str, Callable[[Call, Arrays], Array]] = {
    **dict.fromkeys(("Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten"), _pass),
    "Add": lambda call, arrays: arrays[0] + arrays[1],
    "Sub": lambda call, arrays: arrays[0] - arrays[1],
    "Mul": lambda call, arrays: arrays[0] * arrays[1],
    "Div": _divide,
    "Neg": lambda call, arrays: -arrays[0],
    "Min": lambda call, arrays: np.asarray(np.minimum.reduce(np.broadcast_arrays(*arrays))),
    "Max": lambda call, arrays: np.asarray(np.maximum.reduce(np.broadcast_arrays(*arrays))),
    "Equal": lambda call, arrays: arrays[0] == arrays[1],
    "Greater": lambda call, arrays: arrays[0] > arrays[1],
    "GreaterOrEqual": lambda call, arrays: arrays[0] >= arrays[1],
    "Less": lambda call, arrays: arrays[0] < arrays[1],
    "LessOrEqual": lambda call, arrays: arrays[0] <= arrays[1],
    "And": lambda call, arrays: arrays[0] & arrays[1],
    "Or": lambda call, arrays: arrays[0] | arrays[1],
    "Not": lambda call, arrays: ~arrays[0],
    "Where": lambda call, arrays: np.where(*arrays),
    "Concat": lambda call, arrays: np.concatenate(arrays, axis=call.get_int("axis")),
    "Transpose": lambda call, arrays: np.transpose(arrays[0], call.get_ints("perm") or None),
    "Slice": lambda call, arrays: arrays[0][get_slices(call)],
    "Gather": _gather,
    "Expand": _expand,
    "Tile": lambda call, arrays: np.tile(arrays[0], tuple(int(count) for count in arrays[1])),
    "ConstantOfShape": _fill,
    "Range": _range,
}
