"""A small convolutional network over 8×8 images: its loss, and the gradient by hand.

Two convolutions of 3×3, the largest number of each 2×2 square, two dense layers. Images are (batch, 8, 8, channels).
"""

import numpy as np

from testnet.models.learn.adam import Array, compute_loss, count_parameters, view_parameters

SIZES = {
    "conv1": (1 * 9, 16),
    "conv1_bias": (16,),
    "conv2": (16 * 9, 32),
    "conv2_bias": (32,),
    "dense1": (4 * 4 * 32, 64),
    "dense1_bias": (64,),
    "dense2": (64, 10),
    "dense2_bias": (10,),
}


def draw_parameters(rng: np.random.Generator) -> Array:
    """Biases 0, weights normal with the variance that keeps that of what a Relu lets through."""
    flat = np.zeros(count_parameters(SIZES), np.float32)
    for view in view_parameters(flat, SIZES).values():
        if view.ndim == 2:
            view[...] = rng.normal(0, (2 / len(view)) ** 0.5, view.shape)
    return flat


def compute_gradient(flat: Array, images: Array, targets: Array) -> tuple[float, Array]:
    """The loss of (batch, 8, 8, 1) images against their digits, and its gradient."""
    weights = view_parameters(flat, SIZES)
    gradient = np.zeros_like(flat)
    gradients = view_parameters(gradient, SIZES)
    patches1 = cut_patches(images)
    raised1 = np.maximum(patches1 @ weights["conv1"] + weights["conv1_bias"], 0)
    patches2 = cut_patches(raised1)
    raised2 = np.maximum(patches2 @ weights["conv2"] + weights["conv2_bias"], 0)
    squares = _cut_squares(raised2)
    largest = squares.argmax(axis=-1)[..., None]
    pooled = np.take_along_axis(squares, largest, axis=-1).reshape(len(images), -1)
    hidden = np.maximum(pooled @ weights["dense1"] + weights["dense1_bias"], 0)
    loss, d_logits = compute_loss(hidden @ weights["dense2"] + weights["dense2_bias"], targets)

    d_hidden = _dense_backward("dense2", hidden, d_logits, weights, gradients) * (hidden > 0)
    d_pooled = _dense_backward("dense1", pooled, d_hidden, weights, gradients)
    d_squares = np.zeros_like(squares)
    np.put_along_axis(d_squares, largest, d_pooled.reshape(largest.shape), axis=-1)
    d_raised2 = _join_squares(d_squares) * (raised2 > 0)
    d_raised1 = join_patches(_dense_backward("conv2", patches2, d_raised2, weights, gradients)) * (raised1 > 0)
    _dense_backward("conv1", patches1, d_raised1, weights, gradients)
    return loss, gradient


def cut_patches(images: Array) -> Array:
    """(batch, 8, 8, channels) → (batch, 8, 8, channels · 9): what a 3×3 window around each pixel sees."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    return windows.reshape(*images.shape[:3], -1)


def join_patches(patches: Array) -> Array:
    """The way back of `cut_patches`: each pixel gets the sum of what stands at it in all windows."""
    batch, height, width, size = patches.shape
    windows = patches.reshape(batch, height, width, size // 9, 3, 3)
    padded = np.zeros((batch, height + 2, width + 2, size // 9), patches.dtype)
    for down in range(3):
        for right in range(3):
            padded[:, down : down + height, right : right + width] += windows[..., down, right]
    return padded[:, 1:-1, 1:-1]


def _cut_squares(images: Array) -> Array:
    """(batch, 8, 8, channels) → (batch, 4, 4, channels, 4)."""
    batch, _, _, channels = images.shape
    return images.reshape(batch, 4, 2, 4, 2, channels).transpose(0, 1, 3, 5, 2, 4).reshape(batch, 4, 4, channels, 4)


def _join_squares(squares: Array) -> Array:
    batch, _, _, channels, _ = squares.shape
    return squares.reshape(batch, 4, 4, channels, 2, 2).transpose(0, 1, 4, 2, 5, 3).reshape(batch, 8, 8, channels)


def _dense_backward(
    name: str, inputs: Array, d_outputs: Array, weights: dict[str, Array], gradients: dict[str, Array]
) -> Array:
    flat_inputs = inputs.reshape(-1, inputs.shape[-1])
    flat_outputs = d_outputs.reshape(-1, d_outputs.shape[-1])
    gradients[name] += flat_inputs.T @ flat_outputs
    gradients[f"{name}_bias"] += flat_outputs.sum(axis=0)
    return d_outputs @ weights[name].T
