"""Whether a model's bytes may reach onnxruntime at all, read without loading them.

Refused is what a verifier could not repeat, what must not be followed, and what would cost more than it seems to. Every
refusal is one sentence that says what was found and what is allowed. Time and memory of what is let through are bounded
by the worker process.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping

from protocol.ledger.limits import ROWS_MAX
from protocol.tensor import ITEM_SIZES, RANK_MAX, TENSOR_BYTES_MAX
from roles.engine.errors import ModelRefused, NotAdmitted
from roles.engine.growth import compute_values
from roles.engine.onnx_file import End, Node, OnnxFile, read_onnx_file
from roles.engine.operators import OPSETS, OUTPUTS_MAX, REASONS, RULES
from roles.engine.shapes import Value
from roles.engine.specs import INPUTS_BYTES_MAX, OUTPUTS_BYTES_MAX, verify_size

IR_VERSION_MIN = 7  # came with operator set 13; before it, callers could replace constants


def verify_model(data: bytes) -> None:
    """NotAdmitted, with the reason, unless the file may be loaded."""
    try:
        read_model(data)
    except ModelRefused as refusal:
        raise NotAdmitted(str(refusal)) from refusal


def read_model(data: bytes) -> tuple[OnnxFile, Mapping[str, Value]]:
    """The file, with what is known of its tensors when given one row, if it may be loaded. Else ModelRefused."""
    verify_size(data)
    file = read_onnx_file(data)
    _verify_versions(file)
    for node in file.nodes:
        _verify_node(node, file.opsets)
    for end in file.inputs:
        _verify_input(end)
    _verify_names(file)
    # The most rows and one: what lies between is the worker process's to bound.
    compute_values(file, ROWS_MAX)
    values = compute_values(file, 1)
    for end in file.outputs:
        _verify_output(end.name, values[end.name])
    return file, values


def _verify_versions(file: OnnxFile) -> None:
    if file.ir_version < IR_VERSION_MIN:
        raise ModelRefused(f"the file has format version {file.ir_version}; from {IR_VERSION_MIN} on they are run here")
    for domain, version in file.opsets.items():
        _verify_domain(domain)
        least, most = OPSETS[domain]
        if not least <= version <= most:
            name = domain or "ai.onnx"
            raise ModelRefused(f"the model uses version {version} of {name}; {least} to {most} are run here")


def _verify_domain(domain: str) -> None:
    if domain not in OPSETS:
        raise ModelRefused(
            f"operators of domain {domain[:64]!r} are not onnx's own: only ai.onnx and ai.onnx.ml are run"
        )


def _verify_node(node: Node, opsets: Mapping[str, int]) -> None:
    operator = node.operator[:64]
    _verify_domain(node.domain)
    if node.domain not in opsets:
        raise ModelRefused(
            f"operator {operator} is of {node.domain or 'ai.onnx'}, whose version the model does not say"
        )
    if node.operator not in RULES[node.domain]:
        reason = REASONS.get(node.operator, "it is not among those listed in roles/engine/operators.py")
        raise ModelRefused(f"operator {operator} is not run here: {reason}")
    if len(node.outputs) > OUTPUTS_MAX.get(node.operator, 1) or not any(node.outputs):
        raise ModelRefused(f"operator {operator} has {len(node.outputs)} outputs; all but the first are for training")
    for name, attribute in node.attributes.items():
        if "strings" in attribute.has and name != "nodes_modes":
            raise ModelRefused(f"operator {operator} holds text in {name}: export labels as numbers")
    if (node.operator == "Dropout" and len(node.inputs) > 2) or _has_mode(node, "training_mode"):
        raise ModelRefused(f"operator {operator} is in training mode, where it is random: export for inference")


def _has_mode(node: Node, name: str) -> bool:
    return name in node.attributes and node.attributes[name].i != 0


def _verify_input(end: End) -> None:
    if end.shape is None:
        raise ModelRefused(f"input {end.name!r} has no shape: each dimension but the first is to be a number")
    if len(end.shape) > RANK_MAX:
        raise ModelRefused(f"input {end.name!r} has {len(end.shape)} dimensions, at most {RANK_MAX} are taken")
    if 0 in end.shape[1:]:
        raise ModelRefused(f"input {end.name!r} is {end.shape}: only the first dimension may be free (0)")
    _verify_bytes(f"input {end.name!r}", end.dtype, tuple(size or 1 for size in end.shape), INPUTS_BYTES_MAX)


def _verify_output(name: str, value: Value) -> None:
    _verify_bytes(f"output {name!r}", value.dtype, value.shape, OUTPUTS_BYTES_MAX)


def _verify_bytes(what: str, dtype: str, shape: tuple[int, ...], most: int) -> None:
    if max(shape, default=0) > TENSOR_BYTES_MAX:
        raise ModelRefused(f"{what} is {shape}: no dimension may be more than {TENSOR_BYTES_MAX}")
    size = math.prod(shape) * ITEM_SIZES[dtype]
    if size > most:
        raise ModelRefused(f"{what} has {size} bytes for one row, at most {most} are sent")


def _verify_names(file: OnnxFile) -> None:
    """Each name is given once, before it is taken: so the graph has no cycle, and only one meaning."""
    known = {end.name for end in file.inputs} | {tensor.name for tensor in file.tensors}
    for number, node in enumerate(file.nodes):
        if missing := [name for name in node.inputs if name and name not in known]:
            raise ModelRefused(
                f"node {number + 1} ({node.operator}) takes {missing[0][:64]!r}, which nothing before it gives"
            )
        known.update(node.outputs)
    given = [*(end.name for end in file.inputs), *(tensor.name for tensor in file.tensors)]
    _verify_unique([*given, *(name for node in file.nodes for name in node.outputs if name)])
    _verify_unique(end.name for end in file.outputs)
    if missing := [end.name for end in file.outputs if end.name not in known]:
        raise ModelRefused(f"nothing gives output {missing[0][:64]!r}")


def _verify_unique(names: Iterable[str]) -> None:
    if twice := [name for name, count in Counter(names).items() if count > 1 or not name]:
        raise ModelRefused(f"the name {twice[0][:64]!r} is given more than once, or empty")
