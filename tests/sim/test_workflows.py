"""Scheduled work in whole networks: fired without a leader, attested, published; in faults, once a tick or noted."""

import pytest

from protocol.candles import compute_feed_key
from protocol.ledger.apply import apply_block
from protocol.ledger.genesis import build_state
from protocol.ledger.workflow_records import Run, Workflow
from protocol.ledger.workflows import AddWorkflow
from protocol.queries import CandleQuery, InputQuery, SeriesQuery
from protocol.types import GRAINS_PER_ROLE
from protocol.workflow import Outcome, is_missed, read_result
from roles import core_effects as ce
from testnet.faults import Crash, FaultPlan, Partition
from testnet.genesis import FEED_NAME
from testnet.sim import Network, simulate
from testnet.sim_inputs import get_engine

ROLES = {"validator": 4, "inference": 3, "verifier": 3, "oracle": 1, "storage": 1, "client": 1}
MODELS = {"network": {"models": ["forecast"]}}
HEARTBEAT_MS = 5_000
CLOSES = 9


def schedule(network: Network, name: str, every_ms: int, ticks: int) -> None:
    """Have client-0 put a workflow on the ledger now."""
    model = next(record for record in network.genesis.models if record.name == "forecast")
    series = SeriesQuery(CandleQuery(FEED_NAME, HEARTBEAT_MS, CLOSES), ("close",))
    body = AddWorkflow(
        name=name,
        model=model.digest,
        inputs=(InputQuery((series,)),),
        every_ms=every_ms,
        end_ms=(network.kernel.now_ms // every_ms + ticks) * every_ms,
        fee=GRAINS_PER_ROLE // 100,
        verifiers=2,
        timeout_ms=4_000,
        budget=ticks * GRAINS_PER_ROLE // 10,
        decimals=6,
        age_ms_max=60_000,
    )
    network.nodes["client-0"].handle(ce.Order(f"add-{name}", body))


def follow(network: Network) -> tuple[dict[tuple[bytes, int], Run], list[tuple[bytes, int]]]:
    """Every run that the decided blocks have opened, by workflow and tick, and all openings in order."""
    blocks = max((node.disk.blocks for node in network.nodes.values()), key=len)
    state = build_state(network.genesis)
    runs: dict[tuple[bytes, int], Run] = {}
    opened: list[tuple[bytes, int]] = []
    for _, item in sorted(blocks.items()):
        after = apply_block(state, item.block, check_signatures=False)
        for key in after.runs.keys() - state.runs.keys():
            run = after.runs[key]
            runs[run.workflow, run.tick] = run
            opened.append((run.workflow, run.tick))
        state = after
    return runs, opened


def get_workflow(network: Network, name: str) -> Workflow:
    return network.ledger.workflows[compute_feed_key(name)]


def check_ticks(network: Network, names: list[str], ticks: int) -> int:
    """Each tick of each workflow was fired exactly once or is noted as missed, with why; how many were fired."""
    runs, opened = follow(network)
    assert len(opened) == len(set(opened))
    for name in names:
        workflow = get_workflow(network, name)
        last = workflow.end_ms // workflow.every_ms
        noted = [tick for item in workflow.past for tick in range(item.first, item.last + 1)]
        assert sorted(noted) == list(range(last - ticks + 1, last + 1))
        fired = sorted(tick for key, tick in runs if key == compute_feed_key(name))
        assert sorted(item.first for item in workflow.past if not is_missed(item.outcome)) == fired
        assert (workflow.fired, workflow.missed) == (len(fired), ticks - len(fired))
    assert network.find_violations() == []
    return len(opened)


def test_a_workflow_is_fired_done_attested_and_published_without_a_leader() -> None:
    network = simulate(11, roles=ROLES, options=MODELS)
    network.run_until(3_000)
    schedule(network, "next", every_ms=5_000, ticks=13)
    network.run_until(69_000)
    workflow = get_workflow(network, "next")
    assert workflow.past[0].outcome == Outcome.NO_HISTORY
    assert workflow.done >= 2
    runs, _ = follow(network)
    feed = network.ledger.feeds["next"]
    run = runs[compute_feed_key("next"), feed.round]
    outputs, _ = get_engine().compute(run.request.model, run.request.inputs)
    assert feed.value == read_result(outputs, 6)
    assert feed.observers == 2
    assert network.find_violations() == []


def make_faults(seed: int) -> FaultPlan:
    """Workers, verifiers, the oracle and a validator die in turn, and for a while there is no quorum at all."""
    names = ("inference-0", "verifier-0", "oracle-0", "validator-0", "inference-1", "inference-2")
    crashes = tuple(
        Crash(name, 55_000 + 9_000 * number + seed % 7 * 300, 61_000 + 9_000 * number)
        for number, name in enumerate(names)
    )
    halves = (("validator-0", "validator-1", "oracle-0"), ("validator-2", "validator-3"))
    return FaultPlan(loss_bp=500 + seed % 3 * 500, crashes=crashes, partitions=(Partition(75_000, 90_000, halves),))


def test_a_dead_worker_and_a_lost_quorum_leave_every_tick_fired_once_or_noted() -> None:
    halves = (("validator-0", "validator-1", "oracle-0"), ("validator-2", "validator-3"))
    faults = FaultPlan(crashes=(Crash("inference-0", 52_000, 58_000),), partitions=(Partition(61_000, 73_000, halves),))
    network = simulate(5, roles=ROLES, options=MODELS, faults=faults)
    network.run_until(46_000)
    names = ["w0", "w1"]
    for name in names:
        schedule(network, name, every_ms=2_500, ticks=14)
    network.run_until(90_000)
    assert 2 <= check_ticks(network, names, 14) < 28
    assert {Outcome.DONE, Outcome.ASLEEP} <= {item.outcome for item in get_workflow(network, "w0").past}


@pytest.mark.full
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [1, 2])
def test_through_crashes_and_a_lost_quorum_each_tick_is_fired_once_or_noted(seed) -> None:
    network = simulate(seed, roles=ROLES, options=MODELS, faults=make_faults(seed))
    network.run_until(3_000)
    names = [f"w{number}" for number in range(4)]
    for name in names:
        schedule(network, name, every_ms=5_000, ticks=26)
    network.run_until(150_000)
    fired = check_ticks(network, names, 26)
    assert 20 <= fired < 26 * len(names)
    assert sum(get_workflow(network, name).done for name in names) >= 10


@pytest.mark.full
@pytest.mark.timeout(1_800)
def test_ten_thousand_ticks_under_faults_are_each_fired_once_or_noted() -> None:
    """Fifty workflows of twenty ticks, ten networks with faults of their own."""
    fired = 0
    for seed in range(10):
        network = simulate(seed, roles=ROLES, options=MODELS, faults=make_faults(seed))
        network.run_until(3_000)
        names = [f"w{number}" for number in range(50)]
        for name in names:
            schedule(network, name, every_ms=5_000, ticks=20)
        network.run_until(120_000)
        fired += check_ticks(network, names, 20)
    assert fired > 3_000
