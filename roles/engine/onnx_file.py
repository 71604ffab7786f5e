"""An ONNX file as Python values, read without onnx or onnxruntime. Field numbers: onnx.proto.

Whatever the format has room for and we never run is refused here, where it is met: graphs inside graphs, functions,
training information, sparse tensors, text, data in other files. What remains is one flat graph of plain tensors.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from protocol.tensor import RANK_MAX, TENSORS_MAX
from roles.engine.errors import ModelRefused
from roles.engine.protobuf import BYTES, FIXED32, FIXED64, VARINT, MalformedProtobuf
from roles.engine.schema import FIELDS_MAX, FieldKind, Message
from roles.engine.specs import NAME_BYTES_MAX

DTYPES = {
    1: ("float32", 4), 2: ("uint8", 1), 3: ("int8", 1), 4: ("uint16", 2), 5: ("int16", 2), 6: ("int32", 4),
    7: ("int64", 8), 9: ("bool", 1), 10: ("float16", 2), 11: ("float64", 8), 12: ("uint32", 4), 13: ("uint64", 8),
}  # fmt: skip
OTHER_DTYPES = {8: "text", 14: "complex64", 15: "complex128", 16: "bfloat16"}
# Where the numbers of a tensor stand that are not kept as raw bytes.
_LISTS = {
    "float_data": ("float32",), "double_data": ("float64",), "int64_data": ("int64",),
    "int32_data": ("int32", "int16", "int8", "uint16", "uint8", "bool", "float16"),
    "uint64_data": ("uint32", "uint64"),
}  # fmt: skip
NODES_MAX = 4_096
CONSTANTS_MAX = 4_096
MANY = FIELDS_MAX
EDGES_MAX = 1_024  # inputs and outputs of one node
GRAPH_ATTRIBUTES = ("g", "graphs")


def _kinds(**fields: tuple[int, int] | tuple[int, int, int]) -> Mapping[int, FieldKind]:
    """By number; each with its wire type and, if it is repeated, how often it may come."""
    return {number: FieldKind(name, wire, *rest) for name, (number, wire, *rest) in fields.items()}


_MODEL = _kinds(
    ir_version=(1, VARINT), producer_name=(2, BYTES), producer_version=(3, BYTES), domain=(4, BYTES),
    model_version=(5, VARINT), doc_string=(6, BYTES), graph=(7, BYTES), opset_import=(8, BYTES, MANY),
    metadata_props=(14, BYTES, MANY), training_info=(20, BYTES, MANY), functions=(25, BYTES, MANY),
    configuration=(26, BYTES, MANY),
)  # fmt: skip
_OPSET = _kinds(domain=(1, BYTES), version=(2, VARINT))
_GRAPH = _kinds(
    node=(1, BYTES, NODES_MAX), name=(2, BYTES), initializer=(5, BYTES, CONSTANTS_MAX), doc_string=(10, BYTES),
    input=(11, BYTES, MANY), output=(12, BYTES, MANY), value_info=(13, BYTES, MANY),
    quantization_annotation=(14, BYTES, MANY), sparse_initializer=(15, BYTES, MANY), metadata_props=(16, BYTES, MANY),
)  # fmt: skip
_NODE = _kinds(
    input=(1, BYTES, MANY), output=(2, BYTES, MANY), name=(3, BYTES), op_type=(4, BYTES), attribute=(5, BYTES, MANY),
    doc_string=(6, BYTES), domain=(7, BYTES), overload=(8, BYTES), metadata_props=(9, BYTES, MANY),
    device_configurations=(10, BYTES, MANY),
)  # fmt: skip
_ATTRIBUTE = _kinds(
    name=(1, BYTES), f=(2, FIXED32), i=(3, VARINT), s=(4, BYTES), t=(5, BYTES), g=(6, BYTES), floats=(7, FIXED32, MANY),
    ints=(8, VARINT, MANY), strings=(9, BYTES, MANY), tensors=(10, BYTES, MANY), graphs=(11, BYTES, MANY),
    doc_string=(13, BYTES), tp=(14, BYTES), type_protos=(15, BYTES, MANY), type=(20, VARINT), ref_attr_name=(21, BYTES),
    sparse_tensor=(22, BYTES), sparse_tensors=(23, BYTES, MANY),
)  # fmt: skip
_TENSOR = _kinds(
    dims=(1, VARINT, MANY), data_type=(2, VARINT), segment=(3, BYTES), float_data=(4, FIXED32, MANY),
    int32_data=(5, VARINT, MANY), string_data=(6, BYTES, MANY), int64_data=(7, VARINT, MANY), name=(8, BYTES),
    raw_data=(9, BYTES), double_data=(10, FIXED64, MANY), uint64_data=(11, VARINT, MANY), doc_string=(12, BYTES),
    external_data=(13, BYTES, MANY), data_location=(14, VARINT), metadata_props=(16, BYTES, MANY),
)  # fmt: skip
_VALUE = _kinds(name=(1, BYTES), type=(2, BYTES), doc_string=(3, BYTES), metadata_props=(4, BYTES, MANY))
_TYPE = _kinds(
    tensor_type=(1, BYTES), sequence_type=(4, BYTES), map_type=(5, BYTES), denotation=(6, BYTES),
    opaque_type=(7, BYTES), sparse_tensor_type=(8, BYTES), optional_type=(9, BYTES),
)  # fmt: skip
_TENSOR_TYPE = _kinds(elem_type=(1, VARINT), shape=(2, BYTES))
_SHAPE = _kinds(dim=(1, BYTES, MANY))
_DIMENSION = _kinds(dim_value=(1, VARINT), dim_param=(2, BYTES), denotation=(3, BYTES))


@dataclass(frozen=True)
class FileTensor:
    """A constant. `raw` holds its numbers as little-endian bytes, `values` those of a short list of whole numbers."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    raw: memoryview
    values: tuple[int, ...] = ()


