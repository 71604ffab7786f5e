"""A character-level transformer in numpy: forward, and backward by hand.

Pre-norm blocks without biases: x + attention(norm(x)), x + mlp(norm(x)) with relu(·)² between the two matrices of the
mlp; the embedding is also the output matrix. Where a token stands is told by a learned number per distance, layer and
head that is added to its score, and by nothing else, so a model may read on for ever through a window of its context.
All parameters lie in one flat float32 array, so that an optimiser is a few lines and a checkpoint one file.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from testnet.models.learn.adam import Array, compute_loss, count_parameters, view_parameters

EPSILON = 1e-5


@dataclass(frozen=True)
class Shape:
    """What a transformer is made of. `context` is the number of tokens it sees at most."""

    vocabulary: int
    context: int
    layers: int
    width: int
    heads: int

    @property
    def head_width(self) -> int:
        return self.width // self.heads


def list_parameters(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the parameters, in their order in the flat array. Matrices multiply from the right."""
    width = shape.width
    sizes: dict[str, tuple[int, ...]] = {"embedding": (shape.vocabulary, width)}
    for layer in range(shape.layers):
        sizes |= {
            f"norm1.{layer}": (width,),
            f"qkv.{layer}": (width, 3 * width),
            f"distances.{layer}": (shape.heads, shape.context),
            f"joined.{layer}": (width, width),
            f"norm2.{layer}": (width,),
            f"up.{layer}": (width, 4 * width),
            f"down.{layer}": (4 * width, width),
        }
    return sizes | {"norm": (width,)}


def draw_parameters(shape: Shape, rng: np.random.Generator) -> Array:
    """Fresh parameters: norms 1, what writes into the sum over layers 0, the rest normal.

    Heads of the first two layers begin with their eyes on one of the characters just before, one each; those of later
    layers look back ever less sharply. Without this a text's first steps go into finding out what order means.
    """
    sizes = list_parameters(shape)
    flat = np.empty(count_parameters(sizes), np.float32)
    for name, view in view_parameters(flat, sizes).items():
        kind, _, layer = name.partition(".")
        if kind.startswith("norm"):
            view[...] = 1
        elif kind == "distances":
            view[...] = _draw_distances(int(layer), shape)
        else:
            deviation = {"embedding": 0.02, "joined": 0.0, "down": 0.0}.get(kind, shape.width**-0.5)
            view[...] = rng.normal(0, deviation, view.shape)
        if kind == "qkv":
            view[:, : shape.width] *= shape.head_width**-0.5
    return flat


def _draw_distances(layer: int, shape: Shape) -> Array:
    distances = np.arange(shape.context)
    heads = np.arange(shape.heads)[:, None]
    looks_at = layer * shape.heads + heads + 1
    drawn: Array = 4.0 * (distances == looks_at) if layer < 2 else -distances / 4.0 ** (heads + 1)
    return drawn


def compute_logits(flat: Array, shape: Shape, tokens: Array) -> Array:
    """(batch, length) tokens → (batch, length, vocabulary) logits. Each layer looks back over one context."""
    *_, (logits, _) = _forward(view_parameters(flat, list_parameters(shape)), shape, tokens)
    shaped: Array = logits.reshape(*tokens.shape, -1)
    return shaped


def compute_gradient(flat: Array, shape: Shape, tokens: Array, targets: Array) -> tuple[float, Array]:
    """The loss of (batch, length) tokens against the tokens that follow, and its gradient as one flat array."""
    parameters = view_parameters(flat, list_parameters(shape))
    gradient = np.zeros_like(flat)
    gradients = view_parameters(gradient, list_parameters(shape))
    *kept, (logits, final) = _forward(parameters, shape, tokens)
    loss, d_logits = compute_loss(logits, targets.reshape(-1))
    normed, state = final
    gradients["embedding"] += d_logits.T @ normed
    dx = _norm_backward(d_logits @ parameters["embedding"], parameters["norm"], state, gradients["norm"])
    for layer in reversed(range(shape.layers)):
        attention, mlp = kept[2 * layer : 2 * layer + 2]
        dx += _mlp_backward(dx, parameters, layer, mlp, gradients)
        dx += _attention_backward(dx, parameters, shape, layer, attention, gradients)
    np.add.at(gradients["embedding"], tokens.reshape(-1), dx)
    return loss, gradient


def _forward(parameters: dict[str, Array], shape: Shape, tokens: Array) -> Iterator[tuple[Any, Any]]:
    """What each half layer keeps for the way back; at last the logits, with what the final norm keeps."""
    embedding = parameters["embedding"]
    x = embedding[tokens.reshape(-1)]
    for layer in range(shape.layers):
        normed, state = _norm(x, parameters[f"norm1.{layer}"])
        qkv = (normed @ parameters[f"qkv.{layer}"]).reshape(*tokens.shape, 3, shape.heads, shape.head_width)
        weights, mixed = _attend(qkv, parameters[f"distances.{layer}"])
        x = x + mixed @ parameters[f"joined.{layer}"]
        yield (normed, state, qkv), (weights, mixed)
        normed, state = _norm(x, parameters[f"norm2.{layer}"])
        raised = np.maximum(normed @ parameters[f"up.{layer}"], 0)
        squared = raised * raised
        x = x + squared @ parameters[f"down.{layer}"]
        yield (normed, state), (raised, squared)
    normed, state = _norm(x, parameters["norm"])
    yield normed @ embedding.T, (normed, state)


