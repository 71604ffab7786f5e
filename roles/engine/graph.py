"""A model's graph as its file has it: the operators in one canonical order, and what each takes from which.

Constants are initialisers and the outputs of `Constant` nodes alike; they are part of the model and of no operator's
trace. Everything else an operator takes comes from the model's inputs or from an operator before it. Field numbers:
onnx.proto. The bytes must have passed `admission.verify_model`: no graph stands inside a node.
"""

import heapq
from collections import Counter
from dataclasses import dataclass

from protocol.proofs.trace import GIVEN_MAX, OPERATORS_MAX, SOURCES_MAX
from protocol.tensor import Tensor
from roles.engine.errors import ModelRefused
from roles.engine.protobuf import (
    BYTES,
    VARINT,
    Field,
    MalformedProtobuf,
    Value,
    get_message,
    read_fields,
    read_text,
    write_fields,
)

# TensorProto.DataType
ELEMENT_TYPES = {
    "float32": 1,
    "uint8": 2,
    "int8": 3,
    "uint16": 4,
    "int16": 5,
    "int32": 6,
    "int64": 7,
    "bool": 9,
    "float16": 10,
    "float64": 11,
    "uint32": 12,
    "uint64": 13,
}
_GRAPH, _HEAD = 7, (1, 8)  # of ModelProto: the graph; IR version and operator sets
_NODE, _NAME, _TENSOR, _INPUT, _OUTPUT, _SPARSE = 1, 2, 5, 11, 12, 15  # of GraphProto

Part = tuple[int, int, int | bytes | memoryview]  # a field to be written


@dataclass(frozen=True)
class Operator:
    """One node. An empty name in `inputs` or `outputs` stands for an optional one that is left out."""

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    node: bytes

    @property
    def given(self) -> tuple[str, ...]:
        """The names of what it gives."""
        return tuple(name for name in self.outputs if name)


@dataclass(frozen=True)
class Graph:
    """`operators` and the rows of `sources` are numbered from 1; 0 is the inputs, and the last row is the outputs'."""

    head: tuple[Part, ...]
    constants: dict[str, Part]  # by name: the initialiser or the node that makes it
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    operators: tuple[Operator, ...]
    sources: tuple[tuple[int, ...], ...]
    owners: dict[str, int]  # who gives a value

    @property
    def last(self) -> int:
        """The number that stands for the model's outputs."""
        return len(self.operators) + 1

    def get_given(self, number: int) -> tuple[str, ...]:
        """The names of all that a number gives, in its own order."""
        if number == 0:
            return self.inputs
        return self.outputs if number == self.last else self.operators[number - 1].given

    def get_taken(self, number: int) -> tuple[str, ...]:
        """The names of what an operator takes and is no constant, each once, in the order in which it takes them."""
        taken = self.outputs if number == self.last else self.operators[number - 1].inputs
        return tuple(dict.fromkeys(name for name in taken if name in self.owners))


def read_graph(model: bytes) -> Graph:
    """ModelRefused, with the reason, when the operators cannot be put in order or are too many to be traced."""
    try:
        return _read_model(memoryview(model))
    except MalformedProtobuf as error:
        raise ModelRefused(f"this is no ONNX model: {error}") from error


def expose(model: bytes, graph: Graph) -> bytes:
    """The same model with everything any operator gives among its outputs, its own first.

    Protobuf joins messages that stand twice in a file, so the names are put behind it and nothing is written anew.
    """
    added = [name for operator in graph.operators for name in operator.given if name not in graph.outputs]
    fields: list[Part] = [(_OUTPUT, BYTES, write_fields([(1, BYTES, name.encode())])) for name in added]
    return model + write_fields([(_GRAPH, BYTES, write_fields(fields))])


def isolate(graph: Graph, number: int, taken: dict[str, Tensor]) -> bytes:
    """A model of one operator alone: types and shapes of what it takes from the tensors, constants from its model."""
    operator = graph.operators[number - 1]
    constants = dict.fromkeys(name for name in operator.inputs if name in graph.constants)
    fields: list[Part] = [graph.constants[name] for name in constants]
    fields.append((_NODE, BYTES, operator.node))
    fields.append((_NAME, BYTES, b"operator"))
    fields += [(_INPUT, BYTES, _write_value(name, tensor)) for name, tensor in taken.items()]
    fields += [(_OUTPUT, BYTES, write_fields([(1, BYTES, name.encode())])) for name in operator.given]
    return write_fields([*graph.head, (_GRAPH, BYTES, write_fields(fields))])