@dataclass(frozen=True)
class Attribute:
    """One attribute. Of lists, `count` says how many values there are; `ints` holds those of short ones."""

    has: frozenset[str] = frozenset()
    i: int = 0
    s: str = ""
    ints: tuple[int, ...] = ()
    count: int = 0
    tensor: FileTensor | None = None


@dataclass(frozen=True)
class Node:
    operator: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Attribute] = field(default_factory=dict)


@dataclass(frozen=True)
class End:
    """An input or output of the graph. A dimension of 0 is free; None stands for a shape that is not given."""

    name: str
    dtype: str
    shape: tuple[int, ...] | None


@dataclass(frozen=True)
class OnnxFile:
    ir_version: int
    opsets: Mapping[str, int]
    nodes: tuple[Node, ...]
    tensors: tuple[FileTensor, ...]
    inputs: tuple[End, ...]
    outputs: tuple[End, ...]


def read_onnx_file(data: bytes) -> OnnxFile:
    """ModelRefused, with the reason, unless this is one flat graph of plain tensors."""
    try:
        return _read_file(data)
    except MalformedProtobuf as error:
        raise ModelRefused(f"this is no ONNX model: {error}") from error


def read_tensor_names(data: bytes) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What a file calls its inputs and outputs, without reading the rest of it. ModelRefused for what is no model."""
    try:
        graph = Message("the graph", Message("the model", memoryview(data), _MODEL).get_message("graph"), _GRAPH)
        inputs, outputs = (
            tuple(_read_end(each, kind).name for each in graph.get_messages(kind)) for kind in ("input", "output")
        )
    except MalformedProtobuf as error:
        raise ModelRefused(f"this is no ONNX model: {error}") from error
    return inputs, outputs


def _read_file(data: bytes) -> OnnxFile:
    model = Message("the model", memoryview(data), _MODEL)
    if model.has("training_info") or model.has("functions"):
        raise ModelRefused("the model brings training information or functions of its own")
    if not model.has("graph"):
        raise ModelRefused("this is no ONNX model: it has no graph")
    graph = Message("the graph", model.get_message("graph"), _GRAPH)
    if graph.has("sparse_initializer"):
        raise ModelRefused("the graph holds sparse tensors: only plain ones are taken")
    counts = {name: len(graph.get_messages(name)) for name in ("input", "output")}
    if not (1 <= counts["input"] <= TENSORS_MAX and 1 <= counts["output"] <= TENSORS_MAX):
        raise ModelRefused(
            f"it has {counts['input']} inputs and {counts['output']} outputs; 1 to {TENSORS_MAX} of each are taken"
        )
    return OnnxFile(
        model.get_int("ir_version"),
        _read_opsets(model),
        tuple(_read_node(each) for each in graph.get_messages("node")),
        tuple(_read_tensor(each) for each in graph.get_messages("initializer")),
        tuple(_read_end(each, "input") for each in graph.get_messages("input")),
        tuple(_read_end(each, "output") for each in graph.get_messages("output")),
    )


def _read_opsets(model: Message) -> dict[str, int]:
    opsets: dict[str, int] = {}
    for each in model.get_messages("opset_import"):
        opset = Message("an operator set", each, _OPSET)
        domain = _get_domain(opset)
        if domain in opsets:
            raise ModelRefused(f"the model names the operators of {domain or 'ai.onnx'} twice")
        opsets[domain] = opset.get_int("version")
    return opsets


def _get_domain(message: Message) -> str:
    domain = message.get_text("domain", NAME_BYTES_MAX)
    return "" if domain == "ai.onnx" else domain


def _read_node(data: memoryview) -> Node:
    node = Message("a node", data, _NODE)
    operator = node.get_text("op_type", NAME_BYTES_MAX)
    if node.get_text("overload", NAME_BYTES_MAX):
        raise ModelRefused(f"operator {operator} names a function of the model's own")
    edges = len(node.get_messages("input")) + len(node.get_messages("output"))
    if edges > EDGES_MAX:
        raise ModelRefused(f"operator {operator[:64]} has {edges} inputs and outputs, at most {EDGES_MAX} are taken")
    attributes: dict[str, Attribute] = {}
    for each in node.get_messages("attribute"):
        name, attribute = _read_attribute(each, operator)
        if name in attributes:
            raise ModelRefused(f"operator {operator} has two attributes {name}")
        attributes[name] = attribute
    return Node(
        operator,
        _get_domain(node),
        tuple(node.get_texts("input", NAME_BYTES_MAX)),
        tuple(node.get_texts("output", NAME_BYTES_MAX)),
        attributes,
    )


def _read_attribute(data: memoryview, operator: str) -> tuple[str, Attribute]:
    attribute = Message(f"an attribute of {operator}", data, _ATTRIBUTE)
    name = attribute.get_text("name", NAME_BYTES_MAX)
    if any(map(attribute.has, GRAPH_ATTRIBUTES)):
        raise ModelRefused(f"operator {operator} holds a graph of its own")
    for refused in ("tensors", "sparse_tensor", "sparse_tensors", "tp", "type_protos", "ref_attr_name"):
        if attribute.has(refused):
            raise ModelRefused(f"attribute {name} of {operator} holds {refused}: only plain values are taken")
    ints = attribute.get_numbers("ints")
    count = ints.count + attribute.get_numbers("floats").count + len(attribute.get_messages("strings"))
    tensor = _read_tensor(attribute.get_message("t")) if attribute.has("t") else None
    has = frozenset(each for each in ("f", "i", "s", "t", "floats", "ints", "strings") if attribute.has(each))
    text = attribute.get_text("s", NAME_BYTES_MAX)
    return name, Attribute(has, attribute.get_int("i"), text, ints.values, count, tensor)


def _read_tensor(data: memoryview) -> FileTensor:
    tensor = Message("a tensor", data, _TENSOR)
    if tensor.has("external_data") or tensor.get_int("data_location", 32):
        raise ModelRefused("the model keeps data outside its own file")
    if tensor.has("segment"):
        raise ModelRefused("the model keeps a tensor in pieces")
    name = tensor.get_text("name", NAME_BYTES_MAX)
    dtype, item_bytes = _read_dtype(tensor.get_int("data_type", 32), f"tensor {name!r}")
    shape = _read_dims(tensor, name)
    raw = tensor.get_message("raw_data")
    given = {list_name: tensor.get_numbers(list_name) for list_name in _LISTS if tensor.has(list_name)}
    if any(dtype not in _LISTS[list_name] for list_name in given) or len(given) + tensor.has("raw_data") > 1:
        raise ModelRefused(f"tensor {name!r} is of {dtype}, but keeps its numbers as {', '.join(given)}")
    numbers = next(iter(given.values()), None)
    held = len(raw) / item_bytes if numbers is None else numbers.count
    if held != math.prod(shape):
        raise ModelRefused(f"tensor {name!r} is {shape}, but holds {held:g} numbers")
    return FileTensor(name, dtype, shape, raw, numbers.values if numbers is not None else ())


def _read_dims(tensor: Message, name: str) -> tuple[int, ...]:
    dims = tensor.get_numbers("dims")
    if dims.count > RANK_MAX:
        raise ModelRefused(f"tensor {name!r} has {dims.count} dimensions, at most {RANK_MAX} are taken")
    if min(dims.values, default=0) < 0:
        raise ModelRefused(f"tensor {name!r} is {dims.values}: no dimension may be below 0")
    return dims.values


def _read_dtype(code: int, what: str) -> tuple[str, int]:
    if code not in DTYPES:
        known = ", ".join(name for name, _ in DTYPES.values())
        raise ModelRefused(f"{what} is of {OTHER_DTYPES.get(code, f'type {code}')}: only {known} are taken")
    return DTYPES[code]


def _read_end(data: memoryview, side: str) -> End:
    end = Message(f"an {side}", data, _VALUE)
    name = end.get_text("name", NAME_BYTES_MAX)
    kind = Message(f"the type of {side} {name!r}", end.get_message("type"), _TYPE)
    if not kind.has("tensor_type"):
        raise ModelRefused(f"{side} {name!r} is no tensor: sequences, maps and sparse tensors are not taken")
    tensor = Message(f"the type of {side} {name!r}", kind.get_message("tensor_type"), _TENSOR_TYPE)
    dtype, _ = _read_dtype(tensor.get_int("elem_type", 32), f"{side} {name!r}")
    if not tensor.has("shape"):
        return End(name, dtype, None)
    shape = Message(f"the shape of {side} {name!r}", tensor.get_message("shape"), _SHAPE)
    return End(name, dtype, tuple(_read_dimension(each, side, name) for each in shape.get_messages("dim")))


def _read_dimension(data: memoryview, side: str, name: str) -> int:
    dimension = Message(f"a dimension of {side} {name!r}", data, _DIMENSION)
    if not dimension.has("dim_value"):
        return 0
    size = dimension.get_int("dim_value")
    if size < 1 or dimension.has("dim_param"):
        raise ModelRefused(
            f"a dimension of {side} {name!r} is {size}: it is a number from 1 on, or a name if it is free"
        )
    return size
