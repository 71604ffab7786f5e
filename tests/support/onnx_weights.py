"""Read operators, opsets and weights out of an ONNX file: tests need no onnx package. Source: onnx.proto."""

from dataclasses import dataclass

import numpy as np

from p2p.protobuf import read_fields

DTYPES = {1: "<f4", 2: "u1", 3: "i1", 6: "<i4", 7: "<i8"}
FIELDS_MAX = 100_000


@dataclass(frozen=True)
class Graph:
    """`operators` in the order they run in, with their domain where it is not onnx's first."""

    operators: tuple[str, ...]
    weights: dict[str, np.ndarray]
    opsets: dict[str, int]


def read_graph(model: bytes) -> Graph:
    (graph,) = (data for number, _, data in read_fields(model, FIELDS_MAX) if number == 7)
    operators = []
    weights = {}
    for number, _, data in read_fields(graph, FIELDS_MAX):
        if number == 1:
            texts = {field: text.decode() for field, _, text in read_fields(data, FIELDS_MAX) if field in (4, 7)}
            operators.append(f"{texts[7]}.{texts[4]}" if texts.get(7) else texts[4])
        elif number == 5:
            name, values = read_tensor(data)
            weights[name] = values
    return Graph(tuple(operators), weights, dict(read_opset(data) for number, data in read_messages(model, 8)))


def read_messages(message: bytes, wanted: int) -> list[tuple[int, bytes]]:
    return [(number, data) for number, _, data in read_fields(message, FIELDS_MAX) if number == wanted]


def read_opset(message: bytes) -> tuple[str, int]:
    fields = {number: (value, data) for number, value, data in read_fields(message, 8)}
    return fields[1][1].decode() if 1 in fields else "", fields[2][0]


def read_tensor(message: bytes) -> tuple[str, np.ndarray]:
    shape, dtype, name, raw = [], "", "", b""
    for number, value, data in read_fields(message, FIELDS_MAX):
        if number == 1:
            shape.append(value)
        elif number == 2:
            dtype = DTYPES[value]
        elif number == 8:
            name = data.decode()
        elif number == 9:
            raw = data
    return name, np.frombuffer(raw, dtype).reshape(shape)
