"""One eventful run of many routers, told as a digest: the same in every process.

python -m tests.p2p.gossipsub.trace SEED
"""

import random
import sys

from p2p.gossipsub import GossipParams, Unsubscribe
from tests.p2p.gossipsub.fake_network import TOPIC, FakeNetwork


def compute_trace(seed: int) -> str:
    """Publishing, loss, churn, rejoining, scores, peer exchange: every effect of every node, in order."""
    dice = random.Random(seed)
    params = GossipParams(peer_exchange=True, idontwant_bytes_min=64, opportunistic_graft_ticks=5, flood_publish=False)
    network = FakeNetwork(16, params, seed=seed)
    network.connect_degree(10, dice)
    network.subscribe()
    network.subscribe(topic="other", nodes=range(0, 16, 3))
    network.lose = lambda sender, receiver: dice.random() < 0.05
    for step in range(30):
        node = dice.randrange(16)
        network.publish(node, b"%d" % step * (1 + step % 40))
        network.publish(node, b"unheard %d" % step, topic="other")
        if step % 6 == 0:
            network.disconnect(node, dice.randrange(16))
            network.connect(node, dice.randrange(16))
        if step % 10 == 0:
            network.do(node, Unsubscribe(TOPIC))
            network.subscribe([node])
        network.run(dice.randrange(1_500))
    return network.trace.hexdigest()


if __name__ == "__main__":
    sys.stdout.write(compute_trace(int(sys.argv[1])))
