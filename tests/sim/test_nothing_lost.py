"""Workers, verifiers and clients are killed under load: every receipt a client holds is paid once, or given back."""

import random

import pytest

from protocol.jobs import Mode
from roles.shunned import SHUN_MS
from testnet.faults import Crash, FaultPlan
from testnet.sim import Network, simulate
from tests.support.audit import audit

ROLES = {"validator": 1, "inference": 3, "verifier": 3, "storage": 1, "client": 2}
VICTIMS = [f"{role}-{index}" for role in ("inference", "verifier", "client") for index in range(ROLES[role])]
CLIENTS = ("client-0", "client-1")
MODES = [*([mode] for mode in Mode), list(Mode)]
REQUESTS = 24
KILLS = 8
LOAD_MS = 8_000
DOWN_MS_MAX = 3_000
SETTLED_MS = 200_000
TIMEOUTS_MS = [3_000, 10_000, 30_000]


def draw_kills(rng: random.Random, kills: int, load_ms: int = LOAD_MS) -> FaultPlan:
    times = sorted(rng.randrange(500, load_ms) for _ in range(kills))
    free_ms = dict.fromkeys(VICTIMS, 0)
    crashes = []
    for at_ms in times:
        victim = rng.choice([name for name in VICTIMS if free_ms[name] < at_ms] or VICTIMS)
        back_ms = at_ms + rng.choice([50, 300, rng.randrange(100, DOWN_MS_MAX)])
        free_ms[victim] = back_ms + 300
        crashes.append(Crash(victim, at_ms, back_ms))
    return FaultPlan(crashes=tuple(crashes))


def is_settled(network: Network) -> bool:
    """No money waits for anything, and no worker has a job that has not ended."""
    ledger = network.ledger
    jobs = any(node.disk.kv.get("inference/jobs") for node in network.nodes.values())
    return not (jobs or ledger.batches or ledger.pending or ledger.disputes)


def run(seed: int, modes: list[Mode], kills: int = KILLS) -> Network:
    rng = random.Random(seed)
    plan = draw_kills(rng, kills)
    network = simulate(seed, ROLES, faults=plan, options={"inference": {"batch_ms": rng.choice([500, 3_000])}})
    asked = []
    for number in range(REQUESTS):
        network.run_for(rng.randrange(2 * LOAD_MS // REQUESTS))
        wanted = {"client": rng.choice(CLIENTS), "timeout_ms": rng.choice(TIMEOUTS_MS), "mode": rng.choice(modes)}
        asked.append(network.request("digits", number, **wanted))
    network.run_until(max(LOAD_MS, plan.quiet_ms) + 1_000)
    assert network.run_until(lambda: all(one.is_done for one in asked))
    return network


def check(network: Network, modes: list[Mode]) -> None:
    # Each worker's channels go on: as many requests again, one after the other, all answered. First some time: of seed
    # 11 all workers had rather not be checked by a verifier that had been down a moment ago.
    network.run_for(2 * SHUN_MS)
    later = []
    for number in range(4):
        for client in CLIENTS:
            later.append(network.request("digits", 100 + number, client, mode=modes[number % len(modes)]))
            assert network.run_until(lambda: later[-1].is_done)
    assert all(one.is_answered for one in later), [one.outcome for one in later]
    network.run_for(35_000)
    assert network.run_until(lambda: is_settled(network), SETTLED_MS)
    found = audit(network)
    assert found.holds, found
    assert not found.under_way, found
    # A job whose verifiers were down until its deadline: its client has a receipt, and let go of no result.
    assert found.zero_leaves.keys() <= {"unattested"}, found
    assert not network.find_violations()


@pytest.mark.parametrize(
    "modes", [pytest.param([Mode.INDIVIDUAL], marks=pytest.mark.full), list(Mode)], ids=["individual", "mixed"]
)
def test_every_receipt_is_paid_once_or_given_back(modes: list[Mode]) -> None:
    # Of seed 0 the worker was down past a deadline, and gave up a claim that its verifiers had attested.
    check(run(0, modes), modes)


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.parametrize("modes", MODES, ids=[*map(str, Mode), "mixed"])
@pytest.mark.parametrize("first", range(0, 12, 4))
def test_many_seeds_of_kills(first: int, modes: list[Mode]) -> None:
    for seed in range(first, first + 4):
        check(run(seed, modes), modes)
