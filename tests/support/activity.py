"""A history of blocks summed up, and held against the states it led to."""

from collections.abc import Iterable

from protocol.ledger.apply import decode_transactions
from protocol.ledger.block import Block, Certificate
from protocol.ledger.flows import Party, Source
from protocol.ledger.state import State
from testnet.activity import PRIVATE, Activity
from testnet.stats import describe_activity


def sum_up(first: State, blocks: Iterable[tuple[Block, Certificate, State]]) -> tuple[Activity, State]:
    """The activity of these blocks, which follow the first state, and the last one."""
    activity, state = Activity(), first
    for block, _, after in blocks:
        activity.take(state, block, after)
        state = after
    return activity, state


def verify_activity(first: State, blocks: list[tuple[Block, Certificate, State]]) -> None:
    """AssertionError unless sums over blocks are what the last state has, however they are looked at."""
    activity, state = sum_up(first, blocks)
    told = describe_activity(activity, state)
    assert told["findings"] == []
    assert told["supply"]["now_grains"] == first.supply
    paid = sum(activity.flows[source, party] for source in (Source.INFERENCE, Source.LEASE) for party in Party)
    if not activity.settled[PRIVATE]:  # which counts for nobody's quality
        earned = [sum(count.earned for count in each.work.values()) for each in (first, state)]
        assert earned[1] - earned[0] == paid
    acted: dict[bytes, set[int]] = {}
    befores = (first, *(after for _, _, after in blocks))
    for (block, _, _), before in zip(blocks, befores, strict=False):
        for transaction in decode_transactions(block):
            acted.setdefault(transaction.account, set()).add(before.epoch)
    accounts = told["accounts"]
    if accounts["width_epochs"] == 1:
        assert accounts["accounts"] >= len(acted)
        assert accounts["returned"] >= sum(len(epochs) > 1 for epochs in acted.values())
    for who in (accounts, told["customers"]):
        assert sum(span["new"] for span in who["spans"]) == who["accounts"]
        assert all(span["active"] == span["new"] + span["returning"] for span in who["spans"])
    assert sum(told["receipts"]["by_mode"].values()) == sum(row["receipts"] for row in told["models"])
