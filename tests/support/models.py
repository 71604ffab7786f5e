"""The models that ship with rolemesh, and inputs for them."""

import math
from pathlib import Path

import numpy as np
import pytest

from protocol.tensor import ITEM_SIZES, Tensor
from roles.engine.session import load_session
from roles.engine.specs import INPUTS_BYTES_MAX

FOLDER = Path(__file__).parents[2] / "testnet" / "models"
MODELS = {path.stem: path for path in sorted(FOLDER.glob("*.onnx"))}
# To go through all operators at each of more than a hundred takes minutes.
LARGE = (pytest.mark.full, pytest.mark.timeout(1_200))
EACH_OPERATOR = [pytest.param(name, marks=LARGE) if name in ("pydoc", "volatility") else name for name in MODELS]


def draw_inputs(model: bytes, rows: int, seed: int) -> tuple[Tensor, ...]:
    """Numbers from 0 to 15 for whatever the model takes; fewer rows where so many are too large."""
    rng = np.random.default_rng(seed)
    specs = load_session(model).inputs
    row_bytes = sum(ITEM_SIZES[spec.dtype] * math.prod(size or 1 for size in spec.shape) for spec in specs)
    rows = min(rows, INPUTS_BYTES_MAX // row_bytes)
    shapes = [tuple(size or rows for size in spec.shape) for spec in specs]
    arrays = [rng.integers(0, 16, shape).astype(spec.dtype) for spec, shape in zip(specs, shapes, strict=True)]
    return tuple(Tensor(spec.dtype, array.shape, array.tobytes()) for spec, array in zip(specs, arrays, strict=True))