def _norm(x: Array, gain: Array) -> tuple[Array, tuple[Array, Array]]:
    centred = x - x.mean(axis=1, keepdims=True)
    scale = 1 / np.sqrt((centred * centred).mean(axis=1, keepdims=True) + EPSILON)
    centred *= scale
    return centred * gain, (centred, scale)


def _norm_backward(dy: Array, gain: Array, state: tuple[Array, Array], d_gain: Array) -> Array:
    whitened, scale = state
    d_gain += (dy * whitened).sum(axis=0)
    dy = dy * gain
    mean = (dy * whitened).mean(axis=1, keepdims=True)
    dx: Array = scale * (dy - dy.mean(axis=1, keepdims=True) - whitened * mean)
    return dx


def _attend(qkv: Array, by_distance: Array) -> tuple[Array, Array]:
    """(batch, length, 3, heads, head width) → the weights (batch, heads, length, length) and their means of values.

    One row of the batch at a time, so that its weights stay in the processor's cache.
    """
    batch, length, _, heads, head_width = qkv.shape
    back = _list_distances(length)
    context = by_distance.shape[1]
    is_seen = (back >= 0) & (back < context)
    bias = np.where(is_seen, by_distance[:, back.clip(0, context - 1)], np.float32(-1e9))
    weights = np.empty((batch, heads, length, length), qkv.dtype)
    mixed = np.empty((batch, length, heads, head_width), qkv.dtype)
    for row in range(batch):
        queries, keys, values = (np.ascontiguousarray(each) for each in qkv[row].transpose(1, 2, 0, 3))
        scores = np.matmul(queries, keys.transpose(0, 2, 1), out=weights[row])
        scores += bias
        scores -= scores.max(axis=2, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(axis=2, keepdims=True)
        mixed[row] = np.matmul(scores, values).transpose(1, 0, 2)
    return weights, mixed.reshape(batch * length, -1)


def _list_distances(length: int) -> Array:
    """How far back column j lies from row i: i - j."""
    places = np.arange(length)
    return places[:, None] - places


def _attention_backward(
    dx: Array, parameters: dict[str, Array], shape: Shape, layer: int, kept: Any, gradients: dict[str, Array]
) -> Array:
    (normed, state, qkv), (weights, mixed) = kept
    batch, length = qkv.shape[:2]
    gradients[f"joined.{layer}"] += mixed.T @ dx
    d_mixed = (dx @ parameters[f"joined.{layer}"].T).reshape(batch, length, shape.heads, shape.head_width)
    d_qkv = np.empty_like(qkv)
    d_bias = np.zeros_like(weights[0])
    for row in range(batch):
        queries, keys, values = (np.ascontiguousarray(each) for each in qkv[row].transpose(1, 2, 0, 3))
        d_row = np.ascontiguousarray(d_mixed[row].transpose(1, 0, 2))
        d_scores = np.matmul(d_row, values.transpose(0, 2, 1))
        d_scores -= np.einsum("hij,hij->hi", d_scores, weights[row])[:, :, None]
        d_scores *= weights[row]
        d_bias += d_scores
        d_qkv[row, :, 0] = np.matmul(d_scores, keys).transpose(1, 0, 2)
        d_qkv[row, :, 1] = np.matmul(d_scores.transpose(0, 2, 1), queries).transpose(1, 0, 2)
        d_qkv[row, :, 2] = np.matmul(weights[row].transpose(0, 2, 1), d_row).transpose(1, 0, 2)
    back = _list_distances(length)
    is_seen = (back >= 0) & (back < shape.context)
    for head, d_distances in enumerate(gradients[f"distances.{layer}"]):
        d_distances += np.bincount(back[is_seen], d_bias[head][is_seen], shape.context)
    flat = d_qkv.reshape(batch * length, -1)
    gradients[f"qkv.{layer}"] += normed.T @ flat
    d_normed = flat @ parameters[f"qkv.{layer}"].T
    return _norm_backward(d_normed, parameters[f"norm1.{layer}"], state, gradients[f"norm1.{layer}"])


def _mlp_backward(dx: Array, parameters: dict[str, Array], layer: int, kept: Any, gradients: dict[str, Array]) -> Array:
    (normed, state), (raised, squared) = kept
    gradients[f"down.{layer}"] += squared.T @ dx
    d_raised = dx @ parameters[f"down.{layer}"].T
    d_raised *= raised
    d_raised *= 2
    gradients[f"up.{layer}"] += normed.T @ d_raised
    d_normed = d_raised @ parameters[f"up.{layer}"].T
    return _norm_backward(d_normed, parameters[f"norm2.{layer}"], state, gradients[f"norm2.{layer}"])
