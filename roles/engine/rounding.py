"""A model with its weights rounded, as somebody would serve it who saves memory or time: what checking must catch.

Works on the file itself, tensor by tensor, since nodes have no `onnx` package. Field numbers: onnx.proto.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from protocol.errors import LocalError
from roles.engine.protobuf import BYTES, FIXED32, MalformedProtobuf, get_message, read_fields, read_text, write_fields

Array = np.ndarray[Any, np.dtype[Any]]
Round = Callable[[Array], Array]
_FLOAT, _INT8, _DOUBLE = 1, 3, 11
_FLOATS = {_FLOAT: "<f4", _DOUBLE: "<f8"}
_BYTES = {_INT8: "i1"}
_HALF_MAX = 65_504.0
_BYTE_MAX = 127
_NIBBLE_MAX = 7


def round_half(weights: Array) -> Array:
    """Each weight as the nearest half-precision float."""
    return np.clip(weights, -_HALF_MAX, _HALF_MAX).astype(np.float16).astype(weights.dtype)


def round_byte(weights: Array) -> Array:
    """Each weight as the nearest of 255 steps up to the tensor's largest."""
    scale = float(np.abs(weights).max(initial=0.0)) / _BYTE_MAX
    return (np.rint(weights / scale) * scale).astype(weights.dtype) if scale else weights


def round_nibble(weights: Array) -> Array:
    """Each whole-number weight as the nearest of 15 steps up to the tensor's largest."""
    scale = float(np.abs(weights.astype(np.int16)).max(initial=0)) / _NIBBLE_MAX
    if not scale:
        return weights
    return np.clip(np.rint(np.rint(weights / scale) * scale), -_BYTE_MAX, _BYTE_MAX).astype(weights.dtype)


CHEATS: Mapping[str, Round] = {"fp16": round_half, "int8": round_byte}  # of float models
ROUNDINGS: Mapping[str, Round] = {**CHEATS, "int4": round_nibble}


@dataclass(frozen=True)
class _Rounding:
    """`layouts` are those of the tensors that are rounded, by ONNX's number of their type."""

    rounds: Round
    layouts: Mapping[int, str]


def round_weights(model: bytes, cheat: str) -> bytes:
    """The model with every constant rounded as `cheat` (a name in ROUNDINGS) does: floats in tensors and in the
    attributes of onnx.ml's operators, or for int4 signed bytes in tensors. MalformedProtobuf when it is no model;
    LocalError for another cheat.
    """
    if cheat not in ROUNDINGS:
        raise LocalError(f"cheats are {', '.join(ROUNDINGS)}, not {cheat!r}")
    how = _Rounding(ROUNDINGS[cheat], _FLOATS if cheat in CHEATS else _BYTES)
    return _change(memoryview(model), {7: lambda graph: _round_graph(graph, how)})


def _round_graph(graph: memoryview, how: _Rounding) -> bytes:
    return _change(graph, {5: lambda tensor: _round_tensor(tensor, how), 1: lambda node: _round_node(node, how)})


def _round_node(node: memoryview, how: _Rounding) -> bytes:
    is_ml = read_text(node, 7) == "ai.onnx.ml"
    return _change(node, {5: lambda attribute: _round_attribute(attribute, how, is_ml)})


def _round_attribute(attribute: memoryview, how: _Rounding, is_ml: bool) -> bytes:
    """A tensor in an attribute is a constant like any other; lists of floats are weights in onnx.ml alone."""
    changed = _change(attribute, {5: lambda tensor: _round_tensor(tensor, how)})
    return _round_floats(memoryview(changed), 7, how) if is_ml and _FLOAT in how.layouts else changed


def _round_tensor(tensor: memoryview, how: _Rounding) -> bytes:
    dtype = next((value for number, _, value in read_fields(tensor) if number == 2), 0)
    layout = how.layouts.get(dtype) if isinstance(dtype, int) else None
    if layout is None:
        return bytes(tensor)
    raw = _change(tensor, {9: lambda data: how.rounds(_read(data, layout)).tobytes()})
    return _round_floats(memoryview(raw), 4, how) if dtype == _FLOAT else raw


def _round_floats(message: memoryview, wanted: int, how: _Rounding) -> bytes:
    """Round a repeated float field, which is written packed then."""
    fields = list(read_fields(message))
    data = b"".join(bytes(get_message(value)) for number, _, value in fields if number == wanted)
    if not data:
        return bytes(message)
    if any(wire not in (BYTES, FIXED32) for number, wire, _ in fields if number == wanted):
        raise MalformedProtobuf("a list of floats holds something else")
    others = [item for item in fields if item[0] != wanted]
    return write_fields([*others, (wanted, BYTES, how.rounds(_read(memoryview(data), "<f4")).tobytes())])


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
