"""Turn frozen dataclasses into bytes and back, strictly: one value, one spelling.

A dataclass is a msgpack array of its fields in order, a tuple is an array, and nothing but whole numbers, bytes, text
and arrays of these exists. Every field carries its bound as an annotation (`types`), compiled once per class. What is
decoded was written by a stranger, so: length, then msgpack under tight limits, then every type and bound, then
`packb(unpacked) == data`, which leaves each value one spelling (no over-wide numbers, no padded lengths).
"""

import dataclasses
import re
import typing
from collections.abc import Callable
from typing import Annotated, Any, NoReturn, TypeVar

import msgpack

from protocol.errors import LocalError, MalformedMessage
from protocol.fast_dataclass import fast_dataclass
from protocol.types import INT_MAX, AtMost, Exactly, UpTo

MESSAGE_BYTES_MAX = 4 * 1024 * 1024
ITEMS_MAX = 1024  # items of one array
# Arrays in arrays. A settlement holds runs of leaves of attestations, which are nine.
DEPTH_MAX = 10

# All that msgpack raises for bytes it does not like, both the C extension and pure Python.
_UNPACK_ERRORS = (
    msgpack.exceptions.UnpackException,
    ValueError,
    TypeError,
    OverflowError,
    RecursionError,
    MemoryError,
)

T = TypeVar("T")


@fast_dataclass(frozen=True)
class _Plan:
    """How one type is written and read, and how large it can get.

    `is_plain` is a Python expression of `it` that is true for values which both functions give back as they are.
    """

    to_raw: Callable[[Any], Any]
    from_raw: Callable[[Any], Any]
    size_max: int
    is_plain: str = "False"
    items_max: int = 0
    text_max: int = 0
    bytes_max: int = 0


_plans: dict[type, _Plan] = {}
_packer = msgpack.Packer()  # `packb` makes one each time
_IT = re.compile(r"\bit\b")


def encode(obj: Any) -> bytes:
    """The canonical bytes of a dataclass. LocalError when a field breaks its type or bound."""
    plan = _compile(type(obj))
    return _pack(plan.to_raw(obj), plan)


def encode_unsigned(obj: Any) -> bytes:
    """The canonical array of all fields but the last, which is what a signature covers."""
    plan = _compile(type(obj))
    return _pack(plan.to_raw(obj)[:-1], plan)


def decode(cls: type[T], data: bytes, size_max: int = MESSAGE_BYTES_MAX) -> T:
    """Read a dataclass of type `cls`. MalformedMessage for anything but what `encode` writes.

    `size_max` is the caller's own cap, in bytes; the type's own and `MESSAGE_BYTES_MAX` hold anyway.
    """
    plan = _compile(cls)
    raw = unpack(data, min(size_max, plan.size_max), plan.items_max, plan.text_max, plan.bytes_max)
    value: T = plan.from_raw(raw)
    if _packer.pack(raw) != data:
        raise MalformedMessage(f"{cls.__name__}: not the canonical spelling")
    return value


def unpack(data: bytes, size_max: int, items_max: int, text_max: int, bytes_max: int) -> Any:
    """Read msgpack into tuples under limits. Types, bounds and the canonical spelling remain the caller's to check."""
    if type(data) is not bytes:
        raise LocalError(f"can only decode bytes, not {type(data).__name__}")
    if len(data) > size_max:
        raise MalformedMessage(f"{len(data)} bytes, at most {size_max} allowed")
    try:
        return msgpack.unpackb(
            data,
            raw=False,
            use_list=False,
            max_array_len=items_max,
            max_str_len=text_max,
            max_bin_len=bytes_max,
            max_map_len=0,
            max_ext_len=0,
            # Empty maps and extensions pass those two limits; a megabyte of them would become sixty.
            object_pairs_hook=_refuse_map,
            ext_hook=_refuse_extension,
        )
    except _UNPACK_ERRORS as error:
        raise MalformedMessage(f"not msgpack within limits: {type(error).__name__}") from error


def get_size_max(cls: type) -> int:
    """The most bytes an encoded `cls` can take."""
    return _compile(cls).size_max


def get_field_types(cls: type) -> dict[str, Any]:
    """Field names with their annotations resolved, in wire order.

    LocalError when `cls` is neither frozen nor a fast dataclass, or not made from its fields in order.
    """
    params: Any = getattr(cls, "__dataclass_params__", None)
    if params is None or not (params.frozen or params.unsafe_hash):
        raise LocalError(f"{cls.__name__} is not a frozen dataclass")
    if not all(field.init and not field.kw_only for field in dataclasses.fields(cls)):
        raise LocalError(f"{cls.__name__} is not made from its fields in order")
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
    except (NameError, TypeError) as error:
        raise LocalError(f"{cls.__name__}: an annotation cannot be resolved at module level: {error}") from error
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _pack(raw: tuple[Any, ...], plan: _Plan) -> bytes:
    data: bytes = _packer.pack(raw)
    if len(data) > plan.size_max:
        raise LocalError(f"{len(data)} bytes, at most {plan.size_max} allowed")
    return data


