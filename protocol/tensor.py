"""Tensors as bytes: type, shape and little-endian numbers in C order, with one digest.

Nothing here computes with the numbers, so none of it needs numpy: sizes are checked in whole numbers, NaN and infinity
by their bits. They are refused because no bound on a difference holds for them; -0.0 stays what it is.
"""

import functools
import hashlib
import math
from types import MappingProxyType
from typing import Annotated

from protocol.codec import decode, encode
from protocol.errors import MalformedMessage
from protocol.fast_dataclass import fast_dataclass
from protocol.types import AtMost, Name, UpTo

TENSOR_BYTES_MAX = 4 * 1024 * 1024
RANK_MAX = 8
DIGEST_BYTES = 32
TENSORS_MAX = 8

# Bytes of one element.
ITEM_SIZES = MappingProxyType(
    {
        "float16": 2,
        "float32": 4,
        "float64": 8,
        "int8": 1,
        "int16": 2,
        "int32": 4,
        "int64": 8,
        "uint8": 1,
        "uint16": 2,
        "uint32": 4,
        "uint64": 8,
        "bool": 1,
    }
)


@fast_dataclass(frozen=True)
class Tensor:
    """A dense array. What arrives must pass `verify_tensor` before its numbers are used."""

    dtype: Name
    shape: Annotated[tuple[Annotated[int, UpTo(TENSOR_BYTES_MAX)], ...], AtMost(RANK_MAX)]
    data: Annotated[bytes, AtMost(TENSOR_BYTES_MAX)]


@fast_dataclass(frozen=True)
class Tensors:
    """Several tensors as one blob, for inputs too large to travel by gossip."""

    items: Annotated[tuple[Tensor, ...], AtMost(TENSORS_MAX)]


def verify_tensor(tensor: Tensor) -> None:
    """MalformedMessage unless type and shape fit the data and every number is one."""
    verify_layout(tensor)
    if tensor.dtype in _EXPONENTS and not _is_finite(tensor.data, ITEM_SIZES[tensor.dtype], *_EXPONENTS[tensor.dtype]):
        raise MalformedMessage("a float is NaN or infinite")


def verify_layout(tensor: Tensor) -> None:
    """MalformedMessage unless type and shape fit the data. Between two operators of a model, NaN and infinity may be.

    There NaN has one spelling (`engine.trace`), so that equal tensors have equal digests.
    """
    item_size = ITEM_SIZES.get(tensor.dtype)
    if item_size is None:
        raise MalformedMessage(f"dtype {tensor.dtype[:16]!r} is not one of {', '.join(ITEM_SIZES)}")
    # A zero dimension must not hide dimensions whose product overflows whoever allocates the array.
    if item_size * math.prod(max(size, 1) for size in tensor.shape) > TENSOR_BYTES_MAX:
        raise MalformedMessage(f"shape {tensor.shape} of {tensor.dtype} is more than {TENSOR_BYTES_MAX} bytes")
    size = item_size * math.prod(tensor.shape)
    if size != len(tensor.data):
        raise MalformedMessage(f"shape {tensor.shape} of {tensor.dtype} wants {size} bytes, has {len(tensor.data)}")
    if tensor.dtype == "bool" and tensor.data.translate(None, b"\0\1"):
        raise MalformedMessage("a bool is neither 0 nor 1")


def compute_tensor_digest(tensor: Tensor) -> bytes:
    """sha256 of domain, dtype (length first), rank, dimensions as u64 and the data; all numbers little-endian."""
    name = tensor.dtype.encode()
    dims = b"".join(size.to_bytes(8, "little") for size in tensor.shape)
    head = b"rolemesh/v1/tensor\0" + bytes((len(name),)) + name + bytes((len(tensor.shape),)) + dims
    hasher = hashlib.sha256(head)
    hasher.update(tensor.data)
    return hasher.digest()


def compute_tensors_digest(tensors: tuple[Tensor, ...]) -> bytes:
    """The one digest of a list of tensors: sha256 of domain, count as u64 and each tensor's digest."""
    digests = b"".join(compute_tensor_digest(tensor) for tensor in tensors)
    return hashlib.sha256(b"rolemesh/v1/tensors\0" + len(tensors).to_bytes(8, "little") + digests).digest()


def encode_tensors(tensors: tuple[Tensor, ...]) -> bytes:
    """Tensors as one blob."""
    return encode(Tensors(tensors))


def decode_tensors(data: bytes) -> tuple[Tensor, ...]:
    """The tensors of a blob, each verified. MalformedMessage when it is none."""
    tensors = decode(Tensors, data).items
    for tensor in tensors:
        verify_tensor(tensor)
    return tensors


# An IEEE 754 number is NaN or infinite when its exponent is all ones. Per type: the exponent's bits in the last byte of
# an element (little-endian) and in the byte before it.
_EXPONENTS = {"float16": (0x7C, 0x00), "float32": (0x7F, 0x80), "float64": (0x7F, 0xF0)}


def _is_finite(data: bytes, item_size: int, high_mask: int, low_mask: int) -> bool:
    # Each byte becomes 1 when all bits of the mask are set, 0 otherwise; a number is bad where both of its bytes are 1.
    high = data[item_size - 1 :: item_size].translate(_mark(high_mask))
    if 1 not in high:
        return True
    low = data[item_size - 2 :: item_size].translate(_mark(low_mask))
    return not int.from_bytes(high) & int.from_bytes(low)


@functools.cache
def _mark(mask: int) -> bytes:
    return bytes(byte & mask == mask for byte in range(256))
