"""Which files may reach onnxruntime at all."""

import random
from pathlib import Path

import pytest

from roles.engine.admission import NODES_MAX, verify_model
from roles.engine.errors import ModelRefused
from roles.engine.specs import MODEL_BYTES_MAX
from tests.support.onnx_bytes import FLOAT, attribute, field, model, node, tensor, unary, value_info

DIGITS = Path(__file__).parents[3] / "testnet" / "models" / "digits.onnx"
X, Y = value_info("x", FLOAT, (1,)), value_info("y", FLOAT, (1,))
EXTERNAL = tensor("w", FLOAT, (1,), b"", field(13, field(1, "location") + field(2, "passwd")) + field(14, 1))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "0 bytes"),
        (b"x" * (MODEL_BYTES_MAX + 1), "at most"),
        (b"garbage", "no ONNX model"),
        (b"\x80" * 64, "breaks off"),
        (field(7, b"\x0a\x7f"), "bytes early"),
        (field(7, 3), "a number stands"),
        (field(8, field(1, "")), "no graph"),
        (unary("Loop"), "control flow"),
        (unary("RandomNormalLike"), "random"),
        (unary("DynamicQuantizeLinear"), "neighbours"),
        (model([node("Gelu", ["x"], ["y"], domain="com.microsoft")], [X], [Y]), "com.microsoft"),
        (unary("Relu") + field(8, field(1, "mine") + field(2, 1)), "mine"),
        (model([node("Relu", ["x"], ["y"], attribute("body", 6, b"", 5))], [X], [Y]), "graph of its own"),
        (unary("Relu") + field(25, field(1, "f")), "functions"),
        (model([node("Add", ["x", "w"], ["y"])], [X], [Y], (EXTERNAL,)), "outside"),
        (model([node("Constant", [], ["y"], attribute("value", 5, EXTERNAL, 4))], [X], [Y]), "outside"),
        (model([node("Constant", [], ["y"], attribute("s", 22, field(1, EXTERNAL), 11))], [X], [Y]), "outside"),
        (model([node("Relu", ["x"], ["y"])] * (NODES_MAX + 1), [X], [Y]), "nodes"),
    ],
)
def test_a_file_we_must_not_load_is_refused_with_the_reason(data, reason):
    with pytest.raises(ModelRefused, match=reason):
        verify_model(data)


def test_a_second_graph_cannot_hide_behind_the_first():
    # Protobuf merges repeated messages: onnxruntime would see the nodes of both.
    hidden = unary("Relu") + field(7, field(1, node("Loop", ["x"], ["z"])))

    with pytest.raises(ModelRefused, match="control flow"):
        verify_model(hidden)


def test_plain_models_are_let_through():
    verify_model(DIGITS.read_bytes())
    verify_model(unary("Relu"))


def test_mutated_files_are_let_through_or_refused_but_never_crash_the_reader():
    rng = random.Random(6)
    original = DIGITS.read_bytes()[-900:] + unary("Relu")
    refused = 0
    for _ in range(3_000):
        data = bytearray(original)
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            verify_model(bytes(data[: rng.randint(0, len(data))]))
        except ModelRefused:
            refused += 1
    assert refused > 100
