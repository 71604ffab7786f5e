"""Workers that withhold outputs, and honest ones whose replies are lost: a client ends with the output or its money."""

import pytest

from protocol.jobs import Mode
from protocol.proofs.receipt_file import decode_receipt_file, verify_receipt_file
from testnet.sim import Network, simulate

ROLES = {"validator": 1, "inference": 1, "verifier": 3, "storage": 1, "client": 1}
QUICK = {"batch_ms": 1_000}


def paid(network: Network) -> int:
    return sum(channel.paid for channel in network.ledger.channels.values())


def settle(network: Network) -> None:
    assert network.run_until(lambda: not network.ledger.batches and not network.ledger.withheld)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.full) for seed in (1, 2))])
def test_a_client_whose_worker_keeps_the_output_gets_its_money_back(seed: int) -> None:
    network = simulate(seed, ROLES, options={"inference-0": QUICK | {"class": "testnet.cheats:Withholding"}})
    client = network.nodes["client-0"].keys.account.public
    asked = network.request("digits", 3, mode=Mode.BATCH, timeout_ms=60_000)

    assert network.run_until(lambda: bool(network.get_events("withheld.refunded")))
    settle(network)

    assert network.get_events("result.withheld")
    assert network.run_until(lambda: asked.is_done)
    assert not asked.is_answered
    assert paid(network) == 0
    work = network.ledger.work[network.nodes["inference-0"].keys.account.public]
    assert (work.earned, work.void) == (0, 1)
    assert work.lost > 0
    assert network.ledger.get_nonce(client) >= 2
    assert not network.find_violations()


@pytest.mark.parametrize("timeout_ms", [60_000, 3_000])
def test_a_worker_whose_replies_are_lost_publishes_the_output_and_is_paid_for_both(timeout_ms: int) -> None:
    network = simulate(4, ROLES, options={"inference-0": QUICK | {"class": "testnet.cheats:Mumbling"}})
    asked = network.request("digits", 3, mode=Mode.BATCH, timeout_ms=timeout_ms)

    assert network.run_until(lambda: bool(network.get_events("withheld.published")))
    assert network.run_until(lambda: asked.is_done)
    settle(network)

    assert network.get_events("output.published")
    assert paid(network) == 1_000_000
    (data,) = network.receipts.values()  # for whoever asks by the request's id, in time or too late
    file = decode_receipt_file(data)
    verify_receipt_file(file)
    assert file.outputs == asked.compute_expected()
    assert asked.is_answered == (timeout_ms == 60_000)
    if asked.is_answered:
        assert asked.label == asked.expected
    work = network.ledger.work[network.nodes["inference-0"].keys.account.public]
    assert (work.earned, work.void, work.lost) == (1_000_000, 0, 0)
    assert not network.find_violations()


def test_nobody_is_challenged_while_replies_come() -> None:
    network = simulate(5, ROLES | {"inference": 2}, options={"inference": QUICK})
    for number in range(8):
        asked = network.request("digits", number, mode=Mode.BATCH)
        assert network.run_until(lambda asked=asked: asked.is_done)  # type: ignore[misc]
        assert asked.is_answered
    settle(network)

    assert not network.get_events("result.withheld")
    assert not network.get_events("output.published")
