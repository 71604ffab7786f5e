"""Where the parameters break: what running a row may cost, and the least it may be sold for."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from testnet.bench.economy.cover import measure_cover
from testnet.bench.economy.edge import Edge
from testnet.bench.economy.lies import measure_lies
from testnet.bench.economy.network import Network, Setting
from testnet.bench.economy.played import MILLI, Running, compute_pay, compute_share, play
from testnet.bench.economy.room import measure_room
from testnet.bench.economy.verifiers import Verifier
from testnet.bench.economy.workers import Worker
from testnet.bench.figures import Note


def measure_edges(setting: Setting, seed: int, note: Note) -> Iterator[Edge]:
    """The edges, as they come."""
    note("edges: what running a row may cost")
    batch = play(replace(setting, individual=0), seed)
    individual = play(replace(setting, individual=1), seed)
    yield from measure_costs(setting, batch, individual)
    note("edges: the least price")
    yield from measure_prices(setting, seed, batch, individual)
    note("edges: what a bond covers")
    yield from measure_cover(setting, seed, batch)
    note("edges: what room on the ledger may cost")
    yield from measure_room(setting, seed, batch)
    note("edges: what a lie must bring")
    yield from measure_lies(setting, seed)


def measure_costs(setting: Setting, batch: Network, individual: Network) -> Iterator[Edge]:
    """What is earned for a row that is run, ledger fees paid: as much as running it may cost."""
    stated = setting.costs.row / setting.price * 100
    rows: Sequence[tuple[str, str, Network, Running]] = (
        ("worker_batch", "a worker in batches loses", batch, Worker),
        ("worker_individual", "a worker in mode individual loses", individual, Worker),
        ("verifier_batch", "a verifier of batches loses", batch, Verifier),
        ("verifier_individual", "a verifier in mode individual loses", individual, Verifier),
    )
    for name, breaks, network, kind in rows:
        arithmetic = compute_share(network, kind) * 100
        played = compute_pay(network, kind) / setting.price * 100
        yield Edge(f"cost_{name}", "cost of a row", stated, "% of its price", breaks, arithmetic, played)


def measure_prices(setting: Setting, seed: int, batch: Network, individual: Network) -> Iterator[Edge]:
    """Fees of transactions do not fall with the price: below some price they and the cost of running are all of it.

    By arithmetic the edge follows from the fees at the shipped price; as played, from another network at half of it.
    """
    low = replace(setting, price=setting.price // 2)
    halves = (batch, play(replace(low, individual=0), seed)), (individual, play(replace(low, individual=1), seed))
    for (high, half), mode in zip(halves, ("batch", "individual"), strict=True):
        for kind, who in ((Worker, "worker"), (Verifier, "verifier")):
            share = compute_share(high, kind)
            fees = share * high.setting.price - compute_pay(high, kind)
            rise = (compute_pay(high, kind) - compute_pay(half, kind)) / (high.setting.price - half.setting.price)
            left = compute_pay(high, kind) - setting.costs.row
            yield Edge(
                f"price_{who}_{mode}",
                "price of a row",
                setting.price / MILLI,
                "mROLE",
                f"a {who} in mode {mode} loses",
                (fees + setting.costs.row) / share / MILLI,
                (high.setting.price - left / rise) / MILLI,
                is_least=True,
            )
