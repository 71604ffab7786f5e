"""The benchmark of the economy: it moves the real ledger, and its bars can be missed."""

import json
from dataclasses import replace

import pytest

from protocol.jobs import Mode
from protocol.ledger import apply
from protocol.ledger.leases import compute_pay_max
from protocol.ledger.money import split_lease_pay
from protocol.ledger.transactions import Transfer
from testnet.bench.economy.chain import NotConserved
from testnet.bench.economy.choices import LOOK_BACK, Choices
from testnet.bench.economy.clients import Client
from testnet.bench.economy.costs import Costs
from testnet.bench.economy.cover import with_bond, with_price, with_sample, with_slash
from testnet.bench.economy.edge import Edge
from testnet.bench.economy.edges import measure_costs
from testnet.bench.economy.measure import Played, Row, Size, expect_honest, judge, judge_honest, play
from testnet.bench.economy.network import Network, Setting
from testnet.bench.economy.payouts import End
from testnet.bench.economy.played import compute_served
from testnet.bench.economy.played import play as play_edges
from testnet.bench.economy.recovery import Recovery, Sample, compute_recovery
from testnet.bench.economy.report import Line, write_markdown
from testnet.bench.economy.room import compute_answer_pay, count_answer_units
from testnet.bench.economy.stores import Keeping, Store, get_contents
from testnet.bench.economy.story import Phase, Shock, Story, count_kept, judge_story
from testnet.bench.economy.strategies import HONEST, STRATEGIES, Strategy
from testnet.bench.economy.sweep import play_point
from testnet.bench.economy.verifiers import Verifier
from testnet.bench.economy.workers import Worker
from testnet.found import LEASE_PRICE_GRAINS

ROLES = {"validator": 4, "inference": 3, "verifier": 4, "client": 2}
SETTING = Setting(ROLES, individual=2)
STORY_SETTING = replace(SETTING, roles=ROLES | {"verifier": 6})
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
    brief = Size(seconds=3, seeds=1)
    first, again, other = (play(HONEST, SETTING, brief, seed, note=lambda text: None) for seed in (1, 1, 2))
    assert first == again != other


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


def test_a_worker_is_held_against_an_honest_one_with_as_much_work() -> None:
    name = "inference-0"
    honest = Played(profits={name: 100}, costs={name: 1}, bonds={name: 10}, time_ms=1_000, taken={name: 50})
    cheat = replace(honest, profits={name: 90}, taken={name: 40})
    assert expect_honest(find("lies_closed"), cheat, honest) == 80
    (missed,) = judge(find("lies_closed"), cheat, honest)
    assert "more than honesty" in missed
    assert list(judge(find("lies_closed"), replace(cheat, taken={name: 50}), honest)) == []


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


BUSY = Phase("busy", 20, 2)


