"""Take a field of somebody's JSON only if it is of the type it should be, and no larger than it may be."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILE_BYTES_MAX = 16 * 1024 * 1024
INT_MAX = 2**63
TEXT_MAX = 128  # of an id or name that is kept
LIST_MAX = 512


def read_object(path: Path) -> Mapping[str, Any]:
    """An object in a file; empty when there is no file, or something else in it."""
    try:
        with path.open("rb") as file:
            fields = json.loads(file.read(FILE_BYTES_MAX))
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


def get_int(fields: Mapping[str, Any], key: str) -> int | None:
    """A whole number of a ledger's size; None for anything else.

    >>> get_int({"a": 7, "b": "7", "c": True, "d": -1}, "a"), get_int({"c": True}, "c"), get_int({"d": -1}, "d")
    (7, None, None)
    """
    value = fields.get(key)
    return value if type(value) is int and 0 <= value < INT_MAX else None


def get_text(fields: Mapping[str, Any], key: str, length_max: int = TEXT_MAX) -> str:
    """A text, cut to `length_max`; empty for anything else."""
    value = fields.get(key)
    return value[:length_max] if isinstance(value, str) else ""


def get_texts(fields: Mapping[str, Any], key: str, length_max: int = TEXT_MAX) -> tuple[str, ...]:
    """The texts of a list, or of the lists in it; the first LIST_MAX.

    >>> get_texts({"groups": [["a", "b"], "c", 7, {}]}, "groups")
    ('a', 'b', 'c')
    """
    outer = fields.get(key)
    if not isinstance(outer, list):
        return ()
    inner = [text for each in outer[:LIST_MAX] for text in (each[:LIST_MAX] if isinstance(each, list) else [each])]
    return tuple(text[:length_max] for text in inner[:LIST_MAX] if isinstance(text, str))
