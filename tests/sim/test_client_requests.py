"""Hedged, called off and repeated requests in a whole network: who answers, who is paid, and what a crash costs."""

import hashlib
from collections.abc import Mapping

import pytest

from protocol.jobs import Mode
from protocol.ledger.transactions import ZeroReason
from roles.attempts import Ask, AskAgain, CallOff, Outcome
from roles.inference import Inference
from roles.promptness import WAIT_MS
from roles.role import Compute, Computed, Effect, Event, SetTimer, TimerFired
from testnet.sim import Asked, Network, simulate
from testnet.sim_inputs import get_heldout_inputs

PRICE = 1_000_000
SLOW = "tests.sim.test_client_requests:SlowInference"
ROLES = {"validator": 1, SLOW: 3, "verifier": 2, "storage": 1, "client": 1}
ASKED = 40
SLOW_MS = 3_000


class SlowInference(Inference):
    """An inference node that takes SLOW_MS over one job in eight, whichever it may be, but not over what is hedged."""

    def handle(self, event: Event, now_ms: int) -> list[Effect]:
        match event:
            case Computed(token) if self._is_slow(token):
                self._held = {**getattr(self, "_held", {}), token: event}
                return [SetTimer(f"slow|{token}", now_ms + SLOW_MS)]
            case TimerFired(name) if name.startswith("slow|"):
                return super().handle(self._held.pop(name.removeprefix("slow|")), now_ms)
        return super().handle(event, now_ms)

    def _is_slow(self, token: str) -> bool:
        job = self._computing.get(token)
        is_first = job is not None and job.item.voucher.attempt == 1
        return is_first and hashlib.sha256(self.context.signer.public + token.encode()).digest()[0] < 32


class BusyInference(Inference):
    """An inference node with so much in its engine already that a job waits for a second."""

    def handle(self, event: Event, now_ms: int) -> list[Effect]:
        effects = super().handle(event, now_ms)
        for at, effect in enumerate(effects):
            if isinstance(effect, Compute):
                filling = [
                    Compute(f"fill-{at}-{number}", effect.model, effect.inputs, effect.deadline_ms)
                    for number in range(200)
                ]
                return [*effects[:at], *filling, *effects[at:]]
        return effects


def ask(network: Network, count: int, mode: Mode = Mode.BATCH) -> tuple[list[Asked], list[int]]:
    """One request after another, and how long each took, in ms."""
    asked, took_ms = [], []
    for number in range(count):
        begun_ms = network.elapsed_ms
        one = network.request("digits", number, mode=mode)
        asked.append(one)
        assert network.run_until(lambda one=one: one.is_done)  # type: ignore[misc]
        took_ms.append(network.elapsed_ms - begun_ms)
    return asked, sorted(took_ms)


def paid(network: Network) -> int:
    return sum(channel.paid for channel in network.ledger.channels.values())


def settle(network: Network) -> None:
    """Until nothing is left that could be paid: every voucher has its leaf."""
    sent = len(network.get_events("request.sent"))
    network.run_for(35_000)  # what was never seen holds up a channel until the next one's deadline
    assert network.run_until(
        lambda: (
            not network.ledger.batches
            and not network.ledger.pending
            and sum(channel.settled_seq for channel in network.ledger.channels.values()) >= sent - 1
        )
    )


def test_hedging_makes_the_slowest_fast_and_a_loser_that_computed_is_paid_its_own_voucher_at_most() -> None:
    # Many vouchers a worker: with one, a slow worker that was hedged away from is lost to the next request too.
    plain, hedged = (simulate(5, ROLES, options={"client": {"voucher_step": 8, "hedge_ms": ms}}) for ms in (0, 300))
    _, plain_ms = ask(plain, ASKED)
    asked, hedged_ms = ask(hedged, ASKED)

    assert plain_ms[-1] >= WAIT_MS  # by then whoever has said nothing is late in any case
    assert hedged_ms[-1] < WAIT_MS // 2
    assert all(one.is_answered and one.label == one.expected for one in asked)
    hedges = len(hedged.get_events("request.hedged"))
    assert 0 < hedges < ASKED // 2
    settle(hedged)
    left = hedged.get_events("result.late")
    assert paid(hedged) == (ASKED + len(left)) * PRICE
    assert len(left) <= hedges
    assert not hedged.find_violations()


