"""Values for any dataclass the codec can write, derived from the bounds in its annotations.

`values_of(cls)` is a Hypothesis strategy, `make_sample(cls, …)` one fixed value whose fields all differ, for golden
bytes, and `to_json` writes a value so that people and other languages can read it.
"""

import dataclasses
import hashlib
import pkgutil
import typing
from importlib import import_module
from typing import Annotated, Any

from hypothesis import strategies as st

import protocol
from protocol.codec import get_field_types
from protocol.spec import find_types
from protocol.types import AtMost, Exactly, UpTo

BYTES_DRAWN_MAX = 300  # longer ones only slow the search down
ITEMS_DRAWN_MAX = 3
# On both sides of every length a msgpack number can have.
EDGES = (0, 1, 127, 128, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, 2**63 - 1)
BELOW = (-1, -32, -33, -128, -129, -32_768, -32_769, -(2**31), -(2**31) - 1)


def values_of(annotation: Any) -> st.SearchStrategy[Any]:
    """Every value within an annotation's bounds, long ones cut short."""
    kind, bound = _split(annotation)
    if dataclasses.is_dataclass(kind):
        fields = {name: values_of(inner) for name, inner in get_field_types(typing.cast(type, kind)).items()}
        return st.builds(typing.cast(type, kind), **fields)
    if kind is int:
        known = (*EDGES, bound.value, *BELOW, bound.least)
        edges = [edge for edge in known if bound.least <= edge <= bound.value]
        return st.sampled_from(edges) | st.integers(bound.least, bound.value)
    if kind is bytes and isinstance(bound, Exactly):
        return st.binary(min_size=bound.size, max_size=bound.size)
    if kind is bytes:
        return st.binary(max_size=min(bound.size, BYTES_DRAWN_MAX))
    if kind is str:
        text = st.text(st.characters(codec="utf-8"), max_size=min(bound.size, BYTES_DRAWN_MAX))
        return text.filter(lambda drawn: len(drawn.encode()) <= bound.size)
    item = values_of(typing.get_args(kind)[0])
    return st.lists(item, max_size=min(bound.size, ITEMS_DRAWN_MAX)).map(tuple)


def make_sample(annotation: Any, is_full: bool, path: str = "") -> Any:
    """A value that depends on nothing but the type: empty and zero, or full, with other content in every field."""
    kind, bound = _split(annotation)
    draw = hashlib.sha256(path.encode()).digest()
    if dataclasses.is_dataclass(kind):
        cls = typing.cast(type, kind)
        fields = {name: make_sample(inner, is_full, f"{path}.{name}") for name, inner in get_field_types(cls).items()}
        return cls(**fields)
    if kind is int:
        return min(EDGES[1 + draw[0] % (len(EDGES) - 1)], bound.value) if is_full else 0
    if kind is bytes and isinstance(bound, Exactly):
        return (draw * (bound.size // len(draw) + 1))[: bound.size] if is_full else bytes(bound.size)
    if kind is bytes:
        return draw[: min(bound.size, 1 + draw[1] % 32)] if is_full else b""
    if kind is str:
        return f"né-{draw.hex()[:6]}" if is_full else ""
    count = min(bound.size, 2 if path.count("[") < 2 else 1) if is_full else 0
    return tuple(make_sample(typing.get_args(kind)[0], is_full, f"{path}[{index}]") for index in range(count))


def to_json(value: Any) -> Any:
    """A value as numbers, text, lists and, for bytes, `hex:…`."""
    if isinstance(value, bytes):
        return "hex:" + value.hex()
    if isinstance(value, tuple | list):
        return [to_json(item) for item in value]
    if dataclasses.is_dataclass(value):
        return [to_json(getattr(value, field.name)) for field in dataclasses.fields(value)]
    return value


def find_all_types() -> tuple[type, ...]:
    """Every class of `protocol` that can be encoded."""
    names = [module.name for module in pkgutil.walk_packages(protocol.__path__, "protocol.")]
    return find_types(map(import_module, names))


def spell(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _split(annotation: Any) -> tuple[Any, Any]:
    if typing.get_origin(annotation) is Annotated:
        kind, bound = typing.get_args(annotation)
        assert isinstance(bound, AtMost | Exactly | UpTo)
        return kind, bound
    return annotation, None
