"""What shape and type each operator gives, from those of its inputs. Source: onnx/docs/Operators.md, opsets 13 to 21.

A rule takes a `Call` and returns (shape, dtype) for each output. All shapes are of whole numbers: the rows are known
here. A rule that cannot tell a shape, or whose inputs do not fit, raises `Unfit`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from roles.engine.onnx_file import DTYPES, Attribute, Node

Shape = tuple[int, ...]
Kind = tuple[Shape, str]
Array = np.ndarray[Any, np.dtype[Any]]
_ABSENT = Attribute()


class Unfit(Exception):
    """The inputs do not fit the operator, or nobody can tell what they give. The message says which."""


@dataclass(frozen=True)
class Value:
    """What is known of a tensor. `numbers` are its contents, if it is small and the same for every input.

    A constant hangs on no input: onnxruntime computes it while it loads the model.
    """

    shape: Shape
    dtype: str
    numbers: Array | None = None
    is_constant: bool = False

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Call:
    """One node with what is known of its inputs. An optional input that is left out is None."""

    node: Node
    inputs: tuple[Value | None, ...]

    def get(self, index: int) -> Value:
        value = self.inputs[index] if index < len(self.inputs) else None
        if value is None:
            raise Unfit(f"input {index} is missing")
        return value

    def has(self, index: int) -> bool:
        return index < len(self.inputs) and self.inputs[index] is not None

    def get_numbers(self, index: int) -> list[int]:
        """The whole numbers of an input that says what shape comes out."""
        numbers = self.get(index).numbers
        if numbers is None or numbers.dtype.kind not in "iu":
            raise Unfit(f"its size hangs on input {index}, which nobody can tell before it runs")
        return [int(number) for number in numbers.reshape(-1)]

    def get_int(self, name: str, default: int = 0) -> int:
        attribute = self.node.attributes.get(name)
        return default if attribute is None else attribute.i

    def get_ints(self, name: str) -> tuple[int, ...]:
        return self.node.attributes.get(name, _ABSENT).ints

    def get_text(self, name: str) -> str:
        return self.node.attributes.get(name, _ABSENT).s

    def get_axis(self, rank: int, default: int = 0) -> int:
        return find_axis(self.get_int("axis", default), rank)


def find_axis(axis: int, rank: int) -> int:
    """Negative axes count from the end."""
    if not -rank <= axis < rank:
        raise Unfit(f"there is no axis {axis} in {rank} dimensions")
    return axis % rank


def broadcast(*shapes: Shape) -> Shape:
    """The one shape that all of them are stretched to.

    >>> broadcast((64, 1, 8), (3, 1))
    (64, 3, 8)
    """
    rank = max(map(len, shapes))
    result = []
    for sizes in zip(*((1,) * (rank - len(shape)) + shape for shape in shapes), strict=True):
        wide = {size for size in sizes if size != 1}
        if len(wide) > 1:
            raise Unfit(f"shapes {', '.join(map(str, shapes))} do not fit each other")
        result.append(wide.pop() if wide else 1)
    return tuple(result)


def same(call: Call) -> list[Kind]:
    first = call.get(0)
    return [(first.shape, first.dtype)] * len(call.node.outputs)


def as_float(call: Call) -> list[Kind]:
    return [(call.get(0).shape, "float32")]


def stretched(call: Call) -> list[Kind]:
    return [(broadcast(*(value.shape for value in call.inputs if value)), call.get(0).dtype)]


def asked(call: Call) -> list[Kind]:
    return [(call.get(0).shape, "bool")]


def compared(call: Call) -> list[Kind]:
    return [(broadcast(call.get(0).shape, call.get(1).shape), "bool")]


def chosen(call: Call) -> list[Kind]:
    shapes = (call.get(index).shape for index in range(3))
    return [(broadcast(*shapes), call.get(1).dtype)]


def cast(call: Call) -> list[Kind]:
    code = call.get_int("to")
    if code not in DTYPES:
        raise Unfit(f"it casts to type {code}")
    return [(call.get(0).shape, DTYPES[code][0])]


def quantized(call: Call) -> list[Kind]:
    return [(call.get(0).shape, call.get(2).dtype if call.has(2) else "uint8")]


def dequantized(call: Call) -> list[Kind]:
    return [(call.get(0).shape, call.get(1).dtype)]


# Products


def multiply(first: Shape, second: Shape) -> Shape:
    """The shape of a matrix product, in numpy's terms."""
    if not first or not second:
        raise Unfit("a single number is no matrix")
    left = first if len(first) > 1 else (1, *first)
    right = second if len(second) > 1 else (*second, 1)
    if left[-1] != right[-2]:
        raise Unfit(f"shapes {first} and {second} do not fit each other")
    tail = (left[-2],) * (len(first) > 1) + (right[-1],) * (len(second) > 1)
    return broadcast(left[:-2], right[:-2]) + tail if len(left) + len(right) > 4 else tail


def matmul(call: Call) -> list[Kind]:
    return [(multiply(call.get(0).shape, call.get(1).shape), call.get(0).dtype)]


def matmul_integer(call: Call) -> list[Kind]:
    return [(multiply(call.get(0).shape, call.get(1).shape), "int32")]


def qlinear_matmul(call: Call) -> list[Kind]:
    return [(multiply(call.get(0).shape, call.get(3).shape), call.get(7).dtype)]


