"""Strangers on the gossip stream, each in a process of its own, and a node in another. The bars are in `withstand`."""

import pytest

from tests.p2p.attacks import attackers
from tests.p2p.attacks.withstand import withstand


@pytest.mark.parametrize(
    "attack",
    [
        attackers.junk_packets,
        attackers.junk_keys,
        attackers.bad_signatures,
        attackers.bad_envelopes,
        attackers.repeated_iwant,
        attackers.long_ihave,
        attackers.broken_promises,
        attackers.empty_control,
        attackers.grafts_in_backoff,
        attackers.subscriptions,
        attackers.oversized_frames,
        attackers.endless_lengths,
    ],
)
def test_a_node_withstands_on_its_gossip_stream(attack) -> None:
    withstand(attack)


def test_a_forged_copy_that_comes_first_never_silences_the_honest_message() -> None:
    withstand(attackers.forged_copies, attackers=(1, 2, 3, 4))
