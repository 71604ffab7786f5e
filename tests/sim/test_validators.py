"""Several validators order one ledger: they agree through whatever happens to up to a third of them."""

from dataclasses import replace

import pytest

from protocol.keys import PrivateKey
from protocol.ledger import randomness
from protocol.ledger.block import get_validators
from protocol.ledger.randomness import grow_onion
from protocol.ledger.transactions import RotateKeys, Transfer, prove_possession
from roles import core_effects as ce
from testnet.faults import Crash, FaultPlan, Partition
from testnet.sim import Network, simulate
from tests.sim.test_network import ask, assert_nothing_acknowledged_is_lost, count_paid, settle

ROLES = {"validator": 4, "inference": 2, "verifier": 2, "storage": 1, "client": 1}
VALIDATORS = tuple(f"validator-{index}" for index in range(4))


def count_validators_at_the_tip(network: Network) -> int:
    return sum(network.nodes[name].disk.state == network.ledger for name in VALIDATORS)


def test_four_validators_order_what_clients_ask_and_workers_settle():
    network = simulate(seed=1, roles=ROLES)
    supply = network.supply()

    asked = ask(network, 10)
    settle(network)

    assert all(each.is_attested for each in asked)
    assert count_paid(network.ledger) == 10
    assert network.supply() == supply
    assert count_validators_at_the_tip(network) == 4
    builders = {event["node"] for event in network.get_events("block.decided")}
    assert len(builders) > 1
    assert not network.get_events("validator.accused")
    assert_nothing_acknowledged_is_lost(network, asked)


def test_a_network_that_nobody_uses_decides_nothing_and_casts_no_vote():
    network = simulate(seed=2, roles={"validator": 4})
    network.run_until(5_000)
    votes = [len(network.nodes[name].disk.votes) for name in VALIDATORS]
    height = network.ledger.height
    network.run_until(305_000)
    assert network.ledger.height == height
    assert [len(network.nodes[name].disk.votes) for name in VALIDATORS] == votes == [0] * 4


@pytest.mark.parametrize("seed", [pytest.param(0, marks=pytest.mark.full), 1])
def test_validators_that_crash_and_are_cut_off_agree_again_and_nothing_is_lost(seed: int):
    cuts = (Partition(3_000, 8_000, (VALIDATORS[:2], VALIDATORS[2:])), Partition(20_000, 25_000, (VALIDATORS[3:],)))
    crashes = tuple(
        Crash(name, at_ms=1_500 + 3_500 * index, back_ms=3_000 + 3_500 * index)
        for index, name in enumerate(VALIDATORS * 2)
    )
    network = simulate(seed, roles=ROLES, faults=FaultPlan(loss_bp=300, partitions=cuts, crashes=crashes))

    asked = ask(network, 20, pause_ms=1_500)
    settle(network)

    assert sum(each.is_attested for each in asked) >= 15
    assert count_validators_at_the_tip(network) == 4
    assert not network.get_events("validator.accused")
    assert_nothing_acknowledged_is_lost(network, asked)


def test_when_all_validators_lose_power_at_once_what_they_had_decided_stays_decided():
    crashes = tuple(Crash(name, at_ms=2_000, back_ms=3_000) for name in VALIDATORS)
    network = simulate(seed=5, roles=ROLES, faults=FaultPlan(crashes=crashes))

    asked = ask(network, 10, pause_ms=300)
    settle(network)

    assert count_validators_at_the_tip(network) == 4
    assert_nothing_acknowledged_is_lost(network, asked)


def test_a_validator_that_lost_its_vote_log_is_silent_and_then_votes_again():
    network = simulate(seed=6, roles=ROLES)
    ask(network, 2)
    lost = network.nodes["validator-1"]
    network.crash("validator-1")
    network.run_for(1_000)
    lost.disk.lose_votes()
    network.start("validator-1")

    asked = ask(network, 4, pause_ms=1_000)
    settle(network)

    names = [event["name"] for event in network.get_events("votes.muted") + network.get_events("votes.unmuted")]
    assert names == ["votes.muted", "votes.unmuted"]
    assert count_validators_at_the_tip(network) == 4
    assert_nothing_acknowledged_is_lost(network, asked)


def pay_for(network: Network, duration_ms: int, pause_ms: int = 300, payer: str = "client-0") -> None:
    """Something for the validators to order, again and again."""
    end_ms = network.elapsed_ms + duration_ms
    while network.elapsed_ms < end_ms:
        network.nodes[payer].handle(ce.Order(f"pay{network.elapsed_ms}", Transfer(bytes([7]) * 32, 5)))
        network.run_for(pause_ms)


def test_a_validator_whose_onion_ends_has_committed_to_the_next_and_every_block_earns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(randomness, "LAYERS", 120)
    network = simulate(seed=7, roles={"validator": 2, "client": 1})
    network.run_until(3_000)

    reveals = []
    while len(reveals) < 260:
        pay_for(network, 5_000)
        blocks = network.nodes["validator-0"].disk.blocks
        reveals = [blocks[height].block.header.reveal for height in sorted(blocks)]

    assert all(reveals)
    committed = network.get_events("onion.committed")
    assert {event["node"] for event in committed} == {"validator-0", "validator-1"}
    assert len(committed) <= 2 * (1 + len(reveals) // 120)
    numbers = sorted(onion.number for onion in network.ledger.onions.values())
    assert numbers[0] >= 1
    assert network.find_violations() == []


@pytest.mark.parametrize("is_killed", [pytest.param(False, marks=pytest.mark.full), True])
def test_a_vote_key_that_follows_another_votes_from_the_epoch_on_that_names_it(is_killed: bool) -> None:
    network = simulate(seed=9, roles={"validator": 4, "client": 1})
    network.run_until(1_000)
    node = network.nodes["validator-1"]
    former, following = node.keys, PrivateKey.from_seed(b"w" * 32)
    assert former.vote is not None
    node.next_keys = replace(former, vote=following)
    body = RotateKeys(former.node.public, following.public, bytes(64), b"")
    node.handle(ce.Order("rotate", prove_possession(body, former.account.public, former.node, following)))
    pay_for(network, 3_000)
    assert node.keys is former
    assert node.starts == 1
    if is_killed:
        network.crash("validator-1")
        network.run_for(500)
        network.start("validator-1")
        assert node.keys is former

    pay_for(network, network.genesis.params.epoch_ms, pause_ms=1_000)
    assert node.keys.vote is following
    assert node.starts == 2 + is_killed
    votes = {item.vote for item in get_validators(network.ledger)}
    assert following.public in votes
    assert former.vote.public not in votes
    network.crash("validator-3")
    height = network.ledger.height
    pay_for(network, 3_000)  # three of four: not without its votes
    assert network.ledger.height > height
    network.start("validator-3")
    pay_for(network, 3_000)
    assert count_validators_at_the_tip(network) == 4
    assert network.ledger.onions[former.account.public].next_tip == grow_onion(following, 1).tip
    assert not network.get_events("validator.accused")
    assert not network.get_events("votes.muted")
    assert network.find_violations() == []
