"""What a node is to others, pure: it serves and registers once peers can dial it, and no longer when they cannot."""

import random

import pytest

from protocol.types import NodeState
from roles.core_effects import NodeKeys
from roles.presence import Presence
from roles.registry import load_role
from roles.role import Context
from tests.support.core_parts import GENESIS_MS, make_parts
from tests.support.jobs import get_keys

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
