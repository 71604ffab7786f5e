"""Registration, stake, epochs and the due queue: who is drawn, and when."""

from dataclasses import replace

from protocol.errors import InsufficientBalance
from protocol.keys import PrivateKey
from protocol.ledger.apply import next_due_ms
from protocol.ledger.epochs import compute_epoch_seed
from protocol.ledger.errors import (
    InsufficientBond,
    InvalidAmount,
    InvalidNode,
    InvalidSignature,
    LimitReached,
    SelfPayment,
    UnknownNode,
)
from protocol.ledger.feed_errors import RoundNotOpen
from protocol.ledger.job_errors import ChannelClosing, NotYourChannel, UnknownChannel
from protocol.ledger.params import Params, RoleBond
from protocol.ledger.transactions import (
    ChannelOpening,
    CloseChannel,
    OpenChannels,
    RegisterNode,
    Stake,
    TopUpChannel,
    Transfer,
    Unstake,
    ZeroReason,
    prove_possession,
)
from tests.support.disputes import Quarrel
from tests.support.jobs import find_model
from tests.support.ledgers import Ledger

PARAMS = Params()
BOND = PARAMS.get_bond_min("inference")
NODE = PrivateKey.from_seed(b"n" * 32)


def _registration(ledger: Ledger, account: PrivateKey, node: PrivateKey = NODE, **changes: object) -> RegisterNode:
    body = RegisterNode(
        node=node.public,
        vote=b"",
        roles=("inference",),
        models=(find_model(ledger.state).digest,),
        price=1,
        bond=BOND,
        proof=bytes(64),
        vote_proof=b"",
    )
    return prove_possession(replace(body, **changes), account.public, node)  # type: ignore[arg-type]


def test_a_node_that_joins_a_busy_network_is_drawn_in_the_next_epoch() -> None:
    ledger = Ledger()
    joiner = ledger.spare()
    before = ledger.state.get_balance(joiner.public)
    ledger.do(joiner, _registration(ledger, joiner))
    assert ledger.state.get_balance(joiner.public) == before - BOND - PARAMS.base_fee_min
    assert ledger.state.nodes[joiner.public].bond == BOND
    found = ledger.state.find_node(NODE.public)
    assert found is not None
    assert found.account == joiner.public
    assert ledger.state.epochs[0].find_candidate(NODE.public) is None
    ledger.do(ledger.spare(1), Transfer(joiner.public, 1), after_ms=PARAMS.epoch_ms)
    assert ledger.state.epoch == 1
    candidate = ledger.state.epochs[1].find_candidate(NODE.public)
    assert candidate is not None
    assert candidate.roles == ("inference",)
    assert candidate.weight == BOND


def test_a_registration_wakes_a_sleeping_network_when_its_epoch_is_over() -> None:
    ledger = Ledger()
    assert next_due_ms(ledger.state) is None
    joiner = ledger.spare()
    ledger.do(joiner, _registration(ledger, joiner))
    due_ms = next_due_ms(ledger.state)
    assert due_ms == ledger.state.genesis_ms + PARAMS.epoch_ms
    ledger.block(after_ms=due_ms - ledger.state.time_ms)
    assert ledger.state.epochs[1].find_candidate(NODE.public) is not None
    assert next_due_ms(ledger.state) is None  # and sleeps again


def test_a_registration_in_the_block_that_ends_an_epoch_counts_at_once_from_the_next() -> None:
    ledger = Ledger()
    joiner = ledger.spare()
    ledger.do(joiner, _registration(ledger, joiner), after_ms=PARAMS.epoch_ms)
    assert ledger.state.epochs[1].find_candidate(NODE.public) is not None
    assert next_due_ms(ledger.state) is None


def test_a_node_record_follows_its_rules() -> None:
    ledger = Ledger()
    joiner, rival = ledger.spare(0), ledger.spare(1)
    poor = ledger.refuse(joiner, _registration(ledger, joiner, bond=BOND - 1))
    assert isinstance(poor, InsufficientBond)
    assert (poor.have, poor.need) == (BOND - 1, BOND)
    stolen = _registration(ledger, rival)
    assert isinstance(ledger.refuse(joiner, stolen), InvalidSignature)
    for changes in (
        {"roles": ()},
        {"roles": ("inference", "inference")},
        {"models": (bytes(32),)},
        {"roles": ("validator",), "vote": b"", "bond": 10 * BOND},
        {"roles": ("validator",), "vote": b"v" * 31, "bond": 10 * BOND},
        {"vote": b"v" * 32},
        {"node": ledger.node("inference-0")},
    ):
        node = changes.pop("node", NODE)
        assert isinstance(node, PrivateKey)
        assert isinstance(ledger.refuse(joiner, _registration(ledger, joiner, node, **changes)), InvalidNode)
    much = ledger.state.get_balance(joiner.public)
    assert isinstance(ledger.refuse(joiner, _registration(ledger, joiner, bond=much)), InsufficientBalance)


