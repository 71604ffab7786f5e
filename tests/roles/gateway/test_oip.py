"""What a request in Open Inference Protocol may say, and how it is answered."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.ledger.model_records import ModelRecord, TensorSpec
from protocol.tensor import Tensor
from roles.gateway.faults import Fault, translate
from roles.gateway.oip import TensorNames, describe_model, format_answer, name_by_place, read_request
from roles.gateway.settings import read_settings
from testnet.genesis import load_models
from tests.support.oip_server import TYPES

(DIGITS,) = load_models(("digits",))
PAIR = ModelRecord(
    "pair",
    bytes(32),
    1,
    (TensorSpec("int16", (0, 2)), TensorSpec("float32", (3,))),
    (TensorSpec("bool", (0,)), TensorSpec("float64", (0, 2))),
    (),
)
ROWS = [[n % 16 for n in range(64)], [1] * 64]


def ask(document, tail=b"", head_size=None, record=DIGITS, names=None):
    return read_request(record, names or name_by_place(record), head_size, json.dumps(document).encode() + tail)


def name_input(**fields):
    return {"name": "input-0", "datatype": "UINT8", "shape": [2, 64]} | fields


def test_numbers_nested_or_flat_and_raw_bytes_are_the_same_tensor():
    data = np.array(ROWS, np.uint8)
    flat = data.reshape(-1).tolist()
    raw = {"inputs": [name_input(parameters={"binary_data_size": 128})]}
    size = len(json.dumps(raw))

    wanted = [
        ask({"inputs": [name_input(data=ROWS)]}),
        ask({"inputs": [name_input(data=flat)]}),
        ask(raw, data.tobytes(), str(size)),
    ]

    assert {each.inputs for each in wanted} == {(Tensor("uint8", (2, 64), data.tobytes()),)}
    assert {(each.outputs, each.raw) for each in wanted} == {((0,), frozenset())}


def test_several_inputs_may_come_in_any_order_each_in_its_own_way():
    numbers = np.array([1, -1, 2, -2], "<i2")
    inputs = [
        {"name": "input-1", "datatype": "FP32", "shape": [3], "data": [0.5, 1, 2]},
        {"name": "input-0", "datatype": "INT16", "shape": [2, 2], "parameters": {"binary_data_size": 8}},
    ]
    document = {"id": "7", "inputs": inputs, "outputs": [{"name": "output-1", "parameters": {"binary_data": True}}]}

    wanted = ask(document, numbers.tobytes(), str(len(json.dumps(document))), PAIR)

    assert [tensor.dtype for tensor in wanted.inputs] == ["int16", "float32"]
    assert wanted.inputs[0].data == numbers.tobytes()
    assert wanted.inputs[1].data == np.array([0.5, 1, 2], "<f4").tobytes()
    assert (wanted.id, wanted.outputs, wanted.raw) == ("7", (1,), frozenset({1}))


@pytest.mark.parametrize("is_all", [True, False])
def test_answers_are_written_out_or_raw_as_each_output_was_asked_for(is_all):
    flags, values = np.array([True, False]), np.array([[1.5, 2], [3, 4]], "<f8")
    inputs = [
        {"name": "input-0", "datatype": "INT16", "shape": [2, 2], "data": [1, 2, 3, 4]},
        {"name": "input-1", "datatype": "FP32", "shape": [3], "data": [1, 2, 3]},
    ]
    outputs = [{"name": "output-0", "parameters": {"binary_data": False}}, {"name": "output-1"}]
    asked = {"parameters": {"binary_data_output": True}} | ({} if is_all else {"outputs": outputs})
    wanted = ask({"id": "x", "inputs": inputs} | asked, record=PAIR)
    given = (Tensor("bool", (2,), flags.tobytes()), Tensor("float64", (2, 2), values.tobytes()))

    body, head_size = format_answer(PAIR, wanted, given, {"receipt_cid": "bafk"})

    head, tail = json.loads(body[:head_size]), body[head_size:]
    assert head["parameters"] == {"receipt_cid": "bafk"}
    assert (head["model_name"], head["model_version"], head["id"]) == ("pair", "1", "x")
    assert tail == (flags.tobytes() if is_all else b"") + values.tobytes()
    assert head["outputs"][1]["parameters"] == {"binary_data_size": values.nbytes}
    assert head["outputs"][0].get("data") == (None if is_all else [True, False])
    # What reads it like any client does gets the numbers back.
    assert np.frombuffer(tail[-32:], TYPES[head["outputs"][1]["datatype"]]).tolist() == [1.5, 2, 3, 4]


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({}, "inputs is no list"),
        ({"inputs": []}, "takes 1 inputs, 0"),
        ({"inputs": [1]}, "inputs is no list"),
        ({"inputs": [name_input(data=ROWS), name_input(data=ROWS)]}, "each once"),
        ({"inputs": [name_input(name="pixels", data=ROWS)]}, "'pixels'"),
        ({"inputs": [name_input(name=["a"], data=ROWS)]}, "each once"),
        ({"inputs": [name_input(datatype="FP32", data=ROWS)]}, "FP32"),
        ({"inputs": [name_input(shape=[2, 63], data=ROWS)]}, "63"),
        ({"inputs": [name_input(shape=[True, 64], data=ROWS)]}, "True"),
        ({"inputs": [name_input(shape="2x64", data=ROWS)]}, "2x64"),
        ({"inputs": [name_input(shape=[-2, 64], data=ROWS)]}, "-2"),
        ({"inputs": [name_input(shape=[3, 64], data=ROWS)]}, "128 numbers"),
        ({"inputs": [name_input(data=[[256, *row[1:]] for row in ROWS])]}, "no uint8"),
        ({"inputs": [name_input(data=[[1.0, *row[1:]] for row in ROWS])]}, "no uint8"),
        ({"inputs": [name_input(data="AAAA")]}, "no data"),
        ({"inputs": [name_input()]}, "no data"),
        ({"inputs": [name_input(parameters={"binary_data_size": 1})]}, "of 0 raw bytes"),
        ({"inputs": [name_input(parameters={"binary_data_size": -1})]}, "-1"),
        ({"inputs": [name_input(parameters=[], data=ROWS)]}, "parameters"),
        ({"inputs": [name_input(data=ROWS)], "outputs": [{"name": "label"}]}, "'label'"),
        ({"inputs": [name_input(data=ROWS)], "parameters": {"binary_data_output": 1}}, "true or false"),
        ({"inputs": [name_input(data=ROWS)], "id": 5}, "id is a text"),
        ({"inputs": [name_input(data=ROWS)], "outputs": [{"name": "output-0", "parameters": {"classification": 3}}]},
         "classification"),
        ([], "list, not an object"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(document, reason):
    with pytest.raises(Fault, match=reason) as caught:
        ask(document)

    assert (caught.value.status, caught.value.code) == (400, "bad_input")


@pytest.mark.parametrize("head_size", ["-1", "1e2", "", "99999", "٣"])
def test_a_head_of_no_size_is_refused(head_size):
    with pytest.raises(Fault, match="the head is said"):
        ask({"inputs": []}, head_size=head_size)


def test_numbers_that_are_none_and_lists_without_end_are_refused():
    for body in (b'{"inputs": NaN}', b"[" * 100_000, b"\xff", b'{"a":' + b"1" * 5_000 + b"}"):
        with pytest.raises(Fault) as caught:
            read_request(DIGITS, name_by_place(DIGITS), None, body)
        assert caught.value.status == 400
    nan = np.array([1, np.nan, 1], "<f4").tobytes()
    inputs = [
        {"name": "input-0", "datatype": "INT16", "shape": [1, 2], "data": [1, 2]},
        {"name": "input-1", "datatype": "FP32", "shape": [3], "parameters": {"binary_data_size": 12}},
    ]
    with pytest.raises(Fault, match="NaN"):
        ask({"inputs": inputs}, nan, str(len(json.dumps({"inputs": inputs}))), PAIR)


def test_more_numbers_than_are_written_out_must_be_asked_for_as_bytes():
    wide = ModelRecord("wide", bytes(32), 1, (TensorSpec("uint8", (0,)),), (TensorSpec("float32", (0, 10_000)),), ())
    inputs = [{"name": "input-0", "datatype": "UINT8", "shape": [4], "data": [0] * 4}]

    with pytest.raises(Fault, match="40000 numbers") as caught:
        ask({"inputs": inputs}, record=wide)

    assert caught.value.status == 413
    assert ask({"inputs": inputs, "parameters": {"binary_data_output": True}}, record=wide).raw == {0}


@given(st.binary(max_size=200), st.one_of(st.none(), st.text(max_size=5)))
def test_no_bytes_break_it(body, head_size):
    with pytest.raises(Fault) as caught:  # what it takes does not fit into so few
        read_request(DIGITS, name_by_place(DIGITS), head_size, body)

    assert caught.value.status == 400


def test_a_model_is_described_as_clients_expect():
    told = describe_model(DIGITS, TensorNames(("pixels",), ("logits",)), (1, 3))

    assert told["inputs"] == [{"name": "pixels", "datatype": "UINT8", "shape": [-1, 64]}]
    assert told["outputs"][0]["name"] == "logits"
    assert told["versions"] == ["1", "3"]


def test_headers_choose_how_an_answer_is_checked_and_what_it_may_cost():
    assert read_settings({}).mode == "individual"
    assert {word: read_settings({"x-verify": word}).mode for word in ("none", "spot", "quorum")} == {
        "none": "private",
        "spot": "batch",
        "quorum": "individual",
    }
    assert read_settings({"x-max-fee": "0"}).max_fee == 0
    for headers in ({"x-verify": "zk"}, {"x-verify": "maybe"}, {"x-max-fee": "-1"}, {"x-max-fee": "1.5"},
                    {"x-max-fee": "9" * 19}, {"x-max-fee": "٣"}):  # fmt: skip
        with pytest.raises(Fault) as caught:
            read_settings(headers)
        assert (caught.value.status, caught.value.code) == (400, "bad_header")


@pytest.mark.parametrize(
    ("code", "status", "word"),
    [
        ("unpaid", 402, "insufficient_balance"),
        ("price", 402, "fee_too_low"),
        ("unknown_model", 404, "model_not_found"),
        ("dissent", 409, "verification_failed"),
        ("busy", 429, "capacity"),
        ("behind", 429, "capacity"),
        ("no_model", 503, "no_provider"),
        ("no_worker", 503, "no_provider"),
        ("failed", 503, "failed"),
        ("unattested", 504, "quorum_timeout"),
        ("timeout", 504, "timeout"),
    ],
)
def test_every_way_to_fail_has_its_status(code, status, word):
    fault = translate(code, "why", b"\1" * 32)

    assert (fault.status, fault.code, fault.reason) == (status, word, "why")
    assert fault.headers["X-Request-Id"] == "01" * 32
    assert ("Retry-After" in fault.headers) == (status == 429)
