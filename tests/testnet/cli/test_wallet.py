"""What a command waits for that has put something on the ledger: whoever looks next must find it there."""

from pathlib import Path

import pytest

from protocol.ledger.transactions import Transfer
from testnet.cli import wallet
from testnet.cli.output import CommandError, ExitCode

FINAL = {"is_known": True, "is_synced": True, "ledger_height": 7, "height": 7, "account": "rm1"}


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Heights a node's disk has, one look after the other; the last one stays. The node says 7 is final."""
    heights = [5, 6, 7, 8]

    def read(path: Path) -> int:
        return heights.pop(0) if len(heights) > 1 else heights[0]

    monkeypatch.setattr("roles.chain.read_height", read)
    monkeypatch.setattr(wallet, "ask_running", lambda directory, request: FINAL)
    monkeypatch.setattr(wallet, "POLL_S", 0)
    return heights


def test_what_is_told_to_be_final_is_stored(stored: list[int], tmp_path: Path) -> None:
    told = wallet.order_final(tmp_path, Transfer(bytes(32), 1), "30s")

    assert (told["state"], told["height"]) == ("final", 7)
    assert stored == [8], "the disk was looked at until it had height 7"


def test_a_block_that_is_never_stored_is_an_error_that_names_it(
    stored: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored[:] = [6]
    monkeypatch.setattr(wallet, "STORED_S_MAX", 0)

    with pytest.raises(CommandError, match="has not stored block 7") as error:
        wallet.order_final(tmp_path, Transfer(bytes(32), 1), "30s")

    assert error.value.exit_code == ExitCode.TIMEOUT
    assert "do not send it again" in error.value.hint
