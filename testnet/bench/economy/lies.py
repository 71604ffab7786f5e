"""What a lie must bring before it pays: beside what it brings of itself, a run that is saved."""

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from protocol.ledger.transactions import Stake
from protocol.types import BP, GRAINS_PER_ROLE
from testnet.bench.economy.clients import Client
from testnet.bench.economy.edge import Edge
from testnet.bench.economy.jobs import Job
from testnet.bench.economy.network import Network, Setting
from testnet.bench.economy.payouts import End
from testnet.bench.economy.played import compute_gain, compute_share, play
from testnet.bench.economy.workers import Worker

LYING_SECONDS = 720  # for as many batches to be lost as make an average
LIE_BP = 1_000  # of the jobs of liars
MORE_STAKE = 400 * GRAINS_PER_ROLE


def measure_lies(setting: Setting, seed: int) -> Iterator[Edge]:
    """All workers lie now and then: what that costs them for each lie that is paid, in prices of a job.

    A lie pays once it brings more; by itself it brings what running the model would have cost.
    """
    setting = replace(setting, individual=0)
    honest = play(setting, seed, seconds=LYING_SECONDS, turn=_add_stake)
    fee = setting.rows * setting.price
    stake = setting.params.get_bond_min("inference") + MORE_STAKE
    for name, breaks, at_stake in (
        ("lie_closed", "a lie pays that is kept closed if drawn", 0),
        ("lie_opened", "a lie pays that is opened if drawn", stake),
    ):
        liars = play(setting, seed, seconds=LYING_SECONDS, turn=partial(_turn_liars, bool(at_stake)))
        lost = compute_gain(honest, Worker) - compute_gain(liars, Worker)
        paid = sum(liars.ends.get(job.claim_id) is End.PAID for job in list_lies(liars))
        expected = expect_loss(honest, at_stake)
        shipped = setting.costs.row / setting.price
        yield Edge(name, "what a lie brings", shipped, "jobs", breaks, expected / fee, lost / max(1, paid) / fee)


def list_lies(network: Network) -> list[Job]:
    asked = (one.job for client in network.list_of(Client) for one in client.asked)
    return [job for job in asked if job is not None and not job.is_true]


def expect_loss(honest: Network, stake: int) -> float:
    """What liars lose for each lie that is paid, by the batches that honest workers have settled. Grains.

    A batch of n leaves with d drawn is lost unless none of those is a lie. Its worker's part of it is gone, and of
    whoever opened the lie, a share of the stake that is left: none of `stake` grains if lies are kept closed.
    """
    lie, setting = LIE_BP / BP, honest.setting
    chances = [(one, 1 - (1 - lie) ** one.drawn) for one in honest.batches]
    lost = sum(chance * one.total * compute_share(honest, Worker) for one, chance in chances)
    paid = sum((1 - chance) * (one.leaves - one.drawn) * lie for one, chance in chances)
    workers = setting.roles["inference"]
    convictions = sum(chance for _, chance in chances) / workers
    lost += workers * stake * (1 - (1 - setting.params.slash_bp / BP) ** convictions)
    return lost / paid if paid else math.inf


def _add_stake(network: Network) -> None:
    """So that a worker that is slashed once is still one."""
    for worker in network.list_of(Worker):
        network.chain.submit(worker.account, Stake(MORE_STAKE))


def _turn_liars(opens: bool, network: Network) -> None:
    _add_stake(network)
    for worker in network.list_of(Worker):
        worker.lie_bp, worker.opens = LIE_BP, opens
