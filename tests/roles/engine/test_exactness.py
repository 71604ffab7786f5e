"""Which graphs every machine computes to the same bits, and the reason for the rest."""

import random
import struct
from pathlib import Path

import pytest

from roles.engine.exactness import WEIGHT_MAX, find_inexact
from tests.support.onnx_bytes import (
    FLOAT,
    INT32,
    INT64,
    UINT8,
    attribute,
    field,
    model,
    node,
    tensor,
    unary,
    value_info,
)

INT8 = 3
MODELS = Path(__file__).parents[3] / "testnet" / "models"
X8, X32, XF = (value_info("x", dtype, ("rows", 2)) for dtype in (UINT8, INT32, FLOAT))
Y = value_info("y", INT32, ("rows", 2))


def weights(*numbers: int, dtype: int = INT8, name: str = "w") -> bytes:
    return tensor(name, dtype, (2, len(numbers) // 2), bytes(number % 256 for number in numbers))


def floats(name: str, *numbers: float) -> bytes:
    return tensor(name, FLOAT, (len(numbers),), struct.pack(f"<{len(numbers)}f", *numbers))


def product(*tensors: bytes, operator: str = "MatMulInteger", given: bytes = X8) -> bytes:
    return model([node(operator, ["x", "w"], ["y"])], [given], [Y], tensors)


def divided(by: int) -> bytes:
    divisor = tensor("w", INT32, (1,), by.to_bytes(4, "little", signed=True))
    return model([node("Div", ["x", "w"], ["y"])], [X32], [Y], (divisor,))


def divided_by_kept(operator: str, *bounds: int, moved: str = "Identity") -> bytes:
    """x divided by what an operator keeps within bounds."""
    tensors = [tensor(f"b{at}", INT32, (1,), by.to_bytes(4, "little", signed=True)) for at, by in enumerate(bounds)]
    kept = node(operator, ["x", *(f"b{at}" for at in range(len(bounds)))], ["k"])
    return model([kept, node(moved, ["k"], ["m"]), node("Div", ["x", "m"], ["y"])], [X32], [Y], tuple(tensors))


def quantised(scale: float) -> bytes:
    return model([node("QuantizeLinear", ["x", "s"], ["y"])], [XF], [Y], (floats("s", scale),))


WEIGHTS_IN_A_NODE = [node("Constant", [], ["w"], attribute("value", 5, weights(1, 2), 4))]
FLOATS_FROM_BYTES = [node("DequantizeLinear", ["x", "s"], ["f"])]


def test_the_shipped_model_of_the_exact_class_is_and_the_float_one_is_not():
    assert find_inexact((MODELS / "digits.onnx").read_bytes()) == ""
    assert "Gemm" in find_inexact((MODELS / "digits-fp32.onnx").read_bytes())


@pytest.mark.parametrize(
    "data",
    [
        product(weights(WEIGHT_MAX, -WEIGHT_MAX, 0, 1)),
        product(weights(255, 0, 200, 1, dtype=UINT8)),
        product(field(1, 2) + field(1, 1) + field(2, INT8) + field(8, "w") + field(5, 64) + field(5, 2**64 - 64)),
        divided(7),
        divided_by_kept("Clip", 1, 9),
        divided_by_kept("Clip", 1),
        divided_by_kept("Max", 1, moved="Transpose"),
        quantised(0.5),
        unary("Relu"),
        unary("Add", INT32),
        model([node("Cast", ["x"], ["y"], attribute("to", 3, FLOAT, 2))], [X32], [Y]),
        model([*WEIGHTS_IN_A_NODE, node("MatMulInteger", ["x", "w"], ["y"])], [X8], [Y]),
        model([node("ArgMax", ["x"], ["i"]), node("Add", ["i", "i"], ["y"])], [XF], [Y]),
    ],
)
def test_whole_numbers_and_floats_that_are_only_moved_are_exact(data: bytes):
    assert find_inexact(data) == ""


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (product(weights(65, 0, 0, 1)), "weight of 65"),
        (product(weights(0, -128, 0, 1)), "weight of 128"),
        (product(), "type of input 1"),
        (product(weights(1, 2), given=value_info("x", INT8, ("rows", 2))), "unsigned bytes"),
        (product(floats("w", 1.0)), "other weights than bytes"),
        (product(tensor("w", INT8, (2, 1), b"")), "no numbers"),
        (product(weights(1, 2), weights(99, 2)), "twice"),
        (model([node("MatMulInteger", ["x", "v"], ["y"])], [X8, value_info("v", INT8, (2, 2))], [Y]), "no constant"),
        (divided(0), "below 1"),
        (divided(-1), "below 1"),
        (quantised(0.0), "positive"),
        (quantised(-1.0), "positive"),
        (quantised(float("inf")), "positive"),
        (quantised(float("nan")), "positive"),
        (unary("Add"), "of floats"),
        (unary("Softmax"), "Softmax"),
        (unary("Gemm", INT32), "Gemm"),
        (unary("RandomNormalLike"), "RandomNormalLike"),
        (unary("DynamicQuantizeLinear"), "DynamicQuantizeLinear"),
        (model([node("Cast", ["x"], ["y"], attribute("to", 3, INT64, 2))], [XF], [Y]), "Cast of floats"),
        (model([*FLOATS_FROM_BYTES, node("Mul", ["f", "f"], ["y"])], [X8], [Y], (floats("s", 0.5),)), "Mul of floats"),
        (model([node("Relu", ["other"], ["y"])], [X8], [Y]), "not known"),
        (model([node("Constant", [], ["y"], attribute("value_int", 3, 3, 2))], [X8], [Y]), "Constant"),
        (unary("Relu") + field(7, field(1, node("Exp", ["x"], ["z"]))), "Exp"),
        (unary("Relu") + field(7, field(15, b"")), "sparse"),
        (product(tensor("w", INT32, (1,), b"123")), "other weights"),
        (b"\x80" * 20, "breaks off"),
    ],
)
def test_what_may_differ_between_machines_is_named(data: bytes, reason: str):
    assert reason in find_inexact(data)


def test_mutated_files_are_judged_and_never_crash_the_reader():
    rng = random.Random(3)
    original = (MODELS / "digits.onnx").read_bytes()
    places = [place for place in range(len(original)) if not 200 < place < len(original) - 1_500]
    refused = 0
    for _ in range(1_000):
        data = bytearray(original)
        for _ in range(rng.randint(1, 3)):
            data[rng.choice(places)] = rng.randrange(256)
        refused += bool(find_inexact(bytes(data)))
    assert refused > 50


@pytest.mark.parametrize(
    "data",
    [
        divided_by_kept("Clip", 0, 9),
        divided_by_kept("Clip", 1, 0),
        divided_by_kept("Clip"),
        divided_by_kept("Max", 0),
        divided_by_kept("Min", 1),
        divided_by_kept("Max", 1, moved="Neg"),
    ],
)
def test_a_divisor_that_may_be_nought_or_less_is_not_exact(data: bytes):
    assert "Div" in find_inexact(data)
