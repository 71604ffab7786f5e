"""The data that ships with scikit-learn, split by one seed into rows to train on and rows held out."""

from dataclasses import dataclass

import numpy as np
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits

from testnet.models.learn.adam import Array

SEED = 2
DIGITS_HELDOUT = 600
TABLES_HELDOUT_PERCENT = 25


@dataclass(frozen=True)
class Rows:
    """Inputs as (rows, columns), and what should come out as (rows,): the place of a label, or a number."""

    inputs: Array
    targets: Array


def split_digits() -> tuple[Rows, Rows]:
    """Training and held-out images, (rows, 64) uint8 in 0..16. No held-out image equals another of either part."""
    data = load_digits()
    return _split(data.data.astype(np.uint8), data.target.astype(np.int64), DIGITS_HELDOUT)


def shift_rows(rows: Rows) -> Rows:
    """The images, and each of them moved by one pixel up, down, left and right."""
    images = rows.inputs.reshape(-1, 8, 8)
    moved = [images]
    for axis, step in ((1, 1), (1, -1), (2, 1), (2, -1)):
        copy = np.roll(images, step, axis)
        edge = 0 if step == 1 else -1
        if axis == 1:
            copy[:, edge, :] = 0
        else:
            copy[:, :, edge] = 0
        moved.append(copy)
    return Rows(np.concatenate(moved).reshape(-1, 64), np.tile(rows.targets, len(moved)))


def split_cancer() -> tuple[Rows, Rows]:
    """Thirty float32 measures of a tumour's cells; 0 is malignant, 1 benign."""
    data = load_breast_cancer()
    return _split_table(data.data, data.target.astype(np.int64))


def split_diabetes() -> tuple[Rows, Rows]:
    """Ten float32 measures of a patient, in the units they were taken in; how far the disease went in a year."""
    data = load_diabetes(scaled=False)
    return _split_table(data.data, data.target)


def _split_table(inputs: Array, targets: Array) -> tuple[Rows, Rows]:
    return _split(inputs.astype(np.float32), targets, len(inputs) * TABLES_HELDOUT_PERCENT // 100)


def _split(inputs: Array, targets: Array, heldout: int) -> tuple[Rows, Rows]:
    if len(np.unique(inputs, axis=0)) != len(inputs):
        raise ValueError("the dataset repeats a row, so the parts could overlap")
    order = np.random.default_rng(SEED).permutation(len(inputs))
    held, rest = order[:heldout], order[heldout:]
    return Rows(inputs[rest], targets[rest]), Rows(inputs[held], targets[held])
