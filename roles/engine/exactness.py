"""Whether every machine computes a model's outputs to the same bits, read from its graph without running it.

Who serves a model of the exact class answers for its bits with stake, so nobody does before this has been read. Values
are followed by type from inputs to outputs. Floats may be moved, compared, scaled to bytes and back; sums of them are
refused, since processors add in different orders. Whole numbers are divided by constants from 1 up, or by values that
constants keep there. A product of unsigned and signed bytes must fit 16 bits in pairs,
where processors without VNNI saturate: such weights lie within ±64. Field numbers: onnx.proto; measured on five
instruction sets of x86 and three of ARM.
"""

import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from roles.engine.protobuf import MalformedProtobuf, get_message, get_number, read_fields, read_packed, to_signed

WEIGHT_MAX = 64  # 2 · 255 · 64 < 2^15
SCALE_MIN = 1e-30  # below, a quotient may be infinite
_FLOAT, _UINT8, _INT8, _INT32, _INT64, _BOOL, _FLOAT16, _DOUBLE = 1, 2, 3, 6, 7, 9, 10, 11
_FLOATS = frozenset({_FLOAT, _FLOAT16, _DOUBLE})
_LAYOUTS: Mapping[int, str] = {_FLOAT: "f", _UINT8: "B", _INT8: "b", _INT32: "i", _INT64: "q", _DOUBLE: "d"}

# What an operator's output is: as its first input (by the place given), or always of one type.
_MOVES = {
    "Clip Concat Expand Flatten Gather GlobalMaxPool Identity Max MaxPool Min Pad ReduceMax ReduceMin Relu Reshape "
    "Slice Squeeze Tile Transpose Unsqueeze": 0,
    "Where": 1,
}
_REARRANGED = frozenset("Flatten Gather Identity Reshape Slice Squeeze Transpose Unsqueeze".split())
_SUMS = frozenset("Abs Add Div Mod Mul Neg ReduceSum Sub".split())  # exact in whole numbers only
_ALWAYS = {
    "ArgMax ArgMin NonZero Shape Size": _INT64,
    "And Equal Greater GreaterOrEqual Less LessOrEqual Not Or Xor": _BOOL,
    "ConvInteger MatMulInteger": _INT32,
    "DequantizeLinear": _FLOAT,
}
# Places of the data, the weights and the scales, and of the zero point that says the output's type.
_PRODUCTS = {"ConvInteger": (0, 1), "MatMulInteger": (0, 1), "QLinearConv": (0, 3), "QLinearMatMul": (0, 3)}
_SCALES = {"QuantizeLinear": (1,), "DequantizeLinear": (1,), "QLinearConv": (1, 4, 6), "QLinearMatMul": (1, 4, 6)}
_ZERO_POINTS = {"QuantizeLinear": 2, "QLinearConv": 7, "QLinearMatMul": 7}

_PLACES = {operator: place for names, place in _MOVES.items() for operator in names.split()}
_TYPES = {operator: dtype for names, dtype in _ALWAYS.items() for operator in names.split()}


class NotExact(Exception):
    """Machines may differ on this model; the text says where."""


@dataclass
class _Graph:
    types: dict[str, int] = field(default_factory=dict)  # of every value by name
    tensors: dict[str, memoryview] = field(default_factory=dict)  # constants
    positive: set[str] = field(default_factory=set)  # values that are 1 or more, whatever goes in


@dataclass(frozen=True)
class _Node:
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, memoryview]


def find_inexact(model: bytes) -> str:
    """Why a model is not of the exact class; empty when it is."""
    try:
        _verify(memoryview(model))
    except (NotExact, MalformedProtobuf) as error:
        return str(error)
    return ""


def _verify(model: memoryview) -> None:
    graphs = [get_message(value) for number, _, value in read_fields(model) if number == 7]
    graph = _Graph()
    for data in graphs:
        for number, _, value in read_fields(data):
            if number == 5:
                _add_tensor(graph, get_message(value))
            elif number == 11:
                _add_input(graph, get_message(value))
            elif number == 15:
                raise NotExact("it has sparse tensors, which are not read here")
    for data in graphs:
        for number, _, value in read_fields(data):
            if number == 1:
                _follow(graph, _read_node(get_message(value)))


