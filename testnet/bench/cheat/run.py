"""One strategy in one simulated network, until everything is settled."""

from functools import partial
from typing import Any

from protocol.content import compute_digest
from protocol.jobs import Mode
from protocol.keys import PrivateKey
from protocol.ledger.model_records import ModelRecord
from protocol.proofs.classes import is_within
from protocol.tensor import Tensor
from protocol.types import BP
from testnet.bench.cheat.outcomes import Answer, Observed, Outcomes, compute_outcomes, is_over
from testnet.bench.cheat.strategies import Strategy
from testnet.cheap_models import get_cheap_engine, make_cheap, name_cheap
from testnet.genesis import Foundation, build_genesis
from testnet.kernel import START_MS
from testnet.sim import Asked, Network, simulate
from testnet.sim_inputs import load_model_records

ROLES = {"validator": 1, "inference": 3, "verifier": 4, "storage": 1, "client": 2}
LIE_BP = (500, 1_000, 3_000, 10_000)  # of a lying worker's jobs: the seed decides
IN_FLIGHT = 24
TIMEOUT_MS = 4_000
SETTLED_MS = 120_000  # virtual time for everything to be settled or refunded once the last answer is in
AFTER_MS = 3_000  # then nothing of that comes any more: sums are the same after eight times as long
BATCH_MS = 3_000
ROWS = 600
JOBS = "inference/jobs"  # where workers keep what they have claimed


def run(strategy: Strategy, mode: Mode, seed: int, jobs: int) -> tuple[Outcomes, dict[str, int]]:
    """Ask so much of a network with these cheats in it, wait until everything is settled, and add up.

    The second part is what each node has gained, by name, in grains.
    """
    foundation = found_for(strategy, seed)
    network = simulate(seed, ROLES, options=_make_options(strategy, foundation, seed))
    for name in strategy.cheats if strategy.rounds else ():
        node = network.nodes[name]
        node.engine = get_cheap_engine(strategy.rounds, strategy.models)
        for data in make_cheap(strategy.rounds, strategy.models).values():
            node.disk.keep_blob(data, compute_digest(data))
    return compute_outcomes(observe(network, foundation, strategy, mode, jobs), strategy)


def found_for(strategy: Strategy, seed: int) -> Foundation:
    """The genesis of a strategy's network, and the keys it names."""
    return build_genesis(seed, ROLES, load_model_records(strategy.ledger), now_ms=START_MS)


def observe(network: Network, foundation: Foundation, strategy: Strategy, mode: Mode, jobs: int) -> Observed:
    """Ask so much of a network, and let it run until everything is settled."""
    asked = _ask(network, strategy, mode, jobs)
    is_settled = network.run_until(lambda: _is_settled(network), SETTLED_MS)
    network.run_for(AFTER_MS)
    kept = network.nodes["validator-0"].disk.blocks
    answers = [_describe(one) for one in asked]
    return Observed(foundation, [kept[at].block for at in sorted(kept)], network.events, answers, is_settled)


def list_options(strategy: Strategy, foundation: Foundation, lie_bp: int) -> dict[str, dict[str, Any]]:
    """What the cheats are told, by node."""
    liars = [PrivateKey.from_seed(foundation.nodes[name].node).public.hex() for name in strategy.cheats]
    cheap = name_cheap(strategy.rounds, strategy.models) if strategy.rounds else {}
    return {
        name: {"class": kind, "lie_bp": lie_bp, "friends": liars, "cheap": cheap}
        for name, kind in strategy.cheats.items()
    }


def _make_options(strategy: Strategy, foundation: Foundation, seed: int) -> dict[str, dict[str, Any]]:
    lie_bp = LIE_BP[seed % len(LIE_BP)] if strategy.lies else BP
    return {
        "network": {"models": strategy.ledger},
        "inference": {"batch_ms": BATCH_MS},
        **list_options(strategy, foundation, lie_bp),
    }


def _ask(network: Network, strategy: Strategy, mode: Mode, jobs: int) -> list[Asked]:
    asked: list[Asked] = []
    waiting: list[Asked] = []
    for number in range(jobs):
        client, model = f"client-{number % ROLES['client']}", strategy.models[number % len(strategy.models)]
        asked.append(network.request(model, number % ROWS, client, timeout_ms=TIMEOUT_MS, mode=mode))
        waiting.append(asked[-1])
        if len(waiting) >= IN_FLIGHT:
            network.run_until(partial(_are_done, waiting, IN_FLIGHT // 2))
            waiting = [one for one in waiting if not one.is_done]
    network.run_until(partial(_are_done, waiting, len(waiting)))
    return asked


def _are_done(asked: list[Asked], wanted: int) -> bool:
    """Looked at after every event of a simulation, so it stops counting as soon as it can."""
    left = len(asked) - wanted
    for one in asked:
        if one.outcome is None and not one.is_lost:
            left -= 1
            if left < 0:
                return False
    return True


def _is_settled(network: Network) -> bool:
    """No money waits for anything, and no worker has a job that is not settled."""
    return is_over(network.ledger) and not any(node.disk.kv.get(JOBS) for node in network.nodes.values())


def _describe(asked: Asked) -> Answer:
    outcome = asked.outcome
    if outcome is None or not outcome.is_answered:
        return Answer(asked.client, is_answered=False)
    is_wrong = not is_right(asked.model, outcome.outputs, asked.compute_expected())
    return Answer(asked.client, True, is_wrong, outcome.worker, outcome.fee, outcome.attempts)


def is_right(model: ModelRecord, outputs: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> bool:
    """Whether an answer is the model's: to the bit, or for float models within the calibrated bound."""
    near = model.calibration and is_within(outputs, expected, model.calibration[0].bound_ppt)
    return outputs == expected or bool(near)