def _read_model(model: memoryview) -> Graph:
    head: list[Part] = []
    fields: list[Field] = []  # of all graphs: protobuf joins them
    for number, wire, value in read_fields(model):
        if number == _GRAPH:
            fields += read_fields(get_message(value))
        elif number in _HEAD:
            head.append((number, wire, value if isinstance(value, int) else bytes(value)))
    constants: dict[str, Part] = {}
    operators: list[Operator] = []
    for number, _, value in fields:
        if number == _NODE:
            operator = _read_operator(value)
            if operator.kind == "Constant":
                constants |= dict.fromkeys(operator.given, (_NODE, BYTES, operator.node))
            else:
                operators.append(operator)
        elif number == _TENSOR:
            constants[read_text(get_message(value), 8)] = (_TENSOR, BYTES, bytes(get_message(value)))
        elif number == _SPARSE:
            named = _read_last(get_message(value), 1)
            constants[read_text(named, 8)] = (_SPARSE, BYTES, bytes(get_message(value)))
    # An initialiser may be listed as an input whose value can be left out; it is, always.
    inputs = tuple(name for name in _read_names(fields, _INPUT) if name not in constants)
    return _arrange(tuple(head), constants, inputs, _read_names(fields, _OUTPUT), operators)


def _arrange(
    head: tuple[Part, ...],
    constants: dict[str, Part],
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
    operators: list[Operator],
) -> Graph:
    if len(operators) > OPERATORS_MAX:
        raise ModelRefused(f"{len(operators)} operators cannot be traced, at most {OPERATORS_MAX} can")
    ordered = _sort(operators, {*inputs, *constants})
    owners = dict.fromkeys(inputs, 0)
    owners |= {name: number for number, operator in enumerate(ordered, 1) for name in operator.given}
    unknown = next((name for name in outputs if name not in owners), None)
    if unknown is not None:
        raise ModelRefused(f"no operator gives the output {unknown!r}")
    taken = [(), *(operator.inputs for operator in ordered), outputs]
    sources = tuple(tuple(sorted({owners[name] for name in names if name in owners})) for names in taken)
    if max(map(len, sources)) > SOURCES_MAX or any(len(operator.outputs) > GIVEN_MAX for operator in ordered):
        raise ModelRefused(f"an operator takes from more than {SOURCES_MAX} others, or gives more than {GIVEN_MAX}")
    return Graph(head, constants, inputs, outputs, ordered, sources, owners)


def _sort(operators: list[Operator], known: set[str]) -> tuple[Operator, ...]:
    """Each after those it takes from; of those that could come next, the one that stands first in the file.

    A file that is in order already, as the format asks, keeps its order.
    """
    makers: dict[str, int] = {}
    for index, operator in enumerate(operators):
        for name in operator.given:
            if name in makers or name in known:
                raise ModelRefused(f"two operators give {name!r}")
            makers[name] = index
    needs = [{name for name in operator.inputs if name} - known for operator in operators]
    lost = next((name for names in needs for name in sorted(names) if name not in makers), None)
    if lost is not None:
        raise ModelRefused(f"nothing gives {lost!r}")
    waiting = Counter({index: len({makers[name] for name in names}) for index, names in enumerate(needs)})
    followers: dict[int, set[int]] = {}
    for index, names in enumerate(needs):
        for name in names:
            followers.setdefault(makers[name], set()).add(index)
    ready = [index for index in range(len(operators)) if not waiting[index]]
    ordered: list[Operator] = []
    while ready:
        index = heapq.heappop(ready)
        ordered.append(operators[index])
        for follower in followers.get(index, ()):
            waiting[follower] -= 1
            if not waiting[follower]:
                heapq.heappush(ready, follower)
    if len(ordered) < len(operators):
        raise ModelRefused("its operators take from each other in a circle")
    return tuple(ordered)


def _read_operator(value: Value) -> Operator:
    node = get_message(value)
    names: dict[int, list[str]] = {1: [], 2: []}
    for number, _, item in read_fields(node):
        if number in names:
            names[number].append(bytes(get_message(item)).decode("utf-8", "replace"))
    return Operator(read_text(node, 4), tuple(names[1]), tuple(names[2]), bytes(node))


def _read_names(fields: list[Field], wanted: int) -> tuple[str, ...]:
    return tuple(read_text(get_message(value), 1) for number, _, value in fields if number == wanted)


def _read_last(message: memoryview, wanted: int) -> memoryview:
    found = memoryview(b"")
    for number, _, value in read_fields(message):
        if number == wanted:
            found = get_message(value)
    return found


def _write_value(name: str, tensor: Tensor) -> bytes:
    """A ValueInfoProto."""
    sizes: list[Part] = [(1, BYTES, write_fields([(1, VARINT, size)])) for size in tensor.shape]
    kind = write_fields([(1, VARINT, ELEMENT_TYPES[tensor.dtype]), (2, BYTES, write_fields(sizes))])
    return write_fields([(1, BYTES, name.encode()), (2, BYTES, write_fields([(1, BYTES, kind)]))])
