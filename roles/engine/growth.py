"""How large a graph's tensors get, and how much of it onnxruntime would compute while it loads: told before it loads.

onnxruntime computes whatever hangs on no input when it builds a session, and nothing stops it there. A file of 196
bytes can ask for seconds and one of 389 for half a gigabyte. So every shape is told here, with the rows given, and
bounded.
"""

import math
from collections.abc import Mapping

from protocol.tensor import RANK_MAX
from roles.engine.constants import evaluate, read_numbers
from roles.engine.errors import ModelRefused
from roles.engine.onnx_file import OnnxFile
from roles.engine.operators import RULES
from roles.engine.shapes import Call, Unfit, Value

SIZE_MAX = 2**25  # numbers in one tensor, with the most rows: 128 MiB of float32
CONSTANT_SIZE_MAX = 2**22  # numbers in one tensor that is computed while loading: 16 MiB of float32
CONSTANT_WORK_MAX = 2**30  # multiplications, additions and moves while loading: about a second at worst
_PRODUCTS = frozenset({"MatMul", "MatMulInteger", "QLinearMatMul", "Gemm"})
_CONVOLUTIONS = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3}


def compute_values(file: OnnxFile, rows: int) -> dict[str, Value]:
    """What is known of every tensor of the graph when it is given so many rows. ModelRefused when one is too large.

    Nodes stand in order: each takes what inputs, constants and nodes before it give.
    """
    values = {
        tensor.name: Value(tensor.shape, tensor.dtype, read_numbers(tensor), is_constant=True)
        for tensor in file.tensors
    }
    for end in file.inputs:
        assert end.shape is not None
        values[end.name] = Value(tuple(size or rows for size in end.shape), end.dtype)
    work = 0
    for number, node in enumerate(file.nodes):
        where = f"node {number + 1} ({node.operator})"
        try:
            call = Call(node, tuple(values[name] if name else None for name in node.inputs))
            outputs = _give_outputs(call, where)
        except Unfit as error:
            raise ModelRefused(f"{where} does not work for {rows} rows: {error}") from error
        values.update(outputs)
        work += _count_work(call, outputs)
        if work > CONSTANT_WORK_MAX:
            raise ModelRefused(
                f"{where} brings what hangs on no input to {work} operations, all done while loading; at most"
                f" {CONSTANT_WORK_MAX} are"
            )
    return values


def _give_outputs(call: Call, where: str) -> dict[str, Value]:
    kinds = RULES[call.node.domain][call.node.operator](call)
    # The shape of something is known as soon as the graph is, if it has no rows in it.
    is_constant = call.node.operator == "Shape" or all(value.is_constant for value in call.inputs if value)
    for shape, _ in kinds:
        _verify_size(where, shape, is_constant)
    numbers = evaluate(call, kinds[0])
    outputs = zip(call.node.outputs, kinds, strict=False)
    return {name: Value(shape, dtype, numbers, is_constant) for name, (shape, dtype) in outputs if name}


def _verify_size(where: str, shape: tuple[int, ...], is_constant: bool) -> None:
    size, most = math.prod(shape), CONSTANT_SIZE_MAX if is_constant else SIZE_MAX
    if len(shape) > RANK_MAX:
        raise ModelRefused(f"{where} gives {len(shape)} dimensions, at most {RANK_MAX} are taken")
    if size > most:
        kind = "a constant" if is_constant else "a tensor"
        raise ModelRefused(f"{where} gives {kind} of {size} numbers {shape}, at most {most} are taken")


def _count_work(call: Call, outputs: Mapping[str, Value]) -> int:
    """What onnxruntime computes of a node while it loads: multiplications, or numbers taken and given."""
    operator, values = call.node.operator, tuple(outputs.values())
    if not all(value.is_constant for value in values):
        return 0
    if operator in _PRODUCTS:
        inner = call.get(0).shape[0 if operator == "Gemm" and call.get_int("transA") else -1]
        return values[0].size * inner
    if operator in _CONVOLUTIONS:
        return values[0].size * math.prod(call.get(_CONVOLUTIONS[operator]).shape[1:])
    return sum(value.size for value in (*values, *call.inputs) if value)
