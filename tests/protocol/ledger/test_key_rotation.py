"""Keys change with the epoch, and former ones stay known as long as something hangs on them."""

import hashlib
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.keys import PrivateKey
from protocol.ledger.block import get_validators
from protocol.ledger.errors import InvalidNode, InvalidSignature, UnknownNode
from protocol.ledger.params import Params
from protocol.ledger.transactions import RegisterNode, RotateKeys, prove_possession
from tests.protocol.ledger.test_evidence import equivocate
from tests.support.jobs import PRICE
from tests.support.ledgers import Ledger

PARAMS = Params()
BOND = PARAMS.get_bond_min("validator")
NODE, VOTE = PrivateKey.from_seed(b"n" * 32), PrivateKey.from_seed(b"v" * 32)


def rotate(ledger: Ledger, name: str, node: PrivateKey | None = None, vote: PrivateKey | None = None) -> RotateKeys:
    account = ledger.account(name).public
    known = ledger.state.nodes[account]
    body = RotateKeys(node.public if node else known.node, vote.public if vote else known.vote, bytes(64), b"")
    return prove_possession(body, account, node or ledger.node(name), vote)


def register(ledger: Ledger, account: PrivateKey, **changes: object) -> RegisterNode:
    body = RegisterNode(NODE.public, VOTE.public, ("validator",), (), 0, BOND, bytes(64), b"")
    return prove_possession(replace(body, **changes), account.public, NODE, VOTE)  # type: ignore[arg-type]


def test_a_new_vote_key_votes_from_the_next_epoch_on() -> None:
    ledger = Ledger({"validator": 4})
    old = get_validators(ledger.state)
    ledger.do(ledger.account("validator-1"), rotate(ledger, "validator-1", vote=VOTE))
    assert get_validators(ledger.state) == old
    ledger.block(after_ms=PARAMS.epoch_ms)
    assert VOTE.public in {item.vote for item in get_validators(ledger.state)}
    assert len(get_validators(ledger.state)) == 4


def test_votes_of_a_former_key_still_convict_its_account() -> None:
    ledger = Ledger({"validator": 4})
    ledger.block()
    proof = equivocate(ledger, "validator-1", 1)
    ledger.do(ledger.account("validator-1"), rotate(ledger, "validator-1", vote=VOTE))
    ledger.block(after_ms=PARAMS.epoch_ms)
    ledger.do(ledger.spare(), proof)
    account = ledger.account("validator-1").public
    assert ledger.state.tombstones[account].vote == proof.evidence.votes[0].voter
    ledger.block(after_ms=PARAMS.epoch_ms)
    assert account not in {item.account for item in get_validators(ledger.state)}


def test_work_done_with_a_former_node_key_is_paid() -> None:
    ledger = Ledger()
    channel = ledger.open_channel()
    work = ledger.work(channel)[2]
    worker = ledger.account("inference-0")
    ledger.do(worker, rotate(ledger, "inference-0", node=NODE))
    found = ledger.state.find_node(ledger.node("inference-0").public)
    assert found is not None
    assert found.node == NODE.public
    assert ledger.state.epochs[0].find_candidate(NODE.public) is None
    ledger.block(after_ms=PARAMS.epoch_ms)
    assert ledger.state.epochs[1].find_candidate(NODE.public) is not None
    ledger.do(worker, ledger.settle(channel, work))
    assert ledger.state.channels[channel].paid == PRICE


def test_a_former_key_is_forgotten_with_the_last_epoch_that_knows_it() -> None:
    ledger = Ledger(params=replace(PARAMS, epochs_kept=3))
    old = ledger.node("inference-0").public
    ledger.do(ledger.account("inference-0"), rotate(ledger, "inference-0", node=NODE))
    for epoch in range(1, 4):
        assert ledger.state.find_node(old) is not None
        ledger.block(after_ms=PARAMS.epoch_ms)
        assert ledger.state.epoch == epoch
    assert ledger.state.find_node(old) is None
    assert ledger.state.find_node(NODE.public) is not None


