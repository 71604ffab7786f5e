"""Bans and memory on real sockets: who is banned is hung up on, stays out after a restart, and so do its new keys."""

import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import trio
from libp2p.io.exceptions import IOException

from p2p import dialback
from p2p.bans import BANNED_AT, FAULT
from p2p.host_streams import StreamRefused
from p2p.libp2p_net import Libp2pNet, NetOptions, open_libp2p_net
from protocol.keys import PrivateKey
from protocol.types import Verdict
from tests.p2p.loopback import run, running_host, until


@asynccontextmanager
async def node(
    number: int, address: str, memory: Mapping[str, Any] | None = None, port: int = 0
) -> AsyncIterator[Libp2pNet]:
    options = NetOptions(seed=number, memory=memory or {})
    async with open_libp2p_net(bytes([number]) * 32, address, port, lambda event: None, options) as net:
        yield net


def offend(net: Libp2pNet, peer: bytes) -> None:
    for _ in range(int(BANNED_AT / FAULT)):
        net.penalise(peer, "junk")


def test_a_banned_peer_is_hung_up_on_and_neither_it_nor_its_next_key_comes_back_after_a_restart() -> None:
    async def main() -> None:
        async with (
            running_host(2, address="127.0.40.2") as (honest, _),
            running_host(3, address="127.0.41.3") as (bad, _),
        ):
            async with node(1, "127.0.8.1") as net:
                assert await bad.dial(net.node, net.addresses)
                await until(lambda: net.peers() == (bad.node,))
                offend(net, bad.node)
                await until(lambda: net.peers() == ())
                assert not await comes_back(bad, net)
                memory = json.loads(json.dumps(net.remember()))

            async with node(1, "127.0.8.1", memory) as net, running_host(4, address="127.0.41.3") as (fresh, _):
                assert not await comes_back(bad, net)
                assert not await comes_back(fresh, net)
                assert set(net.refusals()) == {"banned", "inherited"}
                assert await honest.dial(net.node, net.addresses)
                await until(lambda: net.peers() == (honest.node,))
                net.guard.forget(bad.node)
                await bad.hang_up(net.node)
                assert await bad.dial(net.node, net.addresses)
                await until(lambda: bad.node in net.peers())

    async def comes_back(host: Any, net: Libp2pNet) -> bool:
        # While it has not noticed that it was hung up on, a host sees no reason to dial.
        await until(lambda: not host.is_connected(net.node))
        turned_away = sum(net.refusals().values())
        await until(lambda: not host.is_connected(net.node))
        await host.dial(net.node, net.addresses)
        await until(lambda: sum(net.refusals().values()) > turned_away)
        return host.node in net.peers()

    run(main)


def test_a_network_banned_by_hand_loses_its_connections_and_an_allowed_peer_of_it_stays() -> None:
    async def main() -> None:
        async with (
            node(1, "127.0.8.1") as net,
            running_host(2, address="127.0.40.2") as (one, _),
            running_host(3, address="127.0.40.3") as (two, _),
        ):
            for host in (one, two):
                assert await host.dial(net.node, net.addresses)
            await until(lambda: len(net.peers()) == 2)
            net.guard.allow(two.node)
            net.guard.ban("127.0.40.0/24", 60_000, "by hand")
            await until(lambda: net.peers() == (two.node,))
            assert net.guard.changed.is_set()

    run(main)


def test_peers_that_were_reached_are_remembered_with_their_topics_and_dialled_again() -> None:
    async def main() -> None:
        async with node(2, "127.0.8.2") as other:
            other.subscribe("t", lambda topic, data, forwarder: Verdict.ACCEPT)
            async with node(1, "127.0.8.1") as net:
                net.subscribe("t", lambda topic, data, forwarder: Verdict.ACCEPT)
                net.learn(other.node, other.addresses)
                await until(lambda: net.subscribers("t") == (other.node,))
                memory = json.loads(json.dumps(net.remember()))
            assert memory["peers"] == [{"node": other.node.hex(), "addresses": list(other.addresses), "topics": ["t"]}]

            async with node(1, "127.0.8.1", memory) as net:
                await until(lambda: net.peers() == (other.node,))
                assert net.guard.is_known(other.node)

    run(main)


def test_a_stranger_that_sends_junk_is_out_within_ten_faults_and_so_are_its_next_keys() -> None:
    async def main() -> None:
        async with node(1, "127.0.8.1") as net, running_host(2, address="127.0.42.9") as (honest, _):
            assert await honest.dial(net.node, net.addresses)
            for number in range(3, 7):
                async with running_host(number, address="127.0.43.9") as (stranger, _):
                    turned_away = sum(net.refusals().values())
                    await stranger.dial(net.node, net.addresses)
                    await until(
                        lambda stranger=stranger, turned_away=turned_away: (  # type: ignore[misc]
                            stranger.node in net.peers() or sum(net.refusals().values()) > turned_away
                        )
                    )
                    while stranger.node in net.peers():
                        with contextlib.suppress(StreamRefused, IOException):
                            stream = await stranger.open_stream(net.node, dialback.PROTOCOL)
                            await stream.write(b"\x00\x02\xc1\xc1")
                            await stream.read(1)
            assert net.refusals() == {"inherited": 3}
            assert {peer for peer, _ in net.faults()} == {stranger_key(3)}
            assert net.peers() == (honest.node,)

    run(main)


def test_what_no_implementation_does_weighs_more_than_what_a_busy_one_may() -> None:
    async def main() -> None:
        async with (
            node(1, "127.0.8.1") as net,
            running_host(2, address="127.0.44.2") as (slow, _),
            running_host(3, address="127.0.45.3") as (broken, _),
        ):
            for host in (slow, broken):
                assert await host.dial(net.node, net.addresses)
            await until(lambda: len(net.peers()) == 2)
            for _ in range(3):
                net.guard.blame(slow.node, "a slow frame")
                net.guard.blame(broken.node, "no frame", is_violation=True)
            assert net.guard.is_refused(broken.node)
            assert not net.guard.is_refused(slow.node)
            await until(lambda: net.peers() == (slow.node,))

    run(main)


def test_nobody_who_is_banned_is_dialled() -> None:
    async def main() -> None:
        banned, calls = stranger_key(3), []

        async def take_call(stream: trio.SocketStream) -> None:
            calls.append(stream)

        async with (
            node(1, "127.0.8.1") as net,
            node(2, "127.0.8.2") as wanted,
            trio.open_nursery() as nursery,
        ):
            (listener,) = await nursery.start(partial(trio.serve_tcp, take_call, 0, host="127.0.46.3"))
            net.guard.ban(banned, 60_000, "by hand")
            net.learn(banned, (f"/ip4/127.0.46.3/tcp/{listener.socket.getsockname()[1]}",))
            net.learn(wanted.node, wanted.addresses)
            await until(lambda: net.peers() == (wanted.node,))
            await until(lambda: net._keeper.book.entries[banned].failures > 1)
            assert not await net._keeper.dial(banned)
            assert calls == []
            nursery.cancel_scope.cancel()

    run(main)


def stranger_key(number: int) -> bytes:
    return PrivateKey.from_seed(bytes([number]) * 32).public
