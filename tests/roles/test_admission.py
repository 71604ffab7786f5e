"""No valid voucher, no work: every way in which a job can be wrong has its own typed refusal."""

from dataclasses import replace

import pytest

from protocol.ledger.state import State
from protocol.tensor import Tensor
from roles.admission import FALLBACK_CODES, NotAdmitted, RefusalCode, Worker, admit
from tests.support.core_parts import Parts, make_parts
from tests.support.jobs import PRICE, get_keys, make_request, open_channel, pay


def make_ledger() -> tuple[Parts, State, bytes, Worker]:
    """A ledger on which client-0 has a channel to inference-0; the channel and the worker."""
    parts = make_parts()
    node, worker = get_keys(parts.foundation, "inference-0")
    _, state = parts.build([open_channel(parts.state, parts.account, worker.public)])
    return parts, state, next(iter(state.channels)), Worker(worker.public, node.public)


REQUEST_FAULTS = {
    "a deadline in the past": ({"deadline_ms": 1}, RefusalCode.EXPIRED),
    "a deadline further ahead than verifiers take": ({"deadline_ms": 2**62}, RefusalCode.POLICY),
    "an epoch that has not begun": ({"epoch": 77}, RefusalCode.OTHER_EPOCH),
    "one verifier only": ({"verifiers": 1}, RefusalCode.POLICY),
    "too many verifiers": ({"verifiers": 8}, RefusalCode.POLICY),
    "a proof nobody offers": ({"proof": "zk"}, RefusalCode.POLICY),
    "a mode there is not": ({"mode": "free"}, RefusalCode.POLICY),
    "private work that is checked": ({"mode": "private"}, RefusalCode.POLICY),
    "a batch without verifiers": ({"mode": "batch", "verifiers": 0}, RefusalCode.POLICY),
    "a batch whose input cannot be opened": ({"mode": "batch", "inputs_blob": (bytes(32),)}, RefusalCode.POLICY),
    "a channel of another mode": ({"mode": "batch"}, RefusalCode.UNPAID),
    "an unknown model": ({"model": bytes(32)}, RefusalCode.UNKNOWN_MODEL),
    "a wrong shape": ({"inputs": (Tensor("uint8", (1, 63), bytes(63)),)}, RefusalCode.BAD_INPUT),
    "a wrong dtype": ({"inputs": (Tensor("int8", (1, 64), bytes(64)),)}, RefusalCode.BAD_INPUT),
    "more than gossip carries": ({"inputs": (Tensor("uint8", (800, 64), bytes(51_200)),)}, RefusalCode.TOO_LARGE),
    "more rows than its record says": ({"inputs": (Tensor("uint8", (65, 64), bytes(4_160)),)}, RefusalCode.TOO_LARGE),
    "no rows": ({"inputs": (Tensor("uint8", (0, 64), b""),)}, RefusalCode.BAD_INPUT),
    "two inputs": ({"inputs": (Tensor("uint8", (1, 64), bytes(64)),) * 2}, RefusalCode.BAD_INPUT),
    "a tensor that does not fit its data": ({"inputs": (Tensor("uint8", (2, 64), bytes(64)),)}, RefusalCode.BAD_INPUT),
    "two rows for the price of one": ({"inputs": (Tensor("uint8", (2, 64), bytes(128)),)}, RefusalCode.PRICE),
    "a limit below the voucher": ({"fee_max": PRICE - 1}, RefusalCode.PRICE),
}
VOUCHER_FAULTS = {
    "another channel": ({"channel": bytes(32)}, RefusalCode.UNPAID),
    "another request": ({"request_id": bytes(32)}, RefusalCode.UNPAID),
    "a number that is settled": ({"seq": 0}, RefusalCode.VOUCHER_REUSED),
    "more than the deposit": ({"cumulative": 101 * PRICE}, RefusalCode.UNPAID),
    "a sum below its own amount": ({"cumulative": PRICE - 1}, RefusalCode.UNPAID),
    "less than the price": ({"amount": PRICE - 1}, RefusalCode.PRICE),
    "an expiry too close to settle": ({"expiry_ms": 1}, RefusalCode.UNPAID),
}


