"""Adam with decoupled weight decay over one flat array of parameters, and the loss that both networks here have."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
MOMENTS = (0.9, 0.99)
EPSILON = 1e-8


def count_parameters(sizes: Mapping[str, tuple[int, ...]]) -> int:
    """How many numbers the named arrays hold together."""
    return sum(map(math.prod, sizes.values()))


def view_parameters(flat: Array, sizes: Mapping[str, tuple[int, ...]]) -> dict[str, Array]:
    """The named arrays as views of the flat one, in order."""
    views, start = {}, 0
    for name, size in sizes.items():
        views[name] = flat[start : start + math.prod(size)].reshape(size)
        start += math.prod(size)
    return views


def compute_loss(logits: Array, targets: Array) -> tuple[float, Array]:
    """Mean cross-entropy in nats over (rows, classes) logits, and its gradient. Overwrites the logits."""
    rows = np.arange(len(targets))
    logits -= logits.max(axis=1, keepdims=True)
    chosen = logits[rows, targets]
    np.exp(logits, out=logits)
    sums = logits.sum(axis=1, keepdims=True)
    loss = float((np.log(sums[:, 0]) - chosen).mean())
    logits /= sums
    logits[rows, targets] -= 1
    logits /= len(targets)
    return loss, logits


@dataclass(frozen=True)
class Plan:
    """How long to train and how fast. `decay` is that of weights per unit of rate; `clip` bounds a gradient's norm."""

    steps: int
    batch: int
    rate_max: float
    seed: int
    warmup: int = 100
    decay: float = 0.1
    clip: float = 1.0


@dataclass
class Progress:
    """Where a run stands: parameters, Adam's two moments, steps done."""

    flat: Array
    first: Array
    second: Array
    done: int = 0


def compute_rate(plan: Plan, step: int) -> float:
    """The rate of step 0, 1, …: up in a line, down in half a cosine.

    >>> plan = Plan(steps=300, batch=1, rate_max=1.0, seed=0, warmup=100)
    >>> [round(compute_rate(plan, step), 2) for step in (0, 99, 200, 300)]
    [0.01, 1.0, 0.5, 0.0]
    """
    if step < plan.warmup:
        return plan.rate_max * (step + 1) / plan.warmup
    return plan.rate_max * (1 + math.cos(math.pi * (step - plan.warmup) / (plan.steps - plan.warmup))) / 2


def take_step(progress: Progress, gradient: Array, plan: Plan) -> None:
    """Move the parameters against the gradient, in place."""
    rate = compute_rate(plan, progress.done)
    gradient *= min(1.0, plan.clip / (float(np.linalg.norm(gradient)) + EPSILON))
    beta1, beta2 = MOMENTS
    progress.done += 1
    progress.first += (1 - beta1) * (gradient - progress.first)
    progress.second += (1 - beta2) * (gradient * gradient - progress.second)
    first = progress.first / (1 - beta1**progress.done)
    second = progress.second / (1 - beta2**progress.done)
    progress.flat *= 1 - rate * plan.decay
    progress.flat -= rate * first / (np.sqrt(second) + EPSILON)
