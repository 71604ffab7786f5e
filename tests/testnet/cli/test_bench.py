"""`rolemesh bench attack` and `scale` at the command line: what they refuse and what scripts are told."""

import json

import pytest

from testnet.bench import attack as bench
from testnet.cli import bench as commands
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
