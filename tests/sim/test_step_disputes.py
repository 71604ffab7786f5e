"""Text in dispute in a whole network: steps first, then one part of one step; nothing wrong is paid."""

from collections.abc import Mapping
from typing import Any

import pytest

from protocol.jobs import Mode
from testnet.sim import Network, simulate
from tests.support.generations import ask

ROLES = {"validator": 4, "inference": 1, "verifier": 3, "storage": 1, "client": 1}
FEE_MAX = 10**9
WORDS = ("steps.posted", "step.named", "trace.posted", "operator.named", "exhibit.posted")


def start(lies: str = "", seed: int = 3, options: Mapping[str, Mapping[str, Any]] | None = None) -> Network:
    liar = {"inference": {"class": "tests.support.text_liars:TextLiar", "lies": lies}} if lies else {}
    options = {**liar, **(options or {})}
    return simulate(seed, roles=ROLES, options={"network": {"models": ["digits", "pydoc"]}, **options})


def request(network: Network, mode: Mode):
    inputs = ask("The ", 12, temperature=900, seed=3)
    return network.request("pydoc", inputs, mode=mode, fee_max=FEE_MAX, is_direct=True, timeout_ms=10_000)


def list_words(network: Network) -> list[str]:
    return [event["name"] for event in network.events if event["name"] in WORDS]


def get_paid(network: Network) -> int:
    return sum(count.paid for count in network.ledger.work.values())


@pytest.mark.parametrize(
    ("lies", "mode"),
    [
        ("token", Mode.INDIVIDUAL),
        ("step", Mode.BATCH),
        *(
            pytest.param(lies, mode, marks=pytest.mark.full)
            for lies, mode in (
                ("token", Mode.BATCH),
                ("step", Mode.INDIVIDUAL),
                ("seed", Mode.INDIVIDUAL),
                ("seed", Mode.BATCH),
                ("temperature", Mode.INDIVIDUAL),
                ("temperature", Mode.BATCH),
            )
        ),
    ],
)
def test_a_worker_that_lies_about_text_is_slashed_for_one_part_of_one_step(lies: str, mode: Mode) -> None:
    network = start(lies)
    bonds, supply = network.bonds, network.supply()

    asked = request(network, mode)

    assert network.run_until(lambda: bool(network.ledger.wrong))
    network.run_for(5_000)
    assert {name for name, bond in network.bonds.items() if bond < bonds[name]} == {"inference-0"}
    assert network.supply() == supply
    assert list_words(network) == list(WORDS)
    assert not network.ledger.disputes
    assert mode != Mode.INDIVIDUAL or not asked.is_answered
    assert not network.find_violations()


def test_a_worker_that_leaves_the_end_out_cannot_show_its_steps_and_loses_by_that() -> None:
    network = start("truncate")
    bonds = network.bonds

    request(network, Mode.BATCH)

    assert network.run_until(lambda: bool(network.ledger.wrong))
    assert {name for name, bond in network.bonds.items() if bond < bonds[name]} == {"inference-0"}


def test_text_whose_end_was_left_out_is_neither_released_nor_paid() -> None:
    network = start("truncate")
    asked = request(network, Mode.INDIVIDUAL)

    assert network.run_until(lambda: asked.is_done)
    network.run_for(60_000)

    assert not asked.is_answered
    assert not get_paid(network)


@pytest.mark.parametrize("mode", [pytest.param(Mode.INDIVIDUAL, marks=pytest.mark.full), Mode.BATCH])
def test_an_honest_worker_is_paid_for_text_and_nobody_disputes_it(mode: Mode) -> None:
    network = start()
    bonds = network.bonds

    asked = request(network, mode)

    assert network.run_until(lambda: asked.is_done)
    assert asked.is_answered
    assert asked.outcome is not None
    assert asked.outcome.outputs == asked.compute_expected()
    network.run_for(60_000)
    assert network.bonds == bonds
    assert not list_words(network)
    assert not network.find_violations()


@pytest.mark.full
def test_a_verifier_that_blames_an_honest_worker_loses_its_bond_though_what_is_shown_is_a_large_blob() -> None:
    framer = {"class": "tests.support.text_liars:TextFramer"}
    network = start(options={"verifier-0": framer, "verifier-1": framer, "verifier-2": framer})
    bonds = network.bonds
    burned = network.ledger.burned

    network.request("pydoc", ask("def f", 140), mode=Mode.BATCH, fee_max=FEE_MAX, is_direct=True, timeout_ms=10_000)

    assert network.run_until(lambda: "exhibit.posted" in list_words(network))
    assert network.run_until(lambda: any(dispute.blob for dispute in network.ledger.disputes.values()))
    assert network.run_until(lambda: not network.ledger.disputes)
    assert network.bonds == bonds
    assert not network.ledger.wrong
    assert network.ledger.burned > burned
