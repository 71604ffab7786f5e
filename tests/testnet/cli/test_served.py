"""Which models `rolemesh testnet up` serves, and what it loads them with."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from testnet.cli.output import CommandError
from testnet.cli.served import choose_models
from testnet.found import MODELS_FOLDER


def choose(load=None, model=None, samples=None, rows=None):
    files, loaded = choose_models(load, rows, 8, model, samples, False)
    return [file.record.name for file in files], loaded


def test_two_models_are_served_unless_another_is_named():
    assert choose() == (["digits", "digits-fp32"], None)
    assert choose(model=Path("cancer")) == (["digits", "digits-fp32", "cancer"], None)


@pytest.mark.parametrize(("name", "rows"), [("digits", 600), ("digits-trees", 600), ("cancer", 142), ("diabetes", 110)])
def test_a_load_serves_the_model_and_sends_it_its_held_out_rows(name, rows):
    names, loaded = choose(load=name)

    assert set(names) == {"digits", "digits-fp32", name}
    assert loaded.model.name == name
    assert len(loaded.inputs) == rows
    assert (loaded.labels is None) == (name == "diabetes")
    assert loaded.labels is None or set(loaded.labels) == set(loaded.model.labels)


def test_a_file_of_the_user_stands_over_a_model_that_ships(tmp_path):
    own = tmp_path / "cancer.onnx"
    shutil.copy(MODELS_FOLDER / "diabetes.onnx", own)
    np.savez(tmp_path / "rows.npz", inputs=np.ones((2, 10), np.float32))

    names, loaded = choose(model=own, samples=tmp_path / "rows.npz")

    assert names == ["digits", "digits-fp32", "cancer"]
    assert loaded.model.inputs[0].shape == (0, 10)
    with pytest.raises(CommandError, match="nothing to send to cancer"):
        choose(load="cancer", model=own)


def test_an_unknown_model_is_answered_with_all_there_are():
    with pytest.raises(CommandError, match="no model 'cats'") as refused:
        choose(load="cats")

    assert {"digits", "digits-cnn", "diabetes"} <= set(refused.value.details["models"])
