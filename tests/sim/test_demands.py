"""A worker that claims and never settles: its verifiers have it open, or pay for its silence."""

from testnet.sim import simulate

ROLES = {"validator": 1, "inference": 1, "verifier": 2, "storage": 1, "client": 1}


def test_a_worker_that_claims_and_never_opens_nor_settles_loses_the_fixed_penalty() -> None:
    network = simulate(1, ROLES, options={"inference-0": {"class": "testnet.cheats:Unsettling"}})
    before = network.bonds["inference-0"]
    asked = network.request("digits", 3, timeout_ms=3_000)
    assert network.run_until(lambda: asked.is_done)
    assert not asked.is_answered

    assert network.run_until(lambda: network.bonds["inference-0"] < before)

    assert network.get_events("opening.demanded")
    assert before - network.bonds["inference-0"] == network.ledger.params.demand_penalty
    assert sum(channel.paid for channel in network.ledger.channels.values()) == 0
    assert not network.find_violations()


def test_nobody_demands_what_is_settled() -> None:
    network = simulate(2, ROLES)
    asked = [network.request("digits", number, timeout_ms=5_000) for number in range(6)]
    assert network.run_until(lambda: all(one.is_done for one in asked))
    network.run_for(40_000)

    assert all(one.is_answered for one in asked)
    assert not network.get_events("opening.demanded")
    assert not network.ledger.demands
