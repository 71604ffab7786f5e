"""The server's half of Open Inference Protocol v2 over REST: what is asked, and how it is answered. No sockets here.

Tensors are called as in the model's file, where that could be had, and by their place as well: `input-0`, `output-0`
and so on. Source: the Open Inference Protocol's REST specification; Triton's extension "binary_tensor_data".
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from protocol.content import format_cid
from protocol.errors import MalformedMessage
from protocol.ledger.model_records import ModelRecord, TensorSpec
from protocol.tensor import Tensor, verify_tensor
from roles.gateway.faults import Fault
from roles.oip_tensors import BINARY, DATATYPES, JSON_BYTES_MAX, NUMBERS_MAX, flatten, list_numbers, pack_numbers

ID_LETTERS_MAX = 200


@dataclass(frozen=True)
class TensorNames:
    """What a model's inputs and outputs are called, by place."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Wanted:
    """An inference asked for. `outputs` are places of the model's outputs; those in `raw` are wanted as raw bytes.

    `called` are the names by which the outputs were asked for.
    """

    id: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[int, ...]
    called: tuple[str, ...]
    raw: frozenset[int]


def describe_server(version: str) -> dict[str, Any]:
    """`GET /v2`."""
    return {"name": "rolemesh", "version": version, "extensions": [BINARY]}


def name_by_place(record: ModelRecord) -> TensorNames:
    """The names of a model whose file is not known.

    >>> name_by_place(ModelRecord("two", bytes(32), 1, (TensorSpec("bool", (0,)),) * 2, (), ())).inputs
    ('input-0', 'input-1')
    """
    return TensorNames(_list_places("input", len(record.inputs)), _list_places("output", len(record.outputs)))


def describe_model(record: ModelRecord, names: TensorNames, versions: Sequence[int]) -> dict[str, Any]:
    """`GET /v2/models/NAME`. A shape's -1 is the number of rows."""
    return {
        "name": record.name,
        "versions": [str(version) for version in versions],
        "platform": "onnx_onnxv1",
        "inputs": [_describe_spec(*each) for each in zip(names.inputs, record.inputs, strict=True)],
        "outputs": [_describe_spec(*each) for each in zip(names.outputs, record.outputs, strict=True)],
        "parameters": {
            "cid": format_cid(record.digest),
            "version": record.version,
            "rows_max": record.rows_max,
            "class": "exact" if record.exact else "float",
        },
    }


def read_request(record: ModelRecord, names: TensorNames, head_size: str | None, body: bytes) -> Wanted:
    """What a body asks of a model. `head_size` is the header that says how much of it is JSON. Fault 400 or 413."""
    head, tail = _split(head_size, body)
    document = _read_json(head)
    inputs = _read_inputs(record, names.inputs, document.get("inputs"), tail)
    outputs, raw = _read_outputs(names.outputs, document)
    rows = inputs[0].shape[0] if inputs and inputs[0].shape else 1
    shapes = {place: [size or rows for size in record.outputs[place].shape] for place in outputs.values()}
    written = sum(math.prod(shape) for place, shape in shapes.items() if place not in raw)
    if written > NUMBERS_MAX:
        reason = f"{written} numbers would be written out, at most {NUMBERS_MAX} are: ask for binary_data"
        raise Fault(413, "too_large", reason)
    return Wanted(_read_id(document.get("id", "")), inputs, tuple(outputs.values()), tuple(outputs), raw)


def format_answer(
    record: ModelRecord, wanted: Wanted, outputs: Sequence[Tensor], parameters: Mapping[str, Any]
) -> tuple[bytes, int | None]:
    """The body of an answer, and how much of it is JSON where raw tensors follow; None where none do."""
    described, tail = [], b""
    for name, place in zip(wanted.called, wanted.outputs, strict=True):
        tensor = outputs[place]
        output: dict[str, Any] = {
            "name": name,
            "datatype": DATATYPES[tensor.dtype],
            "shape": list(tensor.shape),
        }
        if place in wanted.raw:
            described.append(output | {"parameters": {"binary_data_size": len(tensor.data)}})
            tail += tensor.data
        else:
            described.append(output | {"data": list_numbers(tensor)})
    document = {
        "model_name": record.name,
        "model_version": str(record.version),
        "id": wanted.id,
        "parameters": dict(parameters),
        "outputs": described,
    }
    head = json.dumps(document, separators=(",", ":")).encode()
    return head + tail, len(head) if wanted.raw else None


def _list_places(kind: str, count: int) -> tuple[str, ...]:
    return tuple(f"{kind}-{place}" for place in range(count))


def _describe_spec(name: str, spec: TensorSpec) -> dict[str, Any]:
    return {"name": name, "datatype": DATATYPES[spec.dtype], "shape": [size or -1 for size in spec.shape]}


def _refuse(reason: str) -> Fault:
    return Fault(400, "bad_input", reason)


def _split(head_size: str | None, body: bytes) -> tuple[bytes, bytes]:
    size = len(body)
    if head_size is not None:
        is_size = head_size.isascii() and head_size.isdecimal() and len(head_size) < 10
        if not is_size or int(head_size) > len(body):
            raise _refuse(f"the head is said to have {head_size[:20]!r} of {len(body)} bytes")
        size = int(head_size)
    if size > JSON_BYTES_MAX:
        reason = f"{size} bytes of JSON, at most {JSON_BYTES_MAX} are read: send raw tensors ({BINARY})"
        raise Fault(413, "too_large", reason)
    return body[:size], body[size:]