def test_no_worker_ever_holds_more_vouchers_than_the_step_while_requests_are_hedged() -> None:
    network = simulate(6, ROLES, options={"client": {"hedge_ms": 300}})
    asked = [network.request("digits", number, mode=Mode.BATCH) for number in range(12)]
    assert network.run_until(lambda: all(one.is_done for one in asked))

    held: dict[str, int] = {}
    spoken = {"request.sent": 1, "result.received": -1, "request.refused": -1, "request.left": -1}
    spoken["result.late"] = -1
    for event in network.events:
        if event["node"] == "client-0" and event["name"] in spoken:
            held[event["worker"]] = held.get(event["worker"], 0) + spoken[event["name"]]
            assert held[event["worker"]] <= 1, event


def test_a_request_called_off_while_it_waits_is_never_run_and_never_paid() -> None:
    busy = {**{key: value for key, value in ROLES.items() if key != SLOW}}
    network = simulate(7, {**busy, "tests.sim.test_client_requests:BusyInference": 1})
    network.run_for(5_000)
    record = network.genesis.models[0]
    inputs = get_heldout_inputs(1, record)
    network.command("client-0", Ask("gone", record.digest, inputs, 10 * PRICE))
    assert network.run_until(lambda: bool(network.get_events("request.taken")))

    network.command("client-0", CallOff("gone"))
    assert network.run_until(lambda: bool(network.get_events("request.left")))

    assert not network.get_events("claim.made")
    assert not network.get_events("result.late")
    assert network.run_until(lambda: bool(network.get_events("leaf.settled")))
    (settled,) = network.get_events("leaf.settled")
    assert (settled["zero_reason"], settled["amount"]) == (ZeroReason.CANCELLED, 0)
    assert paid(network) == 0
    assert not network.deliveries


@pytest.mark.parametrize("seed", [*range(3), *(pytest.param(seed, marks=pytest.mark.full) for seed in range(3, 6))])
@pytest.mark.parametrize("mode", [Mode.INDIVIDUAL, Mode.BATCH])
def test_a_client_killed_before_the_answer_asks_again_by_id_gets_it_and_pays_once(seed: int, mode: Mode) -> None:
    network = simulate(seed, {**ROLES})
    first = network.request("digits", 3, mode=mode)
    sent = lambda: network.get_events("request.sent")  # noqa: E731
    assert network.run_until(lambda: bool(sent()))
    network.crash("client-0")
    network.run_for(500)
    assert first.is_lost or first.is_done
    network.start("client-0")
    request_id = bytes.fromhex(sent()[0]["request_id"])
    network.command("client-0", AskAgain("again", request_id))

    def find() -> Outcome | None:
        outcomes = [item for _, item in network.deliveries if isinstance(item, Outcome)]
        return next((item for item in outcomes if item.token == "again"), None)

    assert network.run_until(lambda: find() is not None)
    outcome = find()
    assert outcome is not None
    # A crash may strike after the answer was kept: then it is in the receipt file, and in no second delivery.
    assert outcome.is_answered or (outcome.code == "no_receipt" and request_id.hex() in network.receipts)
    settle(network)
    assert len(sent()) == 1
    assert paid(network) == PRICE


def test_the_record_of_a_request_is_on_the_clients_disk() -> None:
    network = simulate(8, ROLES)
    ask(network, 3)

    kept: Mapping[bytes, bytes] = network.nodes["client-0"].disk.kv["client/requests"]
    assert len(kept) == 3


def test_first_requests_need_no_second_try_where_a_worker_hears_of_their_channel_late():
    # Of seed 0 the client knew its new channels two milliseconds before one of the workers did.
    network = simulate(0, {"validator": 1, "inference": 3, "verifier": 4, "storage": 1, "client": 2})

    asked = [network.request("digits", number, f"client-{number % 2}", mode=Mode.BATCH) for number in range(6)]

    assert network.run_until(lambda: all(one.is_done for one in asked))
    assert all(one.outcome is not None and one.outcome.is_answered for one in asked)
    assert not network.get_events("request.retried")
    assert network.elapsed_ms < 1_500
