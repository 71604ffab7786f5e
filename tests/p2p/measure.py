"""Gossip beside stock py-libp2p in one run: `python -m tests.p2p.measure [--json]`. Real sockets, one process.

Stock runs at its best settings of the project's measurements: queues of 1,024, Noise only, no signatures, no scores.
Undelivered messages do not count. `one_to_one` is messages a second, `mesh_6` CPU milliseconds per delivery at 60 a
second, `connect` milliseconds for a dial.
"""

import argparse
import contextlib
import json
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.peer.peerinfo import PeerInfo
from libp2p.pubsub import pubsub as stock_pubsub
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.rpc_queue import RpcQueue
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as Noise
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from p2p.hardening import harden
from p2p.libp2p_net import NetOptions, open_libp2p_net
from p2p.net import Delivered, NetEvent
from protocol.types import Verdict

TOPIC = "t"
SIZE = 256
WINDOW = 64

Publish = Callable[[bytes], Awaitable[None]]


class Group:
    """Some connected nodes on one topic: publish from any, count what arrives at all."""

    def __init__(self) -> None:
        self.publish: list[Publish] = []
        self.delivered = 0

    async def wait_for(self, count: int, patience_s: float) -> bool:
        with trio.move_on_after(patience_s):
            while self.delivered < count:
                await trio.sleep(0.001)
            return True
        return False


@contextlib.asynccontextmanager
async def open_ours(count: int) -> AsyncIterator[tuple[Group, list[float]]]:
    group = Group()

    def sink(event: NetEvent) -> None:
        group.delivered += isinstance(event, Delivered)

    async with contextlib.AsyncExitStack() as stack:
        nets = []
        for i in range(count):
            options = NetOptions(seed=i)
            nets.append(
                await stack.enter_async_context(open_libp2p_net(bytes([i + 1]) * 32, "127.0.0.1", 0, sink, options))
            )
            nets[-1].subscribe(TOPIC, lambda topic, data, forwarder: Verdict.ACCEPT)
        connects = []
        for i, net in enumerate(nets):
            for other in nets[:i]:
                net.learn(other.node, other.addresses)
                start = time.perf_counter()
                assert await net._keeper.dial(other.node)
                connects.append(1000 * (time.perf_counter() - start))
        while any(len(net.subscribers(TOPIC)) < count - 1 for net in nets):
            await trio.sleep(0.01)
        for net in nets:

            async def publish(data: bytes, net: object = net) -> None:
                net.publish(TOPIC, data, "")  # type: ignore[attr-defined]
                await trio.lowlevel.checkpoint()

            group.publish.append(publish)
        yield group, connects


@contextlib.asynccontextmanager
async def open_stock(count: int) -> AsyncIterator[tuple[Group, list[float]]]:
    group = Group()
    async with contextlib.AsyncExitStack() as stack:
        nursery = await stack.enter_async_context(trio.open_nursery())
        stack.callback(nursery.cancel_scope.cancel)
        hosts, pumps = [], []
        for i in range(count):
            keys = create_new_key_pair(bytes([i + 101]) * 32)
            noise = Noise(keys, noise_privkey=create_noise_key_pair().private_key)
            host = new_host(key_pair=keys, sec_opt={NOISE: noise})
            router = GossipSub(
                ["/meshsub/1.1.0"],  # type: ignore[list-item]
                4,
                3,
                8,
                heartbeat_interval=1,
                adaptive_gossip_enabled=False,
                spam_protection_enabled=False,
                eclipse_protection_enabled=False,
                max_pending_messages_per_peer=1,
            )
            pump = stock_pubsub.Pubsub(host, router, strict_signing=False)
            stack.callback(pump.seen_messages.stop)
            await stack.enter_async_context(host.run([Multiaddr("/ip4/127.0.0.1/tcp/0")]))
            await stack.enter_async_context(background_trio_service(pump))
            await stack.enter_async_context(background_trio_service(router))
            await pump.wait_until_ready()
            hosts.append(host)
            pumps.append(pump)
        connects = []
        for i, host in enumerate(hosts):
            for other in hosts[:i]:
                start = time.perf_counter()
                await host.connect(PeerInfo(other.get_id(), other.get_transport_addrs()))
                connects.append(1000 * (time.perf_counter() - start))
        for pump in pumps:
            nursery.start_soon(_count, group, await pump.subscribe(TOPIC), pump.my_id.to_bytes())
        while any(len(pump.peer_topics.get(TOPIC, ())) < count - 1 for pump in pumps):
            await trio.sleep(0.01)
        await trio.sleep(2)  # its mesh forms with the heartbeat
        for pump in pumps:

            async def publish(data: bytes, pump: stock_pubsub.Pubsub = pump) -> None:
                await pump.publish(TOPIC, data)
                await trio.lowlevel.checkpoint()

            group.publish.append(publish)
        yield group, connects


