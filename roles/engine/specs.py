"""What a model takes and gives, and whether inputs fit. Needs no onnxruntime, so that a node can tell without one."""

from dataclasses import dataclass
from typing import Annotated

from protocol.errors import MalformedMessage
from protocol.generation import Generation, StepForm, read_inputs
from protocol.ledger.limits import ROWS_MAX
from protocol.tensor import RANK_MAX, TENSOR_BYTES_MAX, Tensor, verify_tensor
from protocol.types import AtMost, Name, UpTo
from roles.engine.errors import BadInput, ModelRefused

MODEL_BYTES_MAX = 2 * 1024 * 1024  # one block of the content store
INPUTS_BYTES_MAX = 2 * 1024 * 1024  # what fits one blob of inputs
OUTPUTS_BYTES_MAX = 2 * 1024 * 1024  # what fits one answer on a stream, with its receipt
NAME_BYTES_MAX = 256


@dataclass(frozen=True)
class IoSpec:
    """One input or output of a model. A dimension of 0 is free; in an input only the first may be: the rows."""

    name: Annotated[str, AtMost(NAME_BYTES_MAX)]
    dtype: Name
    shape: Annotated[tuple[Annotated[int, UpTo(TENSOR_BYTES_MAX)], ...], AtMost(RANK_MAX)]

    def __str__(self) -> str:
        return describe_tensor(self.dtype, self.shape)


def describe_tensor(dtype: str, shape: tuple[int, ...]) -> str:
    """A type for people.

    >>> describe_tensor("uint8", (0, 64))
    'uint8 (rows, 64)'
    """
    return f"{dtype} ({', '.join('rows' if size == 0 else str(size) for size in shape)})"


def verify_size(model: bytes) -> None:
    """ModelRefused unless the file is of a size that is looked at."""
    if not 0 < len(model) <= MODEL_BYTES_MAX:
        raise ModelRefused(f"the model has {len(model)} bytes; 1 to {MODEL_BYTES_MAX} are run here")


def count_rows(specs: tuple[IoSpec, ...], inputs: tuple[Tensor, ...]) -> int:
    """The rows of a job: the first dimension of the first input that leaves it free, else 1."""
    for spec, tensor in zip(specs, inputs, strict=True):
        if spec.shape[:1] == (0,):
            return tensor.shape[0]
    return 1


def verify_inputs(specs: tuple[IoSpec, ...], inputs: tuple[Tensor, ...]) -> None:
    """BadInput unless there is one sound tensor per spec, of its type and shape, with the same 1 to ROWS_MAX rows."""
    if len(inputs) != len(specs):
        raise BadInput("inputs", f"{len(specs)} ({', '.join(map(str, specs))})", str(len(inputs)))
    size = sum(len(tensor.data) for tensor in inputs)
    if size > INPUTS_BYTES_MAX:
        raise BadInput("inputs", f"at most {INPUTS_BYTES_MAX} bytes", f"{size} bytes")
    for spec, tensor in zip(specs, inputs, strict=True):
        _verify_input(spec, tensor)
    rows = count_rows(specs, inputs)
    for spec, tensor in zip(specs, inputs, strict=True):
        if spec.shape[:1] == (0,) and tensor.shape[0] != rows:
            raise BadInput(f"input {spec.name!r}", f"{rows} rows, as in the other inputs", f"{tensor.shape[0]} rows")


def verify_generation(inputs: tuple[Tensor, ...], form: StepForm) -> Generation:
    """What inputs ask for. BadInput unless the model can do it."""
    try:
        return read_inputs(inputs, form)
    except MalformedMessage as error:
        raise BadInput("inputs", "a prompt and settings", str(error)) from error


def _verify_input(spec: IoSpec, tensor: Tensor) -> None:
    where = f"input {spec.name!r}"
    got = f"{tensor.dtype[:16]} {tensor.shape}"
    fits = len(tensor.shape) == len(spec.shape) and all(
        size in (0, tensor.shape[axis]) for axis, size in enumerate(spec.shape)
    )
    if tensor.dtype != spec.dtype or not fits:
        raise BadInput(where, str(spec), got)
    if spec.shape[:1] == (0,) and not 1 <= tensor.shape[0] <= ROWS_MAX:
        raise BadInput(where, f"1 to {ROWS_MAX} rows", f"{tensor.shape[0]} rows")
    try:
        verify_tensor(tensor)
    except MalformedMessage as error:
        raise BadInput(where, f"a sound tensor {spec}", str(error)) from error
