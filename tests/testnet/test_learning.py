"""Learning in numpy: the ways back written by hand are the gradients, and training does what it says."""

import numpy as np
import pytest

from testnet.models.learn import convolution
from testnet.models.learn.adam import Plan, Progress, compute_loss, compute_rate, take_step


def measure_slope(compute, flat, direction, step):
    """The slope of a loss along a direction, from two losses beside it."""
    return (compute(flat + step * direction)[0] - compute(flat - step * direction)[0]) / (2 * step)


def draw_direction(rng, flat):
    direction = rng.normal(size=flat.shape).astype(flat.dtype)
    return direction / np.linalg.norm(direction)


def test_the_gradient_of_a_loss_is_its_slope():
    rng = np.random.default_rng(3)
    logits, targets = rng.normal(size=(5, 4)), rng.integers(0, 4, 5)
    _, gradient = compute_loss(logits.copy(), targets)
    direction = draw_direction(rng, logits)

    slope = measure_slope(lambda changed: compute_loss(changed, targets), logits, direction, 1e-4)

    assert slope == pytest.approx((gradient * direction).sum(), rel=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_the_gradient_of_the_convolutional_network_is_its_slope(seed):
    rng = np.random.default_rng(seed)
    # In float64, and along a short step: a Relu that opens on the way would bend the slope.
    flat = convolution.draw_parameters(rng).astype(np.float64)
    images, digits = rng.uniform(size=(6, 8, 8, 1)), rng.integers(0, 10, 6)
    _, gradient = convolution.compute_gradient(flat, images, digits)
    direction = draw_direction(rng, flat)

    slope = measure_slope(lambda changed: convolution.compute_gradient(changed, images, digits), flat, direction, 1e-6)

    assert slope == pytest.approx(gradient @ direction, rel=1e-4)


def test_putting_patches_back_is_the_transpose_of_cutting_them():
    rng = np.random.default_rng(1)
    images, patches = rng.normal(size=(2, 8, 8, 3)), rng.normal(size=(2, 8, 8, 27))

    cut, joined = convolution.cut_patches(images), convolution.join_patches(patches)

    assert (cut * patches).sum() == pytest.approx((images * joined).sum())


def test_adam_finds_the_bottom_of_a_bowl_and_the_rate_ends_at_nothing():
    plan = Plan(steps=400, batch=1, rate_max=0.1, seed=0, warmup=10, decay=0)
    bottom = np.array([3.0, -2.0, 0.5])
    progress = Progress(np.zeros(3), np.zeros(3), np.zeros(3))

    while progress.done < plan.steps:
        take_step(progress, progress.flat - bottom, plan)

    assert progress.flat == pytest.approx(bottom, abs=1e-2)
    assert compute_rate(plan, plan.steps) == 0


def test_a_steep_gradient_is_clipped():
    plan = Plan(steps=100, batch=1, rate_max=0.1, seed=0, clip=1.0)
    progress = Progress(np.zeros(2), np.zeros(2), np.zeros(2))

    take_step(progress, np.array([3e6, 4e6]), plan)

    assert progress.first == pytest.approx([0.06, 0.08])


def test_a_leaf_gives_away_its_whole_vote():
    pytest.importorskip("sklearn", reason="the forest is scikit-learn's")
    pytest.importorskip("onnx", reason="the forest is written with onnx")
    from testnet.models.train.trees import VOTE, divide_vote

    for shares in np.random.default_rng(1).dirichlet(np.ones(10), 200):
        parts = divide_vote(shares)
        assert parts.sum() == VOTE
        assert np.abs(parts - shares * VOTE).max() < 10
