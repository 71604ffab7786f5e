"""A validator that lies, from its fault to its slash: found by the honest, reported, convicted; and they go on."""

from typing import Any

import pytest

from protocol.consensus.evidence import Evidence
from protocol.consensus.messages import Vote
from protocol.consensus.signatures import KeySignatures
from protocol.ledger.block import get_validators, make_final_ballot
from protocol.ledger.evidence import SubmitEvidence
from protocol.ledger.transactions import Delegate, Transfer, Undelegate
from protocol.types import GRAINS_PER_ROLE
from roles import core_effects as ce
from roles.orders import OrderState
from testnet.sim import Network, simulate

LIAR_ROLES = {"testnet.lying_validator:LyingValidator": 4, "client": 2}
HONEST_ROLES = {"validator": 4, "client": 2}


def order(network: Network, body: Any, node: str = "client-0") -> OrderState:
    """Have a node's account put something on the ledger, and say what has become of it."""
    token = f"order{network.elapsed_ms}"
    network.nodes[node].handle(ce.Order(token, body))

    def state() -> OrderState:
        found = network.nodes[node].core.orders.get(token)
        assert found is not None
        return found

    assert network.run_until(lambda: state().is_over, 30_000)
    return state()


def pay(network: Network) -> None:
    assert order(network, Transfer(bytes([7]) * 32, 5), "client-1").height


def end_epoch(network: Network) -> None:
    """Let an epoch pass, and a block that sees it, and all hear of it."""
    network.run_for(network.genesis.params.epoch_ms)
    pay(network)
    network.run_for(2_000)


def equivocate(network: Network, name: str, height: int) -> SubmitEvidence:
    key = network.nodes[name].keys.vote
    assert key is not None
    signs = KeySignatures(network.ledger.chain, key)
    ballots = [make_final_ballot(height, 1, bytes([number]) * 32) for number in (1, 2)]
    return SubmitEvidence(Evidence(tuple(Vote(item, key.public, signs.sign_vote(item)) for item in ballots), (), ()))


@pytest.mark.parametrize("seed", range(3))
def test_a_lying_validator_is_found_reported_and_slashed_and_the_honest_go_on(seed: int) -> None:
    network = simulate(seed, LIAR_ROLES, options={"validator": {"liars": 1, "lies_from": 4}})
    network.run_until(1_000)
    params = network.genesis.params
    liar = get_validators(network.ledger)[0].account
    delegator = network.nodes["client-0"].keys.account.public
    part = params.delegation_min
    assert order(network, Delegate(liar, 3 * part)).height
    assert order(network, Undelegate(liar, part)).height
    before = network.ledger
    assert not before.tombstones

    for _ in range(20):
        pay(network)
        if network.ledger.tombstones:
            break
    network.run_for(5_000)

    ledger = network.ledger
    assert list(ledger.tombstones) == [liar]
    share_bp = params.vote_slash_bp + params.vote_slash_times * 10_000 // 4
    left = 10_000 - share_bp
    assert ledger.nodes[liar].bond == before.nodes[liar].bond * left // 10_000
    [delegation] = ledger.delegations.values()
    assert (delegation.delegator, delegation.amount) == (delegator, 2 * part * left // 10_000)
    [unbonding] = ledger.unbonding.values()
    assert (unbonding.account, unbonding.amount) == (delegator, part * left // 10_000)
    assert ledger.tombstones[liar].slashed == (before.nodes[liar].bond + 3 * part) * share_bp // 10_000

    end_epoch(network)
    assert liar not in {item.account for item in get_validators(network.ledger)}
    for _ in range(3):
        pay(network)
    accused = {event["vote"] for event in network.get_events("validator.accused")}
    assert accused == {before.nodes[liar].vote.hex()}
    assert network.get_events("votes.twisted")
    honest = [node for node in network.nodes.values() if node.keys.account.public != liar]
    network.run_for(2_000)
    assert {node.ledger.height for node in honest if node.ledger} == {network.ledger.height}
    assert network.find_violations() == []


def test_old_evidence_convicts_while_its_set_answers_and_is_refused_with_the_numbers_after_that() -> None:
    network = simulate(8, HONEST_ROLES)
    network.run_until(1_000)
    for _ in range(2):
        pay(network)
    height = network.ledger.height
    params = network.genesis.params
    for _ in range(params.evidence_epochs):
        end_epoch(network)

    guilty = network.nodes["validator-1"].keys.account.public
    bond = network.ledger.nodes[guilty].bond
    assert order(network, equivocate(network, "validator-1", height)).height
    assert network.ledger.nodes[guilty].bond < bond

    for _ in range(2):
        end_epoch(network)
    state = order(network, equivocate(network, "validator-2", height))
    assert (state.height, state.code) == (None, "EvidenceTooOld")
    assert state.numbers is not None
    assert state.numbers["until"] < state.numbers["oldest"] == network.ledger.epoch - params.evidence_epochs
    assert list(network.ledger.tombstones) == [guilty]
    assert network.balances["client-0"] > network.genesis.allocations[0].amount - GRAINS_PER_ROLE
    assert network.find_violations() == []
