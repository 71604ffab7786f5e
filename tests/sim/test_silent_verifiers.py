"""A verifier is drawn and says nothing: its claims wait for it in vain, and clients get their answers without it."""

import pytest

from testnet.sim import Network, simulate

ROLES = {"validator": 1, "inference": 3, "verifier": 4, "storage": 1, "client": 1}
SILENT = {"verifier-0": {"class": "testnet.cheats:Abstaining"}}
TIMEOUT_MS = 10_000
REQUESTS, TOGETHER = 72, 6
ONE_AFTER_ANOTHER = 12


def ask_together(network: Network, count: int) -> list[bool]:
    """So many at once, and which were answered, when all are done."""
    asked = [network.request("digits", number, timeout_ms=TIMEOUT_MS) for number in range(count)]
    assert network.run_until(lambda: all(one.is_done for one in asked))
    return [one.outcome is not None and one.outcome.is_answered for one in asked]


@pytest.mark.parametrize("seed", range(4))
def test_all_is_answered_although_one_verifier_of_four_says_nothing(seed: int):
    network = simulate(seed, ROLES, options=SILENT)

    answered = [each for _ in range(REQUESTS // TOGETHER) for each in ask_together(network, TOGETHER)]

    assert all(answered), f"{answered.count(False)} of {REQUESTS} were not"


def test_who_has_learned_which_one_it_is_waits_for_it_no_more():
    network = simulate(5, ROLES, options=SILENT)
    ask_together(network, REQUESTS)
    begun_ms = network.elapsed_ms
    for number in range(ONE_AFTER_ANOTHER):
        asked = network.request("digits", number, timeout_ms=TIMEOUT_MS)
        assert network.run_until(lambda asked=asked: asked.is_done)  # type: ignore[misc]
        assert asked.outcome is not None
        assert (asked.outcome.is_answered, asked.outcome.attempts) == (True, 1)

    assert network.elapsed_ms - begun_ms < ONE_AFTER_ANOTHER * 1_000