def _refuse_map(_: object) -> NoReturn:
    raise MalformedMessage("holds a map")


def _refuse_extension(code: int, _: bytes) -> NoReturn:
    raise MalformedMessage(f"holds an extension of type {code}")


def _compile(cls: type) -> _Plan:
    plan = _plans.get(cls)
    if plan is None:
        plan = _plans[cls] = _compile_record(cls, 1)
    return plan


def _compile_type(annotation: Any, where: str, depth: int) -> _Plan:
    bound = None
    if typing.get_origin(annotation) is Annotated:
        annotation, *bounds = typing.get_args(annotation)
        if len(bounds) != 1:
            raise LocalError(f"{where}: wants exactly one bound, has {len(bounds)}")
        bound = bounds[0]
    if annotation is int and isinstance(bound, UpTo):
        return _compile_int(where, bound.least, bound.value)
    if annotation is bytes and isinstance(bound, Exactly | AtMost):
        return _compile_bytes(where, bound.size if isinstance(bound, Exactly) else 0, bound.size)
    if annotation is str and isinstance(bound, AtMost):
        return _compile_text(where, bound.size)
    if typing.get_origin(annotation) is tuple and isinstance(bound, AtMost):
        items = typing.get_args(annotation)
        if len(items) == 2 and items[1] is Ellipsis:
            return _compile_list(where, items[0], bound.size, depth)
    if bound is None and dataclasses.is_dataclass(annotation):
        return _compile_record(typing.cast(type, annotation), depth)
    raise LocalError(f"{where}: {annotation!r} with bound {bound!r} is nothing that can be encoded")


def _compile_record(cls: type, depth: int) -> _Plan:
    _verify_depth(cls.__name__, depth)
    types = get_field_types(cls)
    plans = tuple(_compile_type(types[name], f"{cls.__name__}.{name}", depth + 1) for name in types)
    if len(plans) > ITEMS_MAX:
        raise LocalError(f"{cls.__name__}: more than {ITEMS_MAX} fields")
    to_raw, from_raw = _write_functions(cls, tuple(types), plans)
    return _enclose(to_raw, from_raw, plans, len(plans), 1)


def _write_functions(
    cls: type, names: tuple[str, ...], plans: tuple[_Plan, ...]
) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """`to_raw` and `from_raw` of a record, as code that has each field's test in it.

    A call per field would cost most of the time. What fails its test goes to the field's own function, which says why.
    """
    spaces: dict[str, Any] = {"cls": cls, "LocalError": LocalError, "MalformedMessage": MalformedMessage}
    spaces["nothing"] = ()  # of which there is one in CPython; elsewhere the test fails and costs a call
    spaces["__builtins__"] = {"type": type, "len": len, "int": int, "bytes": bytes, "str": str, "tuple": tuple}
    writes, reads = [], []
    for number, plan in enumerate(plans):
        spaces[f"write{number}"], spaces[f"read{number}"] = plan.to_raw, plan.from_raw
        it = f"it{number}"
        test = "" if plan.is_plain == "False" else f"if not ({_IT.sub(it, plan.is_plain)}): "
        writes.append(f"    {test}{it} = write{number}({it})")
        reads.append(f"    {test}{it} = read{number}({it})")
    its = "".join(f"it{number}, " for number in range(len(plans)))
    lines = [
        "def to_raw(value):",
        "    if type(value) is not cls:",
        f"        raise LocalError(f'wanted a {cls.__name__}, got a {{type(value).__name__}}')",
        *(f"    it{number} = value.{name}" for number, name in enumerate(names)),
        *writes,
        f"    return ({its})",
        "def from_raw(raw):",
        f"    if type(raw) is not tuple or len(raw) != {len(plans)}:",
        f"        raise MalformedMessage('{cls.__name__}: not an array of {len(plans)}')",
        *([f"    {its} = raw"] if plans else []),
        *reads,
        f"    return cls({its})",
    ]
    exec("\n".join(lines), spaces)  # of our own classes' field names and numbers; it has nothing to reach outside with
    return spaces["to_raw"], spaces["from_raw"]


