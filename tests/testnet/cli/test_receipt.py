"""`rolemesh receipt`: a receipt out of a client's database into a file, and the file that `rolemesh infer` leaves."""

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from roles.chain import RECEIPT_BUCKET, Chain
from roles.client import Answer
from roles.core_effects import Put
from testnet.cli.output import CommandError, ExitCode
from testnet.cli.receipt import keep_receipt
from tests.testnet.cli.test_explain import run_json


def test_a_receipt_is_taken_out_into_a_file_and_nothing_is_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    keys = [bytes([1]) * 32, bytes([1]) * 31 + b"\2"]
    with closing(Chain(tmp_path / "node.db")) as chain:
        chain.write([Put(RECEIPT_BUCKET, key, b"receipt %d" % number) for number, key in enumerate(keys)])

    def take(*arguments: str) -> tuple[int, dict[str, Any]]:
        return run_json(capsys, "receipt", *arguments, "--dir", str(tmp_path))

    code, said = take(keys[1].hex())
    assert (code, said["receipt"]) == (ExitCode.OK, f"{keys[1].hex()}.receipt")
    assert Path(said["receipt"]).read_bytes() == b"receipt 1"
    refused = {
        "exists": take(keys[1].hex()),
        "many_ids": take("01010101"),
        "unknown_id": take("02020202"),
        "bad_id": take("0101"),
        "cannot_write": take(keys[0].hex(), "--out", "nowhere/answer.receipt"),
    }
    assert {name: said["error"]["code"] for name, (_, said) in refused.items()} == {name: name for name in refused}
    assert all(said["error"]["hint"] for _, said in refused.values())
    assert Path(f"{keys[1].hex()}.receipt").read_bytes() == b"receipt 1"


def test_an_answer_whose_receipt_cannot_become_a_file_is_not_lost(tmp_path: Path) -> None:
    answer = Answer(bytes([1]) * 32, (), b"a receipt", bytes(32), (), 7, True)
    path = keep_receipt(tmp_path, answer)
    assert (path, path.read_bytes()) == (tmp_path / "receipts" / f"{'01' * 32}.receipt", b"a receipt")
    path.unlink()
    path.parent.rmdir()
    path.parent.write_text("in the way", encoding="utf-8")

    with pytest.raises(CommandError, match="was answered, but") as caught:
        keep_receipt(tmp_path, answer)
    assert f"rolemesh receipt {'01' * 32} --dir {tmp_path}" in caught.value.hint
