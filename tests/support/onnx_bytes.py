"""Write ONNX models byte by byte, also those no exporter would: tests need no onnx package. Source: onnx.proto."""

import struct
from functools import cache

FLOAT, UINT8, INT8, INT32, INT64, STRING = 1, 2, 3, 6, 7, 8


def field(number: int, value: int | bytes | str) -> bytes:
    """One protobuf field: a number as varint, anything else with its length before it."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def varint(value: int) -> bytes:
    """Negative numbers as protobuf has them: as if they were 64 bits without a sign."""
    out = bytearray()
    value %= 2**64
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def tensor(name: str, dtype: int, dims: tuple[int, ...], raw: bytes, extra: bytes = b"") -> bytes:
    sizes = b"".join(field(1, size) for size in dims)
    return sizes + field(2, dtype) + field(8, name) + field(9, raw) + extra


def int64s(name: str, *values: int) -> bytes:
    return tensor(name, INT64, (len(values),), b"".join((value % 2**64).to_bytes(8, "little") for value in values))


def attribute(name: str, number: int, value: int | bytes, kind: int) -> bytes:
    """`number` is the field of AttributeProto that holds the value, `kind` its AttributeType."""
    return field(1, name) + field(number, value) + field(20, kind)


def of_int(name: str, value: int) -> bytes:
    return attribute(name, 3, value, 2)


def of_ints(name: str, *values: int) -> bytes:
    return field(1, name) + b"".join(field(8, value) for value in values) + field(20, 7)


def of_float(name: str, value: float) -> bytes:
    return field(1, name) + b"\x15" + struct.pack("<f", value) + field(20, 1)


def of_floats(name: str, *values: float) -> bytes:
    return field(1, name) + b"".join(b"\x3d" + struct.pack("<f", value) for value in values) + field(20, 6)


def of_text(name: str, value: str) -> bytes:
    return attribute(name, 4, value.encode(), 3)


def of_texts(name: str, *values: str) -> bytes:
    return field(1, name) + b"".join(field(9, value) for value in values) + field(20, 8)


def of_tensor(name: str, value: bytes) -> bytes:
    return attribute(name, 5, value, 4)


def node(operator: str, inputs: list[str], outputs: list[str], *attributes: bytes, domain: str = "") -> bytes:
    names = b"".join(field(1, name) for name in inputs) + b"".join(field(2, name) for name in outputs)
    return names + field(4, operator) + b"".join(field(5, each) for each in attributes) + field(7, domain)


def value_info(name: str, dtype: int, dims: tuple[int | str, ...]) -> bytes:
    shape = b"".join(field(1, field(1, dim) if isinstance(dim, int) else field(2, dim)) for dim in dims)
    return field(1, name) + field(2, field(1, field(1, dtype) + field(2, shape)))


def model(
    nodes: list[bytes],
    inputs: list[bytes],
    outputs: list[bytes],
    tensors: tuple[bytes, ...] = (),
    extra: bytes = b"",
    opset: int = 17,
) -> bytes:
    graph = b"".join(field(1, each) for each in nodes) + field(2, "graph")
    graph += b"".join(field(5, each) for each in tensors)
    graph += b"".join(field(11, each) for each in inputs) + b"".join(field(12, each) for each in outputs)
    return field(1, 8) + field(7, graph) + field(8, field(1, "") + field(2, opset)) + extra


def unary(operator: str, dtype: int = FLOAT, dims: tuple[int | str, ...] = ("rows", 2)) -> bytes:
    """x → operator → y."""
    return model([node(operator, ["x"], ["y"])], [value_info("x", dtype, dims)], [value_info("y", dtype, dims)])


def doubled(times: int) -> bytes:
    """x joined to itself again and again: 2^times numbers out of one."""
    steps = [node("Concat", [f"p{i}"] * 2, [f"p{i + 1}"], attribute("axis", 3, 0, 2)) for i in range(times)]
    ends = [node("Identity", ["x"], ["p0"]), *steps, node("ReduceMax", [f"p{times}"], ["y"])]
    return model(ends, [value_info("x", FLOAT, (1,))], [value_info("y", FLOAT, (1,))])


def huge_constant(size: int) -> bytes:
    """A constant of `size` × `size` numbers, written in a few bytes."""
    nodes = [node("ConstantOfShape", ["shape"], ["c"]), node("ReduceMax", ["c"], ["m"]), node("Add", ["m", "x"], ["y"])]
    ends = [value_info("x", FLOAT, (1,))], [value_info("y", FLOAT, (1, 1))]
    return model(nodes, *ends, (int64s("shape", size, size),))


@cache  # several files of tests take the same, made when they are read
def many_products(count: int, size: int, is_constant: bool) -> bytes:
    """`count` products of size × size matrices, for each row of x: seconds of work out of a few hundred bytes.

    When constant, onnxruntime does them while it loads; else while it runs.
    """
    start = [] if is_constant else [node("Add", ["ones", "x"], ["p0"])]
    first = "ones" if is_constant else "p0"
    steps = [node("MatMul", [first if i == 0 else f"p{i}", first], [f"p{i + 1}"]) for i in range(count)]
    end = [
        node("ReduceMean", [f"p{count}"], ["mean"], attribute("keepdims", 3, 0, 2)),
        node("Add", ["mean", "x"], ["y"]),
    ]
    fill = attribute(
        "value", 5, tensor("v", FLOAT, (1,), bytes.fromhex("17b7d138")), 4
    )  # 1e-4: the products stay finite
    return model(
        [node("ConstantOfShape", ["shape"], ["ones"], fill), *start, *steps, *end],
        [value_info("x", FLOAT, (1,))],
        [value_info("y", FLOAT, (1,))],
        (int64s("shape", size, size),),
    )


def crashing() -> bytes:
    """-2^31 divided by x: for -1 there is no such number, and the processor itself stops the process."""
    one = tensor("one", INT32, (1,), (2**31).to_bytes(4, "little"))
    ends = [value_info("x", INT32, (1,))], [value_info("y", INT32, (1,))]
    return model([node("Div", ["one", "x"], ["y"])], *ends, (one,))
