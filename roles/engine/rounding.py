"""A model with its weights rounded, as somebody would serve it who saves memory or time: what a calibration must catch.

Works on the file itself, tensor by tensor, since nodes have no `onnx` package. Field numbers: onnx.proto.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from protocol.errors import LocalError
from roles.engine.protobuf import BYTES, FIXED32, MalformedProtobuf, get_message, read_fields, read_text, write_fields

Array = np.ndarray[Any, np.dtype[Any]]
Round = Callable[[Array], Array]
_FLOAT, _DOUBLE = 1, 11
_DTYPES = {_FLOAT: "<f4", _DOUBLE: "<f8"}
_HALF_MAX = 65_504.0
_BYTE_MAX = 127


def round_half(weights: Array) -> Array:
    """Each weight as the nearest half-precision float."""
    return np.clip(weights, -_HALF_MAX, _HALF_MAX).astype(np.float16).astype(weights.dtype)


def round_byte(weights: Array) -> Array:
    """Each weight as the nearest of 255 steps up to the tensor's largest."""
    scale = float(np.abs(weights).max(initial=0.0)) / _BYTE_MAX
    return (np.rint(weights / scale) * scale).astype(weights.dtype) if scale else weights


CHEATS: Mapping[str, Round] = {"fp16": round_half, "int8": round_byte}


def round_weights(model: bytes, cheat: str) -> bytes:
    """The model with every float constant rounded as `cheat` (a name in CHEATS) does, in tensors and in the attributes
    of onnx.ml's operators. MalformedProtobuf when it is no model; LocalError for another cheat.
    """
    if cheat not in CHEATS:
        raise LocalError(f"cheats are {', '.join(CHEATS)}, not {cheat!r}")
    return _change(memoryview(model), {7: lambda graph: _round_graph(graph, CHEATS[cheat])})


def _round_graph(graph: memoryview, rounds: Round) -> bytes:
    return _change(graph, {5: lambda tensor: _round_tensor(tensor, rounds), 1: lambda node: _round_node(node, rounds)})


def _round_node(node: memoryview, rounds: Round) -> bytes:
    is_ml = read_text(node, 7) == "ai.onnx.ml"
    return _change(node, {5: lambda attribute: _round_attribute(attribute, rounds, is_ml)})


def _round_attribute(attribute: memoryview, rounds: Round, is_ml: bool) -> bytes:
    """A tensor in an attribute is a constant like any other; lists of floats are weights in onnx.ml alone."""
    changed = _change(attribute, {5: lambda tensor: _round_tensor(tensor, rounds)})
    return _round_floats(memoryview(changed), 7, rounds) if is_ml else changed


def _round_tensor(tensor: memoryview, rounds: Round) -> bytes:
    dtype = next((value for number, _, value in read_fields(tensor) if number == 2), 0)
    layout = _DTYPES.get(dtype) if isinstance(dtype, int) else None
    if layout is None:
        return bytes(tensor)
    raw = _change(tensor, {9: lambda data: rounds(_read(data, layout)).tobytes()})
    return _round_floats(memoryview(raw), 4, rounds) if dtype == _FLOAT else raw


def _round_floats(message: memoryview, wanted: int, rounds: Round) -> bytes:
    """Round a repeated float field, which is written packed then."""
    fields = list(read_fields(message))
    data = b"".join(bytes(get_message(value)) for number, _, value in fields if number == wanted)
    if not data:
        return bytes(message)
    if any(wire not in (BYTES, FIXED32) for number, wire, _ in fields if number == wanted):
        raise MalformedProtobuf("a list of floats holds something else")
    others = [item for item in fields if item[0] != wanted]
    return write_fields([*others, (wanted, BYTES, rounds(_read(memoryview(data), "<f4")).tobytes())])


def _change(message: memoryview, changes: Mapping[int, Callable[[memoryview], bytes]]) -> bytes:
    """The message with some of its fields replaced."""
    return write_fields(
        (number, wire, changes[number](get_message(value)) if number in changes else value)
        for number, wire, value in read_fields(message)
    )


def _read(data: memoryview, layout: str) -> Array:
    if len(data) % np.dtype(layout).itemsize:
        raise MalformedProtobuf("a tensor's bytes are no whole number of its elements")
    return np.frombuffer(data, layout)
