"""Stock py-libp2p gossip at its best settings: what ours is measured against.

Its defaults cannot carry load: a heartbeat every two minutes, more than ten messages a second taken for spam, queues of
32 that drop the newest. What can be set is set here; the code is stock.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio
from libp2p.custom_types import TProtocol
from libp2p.pubsub import pubsub as stock_pubsub
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pubsub import Pubsub
from libp2p.pubsub.rpc_queue import RpcQueue
from libp2p.tools.anyio_service import background_trio_service

from p2p.gossip import MESHSUB, PARAMS
from p2p.stock import StockHost, open_stock_host

QUEUE_MESSAGES = 1_024


class StockGossip:
    """One node on one topic. Open with `open_stock_gossip`."""

    def __init__(self, host: StockHost, pubsub: Pubsub, topic: str) -> None:
        self.host = host
        self._pubsub = pubsub
        self._topic = topic

    async def publish(self, data: bytes) -> None:
        await self._pubsub.publish(self._topic, data)

    def count_subscribers(self) -> int:
        """Connected peers known to be on the topic."""
        return len(self._pubsub.peer_topics.get(self._topic, ()))


@asynccontextmanager
async def open_stock_gossip(
    seed: bytes, host: str, topic: str, on_message: Callable[[bytes], None], is_signed: bool
) -> AsyncIterator[StockGossip]:
    """A running node, subscribed. `on_message` hears what others publish; mesh degrees are those of `p2p.gossip`."""
    stock_pubsub.SUBSCRIPTION_CHANNEL_SIZE = QUEUE_MESSAGES
    RpcQueue.__init__.__defaults__ = (QUEUE_MESSAGES, *(RpcQueue.__init__.__defaults__ or ())[1:])
    router = GossipSub(
        [TProtocol(MESHSUB)],
        PARAMS.degree,
        PARAMS.degree_low,
        PARAMS.degree_high,
        heartbeat_interval=1,
        adaptive_gossip_enabled=False,
        spam_protection_enabled=False,
        eclipse_protection_enabled=False,
    )
    async with open_stock_host(seed, host) as running:
        pubsub = Pubsub(running.basic, router, strict_signing=is_signed)
        try:
            async with (
                background_trio_service(pubsub),
                background_trio_service(router),
                trio.open_nursery() as tasks,
            ):
                await pubsub.wait_until_ready()
                tasks.start_soon(_hear, pubsub, topic, on_message)
                yield StockGossip(running, pubsub, topic)
                tasks.cancel_scope.cancel()
        finally:
            pubsub.seen_messages.stop()


async def _hear(pubsub: Pubsub, topic: str, on_message: Callable[[bytes], None]) -> None:
    """Hand over what others said; stock delivers a node's own messages to it too."""
    subscription = await pubsub.subscribe(topic)
    me = pubsub.my_id.to_bytes()
    while True:
        message = await subscription.get()
        if message.from_id != me:
            on_message(message.data)
