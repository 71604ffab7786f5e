"""A model comes onto a running network: registered, fetched, served, asked, retired; nobody is restarted for it."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from testnet.cli.output import ExitCode
from testnet.launch import read_status
from tests.support.onnx_bytes import UINT8, attribute, model, node, tensor, unary, value_info
from tests.testnet.networks import Up, run_cli, start_network, wait_until

MODELS = Path(__file__).parents[2] / "testnet" / "models"
WEIGHTS = tensor("w", 3, (2, 2), bytes((1, 2, 253, 4)))
SUMS = model(
    [node("MatMulInteger", ["x", "w"], ["y"])],
    [value_info("x", UINT8, ("rows", 2))],
    [value_info("y", 6, ("rows", 2))],
    (WEIGHTS,),
)

WIDE = model(  # its second operator takes three megabytes
    [node("Concat", ["x", "x", "x"], ["wide"], attribute("axis", 3, 1, 2)), node("ReduceMax", ["wide"], ["y"])],
    [value_info("x", UINT8, (1, 2**20))],
    [value_info("y", UINT8, (1, 1))],
)


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    roles = "validator=1,inference=1,verifier=2,storage=1,client=1"
    with start_network(tmp_path_factory.mktemp("models") / "net", "--seed", "31", "--roles", roles) as up:
        up.wait_for_go()
        yield up


def directory_of(up: Up, name: str) -> str:
    entry = up.network.get_node(name)
    assert entry is not None
    return str(up.directory / entry.directory)


def run(up: Up, command: str, *words: object, payer: str = "client-0") -> tuple[int, dict[str, Any]]:
    return run_cli("model", command, *map(str, words), "--from", directory_of(up, payer))


def show(up: Up, wanted: str) -> dict[str, Any]:
    code, told = run_cli("model", "show", wanted, "--dir", str(up.directory))
    assert code == ExitCode.OK, told
    return told


def test_a_model_is_registered_served_by_running_nodes_and_answered_attested(standing: Up, tmp_path: Path) -> None:
    (tmp_path / "sums.onnx").write_bytes(SUMS)
    pids = standing.pids

    code, told = run(standing, "add", tmp_path / "sums.onnx", "--labels", "low,high")

    assert code == ExitCode.OK, told
    assert (told["name"], told["version"], told["class"], told["state"]) == ("sums", 1, "exact", "final")
    assert told["rows_max"] == show(standing, "sums")["rows_max"] == 64
    assert show(standing, "sums")["labels"] == ["low", "high"]
    wait_until(lambda: show(standing, "sums@1")["served_by"] == 1, "the worker serves it from the next epoch on")
    np.save(tmp_path / "row.npy", np.array([[5, 7]], np.uint8))
    code, answer = run_cli("infer", "sums", "--input", str(tmp_path / "row.npy"), "--network", str(standing.directory))
    assert code == ExitCode.OK, answer
    assert answer["labels"] == ["high"]
    assert len(answer["attested_by"]) == 2
    assert np.frombuffer(bytes.fromhex(answer["outputs"][0]["data"]), "<i4").tolist() == [5 - 3 * 7, 10 + 4 * 7]
    assert standing.pids == pids


def test_a_float_model_brings_its_calibration_and_a_name_is_its_first_owners(standing: Up, tmp_path: Path) -> None:
    shutil.copy(MODELS / "digits-fp32.onnx", tmp_path / "logits.onnx")
    data = bytearray((tmp_path / "logits.onnx").read_bytes())
    at = data.index(b"rolemesh")
    data[at : at + 8] = b"somebody"  # its producer's name: another file
    (tmp_path / "logits.onnx").write_bytes(data)

    code, told = run(standing, "add", tmp_path / "logits.onnx", "--rows", 500, "--range", "0:16")

    assert code == ExitCode.OK, told
    shown = show(standing, "logits")
    assert (shown["class"], shown["calibration"]["rows"], told["bound_ppt"]) == ("fp32", 500, 2_000_000)
    assert 4 * shown["calibration"]["bound"] < shown["calibration"]["fp16"]
    (tmp_path / "logits.onnx").write_bytes(SUMS.replace(b"graph", b"other"))
    code, refused = run(standing, "add", tmp_path / "logits.onnx", payer="inference-0")
    assert (code, refused["error"]["code"]) == (ExitCode.FAILURE, "NotYourModel")


def test_a_node_fetches_a_model_by_its_cid_and_the_file_is_what_the_ledger_says(standing: Up, tmp_path: Path) -> None:
    code, told = run(standing, "pull", "digits", "--out", tmp_path / "pulled.onnx", payer="client-0")

    assert code == ExitCode.OK, told
    assert (tmp_path / "pulled.onnx").read_bytes() == (MODELS / "digits.onnx").read_bytes()
    assert told["cid"] == show(standing, "digits")["cid"]
    code, refused = run(standing, "pull", "nothing")
    assert (code, refused["error"]["code"]) == (ExitCode.USAGE, "unknown_model")
    assert "digits@1" in refused["error"]["hint"]


def test_a_retired_model_is_no_longer_taken_and_genesis_models_are_nobodys(standing: Up, tmp_path: Path) -> None:
    (tmp_path / "brief.onnx").write_bytes(SUMS.replace(b"graph", b"brief"))
    assert run(standing, "add", tmp_path / "brief.onnx")[0] == ExitCode.OK

    code, told = run(standing, "retire", "brief")

    assert (code, told["deposit_grains"]) == (ExitCode.OK, 100 * 10**9)
    assert show(standing, "brief")["retired_ms"] > 0
    assert run(standing, "retire", "brief")[1]["error"]["code"] == "UnknownModel"
    assert run(standing, "retire", "digits")[1]["error"]["code"] == "NotYourModel"


def test_what_is_not_run_here_is_refused_before_anything_is_paid(standing: Up, tmp_path: Path) -> None:
    for data, options, code in (
        (b"nonsense", [], "model_refused"),
        (unary("Loop"), [], "model_refused"),
        (unary("Sigmoid"), ["--class", "exact"], "not_exact"),
        (WIDE, ["--class", "exact"], "not_traceable"),
        (unary("Sigmoid"), ["--rows", "50"], "not_calibrated"),
        (unary("Sigmoid"), ["--class", "best"], "bad_class"),
        (unary("Sigmoid"), ["--range", "1:0"], "bad_range"),
        (unary("Sigmoid"), ["--rows", "1"], "bad_rows"),
    ):
        (tmp_path / "bad.onnx").write_bytes(data)
        exit_code, told = run(standing, "add", tmp_path / "bad.onnx", *options)
        assert exit_code != ExitCode.OK
        assert told["error"]["code"] == code, told
        assert told["error"]["hint"]
    assert run(standing, "add", tmp_path / "none.onnx")[1]["error"]["code"] == "no_model"


def test_all_models_are_listed_and_one_is_calibrated_by_its_name(standing: Up) -> None:
    code, told = run_cli("model", "ls", "--dir", str(standing.directory))
    assert code == ExitCode.OK
    rows = {row["name"]: row for row in told["models"]}
    assert {"digits", "digits-fp32"} <= rows.keys()
    assert (rows["digits"]["class"], rows["digits"]["owner"], rows["digits"]["served_by"]) == ("exact", None, 1)

    code, found = run_cli(
        "model", "calibrate", "digits-fp32", "--rows", "300", "--range", "0:16", "--dir", str(standing.directory)
    )

    assert code == ExitCode.OK, found
    assert (found["rows"], found["heldout_rows"], found["heldout_outside"], found["refused"]) == (300, 90, 0, None)
    assert found["detected"] == {"fp16": 1.0, "int8": 1.0}


def test_workers_say_nothing_bad_of_all_that(standing: Up) -> None:
    entry = standing.network.get_node("inference-0")
    assert entry is not None
    assert read_status(standing.directory, entry)["state"] == "serving"
