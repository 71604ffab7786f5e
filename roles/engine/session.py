"""Load one ONNX model and run it, always the same way: on the CPU, with one thread.

The only file that imports onnxruntime. A node never imports it itself: its workers do (`worker`), and the simulator
(`inline`). Whether a model is of the exact class is on the ledger; nothing here guesses it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state

from protocol.errors import LocalError
from protocol.tensor import ITEM_SIZES, RANK_MAX, TENSOR_BYTES_MAX, TENSORS_MAX, Tensor
from roles.engine.admission import verify_model
from roles.engine.errors import ComputeFailed, ModelRefused
from roles.engine.profile import format_profile
from roles.engine.specs import NAME_BYTES_MAX, OUTPUTS_BYTES_MAX, IoSpec, count_rows, verify_inputs

_LEVELS = {
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "disable": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
# onnxruntime's words for our dtypes, where they are not the same.
_DTYPES = {name: name for name in ITEM_SIZES if name not in ("float32", "float64")} | {
    "float": "float32",
    "double": "float64",
}
_ORT_ERRORS = (
    ort_state.EPFail,
    ort_state.Fail,
    ort_state.InvalidArgument,
    ort_state.InvalidGraph,
    ort_state.InvalidProtobuf,
    ort_state.ModelLoaded,
    ort_state.NoModel,
    ort_state.NoSuchFile,
    ort_state.NotImplemented,
    ort_state.RuntimeException,
    RuntimeError,
    MemoryError,
)


@dataclass(frozen=True)
class Session:
    """A loaded model with what it takes and gives."""

    inner: Any
    inputs: tuple[IoSpec, ...]
    outputs: tuple[IoSpec, ...]
    optimise: str
    threads: int


def load_session(model: bytes, optimise: str = "all", threads: int = 1) -> Session:
    """ModelRefused, with the reason, unless these bytes are a model we run.

    Hostile bytes can make this slow or hungry: outside tests it is called in a worker process, under its limits.
    Nodes use one thread: more make runs slower as soon as anything else runs, and move the bits of some models.
    """
    verify_model(model)
    inner = open_inference(model, optimise, threads)
    inputs = tuple(_read_spec(node) for node in inner.get_inputs())
    outputs = tuple(_read_spec(node) for node in inner.get_outputs())
    for specs in (inputs, outputs):
        if not 1 <= len(specs) <= TENSORS_MAX:
            raise ModelRefused(f"it has {len(inputs)} inputs and {len(outputs)} outputs; 1 to {TENSORS_MAX} are taken")
    for spec in inputs:
        if 0 in spec.shape[1:]:
            raise ModelRefused(f"input {spec.name!r} is {spec.shape}: only the first dimension may be free (0)")
    return Session(inner, inputs, outputs, optimise, threads)


def open_inference(model: bytes, optimise: str, threads: int = 1) -> Any:
    """An onnxruntime session, whatever the bytes are. ModelRefused when it does not load them."""
    if optimise not in _LEVELS:
        raise LocalError(f"optimise is one of {', '.join(_LEVELS)}, not {optimise!r}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = _LEVELS[optimise]
    options.log_severity_level = 4  # errors come as exceptions
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except _ORT_ERRORS as error:
        raise ModelRefused(f"onnxruntime does not load it: {_first_line(error)}") from error


def run_inference(inner: Any, names: Sequence[str] | None, inputs: Mapping[str, Tensor]) -> list[Any]:
    """What onnxruntime gives for these names, all if None. ComputeFailed when it stops."""
    return run_arrays(inner, {name: _to_array(tensor) for name, tensor in inputs.items()}, names)


def run_arrays(inner: Any, inputs: Mapping[str, Any], names: Sequence[str] | None = None) -> list[Any]:
    """As `run_inference`, of arrays."""
    try:
        results: list[Any] = inner.run(names, inputs)
    except _ORT_ERRORS as error:
        raise ComputeFailed(f"onnxruntime stopped: {_first_line(error)}") from error
    return results


def run_session(session: Session, inputs: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], str]:
    """The outputs, in the model's order, and the profile of the run. BadInput, or ComputeFailed."""
    verify_inputs(session.inputs, inputs)
    named = {spec.name: tensor for spec, tensor in zip(session.inputs, inputs, strict=True)}
    results = run_inference(session.inner, None, named)
    outputs = tuple(to_output(spec, result) for spec, result in zip(session.outputs, results, strict=True))
    size = sum(len(tensor.data) for tensor in outputs)
    if size > OUTPUTS_BYTES_MAX:
        raise ComputeFailed(f"the outputs have {size} bytes, at most {OUTPUTS_BYTES_MAX} are sent")
    rows = count_rows(session.inputs, inputs)
    return outputs, format_profile(onnxruntime.__version__, session.optimise, rows, session.threads)


def _read_spec(node: Any) -> IoSpec:
    kind = node.type.removeprefix("tensor(").removesuffix(")")
    if kind not in _DTYPES:
        raise ModelRefused(f"{node.name!r} is a {node.type}: only tensors of {', '.join(ITEM_SIZES)} are taken")
    if len(node.name.encode()) > NAME_BYTES_MAX:
        raise ModelRefused(f"an input or output has a name of more than {NAME_BYTES_MAX} bytes")
    if len(node.shape) > RANK_MAX:
        raise ModelRefused(f"{node.name!r} has {len(node.shape)} dimensions, at most {RANK_MAX} are taken")
    # onnxruntime gives a free dimension as its name, or as None or -1 when it has none.
    shape = tuple(size if isinstance(size, int) and size > 0 else 0 for size in node.shape)
    if max(shape, default=0) > TENSOR_BYTES_MAX:
        raise ModelRefused(f"{node.name!r} is {shape}: no dimension may be more than {TENSOR_BYTES_MAX}")
    return IoSpec(node.name, _DTYPES[kind], shape)


def _to_array(tensor: Tensor) -> Any:
    return np.frombuffer(tensor.data, np.dtype(tensor.dtype).newbyteorder("<")).reshape(tensor.shape)


def to_output(spec: IoSpec, array: Any) -> Tensor:
    """One output as it is signed. ComputeFailed for one that is too large, NaN or infinite."""
    if array.ndim > RANK_MAX or array.nbytes > OUTPUTS_BYTES_MAX:
        raise ComputeFailed(f"output {spec.name!r} is {array.shape}, {array.nbytes} bytes: too large to be sent")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ComputeFailed(f"output {spec.name!r} holds NaN or infinity")
    return Tensor(spec.dtype, array.shape, array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]
