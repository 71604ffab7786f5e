"""Rows to run a model over: read from an .npz file, or drawn from a range with a seed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Described = Sequence[Any]  # name, onnxruntime's type, shape
ROWS_MAX = 1_000_000
_DTYPES = {"float": "float32", "double": "float64"}


class BadRows(Exception):
    """These rows do not fit the model. The text says what was expected and what was found."""


def read_rows(path: Path, inputs: Sequence[Described]) -> list[Array]:
    """One array per input of the model, from arrays called like the inputs; a single one may be called `inputs`.

    Raises BadRows.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            found = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError) as error:
        raise BadRows(f"{path} is no .npz file: {error}") from error
    if len(inputs) == 1 and "inputs" in found:
        found.setdefault(inputs[0][0], found["inputs"])
    missing = [name for name, _, _ in inputs if name not in found]
    if missing:
        raise BadRows(f"{path} has no array {missing[0]!r}; it has {', '.join(found) or 'none'}")
    rows = [_fit(found[name], kind, shape, f"{path}: {name}") for name, kind, shape in inputs]
    if len({len(array) for array in rows}) != 1 or not len(rows[0]):
        raise BadRows(f"{path} has {', '.join(str(len(array)) for array in rows)} rows in its arrays")
    return rows


def draw_rows(inputs: Sequence[Described], count: int, seed: int, low: float, high: float) -> list[Array]:
    """`count` rows with numbers from `low` to `high`, whole ones where the input is; the same seed gives the same rows.

    Raises BadRows for a shape that is not known, or whole numbers beyond the input's type.
    """
    rng = np.random.default_rng(seed)
    return [_draw(rng, name, kind, shape, count, low, high) for name, kind, shape in inputs]


def split_rows(rows: Sequence[Array], share: float) -> tuple[list[Array], list[Array]]:
    """The rows before the last `share` of them, and those; at least one on either side. Raises BadRows."""
    count = len(rows[0])
    held = max(1, round(count * share))
    if held >= count:
        raise BadRows(f"{count} rows are too few to hold some out")
    return [array[:-held] for array in rows], [array[-held:] for array in rows]


def _draw(
    rng: np.random.Generator, name: str, kind: str, shape: Sequence[Any], count: int, low: float, high: float
) -> Array:
    dtype, sizes = _read_type(kind), _read_sizes(name, shape)
    if dtype.kind == "f":
        floats: Array = rng.uniform(low, high, (count, *sizes)).astype(dtype)
        return floats
    least, most = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    if not least <= low <= high <= most:
        raise BadRows(f"input {name!r} is {dtype.name}: give a range within {least} and {most}")
    whole: Array = rng.integers(int(low), int(high), (count, *sizes), endpoint=True).astype(dtype)
    return whole


def _fit(array: Array, kind: str, shape: Sequence[Any], where: str) -> Array:
    dtype, sizes = _read_type(kind), _read_sizes(where, shape)
    if array.shape[1:] != sizes:
        raise BadRows(f"{where} is {array.shape}, expected (rows, {', '.join(map(str, sizes))})")
    fitted = array.astype(dtype)
    if dtype != array.dtype and not (fitted == array).all():
        raise BadRows(f"{where} is {array.dtype.name}, the model takes {dtype.name}, and numbers would change")
    return fitted


def _read_type(kind: str) -> "np.dtype[Any]":
    name = kind.removeprefix("tensor(").removesuffix(")")
    try:
        return np.dtype(_DTYPES.get(name, name))
    except TypeError as error:
        raise BadRows(f"a {kind} cannot be filled with numbers") from error


def _read_sizes(name: str, shape: Sequence[Any]) -> tuple[int, ...]:
    """All dimensions but the rows."""
    if not shape or (isinstance(shape[0], int) and shape[0] != 1):
        raise BadRows(f"{name} is {list(shape)}: the first dimension must be free, or 1")
    if not all(isinstance(size, int) and size > 0 for size in shape[1:]):
        raise BadRows(f"{name} is {list(shape)}: only the first dimension may be free")
    return tuple(shape[1:])
