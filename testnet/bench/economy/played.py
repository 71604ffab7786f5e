"""Networks played on the ledger to see where parameters break, and what they show of it.

Upkeep does not count here: what is looked at is per row, and knows no load.
"""

from collections.abc import Callable

from protocol.jobs import VERIFIERS_MIN
from protocol.ledger.money import split_inference_fee
from protocol.types import GRAINS_PER_ROLE
from testnet.bench.economy.clients import Client
from testnet.bench.economy.network import Network, Setting
from testnet.bench.economy.verifiers import Verifier
from testnet.bench.economy.workers import Worker

ROLES = {"validator": 4, "inference": 6, "verifier": 6, "client": 6}
REQUESTS = 12  # a second
SECONDS = 60
MILLI = GRAINS_PER_ROLE // 1_000
SHARES_OF = 1_000_000  # a fee that rounding takes nothing from
Running = type[Worker] | type[Verifier]


def play(
    setting: Setting,
    seed: int,
    seconds: int = SECONDS,
    turn: Callable[[Network], None] | None = None,
    requests: int = REQUESTS,
) -> Network:
    """A network that was asked for so long, and has settled."""
    network = Network(setting, seed)
    if turn is not None:
        turn(network)
    network.warm_up()
    for _ in range(seconds):
        network.step(requests)
    network.settle()
    return network


def compute_pay(network: Network, kind: Running) -> float:
    """What those of a role have gained on the ledger for each row they have run. Grains."""
    people = network.list_of(kind)
    return compute_gain(network, kind) / sum(each.rows for each in people)


def compute_gain(network: Network, kind: Running) -> int:
    """What those of a role have more than at genesis. Grains."""
    wealth = network.wealth
    return sum(wealth[each.account] - network.began[each.account] for each in network.list_of(kind))


def compute_share(network: Network, kind: Running) -> float:
    """The share of a row's price that is its worker's, or that of whoever runs it again."""
    worker, each, _, _ = split_inference_fee(SHARES_OF, VERIFIERS_MIN, network.setting.params)
    if kind is Worker:
        return worker / SHARES_OF
    return each / SHARES_OF / (compute_drawn_share(network) if network.batches else 1)


def compute_drawn_share(network: Network) -> float:
    """The share of leaves that was drawn: more than the parameter says where batches are small."""
    return sum(one.drawn for one in network.batches) / sum(one.leaves for one in network.batches)


def compute_served(network: Network) -> float:
    """The share of requests that was answered."""
    asked = [one for client in network.list_of(Client) for one in client.asked]
    return sum(one.job is not None for one in asked) / len(asked)
