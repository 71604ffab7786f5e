"""What commands read of a ledger after they have put something on it."""

from types import SimpleNamespace

import pytest

from testnet.cli import ledger
from testnet.cli.output import CommandError, ExitCode


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Heights a node's disk has, one look after the other; the last one stays."""
    heights = [5, 6, 7, 8]

    def read(directory: object) -> tuple[SimpleNamespace, dict[str, str]]:
        return SimpleNamespace(height=heights.pop(0) if len(heights) > 1 else heights[0]), {}

    monkeypatch.setattr(ledger, "read_state", read)
    monkeypatch.setattr(ledger, "POLL_S", 0)
    return heights


def test_what_is_final_is_read_once_it_is_stored(stored, tmp_path):
    assert ledger.read_state_after(tmp_path, 7, timeout_s=10).height == 7


def test_what_is_only_on_its_way_is_not_waited_for(stored, tmp_path):
    assert ledger.read_state_after(tmp_path, None, timeout_s=10).height == 5


def test_a_block_that_is_never_stored_is_an_error_that_names_it(stored, tmp_path):
    with pytest.raises(CommandError, match="block 9 is final") as error:
        ledger.read_state_after(tmp_path, 9, timeout_s=0)
    assert error.value.exit_code == ExitCode.TIMEOUT
