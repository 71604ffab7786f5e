"""Learning in numpy: the ways back written by hand are the gradients, and training does what it says."""

from dataclasses import replace

import numpy as np
import pytest

from testnet.models.learn import convolution
from testnet.models.learn.adam import Plan, Progress, compute_loss, compute_rate, take_step, view_parameters
from testnet.models.learn.fit import compute_bits, draw_windows, fit, load_progress, save_progress
from testnet.models.learn.transformer import Shape, compute_gradient, compute_logits, draw_parameters, list_parameters

SHAPE = Shape(vocabulary=11, context=6, layers=3, width=8, heads=2)
PLAN = Plan(steps=6, batch=3, rate_max=1e-2, seed=5, warmup=2)


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


@pytest.mark.parametrize("seed", range(4))
def test_the_gradient_of_the_transformer_is_its_slope(seed):
    rng = np.random.default_rng(seed)
    # Away from the start, where whole matrices are nought.
    flat = draw_parameters(SHAPE, rng).astype(np.float64)
    flat += rng.normal(0, 0.3, flat.shape)
    tokens, following = rng.integers(0, 11, (2, 3, 6))
    _, gradient = compute_gradient(flat, SHAPE, tokens, following)

    for name, view in view_parameters(gradient.copy(), list_parameters(SHAPE)).items():
        direction = np.zeros_like(flat)
        view_parameters(direction, list_parameters(SHAPE))[name][...] = rng.normal(size=view.shape)
        slope = measure_slope(
            lambda changed: compute_gradient(changed, SHAPE, tokens, following), flat, direction, 1e-6
        )
        assert slope == pytest.approx(gradient @ direction, rel=1e-4, abs=1e-7), name


def test_a_token_foretells_nothing_from_what_comes_after_it_or_lies_outside_the_context():
    rng = np.random.default_rng(1)
    flat = draw_parameters(SHAPE, rng)
    flat += rng.normal(0, 0.3, flat.shape).astype(np.float32)
    tokens = rng.integers(0, 11, (1, 30))
    before = compute_logits(flat, SHAPE, tokens)

    tokens[0, 7] = (tokens[0, 7] + 1) % 11

    moved = np.abs(compute_logits(flat, SHAPE, tokens) - before).max(axis=2)[0] > 0
    # Three layers, each of which sees the five tokens before.
    assert not moved[:7].any()
    assert moved[7:23].all()
    assert not moved[23:].any()


def test_training_that_was_stopped_goes_on_to_the_same_end(tmp_path):
    tokens = np.random.default_rng(1).integers(0, 11, 200)
    whole = fit(tokens, SHAPE, PLAN, tmp_path / "whole.npz", lambda progress, loss: None)

    progress = load_progress(tmp_path / "parts.npz", SHAPE, PLAN)
    while progress.done < 4:
        _, gradient = compute_gradient(progress.flat, SHAPE, *draw_windows(tokens, SHAPE, PLAN, progress.done))
        take_step(progress, gradient, PLAN)
    save_progress(tmp_path / "parts.npz", progress, PLAN)

    assert np.array_equal(fit(tokens, SHAPE, PLAN, tmp_path / "parts.npz", lambda progress, loss: None), whole)
    with pytest.raises(ValueError, match="remove it"):
        load_progress(tmp_path / "parts.npz", SHAPE, replace(PLAN, seed=6))


def test_training_makes_a_text_that_repeats_itself_foreseeable(tmp_path):
    tokens = np.tile(np.arange(11), 30)
    plan = replace(PLAN, steps=150, warmup=20)
    losses = []

    flat = fit(tokens, SHAPE, plan, tmp_path / "kept.npz", lambda progress, loss: losses.append(loss))

    assert len(losses) == 2
    assert compute_bits(flat, SHAPE, tokens) < 0.5 < np.log2(11)


def test_windows_are_pieces_of_the_text_with_what_follows_each_token():
    tokens = np.arange(50)

    for step in range(200):
        windows, following = draw_windows(tokens, SHAPE, PLAN, step)
        assert windows.shape == (PLAN.batch, SHAPE.context)
        assert np.array_equal(windows + 1, following)
        assert following.max() < 50


def test_a_calibration_stays_with_the_bytes_it_was_made_for():
    pytest.importorskip("sklearn", reason="training needs scikit-learn")
    pytest.importorskip("onnx", reason="training writes with onnx")
    from testnet.models.train.__main__ import keep_calibration

    before = {"sha256": "aa", "calibration": {"bound_ppt": 5}}

    assert keep_calibration({"sha256": "aa"}, before) == before
    assert keep_calibration({"sha256": "bb"}, before) == {"sha256": "bb"}
    assert keep_calibration({"sha256": "aa"}, {}) == {"sha256": "aa"}
