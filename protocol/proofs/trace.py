"""What a trace is: one digest per operator of a model; and which operator two nodes disagree about.

Operators are numbered in the graph's canonical order, in which each comes after those it takes from (`engine.graph`).
Number 0 stands for the model's inputs and the last number for its outputs, so that a trace begins with the digest that
the claim names and ends with the one the receipt opens. Every digest is `compute_tensors_digest` of all that the
operator gives. Source: PROTOCOL, "Dispute".
"""

from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Annotated

from protocol.content import BLOB_BYTES_MAX
from protocol.errors import InvalidProof, MalformedMessage, RemoteError
from protocol.fast_dataclass import fast_dataclass
from protocol.ledger.limits import EVIDENCE_BYTES_MAX
from protocol.tensor import TENSORS_MAX, Tensor, compute_tensors_digest, verify_layout
from protocol.types import AtMost, Line, Whole

DIGEST_SIZE = 32
TRACE_BYTES_MAX = EVIDENCE_BYTES_MAX
OPERATORS_MAX = TRACE_BYTES_MAX // DIGEST_SIZE - 2
GIVEN_MAX = 64  # tensors one operator gives
SOURCES_MAX = 256  # operators one operator takes from
EXHIBIT_BYTES_MAX = BLOB_BYTES_MAX  # encoded: one blob carries it when the ledger does not
HEAD_BYTES = 16  # of an exhibit, or of what one operator gives
TENSOR_HEAD_BYTES = 64  # its type, up to RANK_MAX dimensions and the length of its bytes

Trace = tuple[bytes, ...]


class InputsDiffer(RemoteError):
    """Two traces of other inputs: no operator is to blame."""


class Judgement(IntEnum):
    """What one operator, run again, says about its trace."""

    SOUND = 1  # the operator gives what the trace says: whoever challenged it is wrong
    WRONG = 2  # it gives something else, or the inputs published for it are not those of the trace
    MISSING = 3  # the blob that was to hold the inputs could not be had


@fast_dataclass(frozen=True)
class Given:
    """All that one operator gives, in its own order; of operator 0, the model's inputs."""

    operator: Whole
    tensors: Annotated[tuple[Tensor, ...], AtMost(GIVEN_MAX)]


@fast_dataclass(frozen=True)
class Exhibit:
    """What an operator takes: for each operator it takes from, by number, all that this one gives."""

    items: Annotated[tuple[Given, ...], AtMost(SOURCES_MAX)]


@fast_dataclass(frozen=True)
class TraceModel:
    """Asks an engine for a `TracedRun`. `operator` is the one whose exhibit is wanted as well, 0 for none."""

    inputs: Annotated[tuple[Tensor, ...], AtMost(TENSORS_MAX)]
    operator: Whole


@fast_dataclass(frozen=True)
class RunOperator:
    """Asks an engine for an `OperatorRun`: one operator alone, on what it is said to take."""

    operator: Whole
    exhibit: Exhibit


@fast_dataclass(frozen=True)
class TracedRun:
    """One run of a model, traced. `exhibit` is what one operator took; empty unless it was asked for."""

    trace: Annotated[bytes, AtMost(TRACE_BYTES_MAX)]  # `pack_trace`
    exhibit: Exhibit
    profile: Line


@fast_dataclass(frozen=True)
class OperatorRun:
    """What came of running one operator on an exhibit. `digest` is empty when the exhibit is not what it takes."""

    operators: Whole  # the number of the model's outputs, which is the last
    digest: Annotated[bytes, AtMost(DIGEST_SIZE)]
    reason: Line  # why there is no digest
    profile: Line


Question = TraceModel | RunOperator
Answer = TracedRun | OperatorRun


def compute_exhibit_bytes(sources: Iterable[Iterable[int]]) -> int:
    """The most an exhibit takes encoded: for each operator it takes from, the bytes of each tensor that one gives.

    >>> compute_exhibit_bytes([[256], [4, 4]])
    504
    """
    return HEAD_BYTES + sum(HEAD_BYTES + sum(size + TENSOR_HEAD_BYTES for size in sizes) for sizes in sources)


