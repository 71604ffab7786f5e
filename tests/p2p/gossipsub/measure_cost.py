"""What the router costs: CPU per message accepted, per copy, and per delivery in networks of many nodes.

    python -m tests.p2p.gossipsub.measure_cost [nodes ...]

Not a test: figures depend on the machine. Networks run over the fake link, whose own cost is in "per delivery".
"""

import gc
import random
import sys
import time

from p2p.gossipsub import GossipParams, PeerUp, Received, Router, Subscribe
from p2p.gossipsub.wire import Message, write_message, write_subscription
from tests.p2p.gossipsub.fake_network import TOPIC, FakeNetwork, accept, node_key

KEY = TOPIC.encode()
BATCH = 16


def measure_messages(count: int, size: int, mesh: int) -> tuple[float, float]:
    """Microseconds per accepted and forwarded message, and per further copy."""
    router = Router(GossipParams(), random.Random(1))
    router.handle(Subscribe(TOPIC, accept), 0)
    peers = [node_key(i) for i in range(mesh)]
    for peer in peers:
        router.handle(PeerUp(peer), 0)
        router.handle(Received(peer, write_subscription(True, KEY)), 0)
    dice = random.Random(2)
    messages = [write_message(Message(KEY, dice.randbytes(size))) for _ in range(count)]
    batch = min(BATCH, max(1, BATCH * 4_096 // size))
    packets = [b"".join(messages[at : at + batch]) for at in range(0, count, batch)]
    spent = []
    for peer in peers[:2]:
        begun = time.process_time()
        for packet in packets:
            router.handle(Received(peer, packet), 1)
        spent.append((time.process_time() - begun) / count * 1e6)
    return spent[0], spent[1]


def measure_network(nodes: int, messages: int) -> tuple[float, float]:
    """Microseconds per delivery among `nodes` nodes of degree 10, and the share of messages delivered."""
    network = FakeNetwork(nodes)
    network.is_traced = False
    network.connect_degree(10, random.Random(3))
    network.subscribe()
    network.run(3_000)
    gc.freeze()  # else the collector walks all routers again and again, which is not the routers' cost
    begun = time.process_time()
    for i in range(messages):
        network.publish(i * 7 % nodes, b"%d" % i * 64)
        network.run(100)
    network.run(900)
    spent = time.process_time() - begun
    delivered = sum(len(node.delivered) for node in network.nodes)
    return spent / delivered * 1e6, delivered / (messages * (nodes - 1))


def main() -> None:
    for size in (256, 4_096, 60_000):
        accepted, copy = measure_messages(8_000 if size < 60_000 else 800, size, mesh=4)
        sys.stdout.write(f"{size:6} B: {accepted:6.1f} us accepted and forwarded to 3, {copy:5.1f} us a copy\n")
    for nodes in [int(text) for text in sys.argv[1:]] or [100, 400, 1_600]:
        cost, share = measure_network(nodes, messages=30)
        sys.stdout.write(f"{nodes:6} nodes: {cost:6.1f} us per delivery, {share:.3%} delivered\n")


if __name__ == "__main__":
    main()