def test_registering_again_changes_roles_and_price_and_adds_bond() -> None:
    ledger = Ledger()
    joiner = ledger.spare()
    ledger.do(joiner, _registration(ledger, joiner))
    ledger.do(joiner, _registration(ledger, joiner, roles=("verifier", "inference"), price=9, bond=5))
    record = ledger.state.nodes[joiner.public]
    assert (record.roles, record.price, record.bond) == (("verifier", "inference"), 9, BOND + 5)
    other = PrivateKey.from_seed(b"o" * 32)
    assert isinstance(ledger.refuse(joiner, _registration(ledger, joiner, other)), InvalidNode)


def test_tables_have_an_end() -> None:
    ledger = Ledger(params=replace(PARAMS, nodes_max=9, unbondings_max=1, channels_max=1))
    joiner, worker = ledger.spare(), ledger.account("inference-0")
    assert isinstance(ledger.refuse(joiner, _registration(ledger, joiner)), LimitReached)
    ledger.do(worker, Unstake(1))
    assert isinstance(ledger.refuse(worker, Unstake(1)), LimitReached)
    ledger.open_channel()
    opening = OpenChannels((ChannelOpening(worker.public, 1),))
    error = ledger.refuse(joiner, opening)
    assert isinstance(error, LimitReached)
    assert (error.have, error.limit) == (1, 1)


def test_unbonding_matures_in_the_first_block_after_its_time_and_wakes_nobody() -> None:
    ledger = Ledger()
    worker = ledger.account("inference-0")
    ledger.do(worker, Unstake(BOND))
    assert ledger.state.nodes[worker.public].bond == 0
    assert next_due_ms(ledger.state) is None
    before = ledger.state.get_balance(worker.public)
    ledger.block(after_ms=PARAMS.unbonding_ms - 1)
    assert ledger.state.get_balance(worker.public) == before
    ledger.block(after_ms=1)
    assert ledger.state.get_balance(worker.public) == before + BOND
    assert not ledger.state.unbonding


def test_stake_follows_its_rules() -> None:
    ledger = Ledger()
    worker, validator = ledger.account("inference-0"), ledger.account("validator-0")
    ledger.do(worker, Stake(7))
    assert ledger.state.nodes[worker.public].bond == BOND + 7
    too_much = ledger.refuse(worker, Unstake(BOND + 8))
    assert isinstance(too_much, InsufficientBond)
    assert (too_much.have, too_much.need) == (BOND + 7, BOND + 8)
    assert isinstance(ledger.refuse(ledger.spare(), Stake(1)), UnknownNode)
    assert isinstance(ledger.refuse(worker, Stake(0)), InvalidAmount)
    assert isinstance(ledger.refuse(worker, Unstake(0)), InvalidAmount)
    assert isinstance(ledger.refuse(validator, Unstake(1)), InvalidNode)


def test_epochs_that_passed_asleep_are_one_change() -> None:
    ledger = Ledger()
    ledger.block(after_ms=10 * PARAMS.epoch_ms + 5)
    assert ledger.state.epoch == 10
    assert sorted(ledger.state.epochs) == [0, 10]
    assert ledger.state.epochs[10].seed == compute_epoch_seed(ledger.state.seed, 10)
    ledger.block(after_ms=PARAMS.epoch_ms - 6)
    assert ledger.state.epoch == 10
    ledger.block(after_ms=1)
    assert ledger.state.epoch == 11


def test_only_so_many_snapshots_are_kept() -> None:
    ledger = Ledger(params=replace(PARAMS, epochs_kept=3))
    Quarrel(ledger, "client-0").condemn()
    assert ledger.state.wrong
    for _ in range(4):
        assert ledger.state.get_epoch(ledger.state.epoch) is not None
        ledger.block(after_ms=PARAMS.epoch_ms)
    assert sorted(ledger.state.epochs) == [2, 3, 4]
    assert not ledger.state.wrong  # evidence of an epoch goes with it


