"""Strangers on every stream protocol, and on what carries streams, each in a process of its own."""

import pytest

from p2p import dialback
from tests.p2p.attacks import scene, slow_attackers, stream_attackers
from tests.p2p.attacks.withstand import Scene, withstand

PROTOCOLS = (*scene.PROTOCOLS, dialback.PROTOCOL, "/ipfs/id/1.0.0", "/ipfs/ping/1.0.0")
# A test does not wait as long as a node does, but in `make test-full`.
HASTY = {
    "p2p.outgoing.WRITE_BEATS_MAX": 2,
    "p2p.inbound.PACKET_BEATS_MAX": 2,
    "p2p.frame_stream.FRAME_S": 2.0,
    "p2p.frame_stream.LOOK_S": 1.0,
    "p2p.frame_stream.STALL_S_MAX": 2.0,
    "p2p.muxed_stream.STALL_S_MAX": 2.0,
    "p2p.muxed_writer.STUCK_S_MAX": 2.0,
}


def test_garbage_on_any_stream_protocol_costs_its_sender_the_connection() -> None:
    attacker_numbers = tuple(range(1, len(PROTOCOLS) + 1))
    withstand(stream_attackers.garbage_on_streams, attackers=attacker_numbers, details={"protocols": PROTOCOLS})


def test_garbage_where_a_protocol_is_chosen_costs_its_sender_the_connection() -> None:
    withstand(stream_attackers.garbage_before_streams, attackers=(1, 2, 3))


def test_frames_that_break_yamux_and_floods_of_frames_that_do_not_cost_their_sender_the_connection() -> None:
    withstand(stream_attackers.garbage_on_yamux, attackers=(1, 2, 3, 4, 5, 6))


hasty_or_not = pytest.mark.parametrize(
    "patience", [HASTY, pytest.param({}, marks=[pytest.mark.full, pytest.mark.timeout(180)])], ids=["hasty", "as it is"]
)


async def hear_the_end(scene_: Scene) -> None:
    assert await scene_.hear_attacker() == "ended"


@hasty_or_not
def test_a_peer_that_reads_no_gossip_holds_up_nobody_and_loses_the_stream(patience: dict[str, float]) -> None:
    withstand(slow_attackers.deaf_to_gossip, attackers=(), meanwhile=hear_the_end, patience=patience)


@hasty_or_not
def test_a_peer_that_reads_no_answers_makes_a_node_hold_few_and_loses_the_streams(patience: dict[str, float]) -> None:
    withstand(slow_attackers.deaf_to_answers, attackers=(), meanwhile=hear_the_end, patience=patience)


@hasty_or_not
def test_a_peer_that_reads_a_byte_at_a_time_loses_the_stream(patience: dict[str, float]) -> None:
    withstand(slow_attackers.sips_answers, attackers=(), meanwhile=hear_the_end, patience=patience)


@hasty_or_not
def test_a_peer_whose_socket_takes_nothing_loses_the_connection(patience: dict[str, float]) -> None:
    async def see_it_go(scene_: Scene) -> None:
        await scene_.until(lambda report: report.strangers == 1)
        await scene_.until(lambda report: report.strangers == 0)

    withstand(slow_attackers.deaf_socket, attackers=(), meanwhile=see_it_go, patience=patience)


@hasty_or_not
def test_a_peer_that_sends_a_byte_at_a_time_loses_every_stream(patience: dict[str, float]) -> None:
    details = {"protocols": ("/meshsub/1.1.0", *PROTOCOLS[:-2]), "pause_s": 0.1}
    withstand(slow_attackers.slow_writers, attackers=(), meanwhile=hear_the_end, details=details, patience=patience)


@hasty_or_not
def test_requests_that_never_end_make_a_node_hold_few_of_them(patience: dict[str, float]) -> None:
    withstand(slow_attackers.hoarders, attackers=(), meanwhile=hear_the_end, patience=patience)
