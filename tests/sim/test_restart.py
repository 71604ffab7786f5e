"""A quorum of validators loses its vote logs: nothing is decided any more, until their accounts sign a restart."""

import hashlib
from dataclasses import replace

import pytest

from protocol.keys import PrivateKey
from protocol.ledger.block import get_validators
from protocol.ledger.genesis import build_state
from protocol.ledger.restart import apply_decided, apply_restart, get_generation, make_terms
from protocol.ledger.restart_terms import Restart, compute_restart_id, sign_seat
from protocol.types import NodeState
from testnet.sim import Network, simulate
from testnet.sim_node import NodeHalted
from tests.sim.test_network import SETTLED_MS, ask, assert_nothing_acknowledged_is_lost, count_paid
from tests.sim.test_validators import pay_for

VALIDATORS = tuple(f"validator-{index}" for index in range(4))
ROLES = {"validator": 4, "inference": 2, "verifier": 2, "storage": 1, "client": 2}


def lose_logs(network: Network, names: tuple[str, ...]) -> int:
    """These are killed and come back without their vote logs; the height at which everybody then stands."""
    for name in names:
        network.crash(name)
    network.run_for(500)
    for name in names:
        network.nodes[name].disk.lose_votes()
        network.start(name)
    network.run_for(5_000)
    heights = {network.nodes[name].core.ledger.height for name in VALIDATORS}
    assert len(heights) == 1
    return heights.pop()


def make_key(name: str, number: int) -> PrivateKey:
    return PrivateKey.from_seed(hashlib.sha256(f"{name}/{number}".encode()).digest())


def restart(network: Network, names: tuple[str, ...], number: int = 1) -> Restart:
    """A restart by these, on the ledger of the first one."""
    state = network.nodes[names[0]].core.ledger
    by_account = {network.nodes[name].keys.account.public: name for name in names}
    keys = {account: make_key(name, number).public for account, name in by_account.items()}
    terms = make_terms(state, get_generation(state) + 1, keys)
    seats = [by_account[seat.account] for seat in terms.seats]
    return Restart(
        terms, tuple(sign_seat(terms, network.nodes[name].keys.account, make_key(name, number)) for name in seats)
    )


def load(network: Network, made: Restart, names: tuple[str, ...], number: int = 1) -> None:
    """Their operators stop them, load the restart and start them."""
    for name in names:
        node = network.nodes[name]
        node.next_keys = replace(node.keys, vote=make_key(name, number))
        node.disk.restarts = (*node.disk.restarts, made)
        network.stop(name)
    network.run_for(500)
    for name in names:
        network.start(name)


def lose_and_restart(network: Network) -> None:
    """Three of four lose their logs, nothing is decided, a client goes away, three restart and it comes back."""
    height = lose_logs(network, VALIDATORS[:3])
    pay_for(network, 8_000)
    assert network.ledger.height == height
    before = network.nodes["client-0"].disk.blocks
    blocks = [before[each].block for each in range(1, height + 1)]
    network.crash("client-1")
    made = restart(network, VALIDATORS[:3])
    load(network, made, VALIDATORS[:3])
    pay_for(network, 4_000)
    assert network.ledger.height > height
    network.start("client-1")
    network.run_for(4_000)
    for name, node in network.nodes.items():
        kept = node.disk.blocks
        assert node.core.ledger.height == network.ledger.height, name
        assert [kept[each].block for each in range(1, height + 1)] == blocks
        assert kept[height + 1].block.header.parent == compute_restart_id(made.terms)
        assert kept[height + 1].restarts == (made,)
    assert not network.get_events("validator.accused")
    assert not [event for event in network.get_events("block.refused") if "peer" in event]
    assert network.find_violations() == []


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.full), 2])
def test_validators_that_lost_their_logs_go_on_after_a_restart_and_take_nothing_back(seed: int) -> None:
    network = simulate(seed, roles={"validator": 4, "client": 2})
    pay_for(network, 2_000 + 70 * seed)
    lose_and_restart(network)


@pytest.mark.full
def test_what_was_acknowledged_before_and_after_a_restart_is_paid() -> None:
    network = simulate(4, roles=ROLES)
    asked = ask(network, 5)
    network.run_for(SETTLED_MS)
    lose_and_restart(network)
    asked += ask(network, 5)
    network.run_for(SETTLED_MS)
    assert count_paid(network.ledger) == 10
    assert_nothing_acknowledged_is_lost(network, asked)
    assert network.find_violations() == []


def test_who_has_no_seat_votes_again_from_the_next_height_on() -> None:
    network = simulate(5, roles={"validator": 4, "client": 1})
    pay_for(network, 3_000)
    height = lose_logs(network, VALIDATORS[:3])
    network.crash("validator-3")
    load(network, restart(network, VALIDATORS[:3]), VALIDATORS[:3])
    network.start("validator-3")
    pay_for(network, 4_000)
    assert network.ledger.height > height + 1
    votes = {item.vote for item in get_validators(network.ledger)}
    kept = network.nodes["validator-3"].keys.vote
    assert kept is not None
    assert kept.public in votes
    network.crash("validator-0")
    before = network.ledger.height
    pay_for(network, 4_000)  # three of four: not without its votes
    assert network.ledger.height > before
    assert not network.get_events("validator.accused")
    assert network.find_violations() == []