def test_the_due_queue_runs_so_many_items_a_block_and_the_rest_at_once() -> None:
    ledger = Ledger(params=replace(PARAMS, due_items_max=2, epoch_ms=10**9, unbonding_ms=10**11))
    channels = [ledger.open_channel() for _ in range(5)]
    for channel in channels:
        ledger.do(ledger.account("client-0"), CloseChannel(channel))
    ledger.block(after_ms=2 * PARAMS.channel_close_delay_ms)
    ledger.block()
    ledger.block()
    assert len(ledger.state.channels) == 5
    ledger.block(after_ms=2 * PARAMS.grace_ms)
    assert len(ledger.state.channels) == 3
    due_ms = next_due_ms(ledger.state)
    assert due_ms is not None
    assert due_ms <= ledger.state.time_ms
    ledger.block()
    ledger.block()
    assert not ledger.state.channels
    assert next_due_ms(ledger.state) is None


def test_channels_follow_their_rules() -> None:
    ledger = Ledger()
    payer, payee = ledger.account("client-0"), ledger.account("inference-0")
    assert isinstance(ledger.refuse(payer, OpenChannels(())), InvalidAmount)
    assert isinstance(ledger.refuse(payer, OpenChannels((ChannelOpening(payee.public, 0),))), InvalidAmount)
    assert isinstance(ledger.refuse(payer, OpenChannels((ChannelOpening(payer.public, 1),))), SelfPayment)
    balance = ledger.state.get_balance(payer.public)
    both = OpenChannels((ChannelOpening(payee.public, 5), ChannelOpening(payee.public, balance)))
    assert isinstance(ledger.refuse(payer, both), InsufficientBalance)
    channel = ledger.open_channel()
    assert isinstance(ledger.refuse(payee, CloseChannel(channel)), NotYourChannel)
    assert isinstance(ledger.refuse(payer, CloseChannel(bytes(32))), UnknownChannel)
    ledger.do(payer, CloseChannel(channel))
    again = ledger.refuse(payer, CloseChannel(channel))
    assert isinstance(again, ChannelClosing)
    assert again.closing_ms == ledger.state.channels[channel].closing_ms
    assert ledger.settle(channel, ZeroReason.FAILED).runs[0].seq_first == 1


def test_a_payer_adds_to_its_open_channel() -> None:
    ledger = Ledger()
    payer, payee = ledger.account("client-0"), ledger.account("inference-0")
    channel = ledger.open_channel(deposit=5)
    ledger.do(payer, TopUpChannel(channel, 3))
    assert ledger.state.channels[channel].deposit == 8
    assert isinstance(ledger.refuse(payer, TopUpChannel(channel, 0)), InvalidAmount)
    assert isinstance(ledger.refuse(payee, TopUpChannel(channel, 1)), NotYourChannel)
    assert isinstance(ledger.refuse(payer, TopUpChannel(bytes(32), 1)), UnknownChannel)
    much = ledger.refuse(payer, TopUpChannel(channel, ledger.state.get_balance(payer.public)))
    assert isinstance(much, InsufficientBalance)
    ledger.do(payer, CloseChannel(channel))
    assert isinstance(ledger.refuse(payer, TopUpChannel(channel, 1)), ChannelClosing)


def test_a_deadline_the_ledger_slept_through_still_gives_its_grace() -> None:
    ledger = Ledger()
    channel = ledger.open_channel(deposit=5)
    ledger.do(ledger.account("client-0"), CloseChannel(channel))
    ledger.block(after_ms=10**9)
    assert next_due_ms(ledger.state) == ledger.state.time_ms + PARAMS.grace_ms
    ledger.do(ledger.account("inference-0"), ledger.settle(channel, ZeroReason.FAILED))
    assert ledger.state.channels[channel].settled_seq == 1
    ledger.block(after_ms=PARAMS.grace_ms)
    assert not ledger.state.channels


def test_a_role_without_a_bond_asks_for_none() -> None:
    assert Params(bonds=(RoleBond("verifier", 5),)).get_bond_min("client") == 0


def test_a_round_that_is_not_open_says_so() -> None:
    assert "round 5 is ahead of the block's round 4" in str(RoundNotOpen(5, 4))
