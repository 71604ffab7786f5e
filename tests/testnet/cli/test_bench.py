"""`rolemesh bench attack` and `scale` at the command line: what they refuse and what scripts are told."""

import json

import pytest

from testnet.bench import attack as bench
from testnet.bench.economy import report
from testnet.cli import bench as commands
from testnet.cli.bench_economy import economy
from testnet.cli.output import CommandError, ExitCode
from testnet.gossip.attacks import Outcome


def outcome(name, delivered=1.0, p99_ms=100):
    return Outcome(name, 8, delivered, 50, p99_ms, 200, 4.0, 0.1, None, 190.0, 0, "00")


def run_attack(monkeypatch, capsys, **figures):
    clean = outcome("clean")
    rows = [bench.Row(clean, clean), bench.Row(outcome("cold_boot", **figures), clean)]
    monkeypatch.setattr(bench, "measure", lambda *args: iter(rows))
    code = commands.attack(scenario=("cold_boot",), json=True)
    return code, [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_an_unknown_scenario_is_refused_with_those_there_are():
    with pytest.raises(CommandError) as refused:
        commands.attack(scenario=("nope",))

    assert refused.value.exit_code is ExitCode.USAGE
    assert "cold_boot" in refused.value.hint


@pytest.mark.parametrize(
    ("figures", "code"),
    [
        ({}, ExitCode.OK),
        ({"p99_ms": 201}, ExitCode.INVARIANT_VIOLATED),
        ({"delivered": 0.998}, ExitCode.INVARIANT_VIOLATED),
    ],
)
def test_a_missed_bar_is_exit_code_six(monkeypatch, capsys, figures, code):
    got, lines = run_attack(monkeypatch, capsys, **figures)

    assert got == code
    assert [line["name"] for line in lines] == ["attack_clean", "attack_cold_boot"]
    assert lines[1]["peer_value"] == 100
    assert lines[1]["is_held"] is (code is ExitCode.OK)


@pytest.mark.parametrize("is_missed", [False, True])
def test_the_economy_writes_its_tables_and_a_missed_bar_is_exit_code_six(monkeypatch, capsys, tmp_path, is_missed):
    head = report.Line("role  verdict", ("role", "verdict"))
    row = report.Line("verifier  loses", ("verifier", "loses"), {"name": "verifier_honest", "value": -1.0}, is_missed)
    monkeypatch.setattr(report.Report, "run", lambda self: iter([head, row]))

    code = economy(json=True, markdown=tmp_path / "table.md")

    told = capsys.readouterr()
    assert code == (ExitCode.INVARIANT_VIOLATED if is_missed else ExitCode.OK)
    assert [json.loads(line)["name"] for line in told.out.splitlines()] == ["verifier_honest"]
    assert ("missed: verifier_honest" in told.err) is is_missed
    assert "| verifier | loses |" in (tmp_path / "table.md").read_text()


@pytest.mark.parametrize("cost", [0, 10_001])
def test_running_a_row_costs_something_and_no_more_than_it_is_sold_for(cost):
    with pytest.raises(CommandError) as refused:
        economy(cost=cost)

    assert refused.value.exit_code is ExitCode.USAGE
