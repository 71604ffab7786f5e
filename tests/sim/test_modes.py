"""Batch and private work in a whole network: what is drawn is checked and paid, and lies cost more than they bring."""

from dataclasses import replace

import pytest

from protocol.errors import RemoteError
from protocol.jobs import Mode
from protocol.ledger.job_records import BatchPhase
from protocol.proofs.receipt_file import decode_receipt_file, verify_receipt_file
from testnet.liars import distort
from testnet.sim import Asked, Network, simulate

ROLES = {"validator": 1, "inference": 2, "verifier": 3, "storage": 1, "client": 2}
ASKED = 24


def ask(network: Network, mode: Mode, count: int = ASKED, model: str = "digits") -> list[Asked]:
    """Requests of two clients, one after another."""
    asked = []
    for number in range(count):
        one = network.request(model, number, client=f"client-{number % 2}", mode=mode)
        asked.append(one)
        assert network.run_until(lambda one=one: one.is_done)  # type: ignore[misc]
    return asked


def paid(network: Network) -> int:
    return sum(channel.paid for channel in network.ledger.channels.values())


def settle(network: Network, asked: list[Asked]) -> None:
    answered = sum(one.is_answered for one in asked)
    assert network.run_until(
        lambda: (
            sum(channel.settled_seq for channel in network.ledger.channels.values()) >= answered
            and not network.ledger.batches
            and not network.ledger.pending
        )
    )


def test_batches_are_drawn_checked_and_paid() -> None:
    network = simulate(1, ROLES)
    asked = ask(network, Mode.BATCH)
    assert all(one.is_answered and not one.is_attested for one in asked)
    assert all(one.label == one.expected for one in asked)
    settle(network, asked)
    assert paid(network) == ASKED * 1_000_000
    assert network.get_events("leaves.attested")
    assert not network.get_events("dissent.found")
    assert not network.get_events("settlement.refused")
    assert not network.find_violations()
    work = network.ledger.work
    assert sum(item.earned for item in work.values()) == ASKED * 1_000_000


def test_private_work_is_paid_without_anyone_looking() -> None:
    network = simulate(2, ROLES)
    asked = ask(network, Mode.PRIVATE)
    settle(network, asked)
    assert paid(network) == ASKED * 1_000_000
    assert not network.get_events("leaves.attested")
    assert not network.get_events("attestation.made")
    assert not network.find_violations()


def test_modes_live_side_by_side_in_channels_of_their_own() -> None:
    network = simulate(3, ROLES)
    asked = [one for mode in Mode for one in ask(network, mode, count=6)]
    assert [one.is_attested for one in asked] == [True] * 6 + [False] * 12
    settle(network, asked)
    assert paid(network) == 18 * 1_000_000
    assert {channel.mode for channel in network.ledger.channels.values()} == set(Mode)


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.full) for seed in (2, 3))])
def test_a_worker_that_lies_in_batches_is_slashed_and_earns_nothing_by_it(seed: int) -> None:
    network = simulate(seed, ROLES, liars=1, options={"inference": {"lie_bp": 10_000, "batch_ms": 2_000}})
    before = network.bonds
    asked = ask(network, Mode.BATCH)
    settle(network, asked)
    liars = {event["node"] for event in network.get_events("lie.told")}
    assert network.get_events("dissent.found")
    assert network.get_events("dispute.opened")
    (liar,) = liars
    assert network.bonds[liar] < before[liar]
    assert {name for name, bond in network.bonds.items() if bond < before[name]} == {liar}
    account = network.nodes[liar].keys.account.public
    assert network.ledger.work[account].earned == 0
    assert not network.find_violations()


@pytest.mark.parametrize("name", ["inference", pytest.param("verifier", marks=pytest.mark.full)])
@pytest.mark.parametrize("phase", list(BatchPhase))
def test_who_is_killed_in_the_middle_of_a_batch_goes_on_with_it(phase: BatchPhase, name: str) -> None:
    network = simulate(5, ROLES, options={"inference": {"batch_ms": 2_000}})
    asked = ask(network, Mode.BATCH)
    assert network.run_until(lambda: any(batch.phase == phase for batch in network.ledger.batches.values()))
    killed = [node for node in network.nodes if node.startswith(name)]
    for node in killed:
        network.crash(node)
    network.run_for(300)
    for node in killed:
        network.start(node)
    settle(network, asked)
    assert paid(network) == sum(one.is_answered for one in asked) * 1_000_000
    assert not network.get_events("settlement.refused")
    assert not network.find_violations()


