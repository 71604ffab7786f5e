"""A verifier or a worker says nothing: what waits for it waits in vain, and clients get their answers without it."""

import pytest

from protocol.messages import Claims
from roles.inference import Inference
from roles.role import Effect, Event, Publish
from testnet.sim import Network, simulate

ROLES = {"validator": 1, "inference": 3, "verifier": 4, "storage": 1, "client": 1}
SILENT = {"verifier-0": {"class": "testnet.cheats:Abstaining"}}
IDLE = {"inference-0": {"class": "testnet.cheats:Silent"}}
MUFFLED = {"inference-0": {"class": "tests.sim.test_silent_nodes:Muffled"}}
TIMEOUT_MS = 10_000
REQUESTS, TOGETHER = 72, 6
ONE_AFTER_ANOTHER = 12


class Muffled(Inference):
    """A worker that is reached, and whose gossip reaches nobody: its results come, its claims do not go out."""

    def handle(self, event: Event, now_ms: int) -> list[Effect]:
        effects = super().handle(event, now_ms)
        return [each for each in effects if not (isinstance(each, Publish) and isinstance(each.message, Claims))]


def ask_together(network: Network, count: int) -> list[bool]:
    """So many at once, and which were answered, when all are done."""
    asked = [network.request("digits", number, timeout_ms=TIMEOUT_MS) for number in range(count)]
    assert network.run_until(lambda: all(one.is_done for one in asked))
    return [one.outcome is not None and one.outcome.is_answered for one in asked]


@pytest.mark.parametrize("options", [SILENT, MUFFLED, SILENT | MUFFLED, IDLE, SILENT | IDLE])
@pytest.mark.parametrize("seed", range(3))
def test_all_is_answered_although_one_says_nothing(seed: int, options: dict[str, dict[str, str]]):
    network = simulate(seed, ROLES, options=options)

    answered = [each for _ in range(REQUESTS // TOGETHER) for each in ask_together(network, TOGETHER)]

    assert all(answered), f"{answered.count(False)} of {REQUESTS} were not"


@pytest.mark.parametrize("options", [SILENT, MUFFLED, IDLE])
def test_who_has_learned_which_one_it_is_waits_for_it_no_more(options: dict[str, dict[str, str]]):
    network = simulate(5, ROLES, options=options)
    ask_together(network, REQUESTS)
    begun_ms = network.elapsed_ms
    for number in range(ONE_AFTER_ANOTHER):
        asked = network.request("digits", number, timeout_ms=TIMEOUT_MS)
        assert network.run_until(lambda asked=asked: asked.is_done)  # type: ignore[misc]
        assert asked.outcome is not None
        assert (asked.outcome.is_answered, asked.outcome.attempts) == (True, 1)

    assert network.elapsed_ms - begun_ms < ONE_AFTER_ANOTHER * 1_000
