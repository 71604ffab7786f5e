"""Disputes in a whole network: from a lie to the worker's slash, by the word of validators that ran one operator."""

from collections.abc import Mapping
from typing import Any

import pytest

from protocol.jobs import Mode
from testnet.sim import Network, simulate

# Of the verifiers of this seed some are bribed and some are not (`testnet.liars`).
SEED = 6
ROLES = {"validator": 4, "inference": 1, "testnet.liars:BribedVerifier": 2, "storage": 1, "client": 1}
LIAR: Mapping[str, Mapping[str, Any]] = {"inference": {"lie_bp": 10_000}}


def find_order(network: Network, *names: str) -> list[str]:
    return [event["name"] for event in network.events if event["name"] in names]


@pytest.mark.parametrize("mode", [Mode.INDIVIDUAL, Mode.BATCH])
def test_one_honest_verifier_beside_a_bribed_one_has_a_lying_worker_slashed(mode: Mode) -> None:
    network = simulate(SEED, roles=ROLES, liars=1, options=LIAR)
    bonds, supply = network.bonds, network.supply()

    network.request("digits", input=3, mode=mode)

    assert network.run_until(lambda: bool(network.ledger.wrong))
    network.run_for(5_000)
    lost = {name for name, bond in network.bonds.items() if bond < bonds[name]}
    assert lost == {"inference-0"}
    assert network.supply() == supply
    assert find_order(network, "lie.told", "dispute.opened", "trace.posted", "operator.named", "exhibit.posted") == [
        "lie.told",
        "dispute.opened",
        "trace.posted",
        "operator.named",
        "exhibit.posted",
    ]
    assert not network.ledger.disputes