def _add_tensor(graph: _Graph, tensor: memoryview, name: str = "") -> None:
    dtype = 0
    for number, _, value in read_fields(tensor):
        if number == 2:
            dtype = get_number(value)
        elif number == 8:
            name = name or _text(get_message(value))
    if name in graph.tensors:
        raise NotExact(f"tensor {name[:64]!r} stands there twice")
    graph.types[name] = dtype
    graph.tensors[name] = tensor


def _add_input(graph: _Graph, info: memoryview) -> None:
    name, dtype = "", 0
    for number, _, value in read_fields(info):
        if number == 1:
            name = _text(get_message(value))
        elif number == 2:
            for inner, _, kind in read_fields(get_message(value)):
                types = read_fields(get_message(kind)) if inner == 1 else ()
                dtype = next((get_number(item) for place, _, item in types if place == 1), dtype)
    graph.types.setdefault(name, dtype)


def _read_node(data: memoryview) -> _Node:
    operator, inputs, outputs, attributes = "", [], [], {}
    for number, _, value in read_fields(data):
        if number == 1:
            inputs.append(_text(get_message(value)))
        elif number == 2:
            outputs.append(_text(get_message(value)))
        elif number == 4:
            operator = _text(get_message(value))
        elif number == 5:
            attribute = get_message(value)
            names = [_text(get_message(item)) for place, _, item in read_fields(attribute) if place == 1]
            attributes[names[-1] if names else ""] = attribute
    return _Node(operator, tuple(inputs), tuple(outputs), attributes)


def _follow(graph: _Graph, node: _Node) -> None:
    """Learn the types of a node's outputs. NotExact when it may not compute the same everywhere."""
    if node.operator == "Constant":
        for place, _, value in read_fields(node.attributes.get("value", memoryview(b""))):
            if place == 5:
                _add_tensor(graph, get_message(value), node.outputs[0] if node.outputs else "")
        if not node.outputs or node.outputs[0] not in graph.tensors:
            raise NotExact("a Constant that is no tensor is not read here")
        return
    for place in _SCALES.get(node.operator, ()):
        _verify_scale(graph, node, place)
    if node.operator in _PRODUCTS:
        _verify_product(graph, node, *_PRODUCTS[node.operator])
    if node.operator in ("Div", "Mod"):
        _verify_divisor(graph, node)
    dtype = _find_type(graph, node)
    graph.types.update(dict.fromkeys(node.outputs, dtype))
    if dtype not in _FLOATS and _is_positive(graph, node):
        graph.positive.update(node.outputs)


def _find_type(graph: _Graph, node: _Node) -> int:
    if node.operator == "Cast":
        if _get_type(graph, node, 0) in _FLOATS:
            raise NotExact("a Cast of floats: what does not fit the new type differs between processors")
        attribute = node.attributes.get("to", memoryview(b""))
        target = [get_number(value) for place, _, value in read_fields(attribute) if place == 3]
        return target[-1] if target else 0
    if node.operator in _SUMS:
        types = [_get_type(graph, node, place) for place in range(len(node.inputs))]
        if not types or types[0] in _FLOATS:
            raise NotExact(f"{node.operator} of floats: processors round or add in different orders")
        return types[0]
    if node.operator in _TYPES:
        return _TYPES[node.operator]
    if node.operator in _PLACES:
        return _get_type(graph, node, _PLACES[node.operator])
    if node.operator in _ZERO_POINTS:
        place = _ZERO_POINTS[node.operator]
        return _get_type(graph, node, place) if place < len(node.inputs) and node.inputs[place] else _UINT8
    raise NotExact(f"operator {node.operator[:64]} is not known to compute the same bits everywhere")


