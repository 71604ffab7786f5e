"""IHAVE, IWANT, scores and thresholds. Issue 3, "A pure router"."""

from tests.mutations.mutation import Mutation

ROUTER = ("tests/p2p/gossipsub/test_router.py",)
ROUTER_1 = ("tests/p2p/gossipsub/test_router.py", "tests/p2p/gossipsub/test_floods.py")
ROUTER_2 = ("tests/p2p/gossipsub/test_router.py", "tests/p2p/gossipsub/test_memory.py")
SCORE = ("tests/p2p/gossipsub/test_score.py",)

MUTATIONS = (
    Mutation(
        "p2p/gossipsub/lazy.py",
        "if peer.ihave_messages > params.ihave_messages_max or room <= 0:",
        "if room <= 0:",
        ROUTER,
        "IHAVEs per heartbeat are bounded",
    ),
    Mutation("p2p/gossipsub/lazy.py", "del asked[room:]", "pass", ROUTER, "ids asked for per heartbeat are bounded"),
    Mutation(
        "p2p/gossipsub/lazy.py",
        'self._state.blame(peer, count, f"did not send',
        '(lambda *_: None)(peer, count, f"did not send',
        ROUTER,
        "broken promises are held against their makers",
    ),
    Mutation(
        "p2p/gossipsub/lazy.py",
        ("for node in self.promised.pop(message, ()):\n            del self._promises[message, node]"),
        "pass",
        ROUTER,
        "who kept its promise is free",
    ),
    Mutation(
        "p2p/gossipsub/lazy.py",
        "if count >= params.retransmissions_max:",
        "if False:",
        ROUTER,
        "a message is sent again three times at most",
    ),
    Mutation(
        "p2p/gossipsub/lazy.py",
        "if peer.resent_bytes > params.resend_bytes_max:",
        "if False:",
        ROUTER,
        "answers to one peer are bounded in bytes",
    ),
    Mutation(
        "p2p/gossipsub/lazy.py",
        ("if steps := peer.asked_again // params.iwant_again_max - before // params.iwant_again_max:"),
        "if steps := 0:",
        ROUTER_1,
        "asking again and again counts",
    ),
    Mutation(
        "p2p/gossipsub/lazy.py",
        "if not control.ihave or peer.score < params.score.gossip_threshold:",
        "if not control.ihave:",
        ROUTER,
        "gossip of a peer below the threshold is ignored",
    ),
    Mutation(
        "p2p/gossipsub/lazy.py",
        "if not control.iwant or peer.score < params.score.gossip_threshold:",
        "if not control.iwant:",
        ROUTER,
        "wishes of a peer below the threshold are ignored",
    ),
    Mutation(
        "p2p/gossipsub/lazy.py",
        "and not peer.is_direct and peer.score >= threshold",
        "",
        ROUTER,
        "who is below the threshold hears no gossip",
    ),
    Mutation(
        "p2p/gossipsub/lazy.py", "if len(self._promises) > PROMISES_MAX:", "if False:", ROUTER_2, "promises are bounded"
    ),
    Mutation(
        "p2p/gossipsub/packets.py",
        "return peer.score >= self._params.score.graylist_threshold or peer.is_direct",
        "return True",
        ROUTER,
        "who is graylisted is not heard",
    ),
    Mutation(
        "p2p/gossipsub/packets.py",
        "graylist_threshold or peer.is_direct",
        "graylist_threshold",
        ROUTER,
        "direct peers are always heard",
    ),
    Mutation(
        "p2p/gossipsub/publisher.py",
        "if peer.is_direct or peer.score >= threshold]",
        "]",
        ROUTER,
        "own messages go to nobody below the publish threshold",
    ),
    Mutation(
        "p2p/gossipsub/packets.py",
        'state.blame(peer, MALFORMED, f"malformed',
        '(lambda *_: None)(peer, MALFORMED, f"malformed',
        ROUTER,
        "a packet that is none counts as behaviour",
    ),
    Mutation(
        "p2p/gossipsub/packets.py",
        "        if control.excess:",
        "        if False:",
        ROUTER_1,
        "lists longer than any implementation's count",
    ),
    Mutation(
        "p2p/gossipsub/packets.py",
        "if peer.subscription_changes > params.subscription_changes_max and",
        "if False and",
        ROUTER_1,
        "floods of subscriptions count",
    ),
    Mutation(
        "p2p/gossipsub/packets.py",
        "or len(peer.topics) >= params.topics_per_peer_max or",
        "or",
        ROUTER_2,
        "topics kept of one peer are bounded",
    ),
    Mutation(
        "p2p/gossipsub/score.py",
        "score += self.invalid**2 * params.invalid_weight",
        "pass",
        SCORE,
        "P4: invalid messages",
    ),
    Mutation(
        "p2p/gossipsub/score.py", "if self.compute(conduct) > 0:", "if True:", SCORE, "faults outlive the connection"
    ),
    Mutation("p2p/gossipsub/score.py", "topic.first = 0.0", "pass", SCORE, "nobody saves up credit"),
)