def pack_trace(trace: Sequence[bytes]) -> bytes:
    return b"".join(trace)


def unpack_trace(data: bytes) -> Trace:
    """MalformedMessage unless these are two digests at least, of inputs and outputs."""
    if len(data) % DIGEST_SIZE or not 2 * DIGEST_SIZE <= len(data) <= TRACE_BYTES_MAX:
        raise MalformedMessage(f"a trace of {len(data)} bytes: digests of {DIGEST_SIZE}, 2 to {OPERATORS_MAX + 2}")
    return tuple(data[at : at + DIGEST_SIZE] for at in range(0, len(data), DIGEST_SIZE))


def verify_binding(trace: Trace, input_digest: bytes, output_digest: bytes) -> None:
    """InvalidProof unless the trace begins with the claim's inputs and ends with the opened output."""
    if trace[0] != input_digest:
        raise InvalidProof(f"the trace begins with {trace[0].hex()}, the claim's inputs are {input_digest.hex()}")
    if trace[-1] != output_digest:
        raise InvalidProof(f"the trace ends with {trace[-1].hex()}, the receipt opens to {output_digest.hex()}")


def find_fault(ours: Trace, theirs: Trace) -> int | None:
    """The operator that takes the same in both traces and gives another thing: the first that differs.

    Those it takes from come before it and agree, so it alone is to blame; those after it may only have passed it on.
    None when the traces agree. InputsDiffer when they are of other inputs. A trace of another length, which no run of
    the model can have, is wrong wherever one looks: its first operator stands for it.
    """
    if ours[0] != theirs[0]:
        raise InputsDiffer(f"our trace is of inputs {ours[0].hex()}, theirs of {theirs[0].hex()}")
    if len(ours) != len(theirs):
        return 1
    return next((number for number, (own, other) in enumerate(zip(ours, theirs, strict=True)) if own != other), None)


def find_misfit(trace: Trace, operator: int, exhibit: Exhibit) -> str:
    """Why an exhibit cannot be what `operator` takes according to the trace; empty when it may.

    Whether it holds all that the operator takes depends on the model, and shows when it is run.
    """
    numbers = [item.operator for item in exhibit.items]
    if sorted(set(numbers)) != numbers:
        return "its parts are not in strict order of operators"
    late = next((item.operator for item in exhibit.items if item.operator >= operator), None)
    if late is not None:
        return f"operator {operator} takes nothing from operator {late}"
    return find_misfit_of(trace, exhibit)


def find_misfit_of(digests: Sequence[bytes], exhibit: Exhibit) -> str:
    """Why the parts of an exhibit are not those with these digests, by their numbers; empty when they are."""
    for item in exhibit.items:
        try:
            for tensor in item.tensors:
                verify_layout(tensor)
        except MalformedMessage as error:
            return f"what operator {item.operator} gives: {error}"[:500]
        if compute_tensors_digest(item.tensors) != digests[item.operator]:
            return f"what operator {item.operator} gives is not what the trace says"
    return ""


def judge(trace: Trace, operator: int, exhibit: Exhibit, run: OperatorRun) -> Judgement:
    """What follows from running the named operator on what its worker published.

    It depends on the worker's own words alone: of the operators of a wrong trace, one at least gives something else
    than the trace says when it takes what the trace says.
    """
    return judge_fit(trace, operator, find_misfit(trace, operator, exhibit), run)


def judge_fit(trace: Trace, operator: int, misfit: str, run: OperatorRun) -> Judgement:
    """As `judge`, of an exhibit whose `misfit` is known."""
    is_sound = len(trace) == run.operators + 1 and not misfit and run.digest == trace[operator]
    return Judgement.SOUND if is_sound else Judgement.WRONG
