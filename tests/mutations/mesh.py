"""With whom whole messages are exchanged. Issue 3, "A pure router"."""

from tests.mutations.mutation import Mutation

ROUTER = ("tests/p2p/gossipsub/test_router.py",)
ROUTER_1 = ("tests/p2p/gossipsub/test_router.py", "tests/p2p/gossipsub/test_memory.py")

MUTATIONS = (
    Mutation(
        "p2p/gossipsub/mesh.py",
        "        if now_ms < until_ms:\n",
        "        if False:\n",
        ROUTER,
        "a GRAFT in backoff is refused",
    ),
    Mutation(
        "p2p/gossipsub/mesh.py",
        "if not is_told:",
        "if False:",
        ROUTER,
        "who comes back has not been told of its backoff",
    ),
    Mutation(
        "p2p/gossipsub/mesh.py", "if not is_told:", "if True:", ROUTER, "who has been told of its backoff is at fault"
    ),
    Mutation(
        "p2p/gossipsub/mesh.py",
        "self._state.blame(peer, 2.0 if is_flood else 1.0, f",
        "(lambda *_: None)(peer, 2.0 if is_flood else 1.0, f",
        ROUTER,
        "a GRAFT in backoff is a fault",
    ),
    Mutation(
        "p2p/gossipsub/mesh.py", "2.0 if is_flood else 1.0", "1.0", ROUTER, "a GRAFT right after the PRUNE counts twice"
    ),
    Mutation(
        "p2p/gossipsub/mesh.py",
        "and not self.is_backed_off(topic.key, peer.node)",
        "",
        ROUTER,
        "we graft nobody in backoff",
    ),
    Mutation(
        "p2p/gossipsub/mesh.py",
        "if peer.score < 0:\n            return _Refusal",
        "if False:\n            return _Refusal",
        ROUTER,
        "no peer with a negative score is let into the mesh",
    ),
    Mutation(
        "p2p/gossipsub/mesh.py",
        "for peer in [peer for peer in mesh.values() if peer.score < 0]:",
        "for peer in ():",
        ROUTER,
        "a peer with a negative score is pruned",
    ),
    Mutation(
        "p2p/gossipsub/mesh.py",
        "if len(mesh) > params.degree_high:",
        "if False:",
        ROUTER,
        "an oversubscribed mesh is pruned",
    ),
    Mutation(
        "p2p/gossipsub/mesh.py", "peers.sort(key=lambda peer: -peer.score)", "pass", ROUTER, "pruning keeps the best"
    ),
    Mutation(
        "p2p/gossipsub/mesh.py",
        "outbound = [peer for peer in surplus if peer.is_outbound][: max(missing, 0)]",
        "outbound = []",
        ROUTER,
        "pruning keeps enough that we dialled",
    ),
    Mutation(
        "p2p/gossipsub/mesh.py",
        "if len(mesh) < self._get_low(topic):",
        "if False:",
        ROUTER,
        "a mesh that is short is filled",
    ),
    Mutation(
        "p2p/gossipsub/mesh.py",
        "if len(topic.mesh) >= self._params.degree_high and not peer.is_outbound and",
        "if False and",
        ROUTER,
        "a full mesh turns strangers away",
    ),
    Mutation(
        "p2p/gossipsub/mesh.py",
        ("if self._is_better(peer, other):\n                if"),
        ("if False:\n                if"),
        ROUTER,
        "a poor mesh is improved from outside",
    ),
    Mutation(
        "p2p/gossipsub/mesh.py",
        "if missing > 0 and len(mesh) >= params.degree_low:",
        "if False:",
        ROUTER,
        "a mesh that strangers filled gets peers we dialled",
    ),
    Mutation(
        "p2p/gossipsub/mesh.py",
        "backoff_ms = self._params.unsubscribe_backoff_ms",
        "backoff_ms = self._params.prune_backoff_ms",
        ROUTER,
        "leaving a topic has its own backoff",
    ),
    Mutation(
        "p2p/gossipsub/mesh.py",
        "if self._params.peer_exchange and peer.score >= self._params.score.accept_px_threshold:",
        "if self._params.peer_exchange:",
        ROUTER,
        "peer exchange is believed of good peers alone",
    ),
    Mutation(
        "p2p/gossipsub/mesh.py", "if len(backoffs) > BACKOFFS_MAX:", "if False:", ROUTER_1, "backoffs are bounded"
    ),
)
