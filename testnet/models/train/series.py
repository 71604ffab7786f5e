"""Two models over the last nine closes of a series, in whole numbers: how much it will move, and where it goes next.

Trained on five shares' weekly closes of 2018 and 2019, scored on a sixth that they never saw. Both take closes in any
unit, as a feed's candles have them, and compute with returns in millionths, so every machine gets the same bits.

The variance of the next four weeks is a constant and a weight for each of the last eight squared returns, none below
nought (ARCH(8)). Its likelihood is made greatest by multiplying, which keeps every weight where it may be. The root is
taken by Newton's way, unrolled.
"""

import csv
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper

from testnet.feed_server import read_stocks
from testnet.models.learn.adam import Array
from testnet.models.train.data import Rows
from testnet.models.train.graphs import Port, Trained, build_model, run_reference
from testnet.models.train.scores import FORECAST, VOLATILITY, score_values

HELD_OUT = "GOOG"
CLOSES = 9
AHEAD = 4  # weeks whose volatility is foretold
MILLION = 1_000_000
CLOSE_MAX = 4 * 10**12  # times two million fits 64 bits
RETURN_MAX = MILLION  # the value may double within one step, and is taken to have doubled if it did more
BITS = 16  # of a weight behind the point
STEPS = 400  # of the multiplicative updates
ROOT_BEGIN = 1 << 21  # above the root of any variance
ROOT_STEPS = 28
PENALTY = 0.0001  # of the ridge regression, on returns as shares


def train_volatility() -> Trained:
    training, heldout = split_series(AHEAD)
    model, baseline = build_volatility(training)
    return Trained(
        name="volatility",
        kind="regress",
        model=model,
        source="stocks",
        heldout=score_volatility(model, heldout, baseline),
        training={"rows": len(training.inputs), "steps": STEPS},
        exact=True,
    )


def train_forecast() -> Trained:
    training, heldout = split_series(1)
    model = build_forecast(training)
    return Trained(
        name="forecast",
        kind="regress",
        model=model,
        source="stocks",
        heldout=score_values(model, heldout, FORECAST),
        training={"rows": len(training.inputs), "penalty": PENALTY},
        exact=True,
    )


def split_series(ahead: int) -> tuple[Rows, Rows]:
    """Windows of closes, (rows, 9) int64 in millionths of the first close, of five shares, and of the one held out.

    The targets are the next close for one week ahead, and for more the root of the mean squared return, in millionths.
    """
    table = list(csv.DictReader(io.StringIO(read_stocks().decode("utf-8"))))
    names = [name for name in table[0] if name != "date"]
    series = {name: np.array([round(float(row[name]) * MILLION) for row in table], np.int64) for name in names}
    windows = {name: _cut(closes, ahead) for name, closes in series.items()}
    rest = [windows[name] for name in names if name != HELD_OUT]
    training = Rows(np.concatenate([rows.inputs for rows in rest]), np.concatenate([rows.targets for rows in rest]))
    return training, windows[HELD_OUT]


def compute_returns(closes: Array) -> Array:
    """Of each close to the one before, in millionths, as the graphs compute them."""
    ratios = closes[:, 1:] * MILLION // closes[:, :-1]
    return np.asarray(np.clip(ratios, 0, MILLION + RETURN_MAX) - MILLION)


def build_volatility(rows: Rows) -> tuple[ModelProto, int]:
    """int64 (batch, 9) closes → int64 (batch, 1) volatility, in millionths a step; and the best single number."""
    squares = np.square(compute_returns(rows.inputs) / MILLION)
    target = np.square(rows.targets / MILLION)
    columns = np.concatenate([np.full((len(squares), 1), target.mean()), squares], axis=1)
    weights = np.full(columns.shape[1], 1 / columns.shape[1])
    for _ in range(STEPS):
        fitted = columns @ weights
        weights *= (columns.T @ (target / fitted**2)) / (columns.T @ (1 / fitted))
    constant = round(weights[0] * target.mean() * MILLION**2 * 2**BITS)
    nodes, constants = _take_returns()
    constants |= {
        "weights": np.rint(weights[1:] * 2**BITS).astype(np.int64)[None, :],
        "constant": np.array([constant + 2**BITS], np.int64),  # never nought, whatever the returns
        "begin": np.array([ROOT_BEGIN], np.int64),
        "two": np.array([2], np.int64),
        "least_root": np.array([1], np.int64),
    }
    nodes += [
        helper.make_node("Mul", ["returns", "returns"], ["squares"]),
        helper.make_node("Mul", ["squares", "weights"], ["weighted"]),
        helper.make_node("ReduceSum", ["weighted", "axes"], ["sums"], keepdims=1),
        helper.make_node("Add", ["sums", "constant"], ["scaled_variance"]),
        helper.make_node("Div", ["scaled_variance", "one"], ["variance"]),
        *_take_root("variance", "volatility"),
    ]
    model = build_model("volatility", nodes, constants, [_closes()], [Port("volatility", TensorProto.INT64, (1,))])
    return model, round(float(np.sqrt(target.mean())) * MILLION)