def test_new_keys_that_are_lost_before_the_first_block_give_way_to_a_second_restart() -> None:
    network = simulate(6, roles={"validator": 4, "client": 1})
    pay_for(network, 3_000)
    height = lose_logs(network, VALIDATORS)
    first = restart(network, VALIDATORS[:3])
    load(network, first, VALIDATORS[:2])
    network.crash("validator-2")  # for good, with the key it had a seat for
    pay_for(network, 5_000)
    assert network.ledger.height == height
    network.nodes["validator-3"].disk.restarts = (first,)
    second = restart(network, (*VALIDATORS[:2], "validator-3"), number=2)
    assert second.terms.block_id == compute_restart_id(first.terms)
    load(network, second, (*VALIDATORS[:2], "validator-3"), number=2)
    pay_for(network, 5_000)
    assert network.ledger.height > height
    assert network.nodes["client-0"].disk.blocks[height + 1].restarts == (first, second)
    assert network.find_violations() == []


def test_a_restart_stops_the_node_when_it_would_take_a_decided_block_back() -> None:
    """A client has a block of which those who restart know nothing, and comes back with it."""
    network = simulate(8, roles={"validator": 4, "client": 2})
    pay_for(network, 3_000)
    node = network.nodes["validator-0"]
    early = node.disk.state
    assert early is not None
    pay_for(network, 3_000)
    network.run_for(2_000)
    assert network.ledger.height > early.height
    for name in VALIDATORS:
        network.crash(name)
    network.run_for(500)
    for name in VALIDATORS:
        disk = network.nodes[name].disk
        disk.state, disk.blocks = early, {each: disk.blocks[each] for each in disk.blocks if each <= early.height}
    by_account = {network.nodes[name].keys.account.public: name for name in VALIDATORS}
    terms = make_terms(early, 1, {account: make_key(name, 1).public for account, name in by_account.items()})
    seats = [by_account[seat.account] for seat in terms.seats]
    made = Restart(
        terms, tuple(sign_seat(terms, network.nodes[name].keys.account, make_key(name, 1)) for name in seats)
    )
    assert apply_restart(early, made)
    node.disk.restarts, node.next_keys = (made,), replace(node.keys, vote=make_key("validator-0", 1))
    network.start("validator-0")
    with pytest.raises(NodeHalted, match="would take it back"):
        network.run_for(5_000)


def put_back(network: Network, name: str, height: int) -> None:
    """The ledger of a node that is down is that of an older copy."""
    disk, source = network.nodes[name].disk, network.nodes["client-0"].disk.blocks
    state = build_state(network.genesis)
    for each in range(1, height + 1):
        state = apply_decided(state, source[each].block, source[each].certificate)
    disk.state, disk.blocks = state, {each: disk.blocks[each] for each in disk.blocks if each <= height}


@pytest.mark.parametrize("is_taken_up", [False, True])
def test_a_validator_whose_ledger_is_behind_its_restart_says_so_and_goes_on_once_it_has_caught_up(
    is_taken_up: bool,
) -> None:
    """Without its vote by its new key there is no quorum, so nobody brings it the restart with a block."""
    network = simulate(9, roles={"validator": 4, "client": 1})
    pay_for(network, 5_000)
    height = lose_logs(network, VALIDATORS[:3])
    made = restart(network, VALIDATORS[:3])
    late = network.nodes["validator-1"]
    network.stop("validator-1")
    put_back(network, "validator-1", height - 2)
    late.disk.restarts, late.next_keys = (made,), replace(late.keys, vote=make_key("validator-1", 1))
    if is_taken_up:
        late.keys, late.next_keys = late.next_keys, None
        late.disk.begin_votes()
    load(network, made, ("validator-0", "validator-2"))
    network.start("validator-1")
    assert late.core.pending_restarts[1] == (made,)
    assert late.core.state is NodeState.SYNCING
    pay_for(network, 6_000)
    assert network.ledger.height > height
    assert late.core.pending_restarts[1] == ()
    [told] = [event for event in network.get_events("restart.waits") if event["node"] == "validator-1"]
    assert (told["height"], told["stands_on"], told["generation"]) == (height - 2, height, 1)
    [told] = [event for event in network.get_events("restart.reached") if event["node"] == "validator-1"]
    assert told["height"] == height
    for node in network.nodes.values():
        assert node.disk.blocks[height + 1].restarts == (made,)
        assert node.disk.state == network.ledger
    assert not network.get_events("validator.accused")
    assert network.find_violations() == []