def test_keys_follow_their_rules() -> None:
    ledger = Ledger({"validator": 2, "client": 1})
    first, second = ledger.account("validator-0"), ledger.account("validator-1")
    good = rotate(ledger, "validator-0", NODE, VOTE)
    assert isinstance(ledger.refuse(first, replace(good, proof=bytes(64))), InvalidSignature)
    assert isinstance(ledger.refuse(first, replace(good, vote_proof=bytes(64))), InvalidSignature)
    assert isinstance(ledger.refuse(second, good), InvalidSignature)
    assert isinstance(ledger.refuse(ledger.spare(), good), UnknownNode)
    assert isinstance(ledger.refuse(first, rotate(ledger, "validator-0")), InvalidNode)
    assert isinstance(ledger.refuse(first, replace(good, vote=b"")), InvalidNode)
    theirs = ledger.state.nodes[second.public]
    assert isinstance(ledger.refuse(first, replace(good, node=theirs.node)), InvalidNode)
    assert isinstance(ledger.refuse(first, replace(good, vote=theirs.vote)), InvalidNode)
    ledger.do(first, good)
    mine = ledger.state.nodes[first.public]
    assert (mine.node, mine.vote) == (NODE.public, VOTE.public)
    # What was its own is its own still, for nobody else and for itself.
    former = ledger.node("validator-0")
    taken = prove_possession(RotateKeys(former.public, theirs.vote, bytes(64), b""), second.public, former)
    assert isinstance(ledger.refuse(second, taken), InvalidNode)
    ledger.do(first, rotate(ledger, "validator-0", former))
    assert ledger.state.node_owners[former.public].left_epoch == 0


def test_whoever_has_the_bond_validates_from_the_next_epoch_on() -> None:
    ledger = Ledger()
    joiner = ledger.spare()
    assert isinstance(ledger.refuse(joiner, replace(register(ledger, joiner), vote_proof=b"")), InvalidSignature)
    ledger.do(joiner, register(ledger, joiner))
    ledger.block(after_ms=PARAMS.epoch_ms)
    assert {item.account for item in get_validators(ledger.state)} == {
        joiner.public,
        ledger.account("validator-0").public,
    }
    other = register(ledger, joiner, vote=b"w" * 32)
    assert isinstance(ledger.refuse(joiner, other), InvalidNode)
    ledger.do(joiner, register(ledger, joiner, roles=("storage",), vote=b""))
    ledger.block(after_ms=PARAMS.epoch_ms)
    assert len(get_validators(ledger.state)) == 1


def test_the_last_validator_keeps_its_role_and_a_convicted_one_does_not_get_it_back() -> None:
    ledger = Ledger({"validator": 2})
    last, guilty = ledger.account("validator-0"), ledger.account("validator-1")
    ledger.do(ledger.spare(), equivocate(ledger, "validator-1", 1))

    def become(account: PrivateKey, *roles: str) -> RegisterNode:
        record = ledger.state.nodes[account.public]
        vote = record.vote if "validator" in roles else b""
        node = ledger.node("validator-0" if account is last else "validator-1")
        body = RegisterNode(record.node, vote, roles, (), 0, BOND, bytes(64), b"")
        return prove_possession(body, account.public, node)

    assert isinstance(ledger.refuse(last, become(last, "storage")), InvalidNode)
    assert isinstance(ledger.refuse(guilty, become(guilty, "validator")), InvalidNode)
    ledger.do(guilty, become(guilty, "storage"))


@settings(max_examples=40, deadline=None)
@given(steps=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 4)), max_size=20))
def test_every_key_that_can_be_asked_for_has_one_owner(steps: list[tuple[int, int, int]]) -> None:
    """Steps are (validator, key or none, epochs to pass); keys are few, so that they are given up and taken again."""
    ledger = Ledger({"validator": 3}, replace(PARAMS, epochs_kept=3), check_signatures=False)
    keys = [PrivateKey.from_seed(hashlib.sha256(bytes([number])).digest()) for number in range(4)]
    for number, key, epochs in steps:
        name = f"validator-{number}"
        ledger.block(ledger.sign(ledger.account(name), rotate(ledger, name, keys[key], keys[3 - key])))
        for _ in range(epochs // 2):
            ledger.block(after_ms=PARAMS.epoch_ms)
        state = ledger.state
        assert len(get_validators(state)) == 3
        for record in state.nodes.values():
            assert state.node_owners[record.node].account == record.account
            assert state.vote_owners[record.vote].account == record.account
            assert state.node_owners[record.node].left_epoch == state.vote_owners[record.vote].left_epoch == 0
        for snapshot in state.epochs.values():
            for item in snapshot.candidates:
                assert state.node_owners[item.node].account == item.account
                assert state.vote_owners[item.vote].account == item.account