def _read_json(data: bytes) -> dict[str, Any]:
    try:
        document = json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise _refuse(f"the request is not JSON: {str(error)[:200]}") from error
    if not isinstance(document, dict):
        raise _refuse(f"the request is a {type(document).__name__}, not an object")
    return document


def _refuse_constant(name: str) -> None:
    raise _refuse(f"{name} is no number that a model is given")


def _read_id(value: Any) -> str:
    if not isinstance(value, str) or len(value) > ID_LETTERS_MAX:
        raise _refuse(f"id is a text of at most {ID_LETTERS_MAX} letters")
    return value


def _find_all(kind: str, listed: Any, names: tuple[str, ...]) -> dict[int, Mapping[str, Any]]:
    """Entries of a list of inputs or outputs by place, in the order they are listed."""
    places = {name: place for of in (_list_places(kind, len(names)), names) for place, name in enumerate(of)}
    if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
        raise _refuse(f"{kind}s is no list of objects")
    found: dict[int, Mapping[str, Any]] = {}
    for each in listed:
        place = places.get(each["name"]) if isinstance(each.get("name"), str) else None
        if place is None or place in found:
            raise _refuse(f"{kind} {str(each.get('name'))[:40]!r}: the model has {', '.join(names)}, each once")
        found[place] = each
    return found


def _get_parameters(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    parameters = fields.get("parameters", {})
    if not isinstance(parameters, dict):
        raise _refuse("parameters is no object")
    return parameters


def _read_inputs(record: ModelRecord, names: tuple[str, ...], listed: Any, tail: bytes) -> tuple[Tensor, ...]:
    found = _find_all("input", listed, names)
    tensors, at = {}, 0
    for place, fields in found.items():
        size = _get_parameters(fields).get("binary_data_size")
        raw = None
        if size is not None:
            if type(size) is not int or not 0 <= size <= len(tail) - at:
                raise _refuse(f"{names[place]} is said to have {str(size)[:20]} of {len(tail) - at} raw bytes")
            raw = tail[at : at + size]
            at += size
        tensors[place] = _read_input(names[place], record.inputs[place], fields, raw)
    if at != len(tail):
        raise _refuse(f"{len(tail) - at} raw bytes belong to no input")
    if len(tensors) < len(record.inputs):
        raise _refuse(f"{record.name} takes {len(record.inputs)} inputs, {len(tensors)} were sent")
    return tuple(tensors[place] for place in range(len(record.inputs)))


def _read_input(where: str, spec: TensorSpec, fields: Mapping[str, Any], raw: bytes | None) -> Tensor:
    if fields.get("datatype") != DATATYPES[spec.dtype]:
        said = str(fields.get("datatype"))[:20]
        raise _refuse(f"{where} is {said}, the model takes {DATATYPES[spec.dtype]}")
    shape: Any = fields.get("shape")
    is_shape = isinstance(shape, list) and all(type(size) is int and 0 <= size < 2**31 for size in shape)
    if not is_shape or not _fits(spec, shape):
        wanted = [size or -1 for size in spec.shape]
        raise _refuse(f"{where} has shape {str(shape)[:80]}, the model takes {wanted}")
    if raw is None:
        raw = _pack(where, spec.dtype, math.prod(shape), fields.get("data"))
    tensor = Tensor(spec.dtype, tuple(shape), raw)
    try:
        verify_tensor(tensor)
    except MalformedMessage as error:
        raise _refuse(f"{where}: {error}") from error
    return tensor


def _fits(spec: TensorSpec, shape: Sequence[int]) -> bool:
    if len(shape) != len(spec.shape):
        return False
    return all(wanted in (0, size) for wanted, size in zip(spec.shape, shape, strict=True))


def _pack(where: str, dtype: str, count: int, data: Any) -> bytes:
    if not isinstance(data, list):
        raise _refuse(f"{where} has no data")
    numbers = flatten(data)
    if len(numbers) != count:
        raise _refuse(f"{where} has {len(numbers)} numbers, its shape asks for {count}")
    try:
        return pack_numbers(dtype, numbers)
    except ValueError as error:
        raise _refuse(f"{where} holds {error}") from error


def _read_outputs(names: tuple[str, ...], document: Mapping[str, Any]) -> tuple[dict[str, int], frozenset[int]]:
    """Which outputs are wanted, by the names they are asked for by, all if none is; and which of them raw."""
    is_raw = _read_switch(_get_parameters(document), "binary_data_output", False)
    if not document.get("outputs"):
        return {name: place for place, name in enumerate(names)}, frozenset(range(len(names)) if is_raw else ())
    found = _find_all("output", document["outputs"], names)
    raw = {place for place, fields in found.items() if _read_switch(_get_parameters(fields), "binary_data", is_raw)}
    for fields in found.values():
        if _get_parameters(fields).get("classification"):
            raise _refuse("the classification extension is not served")
    return {fields["name"]: place for place, fields in found.items()}, frozenset(raw)


def _read_switch(parameters: Mapping[str, Any], name: str, default: bool) -> bool:
    value = parameters.get(name, default)
    if type(value) is not bool:
        raise _refuse(f"{name} is true or false")
    return value