async def _count(group: Group, subscription: object, me: bytes) -> None:
    while True:
        message = await subscription.get()  # type: ignore[attr-defined]
        group.delivered += message.from_id != me


async def measure_flow(group: Group, messages: int) -> float:
    """Messages a second from node 0, WINDOW under way at most."""
    before = group.delivered
    start = time.perf_counter()
    for i in range(messages):
        await group.publish[0](b"%012d" % i + bytes(SIZE - 12))
        while i - (group.delivered - before) > WINDOW:
            await trio.lowlevel.checkpoint()
    assert await group.wait_for(before + messages, 20)
    return messages / (time.perf_counter() - start)


async def measure_cpu(group: Group, rate: int, seconds: float) -> tuple[float, float]:
    """CPU milliseconds per delivery and share delivered, with the nodes publishing in turn."""
    before, cpu = group.delivered, time.process_time()
    count = int(rate * seconds)
    start = trio.current_time()
    for i in range(count):
        await group.publish[i % len(group.publish)](b"%012d" % (10**9 + i) + bytes(SIZE - 12))
        await trio.sleep_until(start + (i + 1) / rate)
    expected = count * (len(group.publish) - 1)
    await group.wait_for(before + expected, 5)
    delivered = group.delivered - before
    return 1000 * (time.process_time() - cpu) / max(delivered, 1), delivered / expected


async def main(as_json: bool) -> None:
    harden()
    stock_pubsub.SUBSCRIPTION_CHANNEL_SIZE = 1024
    RpcQueue.__init__.__defaults__ = (1024, RpcQueue.__init__.__defaults__[1])  # type: ignore[index]
    figures: dict[str, dict[str, float]] = {"ours": {}, "stock": {}}
    for name, opened in (("ours", open_ours), ("stock", open_stock)):
        try:
            async with opened(2) as (group, connects):
                figures[name]["one_to_one"] = await measure_flow(group, 4000)
                figures[name]["connect"] = statistics.median(connects)
            async with opened(6) as (group, _):
                figures[name]["mesh_6"], figures[name]["mesh_6_delivered"] = await measure_cpu(group, 60, 5)
        except* RuntimeError:
            # Stock ends in one when a message arrives while it closes; its figures are taken by then.
            if len(figures[name]) < 4:
                raise
    for key, unit in (("one_to_one", "msg/s"), ("mesh_6", "ms CPU"), ("mesh_6_delivered", "share"), ("connect", "ms")):
        ours, stock = figures["ours"][key], figures["stock"][key]
        ratio = ours / stock if key in ("one_to_one", "mesh_6_delivered") else stock / ours
        line = {"name": key, "value": ours, "unit": unit, "peer": "py-libp2p", "peer_value": stock, "ratio": ratio}
        sys.stdout.write(
            (json.dumps(line) if as_json else f"{key:18} {ours:10.3f} {unit:7} stock {stock:10.3f}  x{ratio:.1f}")
            + "\n"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    trio.run(main, parser.parse_args().json)
