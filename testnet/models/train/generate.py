"""The generative model: a character-level transformer over Python's documentation, as a graph of one step.

A step takes a token, its place in the text and the keys and values of the tokens before it, and gives the logits of the
next token with the keys and values of this one. Whoever runs it keeps them: those of the token at place p go into row
p mod CACHE_ROWS, over the oldest, so the text may go on for ever and the model sees the last CONTEXT characters of it.
Rows not yet written are never looked at. All shapes are fixed but the batch.
"""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper

from testnet.models.learn.adam import Array, Plan, Progress, view_parameters
from testnet.models.learn.fit import compute_bits, fit, write_greedily
from testnet.models.learn.text import FILE, VOCABULARY, decode_tokens, encode_text, read_text, split_text
from testnet.models.learn.transformer import EPSILON, Shape, list_parameters
from testnet.models.train.graphs import Port, Trained, build_model

NAME = "pydoc"
SHAPE = Shape(vocabulary=len(VOCABULARY), context=128, layers=4, width=96, heads=3)
PLAN = Plan(steps=2_000, batch=16, rate_max=3e-3, seed=1)
CACHE_ROWS = SHAPE.context - 1  # the step's own key and value make up the context
FOLDER = Path(__file__).parents[1]
PROMPT = "The "
SAMPLE_CHARACTERS = 200
CHECKPOINT = FOLDER / "pydoc-checkpoint.npz"


def train_generator() -> Trained:
    """Train from the checkpoint, where a run that was stopped left one; it is removed at the end."""
    text = read_text(FOLDER)
    training, heldout = (np.array(encode_text(part)) for part in split_text(text))
    flat = fit(training, SHAPE, PLAN, CHECKPOINT, _report)
    CHECKPOINT.unlink()
    sample = write_greedily(flat, SHAPE, encode_text(PROMPT), SAMPLE_CHARACTERS)
    score = compute_bits(flat, SHAPE, heldout)
    return Trained(
        name=NAME,
        kind="generate",
        model=build_step(flat, SHAPE),
        source=NAME,
        heldout={
            "file": FILE,
            "sha256": hashlib.sha256((FOLDER / FILE).read_bytes()).hexdigest(),
            "text_sha256": hashlib.sha256(text.encode("ascii")).hexdigest(),
            "characters": len(heldout),
            "metric": "bits_per_character",
            "score": round(score, 4),
        },
        training={"seed": PLAN.seed, "characters": len(training), "steps": PLAN.steps, "batch": PLAN.batch},
        extra={
            "vocabulary": VOCABULARY,
            "context": SHAPE.context,
            "sample": {"prompt": PROMPT, "text": decode_tokens(sample)},
            "cache": {"rows": CACHE_ROWS, "axis": 3, "from_to": {"new_keys": "keys", "new_values": "values"}},
        },
    )


def _report(progress: Progress, loss: float) -> None:
    print(f"{NAME}: {progress.done} of {PLAN.steps} steps, {loss / np.log(2):.2f} bits per character", flush=True)


def build_step(flat: Array, shape: Shape) -> ModelProto:
    """The graph of one step for parameters of that shape."""
    weights = view_parameters(flat, list_parameters(shape))
    layers, heads, head_width, rows = shape.layers, shape.heads, shape.head_width, shape.context - 1
    cache = (layers, heads, rows, head_width)
    inputs = [
        Port("token", TensorProto.INT64, ()),
        Port("position", TensorProto.INT64, ()),
        Port("keys", TensorProto.FLOAT, cache),
        Port("values", TensorProto.FLOAT, cache),
    ]
    outputs = [
        Port("logits", TensorProto.FLOAT, (shape.vocabulary,)),
        Port("new_keys", TensorProto.FLOAT, (layers, heads, head_width)),
        Port("new_values", TensorProto.FLOAT, (layers, heads, head_width)),
    ]
    # Multiplied by 0 for the step's own row, which is the last: its distance is 0.
    constants: dict[str, Any] = {name: value for name, value in weights.items() if not name.startswith("distances")}
    constants |= {
        "distances": np.concatenate([weights[f"distances.{layer}"] for layer in range(layers)]).T.copy(),
        "row_ends": np.array([*range(1, rows + 1), 0], np.int64),
        "is_past": np.array([1] * rows + [0], np.int64),
        "rows": np.array(rows, np.int64),
        "one": np.array([1], np.int64),
        "two": np.array([2], np.int64),
        "unseen": np.array(-1e9, np.float32),
        "as_column": np.array([0, heads, head_width, 1], np.int64),
        "as_row": np.array([0, heads, 1, head_width], np.int64),
        "as_weights": np.array([0, heads, 1, shape.context], np.int64),
        "as_vector": np.array([0, shape.width], np.int64),
        "as_cache": np.array([0, layers, heads, head_width], np.int64),
        **{f"layer.{layer}": np.array(layer, np.int64) for layer in range(layers)},
    }
    nodes = [*_look_back(shape), helper.make_node("Gather", ["embedding", "token"], ["x.0"])]
    for layer in range(layers):
        nodes += _attend(layer)
        nodes += _think(layer)
    for name in ("key", "value"):
        parts = [f"{name}.{layer}" for layer in range(layers)]
        nodes.append(helper.make_node("Concat", parts, [f"{name}s_flat"], axis=1))
        nodes.append(helper.make_node("Reshape", [f"{name}s_flat", "as_cache"], [f"new_{name}s"]))
    nodes += [
        _norm(f"x.{layers}", "norm", "normed"),
        helper.make_node("Gemm", ["normed", "embedding"], ["logits"], transB=1),
    ]
    return build_model(NAME, nodes, constants, inputs, outputs)


