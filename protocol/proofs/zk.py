"""What a zero-knowledge proof of an inference carries, and what its public numbers must say about the job.

The circuit computes with whole numbers: a value v stands for round(v * 2^scale), as an element of BN254's scalar field.
A proof shows that its public numbers belong together; here they are held against the request's input and the receipt's
output. Whether the proof itself holds is for native code to say (`roles.zk`).
"""

import hashlib
import math
import struct
from collections.abc import Sequence
from typing import Annotated

from protocol.errors import InvalidProof
from protocol.fast_dataclass import fast_dataclass
from protocol.tensor import Tensor
from protocol.types import AtMost, Digest, Exactly

FIELD_ORDER = 21888242871839275222246405745257275088548364400416034343698204186575808495617  # BN254's r
NUMBER_SIZE = 32
NUMBERS_MAX = 256
PROOF_BYTES_MAX = 16 * 1024
EVIDENCE_BYTES_MAX = 32 * 1024


@fast_dataclass(frozen=True)
class ZkEvidence:
    """A proof. ezkl's own file says more (a hex copy, rounded values); nothing of that is checked, so none is here."""

    circuit: Digest
    proof: Annotated[bytes, AtMost(PROOF_BYTES_MAX)]
    numbers: Annotated[tuple[Annotated[bytes, Exactly(NUMBER_SIZE)], ...], AtMost(NUMBERS_MAX)]  # inputs, then outputs


@fast_dataclass(frozen=True)
class Terms:
    """What a circuit's public numbers mean. One float32 tensor goes in, one comes out."""

    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    input_scale: int
    output_scale: int
    slack: int  # an output may differ from the receipt's by this many units of 2^-output_scale


def compute_circuit_id(model: bytes, settings: bytes, key: bytes, setup: bytes) -> bytes:
    """What a proof is of: the model's digest, and the bytes of settings, verifying key and reference string."""
    parts = b"".join(hashlib.sha256(part).digest() for part in (settings, key, setup))
    return hashlib.sha256(b"rolemesh/v1/zk-circuit\0" + model + parts).digest()


def verify_numbers(terms: Terms, inputs: Sequence[Tensor], outputs: Sequence[Tensor], numbers: Sequence[bytes]) -> None:
    """InvalidProof unless the numbers are this input, rounded, and an output within the slack of this one."""
    given = _read_floats(inputs, terms.input_shape, "input")
    said = _read_floats(outputs, terms.output_shape, "output")
    if len(numbers) != len(given) + len(said):
        raise InvalidProof(f"{len(numbers)} public numbers, the circuit has {len(given) + len(said)}")
    for index, value in enumerate(given):
        if numbers[index] != encode_number(quantise(value, terms.input_scale)):
            raise InvalidProof(f"the proof is of another input: number {index} is not {value}")
    for index, value in enumerate(said):
        found = decode_number(numbers[len(given) + index])
        if abs(value * 2**terms.output_scale - found) > terms.slack:
            bound = terms.slack / 2**terms.output_scale
            raise InvalidProof(
                f"output {index} is {value} in the receipt and {found / 2**terms.output_scale} in the proof; "
                f"they may differ by {bound}"
            )


def quantise(value: float, scale: int) -> int:
    """The whole number a value stands for; halves go away from zero.

    >>> quantise(5.0, 7), quantise(-0.50390625, 7), quantise(0.00390625, 7)
    (640, -65, 1)
    """
    size = math.floor(abs(value) * float(1 << scale) + 0.5)
    return -size if value < 0 else size


def encode_number(number: int) -> bytes:
    """The field element of a whole number, 32 bytes little-endian. The one spelling it has."""
    return (number % FIELD_ORDER).to_bytes(NUMBER_SIZE, "little")


def decode_number(data: bytes) -> int:
    """The whole number of a field element: the upper half of the field is negative. InvalidProof beyond the field.

    >>> decode_number(encode_number(-348))
    -348
    """
    number = int.from_bytes(data, "little")
    if number >= FIELD_ORDER:
        raise InvalidProof("a public number is no element of the field")
    return number - FIELD_ORDER if number > FIELD_ORDER // 2 else number


def _read_floats(tensors: Sequence[Tensor], shape: tuple[int, ...], what: str) -> tuple[float, ...]:
    if len(tensors) != 1 or tensors[0].dtype != "float32" or tensors[0].shape != shape:
        raise InvalidProof(f"the circuit has one {what} of float32 with shape {shape}; this job has not")
    return struct.unpack(f"<{math.prod(shape)}f", tensors[0].data)
