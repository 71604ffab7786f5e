"""Runs of workflows that a verifier does not agree with, in whole networks: who lies pays, and the truth settles."""

from collections.abc import Mapping
from typing import Any

import pytest

from protocol.workflow import Outcome
from testnet.sim import Network, simulate
from tests.sim.test_workflows import MODELS, get_workflow, schedule

ROLES = {"validator": 4, "inference": 1, "testnet.liars:BribedVerifier": 2, "oracle": 1, "storage": 1, "client": 1}
SEED = 6  # of its verifiers one is bribed and one is not
LIAR: Mapping[str, Mapping[str, Any]] = {**MODELS, "inference": {"lie_bp": 10_000}}


def run_one(network: Network) -> None:
    """A workflow that is fired once, on ten rounds of history."""
    network.run_until(52_000)
    schedule(network, "next", every_ms=5_000, ticks=1)
    assert network.run_until(lambda: bool(network.ledger.runs))


def get_outcome(network: Network) -> str:
    [tick] = get_workflow(network, "next").past
    return tick.outcome


def test_a_worker_that_lies_in_a_workflow_is_slashed_and_its_run_is_paid_back() -> None:
    network = simulate(SEED, roles=ROLES, liars=1, options=LIAR)
    bonds, supply = network.bonds, network.supply()
    run_one(network)
    budget = get_workflow(network, "next").budget

    assert network.run_until(lambda: bool(network.ledger.wrong))

    assert network.get_events("run.contested")
    assert {name for name, bond in network.bonds.items() if bond < bonds[name]} == {"inference-0"}
    assert get_outcome(network) == Outcome.FAILED
    assert get_workflow(network, "next").budget > budget
    assert not network.ledger.feeds["next"].reports
    assert network.supply() == supply
    assert not network.find_violations()


def test_a_verifier_that_stands_by_a_lie_loses_its_bond_and_the_run_is_settled() -> None:
    roles = {"validator": 4, "inference": 1, "verifier": 2, "oracle": 1, "storage": 1, "client": 1}
    network = simulate(SEED, roles=roles, options={**MODELS, "verifier-0": {"class": "testnet.cheats:Slandering"}})
    bonds, supply = network.bonds, network.supply()
    liar = network.nodes["verifier-0"].keys.account.public
    run_one(network)
    held = network.ledger.get_balance(liar)

    assert network.run_until(lambda: not network.ledger.runs)

    assert network.get_events("dispute.opened")
    assert held - network.ledger.get_balance(liar) >= network.ledger.params.dispute_bond
    assert network.bonds == bonds
    assert get_outcome(network) == Outcome.DONE
    assert network.ledger.feeds["next"].observers == 1
    assert network.supply() == supply
    assert not network.find_violations()


@pytest.mark.full
def test_a_verifier_that_lies_and_does_not_stand_by_it_counts_for_nothing() -> None:
    roles = {"validator": 4, "inference": 1, "verifier": 2, "oracle": 1, "storage": 1, "client": 1}
    network = simulate(SEED, roles=roles, options={**MODELS, "verifier-0": {"class": "testnet.cheats:Framing"}})
    run_one(network)

    assert network.run_until(lambda: not network.ledger.runs)

    assert not network.get_events("dispute.opened")
    assert get_outcome(network) == Outcome.DONE
    assert [count.minority for count in network.ledger.work.values() if count.minority] == [1]


@pytest.mark.full
def test_a_worker_that_lies_and_does_not_contest_is_made_to_open_its_claim_and_slashed() -> None:
    options = {**MODELS, "inference-0": {"class": "testnet.cheats:Dodging", "lie_bp": 10_000}}
    network = simulate(SEED, roles=ROLES, options=options)
    bonds = network.bonds
    run_one(network)

    assert network.run_until(lambda: bool(network.ledger.wrong))

    assert not network.get_events("run.contested")
    assert network.get_events("claim.opened")
    assert {name for name, bond in network.bonds.items() if bond < bonds[name]} == {"inference-0"}
    assert get_outcome(network) == Outcome.FAILED


@pytest.mark.full
def test_nobody_demands_a_run_that_is_settled() -> None:
    roles = {"validator": 4, "inference": 1, "verifier": 2, "oracle": 1, "storage": 1, "client": 1}
    network = simulate(SEED, roles=roles, options=MODELS)
    run_one(network)
    assert network.run_until(lambda: not network.ledger.runs)
    network.run_for(40_000)
    assert get_outcome(network) == Outcome.DONE
    assert not network.get_events("opening.demanded")