def _look_back(shape: Shape) -> Iterator[NodeProto]:
    """What each layer adds to the scores of a row for its distance; rows that hold nothing yet are out of sight.

    Row j holds place p − d with 1 ≤ d ≤ rows and d ≡ p − j; it was written only if d ≤ p.
    """
    biases = [f"bias.{layer}" for layer in range(shape.layers)]
    yield helper.make_node("Unsqueeze", ["position", "one"], ["place"])
    yield helper.make_node("Sub", ["place", "row_ends"], ["since"])
    yield helper.make_node("Mod", ["since", "rows"], ["turns"])
    yield helper.make_node("Add", ["turns", "one"], ["back"])
    yield helper.make_node("Mul", ["back", "is_past"], ["distance"])
    yield helper.make_node("Less", ["place", "distance"], ["empty_rows"])
    yield helper.make_node("Unsqueeze", ["empty_rows", "one"], ["empty"])
    yield helper.make_node("Gather", ["distances", "distance"], ["bias_columns"])
    yield helper.make_node("Transpose", ["bias_columns"], ["bias_rows"], perm=[0, 2, 1])
    yield helper.make_node("Where", ["empty", "unseen", "bias_rows"], ["bias_seen"])
    yield helper.make_node("Unsqueeze", ["bias_seen", "two"], ["bias"])
    yield helper.make_node("Split", ["bias"], biases, axis=1)


def _attend(layer: int) -> Iterator[NodeProto]:
    """x.LAYER → y.LAYER, and the step's key and value."""

    def node(operator: str, inputs: list[str], *outputs: str, **attributes: Any) -> NodeProto:
        return _node(layer, operator, inputs, *outputs, **attributes)

    yield _norm(f"x.{layer}", f"norm1.{layer}", f"normed1.{layer}")
    yield node("MatMul", ["normed1.", "qkv."], "asked.")
    yield node("Split", ["asked."], "query.", "key.", "value.", axis=1)
    yield node("Reshape", ["query.", "as_column"], "query_column.")
    for name in ("key", "value"):
        yield node("Reshape", [f"{name}.", "as_row"], f"{name}_row.")
        yield node("Gather", [f"{name}s", "layer."], f"past_{name}s.", axis=1)
        yield node("Concat", [f"past_{name}s.", f"{name}_row."], f"all_{name}s.", axis=2)
    yield node("MatMul", ["all_keys.", "query_column."], "products.")
    yield node("Reshape", ["products.", "as_weights"], "products_row.")
    yield node("Add", ["products_row.", "bias."], "scores.")
    yield node("Softmax", ["scores."], "weights.", axis=3)
    yield node("MatMul", ["weights.", "all_values."], "mixed_heads.")
    yield node("Reshape", ["mixed_heads.", "as_vector"], "mixed.")
    yield node("MatMul", ["mixed.", "joined."], "attended.")
    yield node("Add", ["x.", "attended."], "y.")


def _think(layer: int) -> Iterator[NodeProto]:
    """y.LAYER → x.(LAYER + 1)."""
    yield _norm(f"y.{layer}", f"norm2.{layer}", f"normed2.{layer}")
    yield _node(layer, "MatMul", ["normed2.", "up."], "lifted.")
    yield _node(layer, "Relu", ["lifted."], "raised.")
    yield _node(layer, "Mul", ["raised.", "raised."], "squared.")
    yield _node(layer, "MatMul", ["squared.", "down."], "thought.")
    yield helper.make_node("Add", [f"y.{layer}", f"thought.{layer}"], [f"x.{layer + 1}"])


def _node(layer: int, operator: str, inputs: list[str], *outputs: str, **attributes: Any) -> NodeProto:
    """A node of a layer: names that end in a dot are the layer's own."""

    def name_all(names: Sequence[str]) -> list[str]:
        return [f"{name}{layer}" if name.endswith(".") else name for name in names]

    return helper.make_node(operator, name_all(inputs), name_all(outputs), **attributes)


def _norm(x: str, gain: str, y: str) -> NodeProto:
    return helper.make_node("LayerNormalization", [x, gain], [y], axis=-1, epsilon=EPSILON)
