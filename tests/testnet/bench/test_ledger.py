"""`rolemesh bench ledger`: what it measures really happens, and every figure stands beside its limit."""

import json

import pytest

from testnet.bench import ledger as bench
from testnet.bench.finality import measure as finality
from testnet.bench.finality.network import NotReady
from testnet.cli import main
from testnet.cli.output import ExitCode
from testnet.recompute import recompute


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(bench, "SIGNATURES", 20)
    monkeypatch.setattr(bench, "BLOCKS", 2)


def test_the_story_it_replays_is_whole_and_every_transfer_arrives(tmp_path):
    story = bench.make_story(3, transfers=70)  # more than there are accounts: some send twice in a block
    bench.store(story, tmp_path / "node.db")

    result = recompute(story.foundation.genesis, {"bench": tmp_path / "node.db"})

    assert result.findings == []
    assert result.transactions == story.transfers == 210
    assert result.state.get_balance(bench.PAYEE) == sum(range(1, 211))


def test_every_figure_stands_beside_the_limit(capsys):
    names = [name for name in bench.NAMES if name not in finality.NAMES]  # which have tests of their own
    assert main(["bench", "ledger", "--json", *(f"--only={name}" for name in names)]) == ExitCode.OK

    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["name"] for line in lines] == names
    assert {line["peer"] for line in lines} == {bench.LIMIT}
    assert all(line["value"] > 0 and line["peer_value"] > 0 for line in lines)


def test_one_figure_alone_and_an_unknown_one(capsys):
    assert main(["bench", "ledger", "--json", "--only", "vouchers"]) == ExitCode.OK
    assert len(capsys.readouterr().out.splitlines()) == 1

    assert main(["bench", "ledger", "--json", "--only", "nope"]) == ExitCode.USAGE
    assert "replay_certified" in json.loads(capsys.readouterr().out)["error"]["hint"]


def test_a_network_that_does_not_come_up_is_an_error_with_a_next_step(capsys, monkeypatch):
    def fail(*_):
        raise NotReady("the validators are not ready after 30 s")

    monkeypatch.setattr(finality, "measure", fail)

    assert main(["bench", "ledger", "--json", "--only", "transfers"]) == ExitCode.UNREACHABLE
    error = json.loads(capsys.readouterr().out)["error"]
    assert "not ready" in error["message"]
    assert error["hint"]
