"""Models with rounded weights: what a calibration must catch is what it says it is."""

import struct
from pathlib import Path

import numpy as np
import pytest

from protocol.errors import LocalError
from protocol.tensor import Tensor
from roles.engine.protobuf import MalformedProtobuf
from roles.engine.rounding import round_weights
from roles.engine.session import load_session, run_session
from tests.support.onnx_bytes import FLOAT, INT8, INT64, attribute, field, model, node, tensor, value_info

FP32 = (Path(__file__).parents[3] / "testnet" / "models" / "digits-fp32.onnx").read_bytes()
ENDS = [value_info("x", FLOAT, ("rows", 3))], [value_info("y", FLOAT, ("rows", 3))]
WEIGHTS = [0.1, -2.7182818, 1e6]
HALVES = [float(np.float16(0.1)), float(np.float16(-2.7182818)), 65504.0]


def floats(*numbers: float) -> bytes:
    return struct.pack(f"<{len(numbers)}f", *numbers)


def run(data: bytes, row: list[float]) -> list[float]:
    (output,), _ = run_session(load_session(data), (Tensor("float32", (1, len(row)), floats(*row)),))
    return np.frombuffer(output.data, "<f4").tolist()


@pytest.mark.parametrize(
    "written",
    [
        tensor("w", FLOAT, (3,), floats(*WEIGHTS)),
        field(1, 3) + field(2, FLOAT) + field(8, "w") + field(4, floats(*WEIGHTS)),
    ],
)
def test_weights_are_rounded_however_they_are_written(written: bytes) -> None:
    data = model([node("Add", ["x", "w"], ["y"])], *ENDS, (written,))

    assert run(round_weights(data, "fp16"), [0, 0, 0]) == HALVES
    assert run(data, [0, 0, 0]) == [float(np.float32(number)) for number in WEIGHTS]


def test_a_constant_in_a_node_is_a_weight_too() -> None:
    constant = attribute("value", 5, tensor("w", FLOAT, (3,), floats(*WEIGHTS)), 4)
    data = model([node("Constant", [], ["w"], constant), node("Add", ["x", "w"], ["y"])], *ENDS)

    assert run(round_weights(data, "fp16"), [0, 0, 0]) == HALVES


def test_bytes_are_steps_of_the_largest_weight() -> None:
    data = model([node("Add", ["x", "w"], ["y"])], *ENDS, (tensor("w", FLOAT, (3,), floats(1.27, 0.504, -0.016)),))

    assert run(round_weights(data, "int8"), [0, 0, 0]) == pytest.approx([1.27, 0.50, -0.02])


def test_signed_bytes_are_rounded_to_fifteen_steps_and_nothing_else_is() -> None:
    weights = bytes([127, 20, 256 - 9, 256 - 127])
    data = model([node("Identity", ["x"], ["y"])], *ENDS, (tensor("w", INT8, (4,), weights),))

    rounded = bytes([127, 18, 0, 256 - 127])
    assert round_weights(data, "int4") == data.replace(weights, rounded)
    assert round_weights(FP32, "int4") == FP32
    assert round_weights(data, "int8") == data


@pytest.mark.parametrize("is_packed", [True, False])
def test_floats_of_trees_are_rounded_and_those_of_other_operators_are_not(is_packed: bool) -> None:
    numbers = floats(*WEIGHTS)
    packed = field(7, numbers) if is_packed else b"".join(b"\x3d" + numbers[at : at + 4] for at in (0, 4, 8))
    listed = field(1, "coefficients") + packed + field(20, 6)
    ml = node("Scaler", ["x"], ["y"], listed, domain="ai.onnx.ml")
    plain = node("Upsample", ["x"], ["y"], listed)

    assert floats(*HALVES) in round_weights(model([ml], *ENDS), "fp16")
    assert round_weights(model([plain], *ENDS), "fp16") == model([plain], *ENDS)


def test_whole_numbers_stay_and_rounding_twice_is_rounding_once() -> None:
    data = model([node("Identity", ["x"], ["y"])], *ENDS, (tensor("n", INT64, (1,), bytes(range(8))),))
    assert round_weights(data, "fp16") == data

    for cheat in ("fp16", "int8"):
        once = round_weights(FP32, cheat)
        assert once != FP32
        assert len(once) == len(FP32)
        assert round_weights(once, cheat) == once


def test_what_is_no_model_or_no_cheat_is_said_to_be() -> None:
    with pytest.raises(LocalError, match="fp16, int8"):
        round_weights(FP32, "fp8")
    with pytest.raises(MalformedProtobuf):
        round_weights(b"\x80", "fp16")
    bad = model([node("Add", ["x", "w"], ["y"])], *ENDS, (tensor("w", FLOAT, (3,), b"12345"),))
    with pytest.raises(MalformedProtobuf, match="whole number of its elements"):
        round_weights(bad, "fp16")
