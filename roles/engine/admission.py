"""Whether a model's bytes may reach onnxruntime at all, read without loading them.

A small reader of protobuf visits every node and tensor of the file. It refuses what a verifier could not repeat (random
operators, quantisation that depends on the batch) or must not follow (data outside the file, control flow, operators
that are not onnx's own). Field numbers: onnx.proto. Time and memory are bounded elsewhere: by the worker process.
"""

from collections.abc import Iterator

from roles.engine.errors import ModelRefused
from roles.engine.specs import MODEL_BYTES_MAX

NODES_MAX = 4_096
DOMAINS = ("", "ai.onnx", "ai.onnx.ml")
OPERATORS_REFUSED = {
    "Bernoulli": "random",
    "Multinomial": "random",
    "RandomNormal": "random",
    "RandomNormalLike": "random",
    "RandomUniform": "random",
    "RandomUniformLike": "random",
    "DynamicQuantizeLinear": "scales by what else is in the batch, so a row's answer depends on its neighbours",
    "Loop": "control flow",
    "If": "control flow",
    "Scan": "control flow",
    "SequenceMap": "control flow",
}

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
Field = tuple[int, int | memoryview]


def verify_model(data: bytes) -> None:
    """ModelRefused, with the reason, unless the file may be loaded."""
    if not 0 < len(data) <= MODEL_BYTES_MAX:
        raise ModelRefused(f"the model has {len(data)} bytes, at most {MODEL_BYTES_MAX} are run here")
    nodes = 0
    graphs = 0
    for number, value in _read_fields(memoryview(data)):
        if number == 7:
            graphs += 1
            nodes += _verify_graph(_message(value))
        elif number == 8:
            _verify_domain(_read_text(_message(value), 1))
        elif number in (20, 25):
            raise ModelRefused("the model brings training information or functions of its own")
    if not graphs:
        raise ModelRefused("this is no ONNX model: it has no graph")
    if nodes > NODES_MAX:
        raise ModelRefused(f"the graph has {nodes} nodes, at most {NODES_MAX} are run here")


def _verify_graph(graph: memoryview) -> int:
    nodes = 0
    for number, value in _read_fields(graph):
        if number == 1:
            nodes += 1
            _verify_node(_message(value))
        elif number == 5:
            _verify_tensor(_message(value))
        elif number == 15:
            _verify_sparse(_message(value))
    return nodes


def _verify_node(node: memoryview) -> None:
    operator = _read_text(node, 4)
    _verify_domain(_read_text(node, 7))
    if operator in OPERATORS_REFUSED:
        raise ModelRefused(f"operator {operator} is not run here: {OPERATORS_REFUSED[operator]}")
    for number, value in _read_fields(node):
        if number != 5:
            continue
        for inner, content in _read_fields(_message(value)):
            if inner in (5, 10):
                _verify_tensor(_message(content))
            elif inner in (6, 11):
                raise ModelRefused(f"operator {operator[:64]} holds a graph of its own")
            elif inner in (22, 23):
                _verify_sparse(_message(content))


def _verify_tensor(tensor: memoryview) -> None:
    for number, value in _read_fields(tensor):
        if number == 13 or (number == 14 and value != 0):
            raise ModelRefused("the model keeps data outside its own file")


def _verify_sparse(sparse: memoryview) -> None:
    for number, value in _read_fields(sparse):
        if number in (1, 2):
            _verify_tensor(_message(value))


def _verify_domain(domain: str) -> None:
    if domain not in DOMAINS:
        raise ModelRefused(f"operators of domain {domain[:64]!r} are not onnx's own")


def _read_text(message: memoryview, wanted: int) -> str:
    """The last value of a text field, as protobuf has it; empty when absent."""
    text = ""
    for number, value in _read_fields(message):
        if number == wanted:
            text = bytes(_message(value)).decode("utf-8", "replace")
    return text


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ModelRefused("this is no ONNX model: a number stands where a message belongs")
    return value


def _read_fields(message: memoryview) -> Iterator[Field]:
    """Field numbers with their values: whole numbers, or the bytes of text, messages and packed lists."""
    at = 0
    while at < len(message):
        key, at = _read_varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, at = _read_varint(message, at)
            yield number, value
            continue
        if kind == _BYTES:
            size, at = _read_varint(message, at)
        elif kind in (_FIXED32, _FIXED64):
            size = 4 if kind == _FIXED32 else 8
        else:
            raise ModelRefused(f"this is no ONNX model: protobuf wire type {kind} at byte {at}")
        if size > len(message) - at:
            raise ModelRefused(f"this is no ONNX model: it ends {size - (len(message) - at)} bytes early")
        yield number, message[at : at + size]
        at += size


def _read_varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            break
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ModelRefused(f"this is no ONNX model: a number breaks off at byte {at}")
