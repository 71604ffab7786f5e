"""Trace a model: what every operator gives, and one operator run again on its own.

Always without optimisation and with one thread: then no operator is joined with another, and exposing what lies between
them changes no bit of it. Runs in a worker process, like everything that loads a model.

What lies between operators may be what no output may: empty, a scalar, NaN or infinite. Its digest covers type, shape
and bytes all the same. Every NaN is first given one spelling (the quiet one, all other bits 0), since processors differ
in which they make; -0.0 and infinities stay. Sequences, maps and text have no digest: a model with those is refused.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime

from protocol.proofs.trace import (
    EXHIBIT_BYTES_MAX,
    Exhibit,
    Given,
    OperatorRun,
    TracedRun,
    compute_exhibit_bytes,
    pack_trace,
)
from protocol.tensor import ITEM_SIZES, RANK_MAX, TENSOR_BYTES_MAX, Tensor, compute_tensors_digest
from roles.engine.admission import verify_model
from roles.engine.errors import ComputeFailed, ModelRefused
from roles.engine.graph import Graph, expose, isolate, read_graph
from roles.engine.profile import format_profile
from roles.engine.session import Session, open_inference, run_inference
from roles.engine.specs import count_rows, verify_inputs

OPTIMISE = "disable"


@dataclass(frozen=True)
class Tracer:
    """A model ready to be traced. `inner` gives what every operator gives."""

    graph: Graph
    inner: Any
    session: Session


def load_tracer(model: bytes, session: Session) -> Tracer:
    """ModelRefused when the model cannot be traced. `session` holds the same model, however optimised."""
    graph = read_graph(model)
    return Tracer(graph, open_inference(expose(model, graph), OPTIMISE), session)


def trace(tracer: Tracer, inputs: tuple[Tensor, ...], operator: int = 0) -> TracedRun:
    """One digest per operator, and what `operator` took unless that is 0. BadInput, ComputeFailed or ModelRefused."""
    graph = tracer.graph
    verify_inputs(tracer.session.inputs, inputs)
    if operator > graph.last:
        raise ComputeFailed(f"the model has no operator {operator}, the last is {graph.last}")
    values = dict(zip(graph.inputs, inputs, strict=True))
    names = [name for item in graph.operators for name in item.given]
    values |= dict(zip(names, map(to_tensor, names, run_inference(tracer.inner, names, dict(values))), strict=True))
    given = [tuple(values[name] for name in graph.get_given(number)) for number in range(graph.last + 1)]
    exhibit = Exhibit(tuple(Given(number, given[number]) for number in graph.sources[operator]))
    size = compute_exhibit_bytes([len(tensor.data) for tensor in item.tensors] for item in exhibit.items)
    if size > EXHIBIT_BYTES_MAX:
        raise ComputeFailed(f"operator {operator} takes {size} bytes, at most {EXHIBIT_BYTES_MAX} can be shown")
    profile = format_profile(onnxruntime.__version__, OPTIMISE, count_rows(tracer.session.inputs, inputs))
    return TracedRun(pack_trace([compute_tensors_digest(tensors) for tensors in given]), exhibit, profile)


def run_operator(model: bytes, operator: int, exhibit: Exhibit) -> OperatorRun:
    """What an operator gives for what an exhibit says it takes. ModelRefused when the model cannot be traced.

    Also for numbers and exhibits that no honest node publishes: then there is no digest, and a reason.
    """
    verify_model(model)
    graph = read_graph(model)
    profile = format_profile(onnxruntime.__version__, OPTIMISE, rows=1)
    try:
        outputs = compute_operator(graph, operator, exhibit)
    except ComputeFailed as error:
        return OperatorRun(graph.last, b"", str(error)[:300], profile)
    return OperatorRun(graph.last, compute_tensors_digest(outputs), "", profile)


def compute_operator(graph: Graph, operator: int, exhibit: Exhibit) -> tuple[Tensor, ...]:
    """All that an operator gives. ComputeFailed when the exhibit is not what it takes."""
    if not 0 < operator <= graph.last:
        raise ComputeFailed(f"the model has no operator {operator}, the last is {graph.last}")
    if tuple(item.operator for item in exhibit.items) != graph.sources[operator]:
        raise ComputeFailed(f"operator {operator} takes from {graph.sources[operator]}, the exhibit is of others")
    values: dict[str, Tensor] = {}
    for item in exhibit.items:
        names = graph.get_given(item.operator)
        if len(names) != len(item.tensors):
            raise ComputeFailed(f"operator {item.operator} gives {len(names)} tensors, not {len(item.tensors)}")
        values |= dict(zip(names, item.tensors, strict=True))
    if operator == graph.last:
        return tuple(values[name] for name in graph.outputs)
    taken = {name: values[name] for name in graph.get_taken(operator)}
    try:
        inner = open_inference(isolate(graph, operator, taken), OPTIMISE)
    except ModelRefused as error:
        raise ComputeFailed(f"what it would take does not fit operator {operator}: {error}") from error
    names = graph.operators[operator - 1].given
    return tuple(map(to_tensor, names, run_inference(inner, names, taken)))


def to_tensor(name: str, value: Any) -> Tensor:
    """One value between operators, NaN in its one spelling. ComputeFailed when it has no digest."""
    kind = value.dtype.name if isinstance(value, np.ndarray) else type(value).__name__
    if kind not in ITEM_SIZES:
        raise ComputeFailed(f"{name!r} is of {kind}: only tensors of {', '.join(ITEM_SIZES)} can be traced")
    if value.ndim > RANK_MAX or value.nbytes > TENSOR_BYTES_MAX:
        raise ComputeFailed(f"{name!r} is {value.shape}, {value.nbytes} bytes: too large to be traced")
    array = value.astype(value.dtype.newbyteorder("<"))
    if array.dtype.kind == "f":
        array = np.where(np.isnan(array), np.array(np.nan, array.dtype), array)
    return Tensor(kind, array.shape, array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
