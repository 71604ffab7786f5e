"""`rolemesh ledger genesis`: a genesis from a base and shares, and why there is none."""

from pathlib import Path

import pytest

from protocol.keys import format_account
from protocol.ledger.genesis import Genesis, build_state
from testnet.cli.output import ExitCode
from testnet.genesis import build_genesis
from tests.testnet.networks import run_cli

TO = ("--to", f"contributors={format_account(bytes(31) + b'1')}", "--to", f"backers={format_account(bytes(31) + b'2')}")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base.json"
    path.write_text(build_genesis(7, models=()).genesis.to_json())
    return path


def test_a_genesis_is_made_of_the_shares_that_ship_and_a_ledger_starts_from_it(base: Path) -> None:
    out = base.with_name("genesis.json")
    code, told = run_cli("ledger", "genesis", str(base), *TO, "--out", str(out))
    assert code == ExitCode.OK
    assert told["ecosystem_grains"] * 10 == told["supply_grains"] * 4
    assert sum(row["grains"] for row in told["shares"]) == told["supply_grains"]
    state = build_state(Genesis.from_json(out.read_text()))
    assert (state.chain.hex(), state.supply, state.treasury) == (
        told["chain"],
        told["supply_grains"],
        told["treasury_grains"],
    )
    code, told = run_cli("ledger", "genesis", str(base), *TO, "--out", str(out))
    assert (code, told["error"]["code"]) == (ExitCode.USAGE, "file_exists")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ((), "bad_allocations"),
        (TO[:2], "bad_allocations"),
        ((*TO, "--to", "friends=rm1x"), "bad_account"),
        ((*TO, *TO[:2]), "usage"),
        ((*TO, "--allocations", "gone.json"), "bad_allocations"),
    ],
)
def test_shares_that_nobody_is_named_for_make_no_genesis(base: Path, words: tuple[str, ...], code: str) -> None:
    out = base.with_name("genesis.json")
    ended, told = run_cli("ledger", "genesis", str(base), *words, "--out", str(out))
    assert (ended, told["error"]["code"]) == (ExitCode.USAGE, code)
    assert not out.exists()


def test_a_base_that_is_no_genesis_says_so(tmp_path: Path) -> None:
    (tmp_path / "base.json").write_text("[]")
    code, told = run_cli("ledger", "genesis", str(tmp_path / "base.json"), *TO)
    assert (code, told["error"]["code"]) == (ExitCode.CONFIG, "bad_genesis")
