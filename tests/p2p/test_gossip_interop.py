"""Our gossip beside libp2p's own router, both signature policies, either side dialling."""

import hashlib

import pytest
import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_ID
from libp2p.security.noise.transport import Transport as Noise
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX_ID
from libp2p.stream_muxer.yamux.yamux import Yamux
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr

from p2p.gossip import MESHSUB
from p2p.gossipsub import Signature, TopicParams, compute_message_id
from p2p.libp2p_net import NetOptions, open_libp2p_net
from p2p.net import Delivered
from p2p.peer_ids import ED25519_PEER_HEAD, to_node
from protocol.types import Verdict

TOPIC = "/rolemesh/00/claims/1"
COUNT = 30
POLL_S = 0.01


def content_id(message):
    return compute_message_id(message.topicIDs[0], message.data)


def build_payloads(name):
    """Distinct messages from 1 byte to 60 kB."""
    sizes = [1, 2, 100, 1_000, 4_096, 60_000]
    return [
        hashlib.sha256(b"%s %d" % (name, i)).digest()[:1] * sizes[i % 6] + b"%s%d" % (name, i) for i in range(COUNT)
    ]


async def until(predicate):
    with trio.fail_after(20):
        while not predicate():
            await trio.sleep(POLL_S)


@pytest.mark.parametrize("we_dial", [True, False])
@pytest.mark.parametrize("signature", list(Signature))
def test_messages_go_both_ways_and_none_is_lost_or_doubled(signature, we_dial):
    is_signed = signature is Signature.STRICT_SIGN
    events = []
    theirs = []

    async def hear(subscription):
        while True:
            message = await subscription.get()
            theirs.append(message.data)

    async def main():
        keys = create_new_key_pair(bytes([9]) * 32)
        noise = Noise(keys, noise_privkey=create_noise_key_pair().private_key)
        stock = new_host(key_pair=keys, sec_opt={NOISE_ID: noise}, muxer_opt={YAMUX_ID: Yamux})
        router = GossipSub(
            [MESHSUB], 4, 3, 8, heartbeat_interval=1, adaptive_gossip_enabled=False, spam_protection_enabled=False,
            eclipse_protection_enabled=False,
        )  # fmt: skip
        # Stock takes any two unsigned messages for one author lying about one number, and drops the second.
        router._check_equivocation = lambda message: True
        names = {} if is_signed else {"msg_id_constructor": content_id}
        pubsub = Pubsub(stock, router, strict_signing=is_signed, **names)
        options = NetOptions(topics={TOPIC: TopicParams(signature=signature)})
        async with (
            stock.run([Multiaddr("/ip4/127.0.11.1/tcp/0")]),
            background_trio_service(pubsub),
            background_trio_service(router),
            open_libp2p_net(bytes([8]) * 32, "127.0.11.2", 0, events.append, options) as net,
            trio.open_nursery() as nursery,
        ):
            await pubsub.wait_until_ready()
            nursery.start_soon(hear, await pubsub.subscribe(TOPIC))
            net.subscribe(TOPIC, lambda *_: Verdict.ACCEPT)
            ours = ID(ED25519_PEER_HEAD + net.node)
            stock_address = str(stock.get_addrs()[0]).split("/p2p/")[0]
            if we_dial:
                net.learn(to_node(stock.get_id()), (stock_address,))
            else:
                await stock.connect(PeerInfo(ours, [Multiaddr(net.addresses[0])]))
            await until(lambda: net.subscribers(TOPIC) and ours in pubsub.peer_topics.get(TOPIC, ()))
            await until(lambda: ours in router.mesh.get(TOPIC, ()))
            for mine, other in zip(build_payloads(b"ours"), build_payloads(b"theirs"), strict=True):
                net.publish(TOPIC, mine, "p")
                if is_signed:
                    await pubsub.publish(TOPIC, other)
                else:  # its publish names an author even where nobody signs
                    await pubsub.push_msg(stock.get_id(), rpc_pb2.Message(data=other, topicIDs=[TOPIC]))
                await trio.sleep(POLL_S)
            await until(lambda: len(theirs) >= 2 * COUNT)  # stock hears itself too
            await until(lambda: sum(isinstance(event, Delivered) for event in events) >= COUNT)
            assert net.faults() == ()
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert sorted(event.data for event in events if isinstance(event, Delivered)) == sorted(build_payloads(b"theirs"))
    assert sorted(theirs) == sorted(build_payloads(b"ours") + build_payloads(b"theirs"))
