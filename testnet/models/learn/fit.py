"""Fit a transformer to a text, and tell how well it foretells another.

Each step draws its own windows from the seed and its number, so a run that was stopped goes on from its last checkpoint
to the same end.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from testnet.models.learn.adam import Array, Plan, Progress, compute_loss, take_step
from testnet.models.learn.transformer import Shape, compute_gradient, compute_logits, draw_parameters

WINDOWS_AT_A_TIME = 16


def draw_windows(tokens: Array, shape: Shape, plan: Plan, step: int) -> tuple[Array, Array]:
    """The (batch, context) windows of a step, and the tokens that follow each of theirs."""
    rng = np.random.default_rng((plan.seed, step))
    starts = rng.integers(0, len(tokens) - shape.context, plan.batch)
    places = starts[:, None] + np.arange(shape.context)
    return tokens[places], tokens[places + 1]


def fit(tokens: Array, shape: Shape, plan: Plan, checkpoint: Path, report: Callable[[Progress, float], None]) -> Array:
    """Train from the checkpoint, where there is one, to the plan's end, and return the parameters."""
    progress = load_progress(checkpoint, shape, plan)
    while progress.done < plan.steps:
        windows, following = draw_windows(tokens, shape, plan, progress.done)
        loss, gradient = compute_gradient(progress.flat, shape, windows, following)
        take_step(progress, gradient, plan)
        if progress.done % 100 == 0 or progress.done == plan.steps:
            save_progress(checkpoint, progress, plan)
            report(progress, loss)
    return progress.flat


def save_progress(checkpoint: Path, progress: Progress, plan: Plan) -> None:
    """Write the checkpoint so that a stop at any moment leaves the old one or the new one."""
    fresh = checkpoint.with_suffix(".new.npz")
    arrays: dict[str, Any] = {**vars(progress), "plan": repr(plan)}
    np.savez(fresh, **arrays)
    fresh.replace(checkpoint)


def load_progress(checkpoint: Path, shape: Shape, plan: Plan) -> Progress:
    """What the checkpoint holds, or a beginning. ValueError when it was made under another plan."""
    if checkpoint.exists():
        with np.load(checkpoint, allow_pickle=False) as kept:
            if str(kept["plan"]) != repr(plan):
                raise ValueError(f"{checkpoint} belongs to {kept['plan']}, not to {plan}: remove it")
            return Progress(kept["flat"], kept["first"], kept["second"], int(kept["done"]))
    flat = draw_parameters(shape, np.random.default_rng(plan.seed))
    return Progress(flat, np.zeros_like(flat), np.zeros_like(flat))


def compute_bits(flat: Array, shape: Shape, tokens: Array) -> float:
    """Bits per character of a text cut into windows of the context, each read without what stands before it."""
    count = (len(tokens) - 1) // shape.context
    windows = tokens[: count * shape.context].reshape(count, -1)
    following = tokens[1 : count * shape.context + 1].reshape(count, -1)
    nats = 0.0
    for start in range(0, count, WINDOWS_AT_A_TIME):
        part = slice(start, start + WINDOWS_AT_A_TIME)
        logits = compute_logits(flat, shape, windows[part]).reshape(-1, shape.vocabulary)
        nats += compute_loss(logits, following[part].reshape(-1))[0] * len(logits)
    return nats / following.size / math.log(2)


def write_greedily(flat: Array, shape: Shape, prompt: Sequence[int], count: int) -> list[int]:
    """The tokens that follow a prompt when each time the likeliest is taken."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(compute_logits(flat, shape, np.array([tokens]))[0, -1].argmax()))
    return tokens[len(prompt) :]
