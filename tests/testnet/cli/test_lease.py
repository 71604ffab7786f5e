"""`rolemesh store lease`, as far as it reads what a node has stored."""

from pathlib import Path

import pytest

from testnet.cli.output import ExitCode
from tests.support.leases import Blob, Leases
from tests.support.stored_node import write_stored_node
from tests.testnet.networks import run_cli

NODE = "storage-0"


@pytest.mark.parametrize(("terms", "runs_out"), [(1, True), (2, False)])
def test_a_lease_that_cannot_be_renewed_says_what_it_lacks(terms: int, runs_out: bool, tmp_path: Path) -> None:
    net = Leases()
    net.open(Blob(b"kept"), factor=2, periods=3, renews=1, terms=terms)
    home = write_stored_node(tmp_path, net.ledger, NODE)

    code, told = run_cli("store", "lease", "ls", "--dir", str(home))

    assert code == ExitCode.OK
    [row] = told["leases"]
    assert row["runs_out"] is runs_out
    assert (row["short_grains"] == row["balance_grains"]) is runs_out  # one term of two
    _, shown = run_cli("store", "lease", "show", row["lease"], "--dir", str(home))
    assert shown["short_grains"] == row["short_grains"]