@pytest.mark.parametrize("name", ["inference", "verifier", "validator"])
def test_who_lies_about_a_float_model_is_slashed_whoever_is_killed_in_the_middle_of_the_dispute(name: str) -> None:
    network = simulate(2, ROLES, liars=1, options={"inference": {"lie_bp": 10_000, "batch_ms": 2_000}})
    before = network.bonds
    asked = ask(network, Mode.BATCH, model="digits-fp32")
    assert network.run_until(lambda: bool(network.ledger.disputes))
    killed = [node for node in network.nodes if node.startswith(name)]
    for node in killed:
        network.crash(node)
    network.run_for(300)
    for node in killed:
        network.start(node)
    settle(network, asked)
    liars = {event["node"] for event in network.get_events("lie.told")}
    assert {node for node, bond in network.bonds.items() if bond < before[node]} == liars
    assert not network.find_violations()


def test_a_client_pays_another_worker_when_the_first_is_gone() -> None:
    network = simulate(6, ROLES)
    network.crash("inference-0")
    asked = ask(network, Mode.BATCH, count=6)
    assert all(one.is_answered for one in asked)


@pytest.mark.parametrize(("mode", "words"), [(Mode.BATCH, "drawn after the fact"), (Mode.PRIVATE, "nobody checks")])
def test_a_receipt_says_that_nobody_has_attested_it_and_cannot_be_made_to_say_more(mode: Mode, words: str) -> None:
    network = simulate(7, ROLES)
    ask(network, mode, count=1)
    (data,) = network.receipts.values()
    file = decode_receipt_file(data)
    shown = {finding.level: finding for finding in verify_receipt_file(file)}
    assert [level for level, finding in shown.items() if finding.is_shown] == ["paid for", "signed"]
    assert words in shown["attested"].text
    for other in Mode:
        if other != mode:
            with pytest.raises(RemoteError):
                verify_receipt_file(replace(file, request=replace(file.request, mode=other)))
    with pytest.raises(RemoteError):
        verify_receipt_file(replace(file, outputs=distort(file.outputs)))


def test_a_worker_that_keeps_vouchers_and_its_answers_gets_no_second_one_before_the_ledger_has_ended_the_first() -> (
    None
):
    """And then it is not paid for it: whoever is charged and gets nothing asks in public."""
    withholding = {"class": "testnet.cheats:Withholding", "lie_bp": 10_000}
    network = simulate(8, ROLES | {"inference": 1}, options={"inference-0": withholding})
    asked = [network.request("digits", number, mode=Mode.BATCH, timeout_ms=3_000) for number in range(5)]
    assert network.run_until(lambda: all(one.is_done for one in asked))
    assert not any(one.is_answered for one in asked)
    second = network.request("digits", 7, mode=Mode.BATCH, timeout_ms=3_000)
    assert network.run_until(lambda: second.is_done)
    assert second.outcome is not None
    assert "hold vouchers they have not answered" in second.outcome.reason
    network.run_for(60_000)
    assert network.get_events("withheld.refunded")
    assert paid(network) == 0
    assert sum(channel.settled_seq for channel in network.ledger.channels.values()) == 1


def test_a_worker_that_was_only_out_of_reach_is_trusted_again() -> None:
    network = simulate(9, ROLES | {"inference": 1})
    assert network.run_until(lambda: bool(network.get_events("model.held")))
    network.crash("inference-0")
    lost = network.request("digits", 1, mode=Mode.BATCH, timeout_ms=3_000)
    assert network.run_until(lambda: lost.is_done)
    network.start("inference-0")
    asked = [network.request("digits", number, mode=Mode.BATCH) for number in range(4)]
    assert network.run_until(lambda: all(one.is_done for one in asked))
    assert all(one.is_answered for one in asked)
