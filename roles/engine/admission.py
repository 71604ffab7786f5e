"""Whether a model's bytes may reach onnxruntime at all, read without loading them.

Every node and tensor of the file is visited. What a verifier could not repeat is refused (random operators,
quantisation that depends on the batch), and what must not be followed (data outside the file, control flow, operators
that are not onnx's own). Field numbers: onnx.proto. Time and memory are bounded elsewhere: by the worker process.
"""

from roles.engine.errors import ModelRefused
from roles.engine.protobuf import MalformedProtobuf, get_message, read_fields, read_text
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


def verify_model(data: bytes) -> None:
    """ModelRefused, with the reason, unless the file may be loaded."""
    if not 0 < len(data) <= MODEL_BYTES_MAX:
        raise ModelRefused(f"the model has {len(data)} bytes, at most {MODEL_BYTES_MAX} are run here")
    try:
        _verify_file(memoryview(data))
    except MalformedProtobuf as error:
        raise ModelRefused(f"this is no ONNX model: {error}") from error


def _verify_file(data: memoryview) -> None:
    nodes = 0
    graphs = 0
    for number, _, value in read_fields(data):
        if number == 7:
            graphs += 1
            nodes += _verify_graph(get_message(value))
        elif number == 8:
            _verify_domain(read_text(get_message(value), 1))
        elif number in (20, 25):
            raise ModelRefused("the model brings training information or functions of its own")
    if not graphs:
        raise ModelRefused("this is no ONNX model: it has no graph")
    if nodes > NODES_MAX:
        raise ModelRefused(f"the graph has {nodes} nodes, at most {NODES_MAX} are run here")


def _verify_graph(graph: memoryview) -> int:
    nodes = 0
    for number, _, value in read_fields(graph):
        if number == 1:
            nodes += 1
            _verify_node(get_message(value))
        elif number == 5:
            _verify_tensor(get_message(value))
        elif number == 15:
            _verify_sparse(get_message(value))
    return nodes


def _verify_node(node: memoryview) -> None:
    operator = read_text(node, 4)
    _verify_domain(read_text(node, 7))
    if operator in OPERATORS_REFUSED:
        raise ModelRefused(f"operator {operator} is not run here: {OPERATORS_REFUSED[operator]}")
    for number, _, value in read_fields(node):
        if number != 5:
            continue
        for inner, _, content in read_fields(get_message(value)):
            if inner in (5, 10):
                _verify_tensor(get_message(content))
            elif inner in (6, 11):
                raise ModelRefused(f"operator {operator[:64]} holds a graph of its own")
            elif inner in (22, 23):
                _verify_sparse(get_message(content))


def _verify_tensor(tensor: memoryview) -> None:
    for number, _, value in read_fields(tensor):
        if number == 13 or (number == 14 and value != 0):
            raise ModelRefused("the model keeps data outside its own file")


def _verify_sparse(sparse: memoryview) -> None:
    for number, _, value in read_fields(sparse):
        if number in (1, 2):
            _verify_tensor(get_message(value))


def _verify_domain(domain: str) -> None:
    if domain not in DOMAINS:
        raise ModelRefused(f"operators of domain {domain[:64]!r} are not onnx's own")
