"""What a pool and its workers say to each other over a pipe: one frame per message, length first.

A frame is its body's length (4 bytes, big-endian), a kind (1 byte) and the body in the project's own codec, so that
what comes out of a process that ran a stranger's model is bounded and checked like anything from the network.
"""

from dataclasses import dataclass
from typing import Annotated

from protocol.codec import MESSAGE_BYTES_MAX, decode, encode
from protocol.errors import MalformedMessage
from protocol.proofs.steps import ForcedSteps, ForceSteps, RunPart, TraceStep
from protocol.proofs.trace import OperatorRun, RunOperator, TracedRun, TraceModel
from protocol.tensor import TENSORS_MAX, Tensor
from protocol.types import AtMost, Line, Name
from roles.engine.sandbox import Measure
from roles.engine.specs import MODEL_BYTES_MAX, IoSpec
from roles.engine.stepped import Stepped

HEAD_BYTES = 5


@dataclass(frozen=True)
class Bound:
    """What binds the worker process, by its own account: its first frame, before it takes any."""

    measures: Annotated[tuple[Measure, ...], AtMost(8)]


@dataclass(frozen=True)
class Load:
    """Load this model. Answered by `Loaded` or `Failed`; comes once, first."""

    model: Annotated[bytes, AtMost(MODEL_BYTES_MAX)]
    optimise: Name


@dataclass(frozen=True)
class Loaded:
    inputs: Annotated[tuple[IoSpec, ...], AtMost(TENSORS_MAX)]
    outputs: Annotated[tuple[IoSpec, ...], AtMost(TENSORS_MAX)]


@dataclass(frozen=True)
class Run:
    """Run the model once. Answered by `Ran` or `Failed`."""

    inputs: Annotated[tuple[Tensor, ...], AtMost(TENSORS_MAX)]


@dataclass(frozen=True)
class Ran:
    outputs: Annotated[tuple[Tensor, ...], AtMost(TENSORS_MAX)]
    profile: Line


@dataclass(frozen=True)
class Begin:
    """Begin a generation (`protocol.generation`), in place of one that was begun before. Answered by `Stepped`."""

    inputs: Annotated[tuple[Tensor, ...], AtMost(TENSORS_MAX)]


@dataclass(frozen=True)
class GoOn:
    """A few steps more of the generation that was begun last. Answered by `Stepped` or `Failed`."""


@dataclass(frozen=True)
class Failed:
    """`code` is that of an `EngineError`."""

    code: Name
    reason: Line


Message = (
    Bound
    | Load
    | Loaded
    | Run
    | Ran
    | Begin
    | GoOn
    | Stepped
    | Failed
    | TraceModel
    | TracedRun
    | RunOperator
    | OperatorRun
    | ForceSteps
    | ForcedSteps
    | TraceStep
    | RunPart
)
_KINDS: dict[int, type[Message]] = {
    1: Load,
    2: Loaded,
    3: Run,
    4: Ran,
    5: Failed,
    6: Bound,
    7: Begin,
    8: GoOn,
    9: Stepped,
    11: TraceModel,
    12: TracedRun,
    13: RunOperator,
    14: OperatorRun,
    15: ForceSteps,
    16: ForcedSteps,
    17: TraceStep,
    18: RunPart,
}
_NUMBERS = {cls: kind for kind, cls in _KINDS.items()}


def pack_frame(message: Message) -> bytes:
    body = encode(message)
    return len(body).to_bytes(4, "big") + bytes((_NUMBERS[type(message)],)) + body


def parse_head(head: bytes) -> tuple[int, int]:
    """The body's length and kind, before any of it is read. MalformedMessage when there is no such frame."""
    size, kind = int.from_bytes(head[:4], "big"), head[4]
    if size > MESSAGE_BYTES_MAX or kind not in _KINDS:
        raise MalformedMessage(f"a frame of kind {kind} with {size} bytes")
    return size, kind


def find_frame(received: bytearray) -> int:
    """Bytes of the frame that these begin with, if it is there as a whole, else 0. Raises like `parse_head`."""
    if len(received) < HEAD_BYTES:
        return 0
    size = HEAD_BYTES + parse_head(bytes(received[:HEAD_BYTES]))[0]
    return size if len(received) >= size else 0


def take_frame(received: bytearray, size: int) -> Message:
    """Take the frame of so many bytes off. Raises like `parse_body`, and then takes nothing."""
    _, kind = parse_head(bytes(received[:HEAD_BYTES]))
    with memoryview(received) as view:
        body = bytes(view[HEAD_BYTES:size])
    message = parse_body(kind, body)
    del received[:size]
    return message


def parse_body(kind: int, body: bytes) -> Message:
    """MalformedMessage unless the body is a message of this kind."""
    return decode(_KINDS[kind], body)