def gemm(call: Call) -> list[Kind]:
    first, second = call.get(0).shape, call.get(1).shape
    if len(first) != 2 or len(second) != 2:
        raise Unfit(f"shapes {first} and {second} are no two matrices")
    left = first[::-1] if call.get_int("transA") else first
    right = second[::-1] if call.get_int("transB") else second
    return [(multiply(left, right), call.get(0).dtype)]


def _slide(call: Call, image: Shape, kernel: Sequence[int]) -> Shape:
    """How often a kernel fits along each axis of an image."""
    rank = len(image)
    strides = call.get_ints("strides") or (1,) * rank
    dilations = call.get_ints("dilations") or (1,) * rank
    pads = call.get_ints("pads") or (0,) * (2 * rank)
    if not len(kernel) == len(strides) == len(dilations) == len(pads) // 2 == rank or rank == 0:
        raise Unfit(f"its kernel {tuple(kernel)}, strides, dilations or pads do not fit an image of {image}")
    if min((*strides, *dilations, *kernel)) < 1 or min(pads) < 0:
        raise Unfit("its kernel, strides, dilations or pads are below what makes sense")
    pad = call.get_text("auto_pad") or "NOTSET"
    if pad in ("SAME_UPPER", "SAME_LOWER"):
        return tuple(-(-size // stride) for size, stride in zip(image, strides, strict=True))
    counts = []
    for axis, size in enumerate(image):
        room = size + (pads[axis] + pads[axis + rank] if pad == "NOTSET" else 0)
        room -= (kernel[axis] - 1) * dilations[axis] + 1
        if room < 0:
            raise Unfit(f"its kernel {tuple(kernel)} is larger than an image of {image}")
        steps = -(-room // strides[axis]) if call.get_int("ceil_mode") else room // strides[axis]
        counts.append(steps + 1)
    return tuple(counts)


def _convolve(call: Call, image: Value, weights: Value, dtype: str) -> list[Kind]:
    if len(image.shape) < 3 or len(weights.shape) != len(image.shape):
        raise Unfit(f"shapes {image.shape} and {weights.shape} are no image and kernels")
    groups = call.get_int("group", 1)
    if groups < 1 or weights.shape[1] * groups != image.shape[1] or weights.shape[0] % groups:
        raise Unfit(f"kernels of {weights.shape} in {groups} groups do not fit an image of {image.shape}")
    return [(image.shape[:1] + weights.shape[:1] + _slide(call, image.shape[2:], weights.shape[2:]), dtype)]


def conv(call: Call) -> list[Kind]:
    return _convolve(call, call.get(0), call.get(1), call.get(0).dtype)


def conv_integer(call: Call) -> list[Kind]:
    return _convolve(call, call.get(0), call.get(1), "int32")


def qlinear_conv(call: Call) -> list[Kind]:
    return _convolve(call, call.get(0), call.get(3), call.get(7).dtype)


def pool(call: Call) -> list[Kind]:
    image = call.get(0)
    return [(image.shape[:2] + _slide(call, image.shape[2:], call.get_ints("kernel_shape")), image.dtype)]


def pool_all(call: Call) -> list[Kind]:
    image = call.get(0)
    return [(image.shape[:2] + (1,) * len(image.shape[2:]), image.dtype)]


# Reductions


def _drop(call: Call, shape: Shape, axes: Sequence[int]) -> Shape:
    gone = {find_axis(axis, len(shape)) for axis in axes}
    if call.get_int("keepdims", 1):
        return tuple(1 if axis in gone else size for axis, size in enumerate(shape))
    return tuple(size for axis, size in enumerate(shape) if axis not in gone)


def reduced(call: Call) -> list[Kind]:
    value = call.get(0)
    axes = call.get_numbers(1) if call.has(1) else call.get_ints("axes")
    if not axes and call.get_int("noop_with_empty_axes"):
        return [(value.shape, value.dtype)]
    return [(_drop(call, value.shape, axes or range(len(value.shape))), value.dtype)]


def arg_reduced(call: Call) -> list[Kind]:
    shape = call.get(0).shape
    return [(_drop(call, shape, [call.get_int("axis")]), "int64")]


def top_k(call: Call) -> list[Kind]:
    value = call.get(0)
    axis = call.get_axis(len(value.shape), -1)
    (count,) = call.get_numbers(1)
    if not 0 <= count <= value.shape[axis]:
        raise Unfit(f"{count} of {value.shape[axis]} are asked for")
    shape = (*value.shape[:axis], count, *value.shape[axis + 1 :])
    return [(shape, value.dtype), (shape, "int64")]


# Classical models


def labels_and_scores(call: Call) -> list[Kind]:
    classes = max(call.node.attributes.get(name, _ABSENT).count for name in ("classlabels_ints", "classlabels_int64s"))
    rows = call.get(0).shape[:-1]
    # With one score of two classes onnxruntime gives both.
    return [(rows, "int64"), ((*rows, max(classes, 2)), "float32")]


def targets(call: Call) -> list[Kind]:
    count = max(call.get_int("n_targets", 1), call.get_int("targets", 1))
    return [((*call.get(0).shape[:-1], count), "float32")]


def features(call: Call) -> list[Kind]:
    value = call.get(0)
    shape = value.shape if len(value.shape) > 1 else (1, *value.shape)
    return [((*shape[:-1], call.get(1).size), value.dtype)]
