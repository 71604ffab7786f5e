"""The models that ship with rolemesh, and inputs for them."""

from pathlib import Path

import numpy as np

from protocol.tensor import Tensor
from roles.engine.session import load_session

FOLDER = Path(__file__).parents[2] / "testnet" / "models"
MODELS = {path.stem: path for path in sorted(FOLDER.glob("*.onnx"))}


def draw_inputs(model: bytes, rows: int, seed: int) -> tuple[Tensor, ...]:
    """Numbers from 0 to 15 for whatever the model takes."""
    rng = np.random.default_rng(seed)
    specs = load_session(model).inputs
    shapes = [tuple(size or rows for size in spec.shape) for spec in specs]
    arrays = [rng.integers(0, 16, shape).astype(spec.dtype) for spec, shape in zip(specs, shapes, strict=True)]
    return tuple(Tensor(spec.dtype, array.shape, array.tobytes()) for spec, array in zip(specs, arrays, strict=True))
