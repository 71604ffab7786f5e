"""From a model's outputs to labels, with and without names for its classes."""

import struct

import pytest

from protocol.ledger.model_records import ModelRecord
from protocol.tensor import Tensor
from testnet.labels import compute_labels

SCORES = Tensor("int32", (2, 3), struct.pack("<6i", -5, 70, 3, 9, 1, -2))


def make_record(*labels: str) -> ModelRecord:
    return ModelRecord("animals", bytes(32), 1, (), (), labels)


def test_the_largest_score_names_the_label_or_its_place_where_a_model_names_none() -> None:
    assert compute_labels(make_record("cat", "dog", "owl"), (SCORES,)) == ["dog", "cat"]
    assert compute_labels(make_record(), (SCORES,)) == ["1", "0"]


@pytest.mark.parametrize("shape", [(6,), (6, 1), (1, 2, 3)])
def test_outputs_that_are_no_scores_have_no_labels(shape: tuple[int, ...]) -> None:
    assert compute_labels(make_record(), (Tensor("int32", shape, SCORES.data),)) == []
    assert compute_labels(make_record(), ()) == []
    assert compute_labels(make_record("cat", "dog"), (SCORES,)) == []