def _compile_list(where: str, item: Any, count_max: int, depth: int) -> _Plan:
    _verify_depth(where, depth)
    if not 0 <= count_max <= ITEMS_MAX:
        raise LocalError(f"{where}: a list may hold {ITEMS_MAX} items, not {count_max}")
    plan = _compile_type(item, where, depth + 1)
    write, read = plan.to_raw, plan.from_raw

    def to_raw(value: Any) -> tuple[Any, ...]:
        if type(value) is not tuple or len(value) > count_max:
            raise LocalError(f"{where}: wanted a tuple of at most {count_max}")
        return tuple([write(item) for item in value])

    def from_raw(raw: Any) -> tuple[Any, ...]:
        if type(raw) is not tuple or len(raw) > count_max:
            raise MalformedMessage(f"{where}: not a list of at most {count_max}")
        return tuple([read(item) for item in raw])

    return dataclasses.replace(_enclose(to_raw, from_raw, (plan,), count_max, count_max), is_plain="it is nothing")


def _verify_depth(where: str, depth: int) -> None:
    if depth > DEPTH_MAX:
        raise LocalError(f"{where}: arrays nested deeper than {DEPTH_MAX}")


def _enclose(
    to_raw: Callable[[Any], Any],
    from_raw: Callable[[Any], Any],
    plans: tuple[_Plan, ...],
    items: int,
    repeats: int,
) -> _Plan:
    """The plan of an array of up to `items` that holds `plans`, `repeats` times over."""
    size = _header_size(items, (15, 0xFFFF)) + repeats * sum(plan.size_max for plan in plans)
    return _Plan(
        to_raw,
        from_raw,
        size_max=min(size, MESSAGE_BYTES_MAX),
        items_max=max([items, *(plan.items_max for plan in plans)]),
        text_max=max((plan.text_max for plan in plans), default=0),
        bytes_max=max((plan.bytes_max for plan in plans), default=0),
    )


def _compile_int(where: str, least: int, top: int) -> _Plan:
    if not -INT_MAX <= least <= 0 <= top <= INT_MAX:
        raise LocalError(f"{where}: whole numbers end at {INT_MAX}")

    def to_raw(value: Any) -> int:
        # IntEnum members are welcome, True is not a number.
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= top:
            raise LocalError(f"{where}: {value!r} is not a whole number from {least} to {top}")
        return int(value)

    def from_raw(raw: Any) -> int:
        if type(raw) is not int or not least <= raw <= top:
            raise MalformedMessage(f"{where}: not a whole number from {least} to {top}")
        return raw

    sizes = (1, 2, 3, 5, 9)
    above = _header_size(top, (0x7F, 0xFF, 0xFFFF, 0xFFFFFFFF), sizes)
    below = _header_size(-least, (32, 0x80, 0x8000, 0x80000000), sizes)
    return _Plan(to_raw, from_raw, max(above, below), f"type(it) is int and {least} <= it <= {top}")


def _compile_bytes(where: str, size_min: int, size_max: int) -> _Plan:
    wanted = f"{size_max} bytes" if size_min == size_max else f"at most {size_max} bytes"

    def to_raw(value: Any) -> bytes:
        if type(value) is not bytes or not size_min <= len(value) <= size_max:
            raise LocalError(f"{where}: wanted {wanted}, got {_describe(value)}")
        return value

    def from_raw(raw: Any) -> bytes:
        if type(raw) is not bytes or not size_min <= len(raw) <= size_max:
            raise MalformedMessage(f"{where}: wanted {wanted}, got {_describe(raw)}")
        return raw

    length = f"len(it) == {size_max}" if size_min == size_max else f"{size_min} <= len(it) <= {size_max}"
    size = size_max + _header_size(size_max, (0xFF, 0xFFFF), (2, 3, 5))
    return _Plan(to_raw, from_raw, size, f"type(it) is bytes and {length}", bytes_max=size_max)


def _compile_text(where: str, size_max: int) -> _Plan:
    def to_raw(value: Any) -> str:
        if not isinstance(value, str) or not _is_text(value, size_max):
            raise LocalError(f"{where}: wanted text of at most {size_max} bytes, got {_describe(value)}")
        return str(value)  # a StrEnum member becomes its plain value

    def from_raw(raw: Any) -> str:
        if type(raw) is not str or not _is_text(raw, size_max):
            raise MalformedMessage(f"{where}: wanted text of at most {size_max} bytes, got {_describe(raw)}")
        return raw

    header = _header_size(size_max, (31, 0xFF, 0xFFFF), (1, 2, 3, 5))
    is_plain = f"type(it) is str and it.isascii() and len(it) <= {size_max}"
    return _Plan(to_raw, from_raw, size_max + header, is_plain, text_max=size_max)


def _is_text(value: str, size_max: int) -> bool:
    if value.isascii():
        return len(value) <= size_max
    try:
        return len(value.encode()) <= size_max
    except UnicodeEncodeError:
        return False


def _describe(value: Any) -> str:
    return f"{len(value)} bytes" if type(value) is bytes else type(value).__name__


def _header_size(value: int, steps: tuple[int, ...], sizes: tuple[int, ...] = (1, 3, 5)) -> int:
    """Bytes of the shortest msgpack header for a number or length up to `value`."""
    return sizes[sum(value > step for step in steps)]