def _get_type(graph: _Graph, node: _Node, place: int) -> int:
    dtype = graph.types.get(node.inputs[place], 0) if place < len(node.inputs) else 0
    if not dtype:
        raise NotExact(f"the type of input {place} of a {node.operator[:64]} is not known")
    return dtype


def _verify_product(graph: _Graph, node: _Node, data: int, weights: int) -> None:
    if _get_type(graph, node, data) != _UINT8:
        raise NotExact(f"{node.operator} of other data than unsigned bytes")
    dtype = _get_type(graph, node, weights)
    if dtype == _UINT8:
        return
    if dtype != _INT8:
        raise NotExact(f"{node.operator} of other weights than bytes")
    most = max(abs(number) for number in _get_constant(graph, node, weights))
    if most > WEIGHT_MAX:
        raise NotExact(f"{node.operator} by a weight of {most}: beyond ±{WEIGHT_MAX} processors without VNNI saturate")


def _verify_scale(graph: _Graph, node: _Node, place: int) -> None:
    if not all(math.isfinite(scale) and scale >= SCALE_MIN for scale in _get_constant(graph, node, place)):
        raise NotExact(f"{node.operator} by a scale that is not a positive number")


def _verify_divisor(graph: _Graph, node: _Node) -> None:
    if len(node.inputs) > 1 and node.inputs[1] in graph.positive:
        return
    if not all(number > 0 for number in _get_constant(graph, node, 1)):
        raise NotExact(f"{node.operator} by a number below 1, where processors differ")


def _is_positive(graph: _Graph, node: _Node) -> bool:
    """Whether a node in whole numbers gives nothing below 1: held up by constants, or moved from what is."""
    if node.operator == "Clip":
        bounds = node.inputs[1:]
        return bool(bounds and bounds[0]) and all(_is_constant_from_1(graph, name) for name in bounds if name)
    if node.operator == "Max":
        return any(name in graph.positive or _is_constant_from_1(graph, name) for name in node.inputs)
    return node.operator in _REARRANGED and bool(node.inputs) and node.inputs[0] in graph.positive


def _is_constant_from_1(graph: _Graph, name: str) -> bool:
    tensor = graph.tensors.get(name)
    numbers = set(_read_numbers(tensor, graph.types[name])) if tensor is not None else set()
    return bool(numbers) and min(numbers) >= 1


def _get_constant(graph: _Graph, node: _Node, place: int) -> set[float]:
    """The numbers in an input that must be a constant, each once: a layer's bytes are many and of few kinds."""
    name = node.inputs[place] if place < len(node.inputs) else ""
    tensor = graph.tensors.get(name)
    if tensor is None:
        raise NotExact(f"input {place} of a {node.operator[:64]} is no constant")
    numbers = set(_read_numbers(tensor, graph.types[name]))
    if not numbers:
        raise NotExact(f"input {place} of a {node.operator[:64]} holds no numbers")
    return numbers


def _read_numbers(tensor: memoryview, dtype: int) -> Iterator[float]:
    layout = _LAYOUTS.get(dtype)
    if layout is None:
        raise NotExact(f"a constant of type {dtype}, which is not read here")
    for number, _, value in read_fields(tensor):
        if number == 9:
            yield from _unpack(layout, get_message(value))
        elif number in (4, 10):
            yield from _unpack("f" if number == 4 else "d", get_message(value))
        elif number in (5, 7):
            yield from map(to_signed, [value] if isinstance(value, int) else read_packed(value))


def _unpack(layout: str, data: memoryview) -> tuple[float, ...]:
    count, rest = divmod(len(data), struct.calcsize(layout))
    if rest:
        raise NotExact("a constant's bytes are no whole number of its elements")
    if layout in "bB":
        whole = bytes(data)
        data = memoryview(bytes(byte for byte in range(256) if byte in whole))  # 256 searches are quicker than a set
        count = len(data)
    return struct.unpack(f"<{count}{layout}", data)


def _text(value: memoryview) -> str:
    return bytes(value).decode("utf-8", "replace")
