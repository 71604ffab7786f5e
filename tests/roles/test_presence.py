"""What a node is to others, pure: it serves and registers once peers can dial it, and no longer when they cannot."""

import random
from dataclasses import replace

import pytest

from protocol.keys import PrivateKey, format_node
from protocol.types import NodeState
from roles.core_effects import NodeKeys
from roles.presence import REGISTER_AGAIN_MS, Presence
from roles.registry import load_role
from roles.role import Context
from roles.rotation import plan_rotation
from tests.support.core_parts import GENESIS_MS, make_parts
from tests.support.jobs import get_keys
from tests.support.ledgers import Ledger

PARTS = make_parts()
STATE = PARTS.state


def make_presence(name: str, keys_of: str = "", **options: bool) -> Presence:
    """Of a node of the network, or of one with another's keys: it is not registered as what it is."""
    node, account = get_keys(PARTS.foundation, keys_of or name)
    role = load_role(name.rpartition("-")[0])(Context({}, node, account, random.Random(1)))
    return Presence(NodeKeys(node, account), [role], **options)


def test_a_node_serves_once_it_was_dialled_back_and_observes_again_when_it_can_no_more_be_reached():
    presence = make_presence("storage-0", must_be_reachable=True)
    states = [presence.compute_state(STATE, True)]
    for is_reachable in (True, False, True):
        presence.note_reach(is_reachable)
        states.append(presence.compute_state(STATE, True))
    serving, observing = NodeState.SERVING, NodeState.OBSERVING
    assert states == [observing, serving, observing, serving]
    advert = presence.make_advert(observing, ("/ip4/192.0.2.7/tcp/4001",), 7)
    assert advert.state == observing, "others are told"


def test_a_node_that_need_not_be_dialled_back_serves_whatever_is_said():
    presence = make_presence("storage-0")
    presence.note_reach(False)
    assert presence.compute_state(STATE, True) is NodeState.SERVING


def test_nobody_has_to_find_a_client():
    assert make_presence("client-0", must_be_reachable=True).is_findable


@pytest.mark.parametrize("is_reachable", [False, True])
def test_a_role_that_must_be_found_is_registered_only_once_it_can_be(is_reachable):
    presence = make_presence("storage-0", keys_of="client-0", must_be_reachable=True)
    presence.note_reach(is_reachable)
    asked = presence.get_registration(STATE, GENESIS_MS)
    assert (asked is not None) == is_reachable


def rotate_node(ledger: Ledger, name: str) -> PrivateKey:
    """Another node key for a node, on the ledger; the key."""
    account, following = ledger.account(name), PrivateKey.from_seed(b"following" + bytes(23))
    ledger.do(account, plan_rotation(account.public, following, None, ledger.state.nodes[account.public].vote))
    return following


def make_own(ledger: Ledger, name: str, node: PrivateKey) -> Presence:
    role = load_role("storage")(Context({}, node, ledger.account(name), random.Random(1)))
    return Presence(NodeKeys(node, ledger.account(name)), [role])


def test_a_node_serves_with_its_old_key_until_the_epoch_ends_and_with_the_new_one_from_then_on():
    ledger = Ledger({"validator": 1, "storage": 1})
    former = ledger.node("storage-0")
    following = rotate_node(ledger, "storage-0")
    old, new = make_own(ledger, "storage-0", former), make_own(ledger, "storage-0", following)
    assert old.compute_state(ledger.state, True) is NodeState.SERVING
    found = old.describe_keys(ledger.state)
    assert found["state"] == "rotating"
    assert format_node(following.public) in found["advice"]
    assert "when the epoch ends" in found["advice"]
    assert old.get_registration(ledger.state, GENESIS_MS) is None

    ledger.block(after_ms=ledger.state.params.epoch_ms)
    assert old.compute_state(ledger.state, True) is NodeState.OBSERVING
    assert new.compute_state(ledger.state, True) is NodeState.SERVING
    assert new.describe_keys(ledger.state) == {}


def test_a_node_that_runs_with_a_former_key_says_so_and_asks_for_nothing_the_ledger_would_refuse():
    ledger = Ledger({"validator": 1, "storage": 1})
    former = ledger.node("storage-0")
    following = rotate_node(ledger, "storage-0")
    ledger.block(after_ms=ledger.state.params.epoch_ms)
    old = make_own(ledger, "storage-0", former)
    found = old.describe_keys(ledger.state)
    assert found["state"] == "replaced"
    assert format_node(following.public) in found["advice"]
    assert "keys rotate" in found["advice"]
    assert old.get_registration(ledger.state, GENESIS_MS) is None


def test_a_client_may_spend_from_the_account_of_a_node_that_runs_elsewhere():
    ledger = Ledger({"validator": 1, "storage": 1, "client": 1})
    account, node = ledger.account("storage-0"), ledger.node("client-0")
    role = load_role("client")(Context({}, node, account, random.Random(1)))
    assert Presence(NodeKeys(node, account), [role]).describe_keys(ledger.state) == {}
    assert make_own(ledger, "storage-0", node).describe_keys(ledger.state)["state"] == "replaced"


def test_a_validator_that_runs_with_a_former_vote_key_says_so():
    ledger = Ledger({"validator": 4})
    account, node = ledger.account("validator-1"), ledger.node("validator-1")
    former = PrivateKey.from_seed(ledger.foundation.nodes["validator-1"].vote or b"")
    following = PrivateKey.from_seed(b"following" + bytes(23))
    role = load_role("validator")(Context({}, node, account, random.Random(1), vote=former))
    presence = Presence(NodeKeys(node, account, former), [role])
    assert presence.describe_keys(ledger.state) == {}
    ledger.do(account, plan_rotation(account.public, node, following, former.public))
    assert presence.describe_keys(ledger.state)["state"] == "rotating"
    ledger.block(after_ms=ledger.state.params.epoch_ms)
    found = presence.describe_keys(ledger.state)
    assert found["state"] == "replaced"
    assert following.public.hex() in found["advice"]


def test_a_node_that_holds_another_model_registers_it_and_keeps_its_bond_and_roles():
    presence = make_presence("inference-0")
    account = get_keys(PARTS.foundation, "inference-0")[1].public
    record = STATE.nodes[account]
    model, *rest = record.models
    role = presence._roles[0]
    role._shelf.start(STATE)
    role._shelf._held.update(record.models)
    role._shelf._update()
    assert presence.get_update(STATE, GENESIS_MS) is None

    before = replace(STATE, nodes={**STATE.nodes, account: replace(record, models=tuple(rest))})
    asked = presence.get_update(before, GENESIS_MS)

    assert asked is not None
    assert (asked.models, asked.bond, asked.roles, asked.node) == (record.models, 0, record.roles, record.node)
    assert presence.get_update(before, GENESIS_MS + 1) is None, "it was just asked for"
    assert presence.get_update(before, GENESIS_MS + REGISTER_AGAIN_MS) is not None
    assert model in asked.models
