"""How well a model does on its held-out rows, and which file those lie in."""

from typing import Any

import numpy as np
from onnx import ModelProto

from testnet.models.train.data import Rows
from testnet.models.train.graphs import run_reference

DIGITS = "digits-heldout.npz"
CANCER = "cancer-heldout.npz"
DIABETES = "diabetes-heldout.npz"
VOLATILITY = "volatility-heldout.npz"
FORECAST = "forecast-heldout.npz"


def score_labels(model: ModelProto, heldout: Rows, file: str) -> dict[str, Any]:
    """Share of rows whose largest output stands at the right place."""
    outputs = run_reference(model, heldout.inputs)
    score = float((outputs.argmax(axis=1) == heldout.targets).mean())
    return {"file": file, "rows": len(heldout.inputs), "metric": "accuracy", "score": round(score, 4)}


def score_values(model: ModelProto, heldout: Rows, file: str) -> dict[str, Any]:
    """R²: the share of the variance among the held-out rows that the model explains."""
    outputs = run_reference(model, heldout.inputs)[:, 0]
    error = np.square(outputs - heldout.targets).sum() / np.square(heldout.targets - heldout.targets.mean()).sum()
    return {"file": file, "rows": len(heldout.inputs), "metric": "r2", "score": round(1 - float(error), 4)}
