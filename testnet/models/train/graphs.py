"""Build ONNX graphs by hand, and say in the manifest's words what a finished one is."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from protocol.content import format_cid
from testnet.models.learn.adam import Array

OPSET = 17
ML_OPSET = 3
IR_VERSION = 8


@dataclass(frozen=True)
class Port:
    """An input or output of a graph: a row of it is `row`; the first dimension, the number of rows, is free."""

    name: str
    dtype: int
    row: tuple[int, ...]


@dataclass(frozen=True)
class Trained:
    """A model to be written, with what the manifest says of it.

    `heldout` is what `models.json` tells of rows or text never trained on, its score included; `extra` what a model of
    this kind has beside.
    """

    name: str
    kind: str  # classify, regress or generate
    model: onnx.ModelProto
    source: str
    heldout: Mapping[str, Any]
    training: Mapping[str, Any]
    exact: bool = False
    labels: Sequence[str] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)


def build_model(
    name: str,
    nodes: list[onnx.NodeProto],
    constants: Mapping[str, Array],
    inputs: Sequence[Port],
    outputs: Sequence[Port],
) -> onnx.ModelProto:
    """A checked model; tree operators bring their own domain."""
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info(port.name, port.dtype, ["batch", *port.row]) for port in inputs],
        [helper.make_tensor_value_info(port.name, port.dtype, ["batch", *port.row]) for port in outputs],
        [numpy_helper.from_array(value, key) for key, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", OPSET)]
    if any(node.domain == "ai.onnx.ml" for node in nodes):
        opsets.append(helper.make_opsetid("ai.onnx.ml", ML_OPSET))
    model = helper.make_model(graph, producer_name="rolemesh", ir_version=IR_VERSION, opset_imports=opsets)
    onnx.checker.check_model(model, full_check=True)
    return model


def run_reference(model: onnx.ModelProto, rows: Array) -> Array:
    """The one output for rows of the one input, computed by onnx's own reference evaluator."""
    (port,) = model.graph.input
    dtype = helper.tensor_dtype_to_np_dtype(port.type.tensor_type.elem_type)
    (output,) = ReferenceEvaluator(model).run(None, {port.name: rows.astype(dtype)})
    return np.asarray(output)


def describe(trained: Trained, data: bytes) -> dict[str, Any]:
    """The manifest's entry of a model that serialises to `data`."""
    digest = hashlib.sha256(data).digest()
    return {
        "name": trained.name,
        "kind": trained.kind,
        "file": f"{trained.name}.onnx",
        "size_bytes": len(data),
        "sha256": digest.hex(),
        "cid": format_cid(digest),
        "class": "exact" if trained.exact else "fp32",
        "inputs": [_describe_port(port) for port in trained.model.graph.input],
        "outputs": [_describe_port(port) for port in trained.model.graph.output],
        "labels": list(trained.labels),
        **trained.extra,
        "heldout": dict(trained.heldout),
        "training": {"onnx": onnx.__version__, "numpy": np.__version__, **trained.training},
        "source": trained.source,
    }


def _describe_port(port: onnx.ValueInfoProto) -> dict[str, Any]:
    kind = port.type.tensor_type
    dtype = TensorProto.DataType.Name(kind.elem_type).lower().replace("float", "float32")
    return {"name": port.name, "dtype": dtype, "shape": [each.dim_value for each in kind.shape.dim]}