def test_demand_that_collapses_is_served_and_paid_to_the_end() -> None:
    story = Story(STORY_SETTING, seed=1)
    assert story.play((BUSY, Phase("collapse", 2, 1)))
    assert [(epoch.phase, epoch.asked) for epoch in story.epochs] == [("busy", 17), ("busy", 20), ("collapse", 2)]
    assert all(epoch.paid + epoch.refunded == epoch.answered > 0 for epoch in story.epochs)
    assert "still open" in next(judge_story(story, is_settled=False))
    story.epochs = [replace(epoch, answered=epoch.asked // 2, paid=0) for epoch in story.epochs]
    words = " | ".join(judge_story(story, is_settled=True))
    for part in ("served while demand was busy", "served while demand was collapse", "was not paid"):
        assert part in words


def test_half_of_a_role_takes_its_stake_back_or_says_nothing_any_more() -> None:
    left, gone = (Story(STORY_SETTING, seed=1) for _ in range(2))
    left.play((BUSY,), Shock("verifier"))
    gone.play((BUSY,), Shock("verifier", vanishes=True))
    assert len(left.network.state.get_nodes("verifier")) == 3
    assert len(gone.network.state.get_nodes("verifier")) == 6
    assert sum(each.is_gone for each in gone.network.list_of(Verifier)) == 3


def test_without_a_quorum_there_are_no_blocks_and_the_story_ends() -> None:
    story = Story(STORY_SETTING, seed=1)
    assert not story.play((BUSY,), Shock("validator", vanishes=True))
    assert story.network.is_stuck


def test_recovery_is_told_from_what_was_served_before() -> None:
    steady = [Sample(time_ms, 1, 1) for time_ms in range(0, 80_000, 500)]
    gap = [replace(one, got=0) if 20_000 <= one.time_ms < 31_000 else one for one in steady]
    assert compute_recovery(steady, 20_000) == Recovery(1, 1, 1, 0)
    assert compute_recovery(gap, 20_000) == Recovery(1, 0, 1, 15_000)
    assert compute_recovery([one for one in gap if one.time_ms < 31_000], 20_000).recovery_ms is None


def test_who_loses_leaves_and_who_expects_to_gain_joins() -> None:
    network = Network(replace(SETTING, outside={"verifier": 2}), seed=1)
    choices = network.market = Choices(("verifier", "inference"))
    network.people["inference-0"].upkeep = 10**12
    network.people["verifier-4"].upkeep = 10**12
    network.warm_up()
    while network.state.epoch < LOOK_BACK + 3:
        network.step(3)
    serving = {node.account for role in ("inference", "verifier") for node in network.state.get_nodes(role)}
    assert (choices.joined, choices.left) == (1, 1)
    assert network.people["inference-0"].account not in serving
    assert network.people["verifier-4"].account not in serving
    assert network.people["verifier-5"].account in serving


def test_what_a_verifier_is_paid_in_mode_individual_is_its_share_of_the_price() -> None:
    individual = play_edges(replace(SETTING, individual=1), 1, seconds=6, requests=3)
    batch = play_edges(replace(SETTING, individual=0), 1, seconds=6, requests=3)
    edges = {edge.name: edge for edge in measure_costs(SETTING, batch, individual)}
    alone = edges["cost_verifier_individual"]
    share = SETTING.params.inference_verifiers_bp / 2 / 100
    assert alone.arithmetic == alone.played == share
    assert alone.distance == pytest.approx(share * SETTING.price / SETTING.costs.row / 100)
    assert 0.9 * edges["cost_worker_batch"].arithmetic < edges["cost_worker_batch"].played < 80


def test_an_edge_says_when_the_shipped_value_is_beyond_it_or_arithmetic_is_wrong() -> None:
    edge = Edge("bond", "bond", 100, "ROLE", "it breaks", 25, 20, is_least=True)
    assert (edge.distance, edge.missed) == (5, ())
    assert replace(edge, is_least=False).missed == ("the shipped value is beyond the edge",)
    assert replace(edge, arithmetic=60).missed == ("arithmetic says another edge",)


def test_a_bond_that_covers_less_than_the_load_turns_work_away() -> None:
    setting = replace(SETTING, individual=0)
    short = play_edges(with_bond(setting, 1), 1, seconds=12, requests=6)
    assert compute_served(short) < 0.7
    assert compute_served(play_edges(setting, 1, seconds=12, requests=6)) == 1
    point = play_point("bond", 1, "ROLE", False, with_bond(setting, 1), 1)
    assert point.breaks == ("not all is served",)
    assert json.loads(json.dumps(replace(point, closed=float("inf")).to_dict()))["closed_lie_jobs"] is None


def test_parameters_are_turned_in_the_units_of_their_edges() -> None:
    params = SETTING.params
    assert with_bond(SETTING, 100).params == replace(params, bonds=with_bond(SETTING, 100).params.bonds)
    assert with_bond(SETTING, 100).params.get_bond_min("inference") == params.get_bond_min("inference")
    assert with_slash(SETTING, params.slash_bp / 100).params == with_sample(SETTING, params.sample_bp / 100).params
    assert with_price(SETTING, 1).price == SETTING.price


def test_the_tables_are_lines_figures_and_markdown() -> None:
    head = Line("a  b", ("a", "b"))
    row = Line("1  2", ("1", "2"), {"name": "one"}, is_missed=True)
    assert row.name == "one"
    assert write_markdown([Line("word"), head, row]) == "word\n\n\n| a | b |\n|---|---|\n| 1 | 2 |\n"


def test_leased_copies_are_kept_audited_and_made_anew_when_a_store_is_gone() -> None:
    network = Network(replace(SETTING, roles={"validator": 4, "inference": 1, "storage": 4, "client": 1}), seed=1)
    good, gone, bad, _ = network.list_of(Store)
    bad.keeping = Keeping.NOTHING
    for _ in range(10):
        network.step()
    (lease,) = network.state.leases.values()
    gone.is_gone = True
    for _ in range(100):
        network.step()
    (after,) = network.state.leases.values()
    assert after.contents == lease.contents == get_contents()
    assert good.account in {replica.account for replica in after.replicas}
    assert network.compute_profit(good) > 0 > network.compute_profit(bad)
    assert network.state.work[bad.account].lost > 0 == network.state.work[good.account].lost
    assert count_kept(network).got < count_kept(network).wanted == lease.factor
    assert not network.chain.refused


def test_a_false_complaint_is_answered_in_public_and_costs_who_made_it() -> None:
    setting = replace(SETTING, individual=0)
    honest, complaining = Network(setting, seed=1), Network(setting, seed=1)
    client = complaining.people["client-1"]
    find("complains").turn(complaining)
    for network in (honest, complaining):
        network.warm_up()
        for _ in range(10):
            network.step(2)
        assert network.settle()
    assert complaining.compute_profit(client) < honest.compute_profit(honest.people["client-1"])
    assert set(complaining.ends.values()) == {End.PAID}
    assert not complaining.chain.refused


def test_what_an_answer_to_an_audit_brings_and_costs_is_what_the_ledger_pays_and_takes() -> None:
    roles = {"validator": 4, "inference": 1, "storage": 4, "client": 1}
    network = play_edges(replace(SETTING, roles=roles, individual=0), 1, seconds=50, requests=0)
    params, contents = SETTING.params, get_contents()
    brings = split_lease_pay(compute_pay_max(contents.size_bytes, LEASE_PRICE_GRAINS, params), params)[0]
    cost = count_answer_units() * params.base_fee_min
    assert compute_answer_pay(network) == pytest.approx(brings - cost, rel=0.05)