def test_a_paid_request_for_a_served_model_is_admitted():
    parts, state, channel, worker = make_ledger()
    item = pay(make_request(state, parts.foundation), parts.foundation, channel)

    assert admit(item, state, worker, PRICE, state.models, state.time_ms) == 1


@pytest.mark.parametrize("fault", REQUEST_FAULTS)
def test_a_request_is_refused_for(fault: str):
    changes, code = REQUEST_FAULTS[fault]
    parts, state, channel, worker = make_ledger()
    item = pay(make_request(state, parts.foundation, **changes), parts.foundation, channel)

    with pytest.raises(NotAdmitted) as refusal:
        admit(item, state, worker, PRICE, state.models, state.time_ms)

    assert refusal.value.code is code
    assert str(refusal.value)


@pytest.mark.parametrize("fault", VOUCHER_FAULTS)
def test_a_voucher_is_refused_for(fault: str):
    changes, code = VOUCHER_FAULTS[fault]
    parts, state, channel, worker = make_ledger()
    item = pay(make_request(state, parts.foundation), parts.foundation, channel, **changes)

    with pytest.raises(NotAdmitted) as refusal:
        admit(item, state, worker, PRICE, state.models, state.time_ms)

    assert refusal.value.code is code


def test_a_voucher_with_a_broken_signature_pays_nothing():
    parts, state, channel, worker = make_ledger()
    item = pay(make_request(state, parts.foundation), parts.foundation, channel)
    forged = replace(item, voucher=replace(item.voucher, signature=bytes(64)))

    with pytest.raises(NotAdmitted) as refusal:
        admit(forged, state, worker, PRICE, state.models, state.time_ms)

    assert refusal.value.code is RefusalCode.UNPAID


def test_a_voucher_for_another_worker_does_not_pay_this_one():
    parts, state, channel, _ = make_ledger()
    node, other = get_keys(parts.foundation, "inference-1")
    item = pay(make_request(state, parts.foundation), parts.foundation, channel)

    with pytest.raises(NotAdmitted) as refusal:
        admit(item, state, Worker(other.public, node.public), PRICE, state.models, state.time_ms)

    assert refusal.value.code is RefusalCode.UNPAID


@pytest.mark.parametrize("epoch", [0, 1])
def test_a_request_of_an_epoch_in_which_the_ledger_does_not_know_this_node_key_is_for_others(epoch: int):
    parts, state, channel, worker = make_ledger()
    now = state.epochs[state.epoch]
    state = replace(state, epochs={0: now, 1: now}, epoch=1)
    item = pay(make_request(state, parts.foundation, epoch=epoch), parts.foundation, channel)
    assert admit(item, state, worker, PRICE, state.models, state.time_ms) == 1

    with pytest.raises(NotAdmitted) as refusal:
        admit(item, state, worker._replace(node=bytes(32)), PRICE, state.models, state.time_ms)

    assert refusal.value.code is RefusalCode.OTHER_EPOCH
    assert refusal.value.code in FALLBACK_CODES


def test_a_request_of_an_epoch_before_the_newest_three_is_too_late():
    parts, state, channel, worker = make_ledger()
    now = state.epochs[state.epoch]
    state = replace(state, epochs=dict.fromkeys(range(5), now), epoch=4)
    admitted = pay(make_request(state, parts.foundation, epoch=2), parts.foundation, channel)
    assert admit(admitted, state, worker, PRICE, state.models, state.time_ms) == 1
    item = pay(make_request(state, parts.foundation, epoch=1), parts.foundation, channel)

    with pytest.raises(NotAdmitted) as refusal:
        admit(item, state, worker, PRICE, state.models, state.time_ms)

    assert refusal.value.code is RefusalCode.EXPIRED
