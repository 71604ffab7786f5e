"""The client's half of Open Inference Protocol v2 over REST: what is asked, and what may come back. No sockets here.

Tensors travel as numbers in JSON or, where the server has the binary tensor extension, raw behind a JSON head.
Source: the Open Inference Protocol's REST specification; Triton's extension "binary_tensor_data".
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from protocol.errors import MalformedMessage
from protocol.tensor import Tensor, verify_tensor
from roles.engine.errors import ComputeFailed
from roles.engine.remote.errors import BadAnswer
from roles.engine.specs import OUTPUTS_BYTES_MAX, IoSpec, count_rows
from roles.oip_tensors import (
    DATATYPES,
    HEAD_BYTES_MAX,
    HEAD_HEADER,
    JSON_BYTES_MAX,
    NUMBERS_MAX,
    flatten,
    list_numbers,
    pack_numbers,
)


@dataclass(frozen=True)
class Question:
    """A request, ready to be sent, and what its answer is held against."""

    id: str
    rows: int
    is_binary: bool
    outputs: tuple[IoSpec, ...]
    headers: Mapping[str, str]
    body: bytes
    answer_bytes_max: int


def ask(
    specs: tuple[tuple[IoSpec, ...], tuple[IoSpec, ...]], inputs: tuple[Tensor, ...], number: int, is_binary: bool
) -> Question:
    """The request for one run. The inputs have been verified. ComputeFailed when JSON would be too long."""
    takes, gives = specs
    rows = count_rows(takes, inputs)
    if not is_binary:
        _verify_json_sizes(gives, inputs, rows)
    named = [_describe_input(spec, tensor, is_binary) for spec, tensor in zip(takes, inputs, strict=True)]
    wanted = [
        {"name": spec.name, "parameters": {"binary_data": True}} if is_binary else {"name": spec.name} for spec in gives
    ]
    head = json.dumps({"id": str(number), "inputs": named, "outputs": wanted}, separators=(",", ":")).encode()
    raw = b"".join(tensor.data for tensor in inputs) if is_binary else b""
    headers = {"Content-Type": "application/octet-stream" if is_binary else "application/json"}
    if is_binary:
        headers[HEAD_HEADER] = str(len(head))
    most = HEAD_BYTES_MAX + OUTPUTS_BYTES_MAX if is_binary else JSON_BYTES_MAX
    return Question(str(number), rows, is_binary, gives, headers, head + raw, most)


def read_answer(question: Question, head_size: str | None, body: bytes) -> tuple[Tensor, ...]:
    """The outputs, in the model's order. BadAnswer for anything else; ComputeFailed when numbers are none.

    `head_size` is the header of that name: how much of the body is JSON, where raw tensors follow.
    """
    head, raw = _split(head_size, body)
    document = read_json(head)
    if str(document.get("id", "")) != question.id:
        raise BadAnswer(f"the answer is to request {str(document.get('id'))[:40]!r}, not {question.id!r}")
    found = _name_outputs(document.get("outputs"))
    expected = [spec.name for spec in question.outputs]
    if sorted(found) != sorted(expected):
        raise BadAnswer(f"the answer has outputs {_clip(sorted(found))}, the model gives {_clip(sorted(expected))}")
    places = _place_raw(found, raw)
    tensors = {}
    for spec in question.outputs:
        tensors[spec.name] = _read_output(spec, found[spec.name], places.get(spec.name), question.rows)
    return tuple(tensors[spec.name] for spec in question.outputs)


def read_json(data: bytes) -> dict[str, Any]:
    """An object. BadAnswer when it is none; ComputeFailed for NaN and infinity, which JSON does not have."""
    try:
        document = json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise BadAnswer(f"the answer is not JSON: {_clip(error)}") from error
    if not isinstance(document, dict):
        raise BadAnswer(f"the answer is a {type(document).__name__}, not an object")
    return document


def _verify_json_sizes(gives: tuple[IoSpec, ...], inputs: tuple[Tensor, ...], rows: int) -> None:
    taken = sum(math.prod(tensor.shape) for tensor in inputs)
    given = sum(math.prod(size or rows for size in spec.shape) for spec in gives)
    if max(taken, given) > NUMBERS_MAX:
        raise ComputeFailed(
            f"{taken} numbers in and {given} out are more than the {NUMBERS_MAX} that are written out for a server"
            " without the binary tensor extension: ask for fewer rows"
        )


def _describe_input(spec: IoSpec, tensor: Tensor, is_binary: bool) -> dict[str, Any]:
    described: dict[str, Any] = {
        "name": spec.name,
        "shape": list(tensor.shape),
        "datatype": DATATYPES[tensor.dtype],
    }
    if is_binary:
        return described | {"parameters": {"binary_data_size": len(tensor.data)}}
    return described | {"data": list_numbers(tensor)}


def _split(head_size: str | None, body: bytes) -> tuple[bytes, bytes]:
    if head_size is None:
        return body, b""
    if not (head_size.isascii() and head_size.isdecimal() and len(head_size) < 10 and int(head_size) <= len(body)):
        raise BadAnswer(f"the answer's head is said to have {head_size[:20]!r} of {len(body)} bytes")
    return body[: int(head_size)], body[int(head_size) :]


def _name_outputs(outputs: Any) -> dict[str, dict[str, Any]]:
    if not isinstance(outputs, list) or not all(isinstance(each, dict) for each in outputs):
        raise BadAnswer("the answer has no list of outputs")
    found = {str(each.get("name")): each for each in outputs}
    if len(found) < len(outputs):
        raise BadAnswer("the answer has two outputs of one name")
    return found


def _place_raw(found: Mapping[str, dict[str, Any]], raw: bytes) -> dict[str, bytes]:
    """The raw bytes of each output that says how many it has; together they are all there are."""
    places, at = {}, 0
    for name, output in found.items():
        parameters = output.get("parameters")
        size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
        if size is None:
            continue
        if type(size) is not int or not 0 <= size <= len(raw) - at:
            raise BadAnswer(f"output {name[:40]!r} is said to have {str(size)[:20]} of {len(raw) - at} raw bytes")
        places[name] = raw[at : at + size]
        at += size
    if at != len(raw):
        raise BadAnswer(f"{len(raw) - at} raw bytes belong to no output")
    return places


def _read_output(spec: IoSpec, output: Mapping[str, Any], raw: bytes | None, rows: int) -> Tensor:
    where = f"output {spec.name!r}"
    if output.get("datatype") != DATATYPES[spec.dtype]:
        raise BadAnswer(f"{where} is {str(output.get('datatype'))[:20]}, the model gives {DATATYPES[spec.dtype]}")
    shape = output.get("shape")
    if (
        not isinstance(shape, list)
        or not all(type(size) is int and size >= 0 for size in shape)
        or not _fits(spec, shape, rows)
    ):
        raise BadAnswer(f"{where} has shape {_clip(shape)}, the model gives {spec} for {rows} rows")
    data = raw if raw is not None else _pack(where, spec.dtype, math.prod(shape), output.get("data"))
    tensor = Tensor(spec.dtype, tuple(shape), data)
    try:
        verify_tensor(tensor)
    except MalformedMessage as error:
        kind = ComputeFailed if "NaN" in str(error) else BadAnswer
        raise kind(f"{where}: {error}") from error
    return tensor


def _fits(spec: IoSpec, shape: Sequence[int], rows: int) -> bool:
    if len(shape) != len(spec.shape):
        return False
    wanted = ((rows if axis == 0 and size == 0 else size) for axis, size in enumerate(spec.shape))
    return all(size in (0, given) for size, given in zip(wanted, shape, strict=True))


def _pack(where: str, dtype: str, count: int, data: Any) -> bytes:
    """Numbers of a JSON list, flat or nested, as bytes."""
    if not isinstance(data, list):
        raise BadAnswer(f"{where} has no data")
    numbers = flatten(data)
    if len(numbers) != count:
        raise BadAnswer(f"{where} has {len(numbers)} numbers, its shape asks for {count}")
    if None in numbers:
        raise ComputeFailed(f"{where} holds NaN or infinity")  # as some servers write it
    try:
        return pack_numbers(dtype, numbers)
    except ValueError as error:
        raise BadAnswer(f"{where} holds {error}") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ComputeFailed(f"an output holds {name}")


def _clip(value: object) -> str:
    return str(value)[:200]
