"""Look into one step of a generation: what every step gives when it reads given tokens, and what one part of one gives.

Runs in a worker process, without optimisation, as generations and traces do: a step that is made again gives the bytes
that it gave.
"""

from dataclasses import dataclass

import onnxruntime

from protocol.errors import MalformedMessage
from protocol.generation import pick_token, read_form
from protocol.proofs.steps import (
    ASSEMBLY,
    ForcedSteps,
    Generated,
    RunPart,
    Said,
    TraceStep,
    compute_made,
    compute_taken,
    read_generated,
)
from protocol.proofs.trace import (
    EXHIBIT_BYTES_MAX,
    Exhibit,
    Given,
    OperatorRun,
    TracedRun,
    compute_exhibit_bytes,
    pack_trace,
    unpack_trace,
)
from protocol.tensor import Tensor, compute_tensors_digest
from roles.engine.errors import BadInput, ComputeFailed, ModelRefused
from roles.engine.generate import OPTIMISE, Caches, Writer
from roles.engine.profile import format_profile
from roles.engine.session import Session
from roles.engine.trace import Tracer, compute_operator, trace


@dataclass(frozen=True)
class _Opened:
    """A generation with the session of its model, without optimisation."""

    said: Said
    writer: Writer


def force_steps(session: Session, generated: Generated) -> ForcedSteps:
    """What every step gives and picks when it reads the tokens that were answered. Raises BadInput, ComputeFailed."""
    writer = _open(session, generated).writer
    steps: list[bytes] = []
    while not writer.is_over():
        steps.append(writer.step())
    return ForcedSteps(b"".join(steps), tuple(writer.picked), _format_profile(session))


def trace_step(session: Session, tracer: Tracer, question: TraceStep) -> TracedRun:
    """One digest per part of a step, and what one of them takes unless that is 0: `trace.trace` for a generation."""
    opened = _open(session, question.generated)
    said, step = opened.said, question.step
    if step >= len(said.steps):
        raise ComputeFailed(f"the generation has no step {step}, the last is {len(said.steps) - 1}")
    caches = opened.writer.caches
    given = [caches.step(said.get_token(number)) for number in range(step)]
    digests = [compute_tensors_digest(outputs) for outputs in given]
    inputs = caches.show(said.get_token(step))
    inner = max(0, question.operator - 1)
    is_inside = 0 < inner <= tracer.graph.last
    run = trace(tracer, inputs, inner if is_inside else 0)
    outputs = caches.step(said.get_token(step))
    parts = [compute_taken(said, step, digests), *unpack_trace(run.trace)]
    if said.get_made(step) is not None:
        parts.append(compute_made(pick_token(outputs[0].data, said.wanted, step)))
    if question.operator >= len(parts):
        raise ComputeFailed(f"step {step} has no part {question.operator}, the last is {len(parts) - 1}")
    if question.operator == ASSEMBLY:
        exhibit = Exhibit(tuple(Given(source, given[source]) for source in said.list_sources(step)))
    elif is_inside:
        exhibit = Exhibit(tuple(Given(item.operator + 1, item.tensors) for item in run.exhibit.items))
    else:
        picks = question.operator == len(parts) - 1
        exhibit = Exhibit((Given(question.operator - 1, outputs),) if picks else ())
    size = compute_exhibit_bytes([len(tensor.data) for tensor in item.tensors] for item in exhibit.items)
    if size > EXHIBIT_BYTES_MAX:
        raise ComputeFailed(f"part {question.operator} takes {size} bytes, at most {EXHIBIT_BYTES_MAX} can be shown")
    return TracedRun(pack_trace(parts), exhibit, run.profile)


def run_part(session: Session, tracer: Tracer, question: RunPart) -> OperatorRun:
    """What one part of a step gives for what an exhibit says it takes; for one no honest node publishes, a reason."""
    opened = _open(session, question.generated)
    said, graph = opened.said, tracer.graph
    makes = question.step < len(said.steps) and said.get_made(question.step) is not None
    last = graph.last + 1 + int(makes)
    profile = _format_profile(session)
    try:
        digest = _compute_part(opened, tracer, question, last)
    except (ComputeFailed, MalformedMessage) as error:
        return OperatorRun(last, b"", str(error)[:300], profile)
    return OperatorRun(last, digest, "", profile)


def _compute_part(opened: _Opened, tracer: Tracer, question: RunPart, last: int) -> bytes:
    said, graph, operator = opened.said, tracer.graph, question.operator
    if question.step >= len(said.steps) or not 0 < operator <= last:
        raise ComputeFailed(f"there is no part {operator} of step {question.step}")
    if operator == ASSEMBLY:
        return compute_tensors_digest(_assemble(opened, question))
    if operator <= graph.last + 1:
        if any(item.operator < ASSEMBLY for item in question.exhibit.items):
            raise ComputeFailed(f"operator {operator} takes nothing from the steps before")
        moved = Exhibit(tuple(Given(item.operator - 1, item.tensors) for item in question.exhibit.items))
        return compute_tensors_digest(compute_operator(graph, operator - 1, moved))
    items = question.exhibit.items
    if len(items) != 1 or items[0].operator != operator - 1:
        raise ComputeFailed(f"a token is picked from what part {operator - 1} gives, the exhibit is of others")
    _verify_outputs(opened, items[0].tensors)
    return compute_made(pick_token(items[0].tensors[0].data, said.wanted, question.step))


def _assemble(opened: _Opened, question: RunPart) -> tuple[Tensor, ...]:
    """The inputs of a step, from what the steps before it gave."""
    sources = opened.said.list_sources(question.step)
    if [item.operator for item in question.exhibit.items] != list(sources):
        raise ComputeFailed(f"step {question.step} takes from steps {sources}, the exhibit is of others")
    caches: Caches = opened.writer.caches
    caches.place = sources.start
    for item in question.exhibit.items:
        _verify_outputs(opened, item.tensors)
        caches.keep(item.tensors)
    return caches.show(opened.said.get_token(question.step))


def _verify_outputs(opened: _Opened, tensors: tuple[Tensor, ...]) -> None:
    """ComputeFailed unless these are of the types a step gives."""
    wanted = [(spec.dtype, (1, *spec.shape[1:])) for spec in opened.writer.session.outputs]
    if [(tensor.dtype, tensor.shape) for tensor in tensors] != wanted:
        raise ComputeFailed(f"a step gives {wanted}, the exhibit holds other tensors")


def _open(session: Session, generated: Generated) -> _Opened:
    form = read_form(session.inputs, session.outputs)
    if form is None:
        raise ModelRefused("the model is no step of a generation")
    try:
        said = read_generated(generated, form)
    except MalformedMessage as error:
        raise BadInput("generation", "what was asked and answered", str(error)) from error
    return _Opened(said, Writer(session, generated.inputs, said.tokens))


def _format_profile(session: Session) -> str:
    return format_profile(onnxruntime.__version__, OPTIMISE, 1, session.threads)
