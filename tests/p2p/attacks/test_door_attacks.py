"""Strangers who have not said who they are, each in a process of its own: they are kept out by address."""

import time

from tests.p2p.attacks import door_attackers, scene
from tests.p2p.attacks.withstand import Scene, withstand
from tests.p2p.loopback import running_host

NEWCOMER_S_MAX = 2.0


def test_a_thousand_half_open_connections_keep_nobody_else_out() -> None:
    async def come_in(scene_: Scene) -> None:
        """An honest peer nobody knows yet, from a third network, again and again while the attack is on."""
        for number in range(3):
            async with running_host(40 + number, address=f"127.3.0.{number + 1}") as (newcomer, _):
                start_s = time.monotonic()
                assert await newcomer.dial(scene_.aim.node, scene_.aim.addresses)
                assert time.monotonic() - start_s <= NEWCOMER_S_MAX
        await scene_.until(lambda report: sum(report.refused.values()) >= 1_000 - scene.LIMITS.per_address_max)

    withstand(door_attackers.half_open, attackers=(), shut=(1,), meanwhile=come_in)


def test_whoever_never_gets_past_the_handshake_is_refused_by_address() -> None:
    withstand(door_attackers.garbage_on_sockets, attackers=(), shut=tuple(range(1, 7)))
