"""What `rolemesh explain` says of leases and of workflows' runs: their lives, by the blocks alone."""

from pathlib import Path

import pytest

from protocol.jobs import compute_request_id
from protocol.ledger.genesis import build_state
from protocol.ledger.state import State
from testnet.explain_ledger import LeaseStories, RunStories
from tests.support.jobs import PRICE
from tests.support.leases import Blob, Leases
from tests.support.ledgers import Ledger
from tests.support.stored_node import write_stored_node
from tests.support.workflows import contest, find_worker, found, list_runs, settle, start
from tests.testnet.networks import run_cli


def replay(ledger: Ledger, stories: RunStories | LeaseStories) -> list[tuple[str, str]]:
    """Level and words of the one story there is."""
    before: State = build_state(ledger.foundation.genesis)
    for block, _, after in ledger.blocks:
        stories.on_block(before, block, after)
        before = after
    [findings] = stories.found.values()
    return [(item.level, item.text) for item in findings]


@pytest.mark.parametrize("by", ["job", "request"])
def test_a_run_is_told_from_its_tick_to_its_value(by: str) -> None:
    ledger = found()
    tick = start(ledger)
    [(job, run)] = list_runs(ledger)
    ledger.do(ledger.account(find_worker(ledger, job)), settle(ledger, job, value=42), after_ms=1)
    wanted = {"job": job, "request": compute_request_id(run.request)}[by]

    told = replay(ledger, RunStories(wanted.hex()[:12]))

    assert [level for level, _ in told] == ["fired", "settled", "ended"]
    assert f"tick {tick} of workflow 'mean'" in told[0][1]
    assert f"paid {PRICE} grains" in told[1][1]
    assert "done, with the value 42" in told[2][1]


def test_a_contested_run_is_told_with_its_end() -> None:
    ledger = found()
    start(ledger, ticks=1)
    [(job, _)] = list_runs(ledger)
    ledger.do(ledger.account(find_worker(ledger, job)), contest(ledger, job), after_ms=1)
    while ledger.state.runs:
        ledger.block(after_ms=5_000)
    told = replay(ledger, RunStories(job.hex()))
    assert [level for level, _ in told] == ["fired", "contested", "ended"]


@pytest.fixture(scope="module")
def leased() -> tuple[Leases, Blob, bytes]:
    """A lease of two audits, the first answered by one of its two nodes, and over."""
    net, blob = Leases(stores=2), Blob(b"kept for a while" * 1_000)
    key = net.open(blob, factor=2, periods=2)
    net.accept(key)
    net.audit(key, blob, silent=net.list_holding(key)[:1])
    net.audit(key, blob)
    assert key not in net.ledger.state.leases
    return net, blob, key


def test_a_lease_is_told_from_its_opening_to_its_end(leased: tuple[Leases, Blob, bytes]) -> None:
    net, blob, key = leased
    for wanted in (key.hex()[:12], str(blob.cid)):
        told = replay(net.ledger, LeaseStories(wanted))
        levels = [level for level, _ in told]
        assert levels == ["opened", "drawn", "drawn", "accepted", "accepted", "missed", "ended", "audited"]
        assert str(blob.cid) in told[0][1]
        assert told[-1][1].startswith("3 audits were answered")


def test_the_command_tells_what_no_client_has_kept(leased: tuple[Leases, Blob, bytes], tmp_path: Path) -> None:
    net, blob, key = leased
    home = write_stored_node(tmp_path, net.ledger, "storage-0") / "nodes" / "storage-0"
    code, told = run_cli("explain", str(blob.cid), "--dir", str(home))
    assert (code, told.get("lease")) == (0, key.hex()), told
    assert "audited" in {step["step"] for step in told["steps"]}
    _, told = run_cli("explain", "5f0c1e77", "--dir", str(home))
    assert told["error"]["code"] == "unknown_id"
    _, told = run_cli("explain", "bafkreinonsense", "--dir", str(home))
    assert told["error"]["code"] == "bad_id"