def build_forecast(rows: Rows) -> ModelProto:
    """int64 (batch, 9) closes → int64 (batch, 1): the next close, in the same unit."""
    returns = compute_returns(rows.inputs) / MILLION
    following = rows.targets / rows.inputs[:, -1] - 1
    columns = np.concatenate([np.ones((len(returns), 1)), returns], axis=1)
    penalty = PENALTY * len(rows.inputs) * np.diag([0.0] + [1.0] * returns.shape[1])
    weights = np.linalg.solve(columns.T @ columns + penalty, columns.T @ following)
    nodes, constants = _take_returns()
    constants |= {
        "weights": np.rint(weights[1:] * 2**BITS).astype(np.int64)[None, :],
        "constant": np.array([round((1 + weights[0]) * MILLION * 2**BITS)], np.int64),
        "end": np.array([CLOSES - 1], np.int64),
        "after_end": np.array([CLOSES], np.int64),
    }
    nodes += [
        helper.make_node("Mul", ["returns", "weights"], ["weighted"]),
        helper.make_node("ReduceSum", ["weighted", "axes"], ["sums"], keepdims=1),
        helper.make_node("Add", ["sums", "constant"], ["scaled_factor"]),
        helper.make_node("Clip", ["scaled_factor", "nought", "factor_most"], ["sound_factor"]),
        helper.make_node("Div", ["sound_factor", "one"], ["factor"]),
        helper.make_node("Slice", ["sound", "end", "after_end", "axes"], ["last"]),
        helper.make_node("Mul", ["last", "factor"], ["scaled_forecast"]),
        helper.make_node("Div", ["scaled_forecast", "million"], ["forecast"]),
    ]
    constants["factor_most"] = np.array((MILLION + RETURN_MAX) * 2**BITS, np.int64)
    return build_model("forecast", nodes, constants, [_closes()], [Port("forecast", TensorProto.INT64, (1,))])


def score_volatility(model: ModelProto, heldout: Rows, baseline: int) -> dict[str, Any]:
    """How much of the QLIKE loss of one number for all rows, the training rows' best, the model does away with."""
    outputs = run_reference(model, heldout.inputs)[:, 0]
    loss, most = (compute_qlike(said, heldout.targets) for said in (outputs, np.full(len(outputs), baseline)))
    score = {"metric": "qlike_skill", "score": round(1 - loss / most, 4), "baseline": baseline}
    return {"file": VOLATILITY, "rows": len(heldout.inputs), **score}


def compute_qlike(said: Array, targets: Array) -> float:
    """The loss of volatilities that were foretold: y/h − ln(y/h) − 1 of the variances, on average."""
    ratio = np.square(targets.astype(np.float64)) / np.square(said.astype(np.float64))
    return float((ratio - np.log(ratio) - 1).mean())


def _cut(closes: Array, ahead: int) -> Rows:
    returns = compute_returns(closes[None, :])[0]
    starts = range(len(closes) - CLOSES - ahead + 1)
    inputs = np.stack([closes[at : at + CLOSES] for at in starts])
    if ahead == 1:
        return Rows(inputs, np.array([closes[at + CLOSES] for at in starts], np.int64))
    spans = [returns[at + CLOSES - 1 : at + CLOSES - 1 + ahead] for at in starts]
    return Rows(inputs, np.array([np.sqrt(np.square(span.astype(np.float64)).mean()) for span in spans]))


def _closes() -> Port:
    return Port("closes", TensorProto.INT64, (CLOSES,))


def _take_returns() -> tuple[list[NodeProto], dict[str, Array]]:
    """Nodes from `closes` to `returns` in millionths, and what they need; `sound` are closes that nothing overflows."""
    constants = {
        "least": np.array(1, np.int64),
        "most": np.array(CLOSE_MAX, np.int64),
        "nought": np.array(0, np.int64),
        "ratio_most": np.array(MILLION + RETURN_MAX, np.int64),
        "million": np.array([MILLION], np.int64),
        "one": np.array([2**BITS], np.int64),
        "axes": np.array([1], np.int64),
        "first": np.array([0], np.int64),
        "second": np.array([1], np.int64),
        "before_end": np.array([CLOSES - 1], np.int64),
        "all": np.array([CLOSES], np.int64),
    }
    nodes = [
        helper.make_node("Clip", ["closes", "least", "most"], ["sound"]),
        helper.make_node("Slice", ["sound", "first", "before_end", "axes"], ["earlier"]),
        helper.make_node("Slice", ["sound", "second", "all", "axes"], ["later"]),
        helper.make_node("Mul", ["later", "million"], ["scaled"]),
        helper.make_node("Div", ["scaled", "earlier"], ["ratios"]),
        helper.make_node("Clip", ["ratios", "nought", "ratio_most"], ["sound_ratios"]),
        helper.make_node("Sub", ["sound_ratios", "million"], ["returns"]),
    ]
    return nodes, constants


def _take_root(value: str, root: str) -> list[NodeProto]:
    """Nodes that take the root of a whole number of at least 1: from above, half the sum of guess and quotient."""
    nodes: list[NodeProto] = []
    guess = "begin"
    for step in range(ROOT_STEPS):
        result = root if step == ROOT_STEPS - 1 else f"guess_{step}"
        nodes += [
            helper.make_node("Div", [value, guess], [f"quotient_{step}"]),
            helper.make_node("Add", [guess, f"quotient_{step}"], [f"sum_{step}"]),
            helper.make_node("Div", [f"sum_{step}", "two"], [f"half_{step}"]),
            helper.make_node("Max", [f"half_{step}", "least_root"], [result]),  # what divides is 1 at least
        ]
        guess = result
    return nodes


def list_arrays() -> Mapping[str, dict[str, Array]]:
    """The held-out rows by file."""
    volatility, forecast = split_series(AHEAD)[1], split_series(1)[1]
    return {
        VOLATILITY: {"inputs": volatility.inputs, "values": volatility.targets},
        FORECAST: {"inputs": forecast.inputs, "values": forecast.targets},
    }
