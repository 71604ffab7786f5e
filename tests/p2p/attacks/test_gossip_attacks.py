"""Strangers on the gossip stream, each in a process of its own, and a node in another. The bars are in `withstand`."""

import pytest

from tests.p2p.attacks import gossip_attackers
from tests.p2p.attacks.withstand import Scene, withstand


@pytest.mark.parametrize(
    "attack",
    [
        gossip_attackers.junk_packets,
        gossip_attackers.junk_keys,
        gossip_attackers.bad_signatures,
        gossip_attackers.bad_envelopes,
        gossip_attackers.repeated_iwant,
        gossip_attackers.long_ihave,
        gossip_attackers.broken_promises,
        gossip_attackers.empty_control,
        gossip_attackers.grafts_in_backoff,
        gossip_attackers.subscriptions,
        gossip_attackers.oversized_frames,
        gossip_attackers.endless_lengths,
    ],
)
def test_a_node_withstands_on_its_gossip_stream(attack) -> None:
    withstand(attack)


def test_a_forged_copy_that_comes_first_never_silences_the_honest_message() -> None:
    async def let_it_speak(scene_: Scene) -> None:
        await scene_.until(lambda report: len(report.refused_at) == 4)
        honest = scene_.honest
        first_signed = honest.said_signed
        honest.is_silent = False
        await scene_.until(lambda report: honest.said_signed >= first_signed + 12)

    withstand(gossip_attackers.forged_copies, attackers=(1, 2, 3, 4), is_race=True, meanwhile=let_it_speak)
