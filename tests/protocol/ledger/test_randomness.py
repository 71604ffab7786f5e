"""Seeds: what a block reveals, and what it cannot."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import InvalidBlock
from protocol.keys import PrivateKey
from protocol.ledger.apply import apply_block, build_block
from protocol.ledger.epochs import compute_epoch_seed
from protocol.ledger.errors import InvalidNode, InvalidOnion
from protocol.ledger.params import Params
from protocol.ledger.randomness import LAYERS, find_reveal, grow_onion, peel, plan_onion
from protocol.ledger.records import Onion
from protocol.ledger.transactions import CommitOnion, Transfer
from tests.support.ledgers import Ledger

PARAMS = Params()
FEE = PARAMS.base_fee_min


def vote_of(ledger: Ledger, name: str = "validator-0") -> PrivateKey:
    return PrivateKey.from_seed(ledger.foundation.nodes[name].vote or b"")


def test_every_block_reveals_the_layer_under_the_last_and_the_seed_moves() -> None:
    ledger = Ledger()
    account = ledger.account("validator-0").public
    seeds = [ledger.state.seed]
    for _ in range(3):
        tip = ledger.state.onions[account].tip
        ledger.block()
        reveal = ledger.blocks[-1][0].header.reveal
        assert peel(reveal) == tip
        assert ledger.state.onions[account].tip == reveal
        seeds.append(ledger.state.seed)
    assert len(set(seeds)) == 4


def test_a_wrong_or_repeated_layer_is_no_block() -> None:
    ledger = Ledger({"validator": 2})
    before, account = ledger.state, ledger.account("validator-0").public
    ledger.block()
    block = ledger.blocks[0][0]
    used, other = (
        block.header.reveal,
        find_reveal(before, ledger.account("validator-1").public, vote_of(ledger, "validator-1")),
    )
    assert other is not None
    for reveal in (b"\x01" * 32, other, used[:31], before.onions[account].tip):
        with pytest.raises(InvalidBlock, match="no layer of its builder's onion"):
            apply_block(before, replace(block, header=replace(block.header, reveal=reveal)))
    with pytest.raises(InvalidBlock, match="no layer of its builder's onion"):
        build_block(ledger.state, [], ledger.state.time_ms + 1, account, reveal=used)
    with pytest.raises(InvalidBlock, match="state root"):
        apply_block(before, replace(block, header=replace(block.header, reveal=b"")))


def test_a_builder_that_reveals_nothing_earns_nothing() -> None:
    ledger = Ledger()
    builder, before = ledger.account("validator-0").public, ledger.state
    payment = ledger.sign(ledger.spare(), Transfer(bytes(32), 1))
    silent, quiet, _ = build_block(before, [payment], before.time_ms + 1, builder)
    assert silent.header.reveal == b""
    assert apply_block(before, silent) == quiet
    assert quiet.get_balance(builder) == before.get_balance(builder)
    assert (quiet.treasury, quiet.burned) == (FEE * 3 // 10, FEE * 7 // 10)
    assert quiet.onions == before.onions
    ledger.block(payment)
    assert len({before.seed, quiet.seed, ledger.state.seed}) == 3


def test_a_new_onion_counts_from_the_next_epoch_on() -> None:
    ledger = Ledger()
    validator, vote = ledger.account("validator-0"), vote_of(ledger)
    first = ledger.state.onions[validator.public]
    assert first == Onion(grow_onion(vote, 0).tip, 0, b"", 0)
    following = grow_onion(vote, 1).tip
    ledger.do(validator, CommitOnion(1, following))
    ledger.block()
    assert ledger.state.onions[validator.public].next_tip == following
    assert ledger.state.onions[validator.public].number == 0
    ledger.block(after_ms=PARAMS.epoch_ms)
    assert ledger.state.onions[validator.public] == Onion(following, 1, b"", 0)
    ledger.block()
    assert peel(ledger.blocks[-1][0].header.reveal) == following


def test_an_onion_is_a_validators_and_its_number_comes_once() -> None:
    ledger = Ledger()
    validator = ledger.account("validator-0")
    assert isinstance(ledger.refuse(ledger.account("inference-0"), CommitOnion(1, bytes(32))), InvalidNode)
    assert isinstance(ledger.refuse(ledger.spare(), CommitOnion(1, bytes(32))), InvalidNode)
    ledger.do(validator, CommitOnion(5, bytes(32)))
    error = ledger.refuse(validator, CommitOnion(5, b"\x01" * 32))
    assert isinstance(error, InvalidOnion)
    assert (error.number, error.least) == (5, 6)


def test_the_seed_of_an_epoch_is_unknown_before_the_block_that_begins_it() -> None:
    one, other = Ledger(), Ledger()
    builder = one.account("validator-0").public
    one.block(after_ms=PARAMS.epoch_ms)
    _, silent, _ = build_block(other.state, [], other.state.time_ms + PARAMS.epoch_ms, builder)
    assert one.state.epochs[1].seed == compute_epoch_seed(one.state.seed, 1)
    assert one.state.epochs[1].seed != silent.epochs[1].seed


def test_an_onion_ends_and_then_there_is_nothing_to_reveal() -> None:
    ledger = Ledger()
    account, vote = ledger.account("validator-0").public, vote_of(ledger)
    onion = grow_onion(vote, 0)
    tip, layers = onion.tip, 0
    while (below := onion.layers.get(tip)) is not None:
        tip, layers = below, layers + 1
    assert layers == LAYERS
    ended = replace(ledger.state, onions={account: Onion(tip, 0, b"", 0)})
    assert find_reveal(ended, account, vote) is None
    assert find_reveal(ledger.state, account, PrivateKey.from_seed(b"o" * 32)) is None
    assert find_reveal(ledger.state, bytes(32), vote) is None


def test_the_next_onion_is_planned_in_time_once_and_by_the_key_the_ledger_knows() -> None:
    ledger = Ledger()
    validator, vote = ledger.account("validator-0"), vote_of(ledger)
    assert plan_onion(ledger.state, validator.public, vote) is None

    tips = list(grow_onion(vote, 0).layers)  # the innermost first
    enough = Onion(tips[LAYERS // 4 - 1], 0, b"", 0)
    short = Onion(tips[LAYERS // 4 - 2], 0, b"", 0)
    assert plan_onion(replace(ledger.state, onions={validator.public: enough}), validator.public, vote) is None
    ending = replace(ledger.state, onions={validator.public: short})
    assert plan_onion(ending, validator.public, vote) == CommitOnion(1, grow_onion(vote, 1).tip)

    under_way = {validator.public: replace(short, next_tip=grow_onion(vote, 1).tip, next_number=1)}
    assert plan_onion(replace(ledger.state, onions=under_way), validator.public, vote) is None
    anothers = {validator.public: replace(short, next_tip=bytes(32), next_number=7)}
    planned = plan_onion(replace(ledger.state, onions=anothers), validator.public, vote)
    assert planned == CommitOnion(8, grow_onion(vote, 8).tip)
    assert plan_onion(replace(ledger.state, onions={}), validator.public, vote) is not None

    other = PrivateKey.from_seed(b"o" * 32)
    assert plan_onion(ending, validator.public, other) is None
    assert plan_onion(ending, ledger.spare().public, vote) is None


@settings(max_examples=25, deadline=None)
@given(builders=st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=12))
def test_whoever_builds_the_seed_follows_from_the_headers_alone(builders: list[tuple[int, bool]]) -> None:
    ledger = Ledger({"validator": 3})
    state = ledger.state
    seen = set()
    for number, reveals in builders:
        name = f"validator-{number}"
        account = ledger.account(name).public
        reveal = find_reveal(state, account, vote_of(ledger, name)) if reveals else None
        before = state
        block, state, _ = build_block(state, [], state.time_ms + 1, account, reveal=reveal)
        again, same, _ = build_block(before, [], before.time_ms + 1, account, reveal=reveal)
        assert (again, same) == (block, state)
        assert state.seed not in seen
        seen.add(state.seed)
        if reveal is not None:
            assert peel(reveal) == before.onions[account].tip
            assert find_reveal(state, account, vote_of(ledger, name)) != reveal
