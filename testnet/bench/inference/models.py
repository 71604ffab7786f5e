"""Models that take as long for one row as a benchmark wants: chains of products of small matrices, written as ONNX.

A row becomes a matrix of 32 × 128, which is multiplied again and again by one orthogonal matrix, so that numbers stay
as large as they are. Everything fits into the processor's caches: what is timed is arithmetic, on every machine. Where
that would take too many products, it stands in the matrix several times.
"""

import math
from typing import TYPE_CHECKING

from roles.engine.protobuf import BYTES, VARINT, write_fields

if TYPE_CHECKING:
    import numpy as np

    Matrix = np.ndarray[tuple[int, int], np.dtype[np.float32]]

ROW = 64  # numbers in a row
OUTPUTS = 10
PROBE_STEPS = 100
STEPS_MAX = 2_000  # as many operators as a dispute can be about
_HEIGHT, _WIDTH = 32, 128
_FLOAT, _INT64 = 1, 7  # TensorProto.DataType
_OPSET, _IR_VERSION = 17, 8


def build_chain(steps: int, times: int = 1) -> bytes:
    """An ONNX model with so many products between its first and its last, each of so many times 32 × 128 numbers."""
    import numpy as np

    hadamard = np.ones((1, 1), np.float32)
    while len(hadamard) < _WIDTH:
        hadamard = np.kron(np.array([[1, 1], [1, -1]], np.float32), hadamard)
    spread, gather = (_make_waves(rows, columns) for rows, columns in ((ROW, _HEIGHT * _WIDTH), (_WIDTH, OUTPUTS)))
    tensors = [
        _write_tensor("spread", _FLOAT, spread.shape, spread.tobytes()),
        _write_tensor("turn", _FLOAT, hadamard.shape, (hadamard / np.float32(_WIDTH**0.5)).tobytes()),
        _write_tensor("gather", _FLOAT, gather.shape, gather.tobytes()),
        _write_tensor("matrix", _INT64, (3,), np.array([0, _HEIGHT, _WIDTH], "<i8").tobytes()),
        _write_tensor("number", _INT64, (3,), np.array([0, 1, 1], "<i8").tobytes()),
        _write_tensor("nothing", _FLOAT, (1,), bytes(4)),
    ]
    nodes = [
        _write_node("MatMul", ["x", "spread"], "wide"),
        _write_node("Reshape", ["wide", "matrix"], "once"),
        _write_node("Concat", ["once"] * times, "h0", (_write_int("axis", 1),)),
        # For a constant onnxruntime would keep a copy per step, and time would go into reading them from memory.
        _write_node("Mul", ["x", "nothing"], "zeros"),
        _write_node("ReduceMean", ["zeros"], "zero", (_write_axes(1), _write_int("keepdims", 1))),
        _write_node("Reshape", ["zero", "number"], "still"),
        _write_node("Add", ["turn", "still"], "turned"),
        *(_write_node("MatMul", [f"h{step}", "turned"], f"h{step + 1}") for step in range(steps)),
        _write_node("MatMul", [f"h{steps}", "gather"], "all"),
        _write_node("ReduceMean", ["all"], "y", (_write_axes(1), _write_int("keepdims", 0))),
    ]
    graph = [(1, BYTES, node) for node in nodes]
    graph += [(2, BYTES, b"chain"), *((5, BYTES, tensor) for tensor in tensors)]
    graph += [(11, BYTES, _write_value("x", ROW)), (12, BYTES, _write_value("y", OUTPUTS))]
    opset = write_fields([(1, BYTES, b""), (2, VARINT, _OPSET)])
    return write_fields([(1, VARINT, _IR_VERSION), (7, BYTES, write_fields(graph)), (8, BYTES, opset)])


def compute_shape(step_ms: float, rest_ms: float, wanted_ms: float) -> tuple[int, int]:
    """Steps and times of a chain of this duration, one step of the simplest chain and all that is around them given.

    >>> compute_shape(0.03, 0.1, 1.0), compute_shape(0.005, 0.0, 30.0)
    ((30, 1), (2000, 3))
    """
    steps = max(1, round((wanted_ms - rest_ms) / step_ms))
    times = math.ceil(steps / STEPS_MAX)
    return round(steps / times), times


def _make_waves(rows: int, columns: int) -> "Matrix":
    import numpy as np

    waves: Matrix = np.cos(np.outer(np.arange(1, rows + 1), np.arange(1, columns + 1)), dtype=np.float32)
    return waves / np.float32(rows**0.5)


def _write_tensor(name: str, kind: int, shape: tuple[int, ...], raw: bytes) -> bytes:
    sizes = [(1, VARINT, size) for size in shape]
    return write_fields([*sizes, (2, VARINT, kind), (8, BYTES, name.encode()), (9, BYTES, raw)])


def _write_node(operator: str, inputs: list[str], output: str, attributes: tuple[bytes, ...] = ()) -> bytes:
    fields = [(1, BYTES, name.encode()) for name in inputs] + [(2, BYTES, output.encode())]
    return write_fields([*fields, (4, BYTES, operator.encode()), *((5, BYTES, each) for each in attributes)])


def _write_axes(*axes: int) -> bytes:
    return write_fields([(1, BYTES, b"axes"), *((8, VARINT, axis) for axis in axes), (20, VARINT, 7)])


def _write_int(name: str, value: int) -> bytes:
    return write_fields([(1, BYTES, name.encode()), (3, VARINT, value), (20, VARINT, 2)])


def _write_value(name: str, numbers: int) -> bytes:
    """An input or output of rows of so many numbers; how many rows is free."""
    rows, columns = write_fields([(2, BYTES, b"rows")]), write_fields([(1, VARINT, numbers)])
    sizes = write_fields([(1, BYTES, rows), (1, BYTES, columns)])
    kind = write_fields([(1, VARINT, _FLOAT), (2, BYTES, sizes)])
    return write_fields([(1, BYTES, name.encode()), (2, BYTES, write_fields([(1, BYTES, kind)]))])
