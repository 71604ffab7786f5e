"""The benchmark of the economy: it moves the real ledger, and its bars can be missed."""

from dataclasses import replace

import pytest

from protocol.jobs import Mode
from protocol.ledger import apply
from protocol.ledger.transactions import Transfer
from testnet.bench.economy.chain import NotConserved
from testnet.bench.economy.clients import Client
from testnet.bench.economy.costs import Costs
from testnet.bench.economy.measure import Played, Row, Size, judge, judge_honest, play
from testnet.bench.economy.network import Network, Setting
from testnet.bench.economy.payouts import End
from testnet.bench.economy.strategies import HONEST, STRATEGIES, Strategy
from testnet.bench.economy.workers import Worker

ROLES = {"validator": 4, "inference": 3, "verifier": 4, "client": 2}
SETTING = Setting(ROLES, individual=2)
SIZE = Size(seconds=12, seeds=1)


def find(name: str) -> Strategy:
    return next(strategy for strategy in STRATEGIES if strategy.name == name)


def run(strategy: Strategy, setting: Setting = SETTING) -> Played:
    return play(strategy, setting, SIZE, 1, note=lambda text: None)


def test_honest_work_in_both_modes_is_paid_and_covers_its_costs() -> None:
    network = Network(SETTING, seed=1)
    network.warm_up()
    for _ in range(12):
        network.step(4)
    assert network.settle()
    asked = [one for client in network.list_of(Client) for one in client.asked]
    jobs = [one.job for one in asked if one.job is not None]
    assert len(jobs) == len(asked) == 48
    assert {job.request.mode for job in jobs} == {Mode.BATCH, Mode.INDIVIDUAL}
    assert {network.ends[job.claim_id] for job in jobs} == {End.PAID}
    assert not network.chain.refused
    earned = sum(network.compute_profit(worker) for worker in network.list_of(Worker))
    assert earned > 0


def test_the_same_seed_gives_the_same_profits_and_another_seed_others() -> None:
    assert run(HONEST) == run(HONEST)
    assert play(HONEST, SETTING, SIZE, 2, note=lambda text: None) != run(HONEST)


def test_a_worker_that_lies_is_convicted_and_ends_with_less_than_it_began_with() -> None:
    lies = run(find("lies"))
    assert lies.convicted
    assert not lies.honest_convicted
    assert not lies.lies_paid
    assert lies.profits["inference-0"] < 0
    assert list(judge(find("lies"), lies, run(HONEST))) == []


def test_where_running_costs_more_than_a_verifier_is_paid_honest_work_misses_its_bar() -> None:
    dear = run(HONEST, replace(SETTING, costs=Costs(row=SETTING.price // 2)))
    (missed,) = judge_honest(replace(HONEST, cheats=("verifier-0",)), dear)
    assert "honest work loses" in missed


def test_what_a_strategy_gets_away_with_is_said() -> None:
    honest = Played(profits={"inference-0": 5}, costs={"inference-0": 1}, bonds={"inference-0": 10}, time_ms=1_000)
    away = replace(honest, lies_paid_attested=2, honest_convicted=1, unsettled=1)
    words = " | ".join(judge(find("lies"), away, honest))
    for part in ("more than honesty", "2 attested lies", "1 honest claims", "still open in 1"):
        assert part in words
    row = Row(find("judges_nothing"), away, honest, ("it brings more",))
    assert "known, see decision 0152" in row.verdict


def test_a_ledger_that_makes_money_is_caught_in_the_block_that_does(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(SETTING, seed=1)
    payer = network.people["client-0"].account

    def mint(draft: apply.Draft, context: object, body: Transfer) -> None:
        draft.credit(body.to, body.amount)

    monkeypatch.setitem(apply._rules, Transfer, mint)
    network.chain.submit(payer, Transfer(payer, 7))
    with pytest.raises(NotConserved, match="after block 1"):
        network.step()


def test_a_refused_order_holds_up_none_of_its_account() -> None:
    network = Network(SETTING, seed=1)
    payer, payee = (network.people[name].account for name in ("client-0", "client-1"))
    before = network.state.get_balance(payee)
    for amount in (0, 3, 10**18, 4):
        network.chain.submit(payer, Transfer(payee, amount))
    network.chain.advance(network.state.time_ms + 1_000)
    assert network.state.get_balance(payee) == before + 7
    assert network.chain.refused == {"InvalidAmount": 1, "InsufficientBalance": 1}
