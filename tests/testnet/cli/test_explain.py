"""`rolemesh explain`: one request told from what was signed and the ledger, and nothing that nobody signed."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from protocol.jobs import Mode
from protocol.keys import PrivateKey
from protocol.ledger.transactions import ZeroReason
from protocol.messages import Refusal
from protocol.signing import sign
from roles.client import Client
from testnet.cli import main
from testnet.cli.output import ExitCode
from testnet.explain import REASONS, Case, History, Try, explain
from testnet.found import load_model_files
from tests.roles.test_client import make_rows
from tests.support.core_parts import make_parts
from tests.support.jobs import get_keys, make_request, pay
from tests.support.node_network import run_network

PRICE = 1_000_000


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    code = main([*arguments, "--json"])
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 1
    return code, json.loads(out)


def get_steps(said: dict[str, Any]) -> dict[str, tuple[bool, str]]:
    return {item["step"]: (item["shown"], item["text"]) for item in said["steps"]}


def test_a_request_of_a_real_network_is_explained_from_the_clients_directory_and_the_workers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids: dict[str, bytes] = {}

    async def ask() -> None:
        async with run_network(tmp_path, load_model_files()) as directory, Client.join(directory) as client:
            for mode in Mode:
                ids[mode] = (await client.infer("digits", make_rows(3), mode=mode)).request_id
            channels = lambda: client.node.core.ledger.channels.values()  # noqa: E731
            while sum(channel.settled_seq for channel in channels()) < len(Mode):
                await trio.sleep(0.05)

    trio.run(ask)
    capsys.readouterr()  # what the nodes logged
    home = str(tmp_path / "nodes" / "client-0")

    code, said = run_json(capsys, "explain", ids["individual"].hex(), "--dir", home)
    assert code == ExitCode.OK, said
    steps = get_steps(said)
    assert list(steps) == ["ordered", "chosen", "paid for", "computed", "attested", "settled", "ended"]
    assert all(is_shown for is_shown, _ in steps.values())
    assert (
        "800000 to the worker, 40000 to each of 2 verifiers, 100000 to the treasury, 20000 burnt" in steps["settled"][1]
    )

    code, said = run_json(capsys, "explain", ids["batch"].hex()[:12], "--dir", str(tmp_path))
    steps = get_steps(said)
    assert code == ExitCode.OK
    assert not steps["attested"][0]
    assert "drawn" in (steps.get("batched") or steps["settled"])[1]

    receipt = tmp_path / "nodes" / "client-0" / "receipts" / "answer.receipt"
    receipt.parent.mkdir()
    private = ids["private"].hex()
    code, said = run_json(capsys, "receipt", private[:12].upper(), "--dir", str(tmp_path), "--out", str(receipt))
    assert (code, said["request_id"], said["directory"]) == (ExitCode.OK, private, home)
    code, said = run_json(capsys, "explain", str(receipt))
    assert code == ExitCode.OK
    assert "mode private" in get_steps(said)["settled"][1]

    workers = [str(path) for path in (tmp_path / "nodes").glob("inference-*")]
    told = [run_json(capsys, "explain", ids["batch"].hex(), "--dir", worker) for worker in workers]
    assert ExitCode.OK in [code for code, _ in told], "the journal keeps what its batch may still be asked for"

    code, said = run_json(capsys, "explain", "f" * 64, "--dir", home)
    assert (code, said["error"]["code"]) == (ExitCode.FAILURE, "unknown_id")
    assert said["error"]["hint"]


@pytest.mark.parametrize(
    ("arguments", "code", "name"),
    [
        (["xyz"], ExitCode.USAGE, "bad_id"),
        (["abcd"], ExitCode.USAGE, "bad_id"),
        (["0" * 65], ExitCode.USAGE, "bad_id"),
        (["0" * 64], ExitCode.UNREACHABLE, "no_network"),
        (["0" * 64, "--dir", "nowhere"], ExitCode.USAGE, "no_directory"),
        (["empty.receipt"], ExitCode.USAGE, "no_receipt"),
    ],
)
def test_what_cannot_be_explained_is_an_error_with_a_next_step(
    arguments: list[str],
    code: ExitCode,
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.receipt").write_bytes(b"")

    exit_code, said = run_json(capsys, "explain", *arguments)

    assert (exit_code, said["error"]["code"]) == (code, name)
    assert said["error"]["hint"]


class Told:
    """A request of client-0 to inference-0, whose refusal was kept."""

    def __init__(self) -> None:
        self.parts = make_parts()
        self.worker, _ = get_keys(self.parts.foundation, "inference-0")
        self.item = pay(make_request(self.parts.state, self.parts.foundation), self.parts.foundation, b"c" * 32)

    def explain(self, signer: PrivateKey, attempt: int = 1, spoil: bool = False) -> dict[str, tuple[bool, str]]:
        unsigned = Refusal(self.item.voucher.request_id, attempt, "busy", "256 jobs are in hand", bytes(64))
        refusal = sign(unsigned, signer)
        if spoil:
            refusal = replace(refusal, reason="255 jobs are in hand")
        tried = Try(self.worker.public, self.item.voucher, refusals=(refusal,), note="busy: 256 jobs are in hand")
        case = Case(self.item.request, (tried,))
        state = self.parts.state
        history = History(case, state.get_epoch(state.epoch), state.params.working_set)
        return {each.level: (each.is_shown, each.text) for each in explain(case, state, history, {})}


def test_a_refusal_is_shown_in_the_words_its_worker_signed() -> None:
    told = Told()

    assert told.explain(told.worker)["refused"] == (True, told.explain(told.worker)["refused"][1])
    assert told.explain(told.worker)["refused"][1].endswith("signed: busy: 256 jobs are in hand")


@pytest.mark.parametrize("how", ["another signs", "another attempt", "changed"])
def test_a_refusal_its_worker_did_not_sign_is_not_shown(how: str) -> None:
    told = Told()
    other, _ = get_keys(told.parts.foundation, "inference-1")
    signer = other if how == "another signs" else told.worker

    steps = told.explain(signer, attempt=2 if how == "another attempt" else 1, spoil=how == "changed")

    assert not steps["refused"][0]


def test_a_worker_the_ledger_did_not_draw_is_named() -> None:
    told = Told()
    told.worker = PrivateKey.from_seed(bytes(32))

    is_shown, text = told.explain(told.worker)["chosen"]

    assert not is_shown
    assert "the ledger draws" in text


def test_every_reason_for_no_pay_has_words() -> None:
    assert set(REASONS) == set(ZeroReason)
    assert all(REASONS.values())
