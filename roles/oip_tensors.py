"""Tensors as Open Inference Protocol v2 writes them: names of types, and numbers in JSON. For servers and clients.

Source: the Open Inference Protocol's REST specification; Triton's extension "binary_tensor_data".
"""

import math
import struct
from itertools import chain
from typing import Any

from protocol.tensor import ITEM_SIZES, RANK_MAX, Tensor

BINARY = "binary_tensor_data"
HEAD_HEADER = "Inference-Header-Content-Length"
HEAD_BYTES_MAX = 64 * 1024  # of a JSON document without its numbers
# Numbers written out are read in the node's own loop: of a megabyte that takes some 10 ms, and nothing may take 20.
JSON_BYTES_MAX = 1024 * 1024
NUMBER_BYTES = 26  # of a float64 as JSON, with what stands around it
NUMBERS_MAX = (JSON_BYTES_MAX - HEAD_BYTES_MAX) // NUMBER_BYTES  # that surely fit a document
DATATYPES = {name: name.upper() for name in ITEM_SIZES} | {"float16": "FP16", "float32": "FP32", "float64": "FP64"}
_CODES = {
    "float16": "e", "float32": "f", "float64": "d", "int8": "b", "int16": "h", "int32": "i", "int64": "q",
    "uint8": "B", "uint16": "H", "uint32": "I", "uint64": "Q", "bool": "?",
}  # fmt: skip


def list_numbers(tensor: Tensor) -> tuple[Any, ...]:
    """The numbers of a verified tensor, in C order."""
    return struct.unpack(f"<{math.prod(tensor.shape)}{_CODES[tensor.dtype]}", tensor.data)


def flatten(data: list[Any]) -> list[Any]:
    """What is in lists within lists, as deep as a tensor goes; deeper ones are left, and are no numbers.

    >>> flatten([[1, 2], [3]])
    [1, 2, 3]
    """
    for _ in range(RANK_MAX):
        if not any(type(item) is list for item in data):
            break
        data = list(chain.from_iterable(item if type(item) is list else [item] for item in data))
    return data


def pack_numbers(dtype: str, numbers: list[Any]) -> bytes:
    """Numbers of a JSON document as a tensor's bytes. ValueError unless each is one of `dtype`.

    >>> pack_numbers("int16", [1, 2]).hex()
    '01000200'
    """
    kinds = (bool, int) if dtype == "bool" else (int, float) if dtype.startswith("float") else (int,)
    if any(type(number) not in kinds for number in numbers) or (
        dtype == "bool" and any(number not in (0, 1) for number in numbers)
    ):
        raise ValueError(f"what is no {dtype}")
    try:
        return struct.pack(f"<{len(numbers)}{_CODES[dtype]}", *numbers)
    except (struct.error, OverflowError) as error:
        raise ValueError(f"what is no {dtype}: {error}") from error
